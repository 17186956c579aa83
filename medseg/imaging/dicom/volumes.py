"""What a folder of DICOM holds, as values: the volumes in it, each with a verdict, and the objects that label them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from medseg.imaging.case import Left
from medseg.imaging.grid import Grid
from medseg.imaging.planes import Planes

State = Literal["OK", "FIXED", "CHOOSE", "REFUSED"]


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether a volume can be used. `codes` are stable; `said` is one line without any text of the headers.

    OK: as it is. FIXED: mended on reading, as `said` says. CHOOSE: fine, but one of several volumes of its series.
    REFUSED: cannot be used.
    """

    state: State
    codes: tuple[str, ...] = ()
    said: str = ""
    fix: str = ""

    def __str__(self) -> str:
        return f"{self.state}({', '.join(self.codes)})" if self.codes else self.state

    @property
    def usable(self) -> bool:
        """True unless it is refused."""
        return self.state != "REFUSED"


@dataclass(frozen=True, slots=True)
class Frame:
    """One image plane: its file, its number in that file (0 where the file holds one), its file's SOPInstanceUID."""

    path: Path
    index: int
    uid: str


@dataclass(frozen=True, eq=False)
class SubVolume:
    """One volume of a series: everything in the series that belongs to one orientation, matrix, echo, phase, ...

    `frames` lie in the order of `planes`; `grid` is the orthogonal grid on which it is read: its own voxels, or a
    straightened one where the verdict's codes hold TILT or GAP. `planes` and `grid` are None where it was refused
    without a geometry.
    `tags` holds what selection rules may ask for, by DICOM keyword, several values joined by a backslash: it is
    private, since texts in it may name the patient. `shown` holds those that are safe to show. `differs` says in safe
    words what sets it apart from the other volumes of its series ("EchoTime 4.6").
    `repeats` are copies of frames, to be compared with them on reading: each has the `uid` and `index` of its frame.
    """

    series_uid: str
    study_uid: str
    patient_id: str
    frame_of_reference: str
    modality: str
    number: int
    of: int
    frames: tuple[Frame, ...]
    planes: Planes | None
    grid: Grid | None
    verdict: Verdict
    tags: Mapping[str, str]
    shown: Mapping[str, str]
    differs: str = ""
    checked: Literal["agrees", "unchecked"] = "unchecked"
    repeats: tuple[Frame, ...] = ()

    @property
    def paths(self) -> tuple[Path, ...]:
        """Its files, each once, in the order of its frames."""
        return tuple(dict.fromkeys(frame.path for frame in self.frames))


@dataclass(frozen=True, slots=True)
class LabelObject:
    """A DICOM SEG or RTSTRUCT: its file, and what it says it belongs to."""

    kind: Literal["seg", "rtstruct"]
    path: Path
    study_uid: str
    patient_id: str
    frame_of_reference: str
    series_uids: tuple[str, ...]  # referenced series; may be empty or wrong, then the frame of reference decides


@dataclass(frozen=True, slots=True)
class Scanned:
    """All volumes found, the label objects beside them, and what was left with the reason."""

    volumes: tuple[SubVolume, ...]
    labels: tuple[LabelObject, ...]
    left: tuple[Left, ...]
