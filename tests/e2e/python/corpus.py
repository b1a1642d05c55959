"""The DICOM files that the PyPI packages pydicom and pydicom-data carry, and the manifest that fixes them."""

import hashlib
import json
from pathlib import Path

import data_store
import pydicom
from pynetdicom.dsutils import split_dataset

ROOTS = {
    "pydicom": Path(pydicom.__file__).parent / "data",
    "pydicom-data": Path(data_store.__file__).parent / "data",
}


def path_of(entry):
    """Where the file of a manifest's entry lies on this machine."""
    return ROOTS[entry["package"]] / entry["file"]


def load(manifest):
    """The entries of a manifest, after a check that the installed files are the ones it was made from."""
    entries = json.loads(Path(manifest).read_text(encoding="utf-8"))
    for entry in entries:
        found = hashlib.sha256(path_of(entry).read_bytes()).hexdigest()
        if found != entry["sha256"]:
            raise SystemExit(f"{entry['package']}: {entry['file']} is not the file of the manifest: {found}")
    return entries


def split(path):
    """The file meta information of a Part 10 file, and its data set's bytes as they stand in the file (PS3.10, 7.1)."""
    meta, offset = split_dataset(path)
    return meta, path.read_bytes()[offset:]
