"""Keeps reports as files. This is the file to replace, by whatever puts a report into your own system: it has to be
durable when it returns, and to know a report that it has already.
"""

import os
import pathlib

from google.protobuf import json_format
from isocenter.v1 import report_delivery_pb2


class Contradiction(Exception):
    """A report is here already, with other content."""


def text_of(message: report_delivery_pb2.ReportMessage) -> bytes:
    """The report as JSON, the same each time it comes: without what tells one time from another."""
    kept = report_delivery_pb2.ReportMessage()
    kept.CopyFrom(message)
    kept.ClearField("attempt")
    kept.ClearField("acknowledge_before")
    return (json_format.MessageToJson(kept, indent=2) + "\n").encode()


def keep(folder: pathlib.Path, message: report_delivery_pb2.ReportMessage) -> bool:
    """Keeps a report durably under its message id; false where it was here before. `Contradiction` where it differs.

    After a power cut at any moment either the whole file is there or none: it is written and synced under another name, then
    renamed, and the folder that holds the name is synced last.
    """
    text = text_of(message)
    path = folder / f"{message.message_id}.json"
    if path.exists():
        if path.read_bytes() != text:
            raise Contradiction(message.message_id)
        # It may have been renamed by a process that was killed before it could sync the folder.
        sync_folder(folder)
        return False
    draft = folder / f".{message.message_id}.{os.getpid()}"
    with open(draft, "wb") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.rename(draft, path)
    sync_folder(folder)
    return True


def sync_folder(folder: pathlib.Path) -> None:
    """Makes the names in a folder durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
