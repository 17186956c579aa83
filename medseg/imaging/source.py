"""One channel of a scan: where it stands, in which format, and what reading it gives."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from medseg.files import Record
from medseg.imaging.dicom.volumes import SubVolume
from medseg.imaging.grid import Grid
from medseg.imaging.volume import Volume

Format = Literal["nifti", "itk", "dicom"]


class ReadOptions(Record):
    """What the user allows or asks for on reading; every relaxed check stands in the results.

    allow_gaps: fill missing slices by interpolation and say where. suv: PET as body-weight SUV instead of stored units.
    prefer: which of two contradicting affines of a NIfTI file is true. need_place: refuse files that do not say where
    they lie; among labelled cases it is enough that image and label agree.
    """

    allow_gaps: bool = False
    suv: bool = False
    prefer: Literal["", "sform", "qform"] = ""
    need_place: bool = True


@dataclass(frozen=True, eq=False)
class Source:
    """One channel: its files (a DICOM volume has many), and for a 4D file which of its volumes (`component`)."""

    format: Format
    paths: tuple[Path, ...]
    component: int | None = None
    dicom: SubVolume | None = None


@dataclass(frozen=True, eq=False)
class Reading:
    """A channel as it was read: float32 (X, Y, Z) on an orthogonal grid.

    `own` is the grid that labels are stored on: the volume's, unless the file's own grid is sheared. `notes` says in
    one line each what was mended on the way (tilt, gaps, NaN, padding), without any text of the headers.
    """

    volume: Volume
    own: Grid
    notes: tuple[str, ...] = ()
