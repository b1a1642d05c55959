"""Generates the Python code of Isocenter's protos: what `protoc` makes of isocenter/v1/ai.proto.

Run once after installing, and again when the protos change:

    python generate.py [--proto FOLDER] [--out FOLDER]
"""

import argparse
import pathlib
import sys
from importlib import resources

from grpc_tools import protoc

HERE = pathlib.Path(__file__).resolve().parent


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--proto", default=HERE / "../../proto", type=pathlib.Path, help="where isocenter/v1 is")
    parser.add_argument("--out", default=HERE / "generated", type=pathlib.Path, help="where the code goes")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    # Timestamp and Duration come with the compiler.
    well_known = resources.files("grpc_tools") / "_proto"
    return protoc.main(
        [
            "protoc",
            f"--proto_path={args.proto.resolve()}",
            f"--proto_path={well_known}",
            f"--python_out={args.out}",
            f"--grpc_python_out={args.out}",
            "isocenter/v1/ai.proto",
        ]
    )


if __name__ == "__main__":
    sys.exit(main())
