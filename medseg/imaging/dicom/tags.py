"""What the headers of a volume say: everything for selection rules, and the part of it that is safe to show.

Free text (descriptions, names of protocols, stations, agents) may name the patient and is never shown; codes and
numbers are, if they look like such.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from medseg.imaging.dicom.frames import Image
from medseg.imaging.dicom.headers import TEXTS, as_numbers
from medseg.imaging.planes import Planes

DERIVED = ("Slices", "Spacing", "Orientation", "Volume")
KNOWN = (*TEXTS, *DERIVED)

_NUMBERS = {
    *("SeriesNumber", "AcquisitionNumber", "SliceThickness", "MagneticFieldStrength", "EchoTime", "EchoNumbers"),
    *("RepetitionTime", "InversionTime", "FlipAngle", "DiffusionBValue", "TemporalPositionIdentifier", "TriggerTime"),
    *("KVP", "StackID", "Slices", "Spacing", "Volume"),
}
_CODES = {
    "Modality": re.compile(r"[A-Z]{2}"),
    "ImageType": re.compile(r"[A-Z0-9_ ]{0,16}(\\[A-Z0-9_ ]{0,16})*"),
    "ConvolutionKernel": re.compile(r"[A-Za-z]{1,8}\d{0,3}[a-z]{0,2}(\\\d)?"),
    "ComplexImageComponent": re.compile(r"MAGNITUDE|PHASE|REAL|IMAGINARY|MIXED"),
    "MRAcquisitionType": re.compile(r"[123]D"),
    "Orientation": re.compile(r"AXIAL|CORONAL|SAGITTAL"),
    "Units": re.compile(r"[A-Z0-9]{1,8}"),
}


def shown_value(keyword: str, value: str) -> str:
    """The value as it may be shown, several joined by a slash; empty if it might name somebody."""
    if keyword in _NUMBERS:
        return "/".join(f"{number:g}" for number in as_numbers(value))
    if keyword in _CODES and _CODES[keyword].fullmatch(value):
        return value.replace("\\", "/")
    return ""


def shown_of(tags: Mapping[str, str]) -> dict[str, str]:
    """Those of the tags that are safe to show."""
    shown = {keyword: shown_value(keyword, value) for keyword, value in tags.items()}
    return {keyword: value for keyword, value in shown.items() if value}


def tags_of(images: Sequence[Image], planes: Planes | None, number: int) -> dict[str, str]:
    """What rules may ask of a volume: each header value that all its images agree on, and what follows from geometry.

    Derived: Slices (their number), Spacing (mm from slice to slice along their normal), Orientation (AXIAL, CORONAL or
    SAGITTAL, the closest) and Volume (the number of the volume within its series).
    """
    several = zip(*{image.texts for image in images}, strict=True)
    values = {keyword: set(of_all) for keyword, of_all in zip(TEXTS, several, strict=True)}
    tags = {keyword: one for keyword, (one, *others) in values.items() if one and not others}
    tags |= {"Slices": str(len(images)), "Volume": str(number)}
    if planes is not None:
        tags["Spacing"] = f"{round(float(np.median(np.diff(planes.along_mm))), 3):g}"
        tags["Orientation"] = direction(planes.normal)
    return tags


def direction(normal: npt.NDArray[np.float64]) -> str:
    """The anatomical plane that is closest to slices with this normal (3,), in LPS+ or RAS+."""
    return ("SAGITTAL", "CORONAL", "AXIAL")[int(np.abs(normal).argmax())]
