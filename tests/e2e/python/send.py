#!/usr/bin/env python3
"""Sends the files of a manifest by C-STORE with pynetdicom, each data set byte for byte as it stands in the file.

One association for each run of files of one study. Prints one JSON object a line:
  package, file, verdict   as in the manifest
  sha256                   of the data set's bytes, if the file has any that can be sent
  status                   the C-STORE status in four hexadecimal digits, or
                           not-sent     the file has no file meta information that an association needs; `why` says more
                           no-context   the receiver did not accept its SOP class with its transfer syntax
                           no-answer    the receiver aborted, or did not answer in time
Exits 1 if an association is not established, else 0: what the statuses mean is for the caller to judge.
"""

import argparse
import json
import sys
from itertools import groupby

from pynetdicom import AE, _config
from pynetdicom.presentation import build_context

import corpus

# Without this pynetdicom decodes and encodes again, which changes some data sets (lengths, padding, private elements).
_config.STORE_SEND_CHUNKED_DATASET = True

# Presentation context ids are the odd numbers below 256 (PS3.8, 9.3.2.2).
MAX_CONTEXTS = 128


def main():
    """Parse the command line, send, and say how each file fared."""
    parser = argparse.ArgumentParser(description="send the files of a manifest, bytes unchanged")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--aet", default="PYNETDICOM", help="the calling AE title")
    parser.add_argument("--aec", default="ISOCENTER", help="the called AE title")
    parser.add_argument("--manifest", required=True)
    parser.add_argument("--only", nargs="+", metavar="VERDICT", help="send only the files of these verdicts")
    arguments = parser.parse_args()

    entries = corpus.load(arguments.manifest)
    if arguments.only:
        entries = [entry for entry in entries if entry["verdict"] in arguments.only]
    for _, run in groupby(entries, key=lambda entry: entry.get("study_uid")):
        send_run(arguments, list(run))


def send_run(arguments, entries):
    """Send consecutive files over one association, or as many as their presentation contexts need."""
    batch, contexts = [], {}
    for entry in entries:
        sop_class, syntax = entry.get("sop_class"), entry.get("transfer_syntax")
        if not (sop_class and syntax):
            report(entry, "not-sent", why=entry.get("note", "not a DICOM file"))
            continue
        if (sop_class, syntax) not in contexts and len(contexts) == MAX_CONTEXTS:
            associate(arguments, batch, contexts)
            batch, contexts = [], {}
        # One context for each pair, so that the receiver cannot choose a syntax that the file is not in.
        contexts.setdefault((sop_class, syntax), build_context(sop_class, syntax))
        batch.append(entry)
    if batch:
        associate(arguments, batch, contexts)


def associate(arguments, entries, contexts):
    """Open one association and store the files over it."""
    ae = AE(ae_title=arguments.aet)
    association = ae.associate(
        arguments.host, arguments.port, contexts=list(contexts.values()), ae_title=arguments.aec
    )
    if not association.is_established:
        # An acceptor may accept none of the contexts; pynetdicom then aborts by itself.
        if association.is_rejected or not association.rejected_contexts:
            print(f"no association with {arguments.host}:{arguments.port}", file=sys.stderr)
            sys.exit(1)
        for entry in entries:
            report(entry, "no-context")
        return
    for number, entry in enumerate(entries):
        report(entry, store(association, entry, number % 65535 + 1))
    if association.is_established:
        association.release()


def store(association, entry, message_id):
    """The status of one C-STORE."""
    if not association.is_established:
        return "no-answer"
    try:
        answer = association.send_c_store(corpus.path_of(entry), msg_id=message_id)
    except ValueError:
        return "no-context"
    return f"{answer.Status:04X}" if "Status" in answer else "no-answer"


def report(entry, status, **more):
    """Print one line."""
    line = {key: entry[key] for key in ("package", "file", "verdict")}
    if "dataset_sha256" in entry:
        line["sha256"] = entry["dataset_sha256"]
    print(json.dumps({**line, "status": status, **more}), flush=True)


if __name__ == "__main__":
    main()
