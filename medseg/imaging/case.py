"""What a dataset is made of: a labelled case, and what was found beside it but not used."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Left:
    """Something that was found but is not used: where (never a patient's name) and why, in one line.

    `broken` if it was meant to be used and cannot be: then it counts as a failed case. An image without a label, a
    localiser or a text file is merely left.
    """

    where: str
    reason: str
    broken: bool = False


@dataclass(frozen=True, slots=True)
class Case:
    """One labelled scan: an image file for each channel, its label file, and the patient that it came from."""

    name: str
    images: tuple[Path, ...]
    label: Path | None
    patient: str
