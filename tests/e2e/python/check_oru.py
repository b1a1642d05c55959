#!/usr/bin/env python3
"""Judges ORU^R01 messages with hl7apy: parsed strictly against the HL7 version that each names, groups and all.

Each file holds one message, with or without its MLLP frame. Prints one JSON object a line:
  file
  problems            what is wrong; an empty list for a sound message
  message_type        MSH-9
  control_id          MSH-10
  version             MSH-12
  patient_id, patient_name   PID-3, PID-5
  result_status       OBR-25 of each order observation
  observations        of each OBX: set_id (OBX-1), type (OBX-2), code (OBX-3), value (OBX-5, its repetitions joined by ~),
                      status (OBX-11)
Fields are as they stand in the message, escapes included. Exits 1 if any message has a problem, else 0.
"""

import argparse
import json
import sys
from pathlib import Path

from hl7apy.consts import VALIDATION_LEVEL
from hl7apy.exceptions import HL7apyException
from hl7apy.parser import parse_message

# MLLP frames a message as VT, message, FS, CR (HL7 MLLP release 1).
FRAME = "\x0b\x1c\r"


def main():
    """Parse the command line and judge every file."""
    parser = argparse.ArgumentParser(description="judge ORU^R01 messages")
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE")
    arguments = parser.parse_args()
    answers = [judge(path) for path in arguments.files]
    for answer in answers:
        print(json.dumps(answer, ensure_ascii=False))
    sys.exit(1 if any(answer["problems"] for answer in answers) else 0)


def judge(path):
    """What there is to say about one message."""
    answer = {"file": str(path), "problems": []}
    try:
        # Every segment ends in a carriage return, the last one too (HL7 v2.5.1, 2.5).
        text = path.read_bytes().decode("utf-8").strip(FRAME) + "\r"
        message = parse_message(text, validation_level=VALIDATION_LEVEL.STRICT, find_groups=True)
        message.validate()
    except (HL7apyException, UnicodeDecodeError) as error:
        answer["problems"].append(f"{type(error).__name__}: {error}")
        return answer

    answer.update(
        message_type=message.msh.msh_9.to_er7(),
        control_id=message.msh.msh_10.to_er7(),
        version=message.msh.msh_12.to_er7(),
    )
    if answer["message_type"] != "ORU^R01^ORU_R01":
        answer["problems"].append("MSH-9 is not ORU^R01^ORU_R01")
        return answer
    segments = [Segment(line) for line in text.split("\r")]
    read(segments, answer)
    answer["problems"] += missing(answer)
    return answer


class Segment:
    """One segment's fields as text: hl7apy escapes again what it gives back, and so would hide what was sent."""

    def __init__(self, line):
        self.fields = line.split("|")
        self.name = self.fields[0]

    def field(self, number):
        """Field `number`, counted as the standard does in every segment but MSH; empty if it is absent."""
        return self.fields[number] if number < len(self.fields) else ""


def read(segments, answer):
    """Take what the tests compare out of the segments."""
    patients = [segment for segment in segments if segment.name == "PID"]
    answer["patient_id"] = [patient.field(3) for patient in patients]
    answer["patient_name"] = [patient.field(5) for patient in patients]
    answer["result_status"] = [segment.field(25) for segment in segments if segment.name == "OBR"]
    answer["observations"] = [
        {
            "set_id": segment.field(1),
            "type": segment.field(2),
            "code": segment.field(3),
            "value": segment.field(5),
            "status": segment.field(11),
        }
        for segment in segments
        if segment.name == "OBX"
    ]


def missing(answer):
    """What the standard lets be empty, but a report cannot do without."""
    needed = {"MSH-10": [answer["control_id"]], "PID-3": answer["patient_id"], "PID-5": answer["patient_name"]}
    needed["OBR-25"] = answer["result_status"]
    needed["OBX-5"] = [observation["value"] for observation in answer["observations"]]
    needed["OBX-11"] = [observation["status"] for observation in answer["observations"]]
    return [f"{field} is empty" for field, values in needed.items() if not values or not all(values)]


if __name__ == "__main__":
    main()
