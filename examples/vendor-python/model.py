"""The model. This is the file to replace: the rest of the folder is the service around it.

The sample measures something real and simple, the mean density of an image, and says of everything it returns that it is a
SAMPLE. It is no medical device, and its probability is calibrated on nobody.
"""

import dataclasses
import io
import math
from collections.abc import Callable

import numpy
import pydicom
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian, RLELossless

VENDOR = "Isocenter samples"
MODEL_ID = "sample-mean-density"
# Every change of behaviour is a new version, also one that improves it: answers are kept with the version that gave them.
MODEL_VERSION = "1.0.0"
MODALITIES = ("CR", "DX", "MG")
# Any.
BODY_PARTS = ()
# What pydicom decodes with numpy alone.
TRANSFER_SYNTAXES = (str(ImplicitVRLittleEndian), str(ExplicitVRLittleEndian), str(RLELossless))
INTENDED_USE = "SAMPLE: shows the path of a result; not a medical device"

# Decoding a larger image would take gigabytes; the largest detectors have some 60 million pixels.
MAX_PIXELS = 100_000_000
# The density at which the sample is undecided.
MIDDLE = 0.45
SLOPE = 14.0


@dataclasses.dataclass(frozen=True)
class Finding:
    """A finding on one image. `box` is left, top, right, bottom in pixels."""

    label: str
    probability: float
    sop_instance_uid: str
    box: tuple[int, int, int, int]


@dataclasses.dataclass(frozen=True)
class Analysis:
    """What came of a study: one probability that it is abnormal, a summary, and findings."""

    probability: float
    summary: str
    findings: list[Finding]


class Refused(Exception):
    """The study is not for this model. `reason` is the name of an AiRefusalReason without its prefix."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason
        self.detail = detail


def analyse(files: list[bytes], stopped: Callable[[], bool]) -> Analysis:
    """Analyses the DICOM files of one study. Returns early, with whatever it has, once `stopped()`."""
    probability, findings, measured = 0.0, [], 0
    for file in files:
        if stopped():
            break
        image = _read(file)
        if image is None:
            continue
        density, box, uid = _measure(image)
        own = 1.0 / (1.0 + math.exp(-(density - MIDDLE) * SLOPE))
        probability = max(probability, own)
        measured += 1
        if own >= 0.5:
            findings.append(Finding("dense image", own, uid, box))
    if measured == 0 and not stopped():
        raise Refused("IMAGE_COUNT", "the study has no single-frame image of a modality that is read here")
    summary = f"SAMPLE, not a medical device. Measured: mean density of {measured} images. Score {probability:.0%}."
    return Analysis(probability, summary, findings)


def _read(file: bytes) -> pydicom.Dataset | None:
    """The image in a file; None where the file holds no image that this model reads."""
    try:
        dataset = pydicom.dcmread(io.BytesIO(file))
        syntax = str(dataset.file_meta.TransferSyntaxUID)
        if dataset.get("Modality") not in MODALITIES or "PixelData" not in dataset:
            return None
        if int(dataset.get("NumberOfFrames") or 1) != 1:
            return None
        pixels = int(dataset.Rows) * int(dataset.Columns)
    except Exception as error:
        # What a library says may repeat what stands in the file: only the kind of error is passed on.
        raise Refused("ATTRIBUTE", f"a file cannot be read: {type(error).__name__}") from None
    if syntax not in TRANSFER_SYNTAXES:
        raise Refused("IMAGE_QUALITY", f"transfer syntax {syntax} is not read here")
    if not 0 < pixels <= MAX_PIXELS:
        raise Refused("ATTRIBUTE", f"an image of {pixels} pixels cannot be analysed")
    if not str(dataset.get("PhotometricInterpretation", "")).startswith("MONOCHROME"):
        raise Refused("ATTRIBUTE", "photometric interpretation is not MONOCHROME1 or MONOCHROME2")
    return dataset


def _measure(dataset: pydicom.Dataset) -> tuple[float, tuple[int, int, int, int], str]:
    """The mean density of the image, white high; the box of its densest ninth; its SOP Instance UID."""
    try:
        pixels = dataset.pixel_array.astype(numpy.float32)
    except Exception as error:
        raise Refused("IMAGE_QUALITY", f"pixels cannot be decoded: {type(error).__name__}") from None
    low, high = numpy.percentile(pixels, (2, 98))
    scaled = numpy.clip((pixels - low) / max(float(high - low), 1.0), 0.0, 1.0)
    if dataset.PhotometricInterpretation == "MONOCHROME1":
        scaled = 1.0 - scaled
    rows, columns = scaled.shape
    edges = [(rows * r // 3, rows * (r + 1) // 3, columns * c // 3, columns * (c + 1) // 3) for r in range(3) for c in range(3)]
    top, bottom, left, right = max(edges, key=lambda e: float(scaled[e[0] : max(e[1], e[0] + 1), e[2] : max(e[3], e[2] + 1)].mean()))
    return float(scaled.mean()), (left, top, right, bottom), str(dataset.SOPInstanceUID)
