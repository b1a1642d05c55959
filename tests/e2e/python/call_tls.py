"""Calls a method with a certificate and prints the name of the status code."""

import sys

import grpc


def main() -> None:
    address, ca, cert, key = sys.argv[1:]
    files = [open(path, "rb").read() for path in (ca, key, cert)]
    credentials = grpc.ssl_channel_credentials(*files)
    with grpc.secure_channel(address, credentials) as channel:
        call = channel.unary_unary("/isocenter.v1.Ingestion/ListStudies")
        try:
            call(b"", timeout=30)
            print("OK")
        except grpc.RpcError as error:
            print(error.code().name)


main()
