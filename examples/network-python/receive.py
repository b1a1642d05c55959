"""Receives a destination's reports from Isocenter: keeps each durably, then acknowledges it.

    python receive.py --address HOST:PORT --destination ID --folder FOLDER [--ca FILE --cert FILE --key FILE]

It runs until it is told to stop and can be killed at any moment: what was kept and not acknowledged comes again, under the
same message id, and is found here. What it prints names no patient.
"""

import argparse
import pathlib
import random
import signal
import sys
import time
from collections.abc import Iterator

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent / "generated"))

import grpc  # noqa: E402
from isocenter.v1 import report_delivery_pb2, report_delivery_pb2_grpc  # noqa: E402

from keep import Contradiction, keep  # noqa: E402

# The server, the network or a process in between may come back: the same call is made again.
PASSING = {
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.ABORTED,
    grpc.StatusCode.CANCELLED,
    grpc.StatusCode.UNKNOWN,
    grpc.StatusCode.INTERNAL,
}
# Seconds: the first pause after a failure and the longest, and how long an acknowledgement may take.
FIRST_PAUSE, LONGEST_PAUSE, CALL = 0.2, 10.0, 10.0
# A stream may be silent for hours. Without these a connection that was cut without a word would look like silence.
KEEP_ALIVE = [("grpc.keepalive_time_ms", 30_000), ("grpc.keepalive_timeout_ms", 10_000)]


def connect(args: argparse.Namespace) -> grpc.Channel:
    if args.ca is None:
        return grpc.insecure_channel(args.address, options=KEEP_ALIVE)
    credentials = grpc.ssl_channel_credentials(args.ca.read_bytes(), args.key.read_bytes(), args.cert.read_bytes())
    return grpc.secure_channel(args.address, credentials, options=KEEP_ALIVE)


def acknowledge(stub, message) -> None:
    """Says what became of a report. Failing is no harm: the report comes again, and is acknowledged then."""
    said = report_delivery_pb2.AcknowledgeReportRequest(
        destination_id=message.destination_id,
        report_id=message.report.report_id,
        version=message.report.version,
        message_id=message.message_id,
    )
    try:
        said.accepted.SetInParent()
        stub.AcknowledgeReport(said, timeout=CALL)
    except grpc.RpcError as error:
        # Accepted long ago, by an acknowledgement whose answer never arrived: it is archived with its case.
        if error.code() != grpc.StatusCode.NOT_FOUND:
            raise


def refuse(stub, message, reason: str) -> None:
    """Says that a report will never be taken as it is. A person at the network then looks."""
    said = report_delivery_pb2.AcknowledgeReportRequest(
        destination_id=message.destination_id,
        report_id=message.report.report_id,
        version=message.report.version,
        message_id=message.message_id,
    )
    said.refused.reason = reason
    stub.AcknowledgeReport(said, timeout=CALL)


def follow(stub, destination: str, folder: pathlib.Path) -> Iterator[str]:
    """Takes reports until the stream ends, which is an error always, since a stream is meant to last; tells each that it
    has taken."""
    request = report_delivery_pb2.WatchReportsRequest(destination_id=destination)
    for message in stub.WatchReports(request):
        try:
            new = keep(folder, message)
        except Contradiction:
            refuse(stub, message, "OTHER_CONTENT_UNDER_THIS_ID")
            yield f"{message.message_id}: refused, other content is here under this id"
            continue
        acknowledge(stub, message)
        yield f"{message.message_id}: {'kept' if new else 'was here already'}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--address", required=True, help="host:port of any process of Isocenter")
    parser.add_argument("--destination", required=True, help="the destination's id")
    parser.add_argument("--folder", required=True, type=pathlib.Path, help="where reports are kept")
    parser.add_argument("--ca", type=pathlib.Path, help="the authorities of the server; PEM")
    parser.add_argument("--cert", type=pathlib.Path, help="our certificate; PEM")
    parser.add_argument("--key", type=pathlib.Path, help="its private key; PEM")
    args = parser.parse_args()
    if len({args.ca is None, args.cert is None, args.key is None}) > 1:
        parser.error("--ca, --cert and --key go together")
    args.folder.mkdir(parents=True, exist_ok=True)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    pause = FIRST_PAUSE
    while True:
        try:
            with connect(args) as channel:
                stub = report_delivery_pb2_grpc.ReportDeliveryStub(channel)
                for taken in follow(stub, args.destination, args.folder):
                    print(taken, flush=True)
                    pause = FIRST_PAUSE
        except grpc.RpcError as error:
            if error.code() not in PASSING:
                print(f"{error.code().name}: {error.details()}", file=sys.stderr, flush=True)
                return 1
            print(f"{error.code().name}; connecting again", file=sys.stderr, flush=True)
        time.sleep(random.uniform(pause / 2, pause))
        pause = min(2 * pause, LONGEST_PAUSE)


if __name__ == "__main__":
    sys.exit(main())
