#!/usr/bin/env python3
"""Writes the manifest of the test corpus: each file in the order it is sent, and what a receiver owes it.

One JSON object a line, in a JSON list:
  package, file   the PyPI package and the path inside its data folder
  sha256          of the whole file
  dataset_sha256  of the data set's bytes, which is what an association carries and what must be stored unchanged
  verdict         accept             a new instance
                  repeat             the same instance with the same data set as one before it: nothing changes
                  duplicate-content  the same SOP Instance UID as one before it with another data set: kept apart
                  refuse             DICOM, and not storable as an image of a study; `note` says why
                  not-dicom          something else
  sop_class, sop_uid, transfer_syntax, study_uid   as far as the file has them
  note            why a file is refused, or what is wrong with one that is not
"""

import argparse
import hashlib
import json
import logging
import re
import warnings
from pathlib import Path

import pydicom

import corpus

# Storage SOP classes of images and of what belongs to them (PS3.4, B.5) share this root. Media directories and colour
# palettes do not: they belong to no study.
STORAGE = "1.2.840.10008.5.1.4.1.1."
UID = re.compile(r"[0-9.]{1,64}")


def main():
    """Parse the command line and write the manifest."""
    parser = argparse.ArgumentParser(description="write the manifest of the test corpus")
    parser.add_argument("output", type=Path, help="the file to write")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.getLogger("pydicom").setLevel(logging.CRITICAL)

    seen = {}
    entries = [entry(package, root, path, seen) for package, root in corpus.ROOTS.items() for path in files(root)]
    lines = ",\n".join(json.dumps(entry, separators=(",", ":")) for entry in entries)
    arguments.output.write_text(f"[\n{lines}\n]\n", encoding="utf-8")

    counts = {}
    for one in entries:
        counts[one["verdict"]] = counts.get(one["verdict"], 0) + 1
    print(json.dumps(counts))


def files(root):
    """The package's files without its code, by path, the same on every machine."""
    found = (path for path in root.rglob("*") if path.is_file() and path.suffix not in (".py", ".pyc"))
    return sorted(found, key=lambda path: path.relative_to(root).as_posix())


def entry(package, root, path, seen):
    """One line of the manifest. `seen` holds the data set that each SOP Instance UID came with first."""
    line = {
        "package": package,
        "file": path.relative_to(root).as_posix(),
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
    }
    verdict, note, facts = judge(path)
    line.update(facts)
    if verdict == "accept":
        content = (facts["transfer_syntax"], facts["dataset_sha256"])
        first = seen.setdefault(facts["sop_uid"], content)
        if first is not content:
            verdict = "repeat" if first == content else "duplicate-content"
    line["verdict"] = verdict
    if note:
        line["note"] = note
    return line


def judge(path):
    """Verdict, note and facts of a file that is looked at alone."""
    header = read_header(path)
    try:
        meta, content = corpus.split(path)
    except (pydicom.errors.InvalidDicomError, EOFError):
        if header is not None and header.get("SOPClassUID"):
            return "refuse", "no file meta information, so nothing says how to send it", {}
        return "not-dicom", None, {}

    facts = {"dataset_sha256": hashlib.sha256(content).hexdigest()}
    sop_class, sop_uid = meta.get("MediaStorageSOPClassUID"), meta.get("MediaStorageSOPInstanceUID")
    if not (sop_class and sop_uid and meta.get("TransferSyntaxUID")):
        return "refuse", "the file meta information lacks class, instance or transfer syntax", facts
    facts.update(sop_class=sop_class, sop_uid=sop_uid, transfer_syntax=meta.TransferSyntaxUID)
    if not sop_class.startswith(STORAGE):
        return "refuse", f"{sop_class.name} belongs to no study", facts
    if header is None or not (header.get("SOPClassUID") and header.get("SOPInstanceUID")):
        return "refuse", "the data set lacks SOP Class UID or SOP Instance UID", facts
    if (header.SOPClassUID, header.SOPInstanceUID) != (sop_class, sop_uid):
        return "refuse", "the data set is another instance than the one announced", facts
    study = header.get("StudyInstanceUID")
    if not study:
        return "refuse", "no Study Instance UID", facts
    facts["study_uid"] = study
    if not all(UID.fullmatch(uid) for uid in (sop_class, sop_uid, study)):
        return "refuse", "a UID with other characters than digits and dots", facts
    flaw = misread(path, content, meta.TransferSyntaxUID)
    if flaw:
        return "refuse", flaw, facts
    # Encoded data sets are even (PS3.5, 7.1.1 and A.5), and so is each of their fragments: DCMTK aborts here.
    return "accept", "an odd number of bytes" if len(content) % 2 else None, facts


def misread(path, content, syntax):
    """Why a receiver cannot read the data set by the transfer syntax that it comes in; nothing where it can."""
    # Two capital letters after the first tag are its VR; in implicit VR its length stands there.
    vr = content[4:6]
    if not syntax.is_deflated and syntax.is_implicit_VR == (vr.isalpha() and vr.isupper()):
        return "the data set has another VR encoding than its transfer syntax"
    whole = pydicom.dcmread(path, force=True)
    pixels = whole.get_item("PixelData") if "PixelData" in whole else None
    # The length of encapsulated pixel data is undefined: FFFFFFFF.
    if pixels is not None and len(pixels.value) < pixels.length != 0xFFFFFFFF:
        return "the data set ends within its pixel data"
    return None


def read_header(path):
    """The data set before the pixels, or nothing where it cannot be read at all."""
    try:
        return pydicom.dcmread(path, force=True, stop_before_pixels=True)
    except Exception:  # whatever pydicom cannot read is, for the manifest, not readable
        return None


if __name__ == "__main__":
    main()
