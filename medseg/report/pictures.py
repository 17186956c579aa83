"""The pictures of one case, made in workers: labels and scan are read, slices drawn, errors of the boundary found."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from medseg.errors import InputError, MedsegError
from medseg.evaluation.pairing import Pair
from medseg.evaluation.scoring import drawn_pair
from medseg.imaging.grid import Grid
from medseg.imaging.naming import read_case_map
from medseg.imaging.nifti_header import Prefer
from medseg.imaging.regrid import volume_onto
from medseg.imaging.scans import Scan, find_scans, read_scan
from medseg.imaging.source import ReadOptions
from medseg.imaging.structures import Structures
from medseg.imaging.studies import Wanted
from medseg.imaging.volume import LabelMap, Volume
from medseg.report.boundary import CENTRAL, Boundary, boundaries
from medseg.report.frame import Frame, frame_of
from medseg.report.montage import Layers, montage
from medseg.report.viewer import CASE_PAGE_VOXELS, REPORT_VOXELS, Place, Scene, Window, in_bytes, scene_of

MOST_PLACES: Final = 24
AIR_HU: Final = -500.0  # a scan with values below it is taken for CT
_SAMPLE: Final = 200_000  # voxels that a window is chosen by
_SOFT, _LUNG, _BONE = (-160.0, 240.0), (-1000.0, 200.0), (-450.0, 1050.0)


@dataclass(frozen=True, slots=True)
class Asked:
    """What is to be drawn of all cases alike.

    tolerances_mm: of each structure. montage_bytes: how large a picture of slices may be. own_pages: whether each case
    gets a page of its own, with a finer scan.
    """

    known: Structures | None
    tolerances_mm: Mapping[str, float]
    prefer: Prefer = ""
    montage_bytes: int = 120_000
    own_pages: bool = False
    resample: bool = False


@dataclass(frozen=True, slots=True)
class Task:
    """One case: its labels, its scan where there is one, and whether its page has room for a viewer."""

    pair: Pair
    scan: Scan | None = None
    with_viewer: bool = True


@dataclass(frozen=True, slots=True)
class Picture:
    """What was drawn of a case. scene: for the report; own: for its own page. Empty where they were not asked for.

    note: why its scan is not shown, if it is not.
    """

    case: str
    montage: bytes
    size: tuple[int, int]
    boundaries: tuple[Boundary, ...]
    places: tuple[Place, ...]
    window: str
    scene: Scene | None = None
    own: Scene | None = None
    note: str = ""


def picture_of(task: Task, asked: Asked) -> Picture:
    """Read and draw one case.

    Raises:
        InputError: its reference cannot be read.
    """
    reference, prediction = drawn_pair(task.pair, asked.known, asked.prefer, asked.resample)
    scan, note = _scan(task.scan, reference.grid, asked.prefer)
    return pictured(task.pair.case, reference, prediction, scan, note, asked, task.with_viewer)


def pictured(
    case: str,
    reference: LabelMap,
    prediction: LabelMap,
    scan: Volume | None,
    note: str,
    asked: Asked,
    with_viewer: bool = True,
) -> Picture:
    """Draw one case of two label maps and, where there is one, its scan, all on one grid; `note` as in `Picture`."""
    frame = frame_of([reference.array, prediction.array], reference.grid)
    window = window_of(scan, frame, reference.array) if scan is not None else None
    names = {**prediction.names, **reference.names}
    structures = {v: spoken(names.get(v, str(v))) for v in sorted(set(reference.present) | set(prediction.present))}
    found = boundaries(reference, prediction, dict(asked.tolerances_mm))
    found = tuple(sorted(found, key=lambda one: -abs(one.largest_mm)))
    places = _places(reference, prediction, structures, found, frame)
    raw, size = montage(_layers(reference, prediction, scan, window, frame), _focus(found, frame), asked.montage_bytes)

    def scene(voxels: int) -> Scene:
        tolerance = min(asked.tolerances_mm.values(), default=1.0)
        sides: dict[Any, LabelMap] = {"reference": reference, "prediction": prediction}
        return scene_of(sides, structures, scan, window, places, tolerance, voxels, frame)

    return Picture(
        case,
        raw,
        size,
        found,
        places,
        window.said() if window else "",
        scene(REPORT_VOXELS) if with_viewer else None,
        scene(CASE_PAGE_VOXELS) if asked.own_pages else None,
        note,
    )


def _scan(scan: Scan | None, grid: Grid, prefer: Prefer) -> tuple[Volume | None, str]:
    if scan is None:
        return None, "no scan was given, so that the labels stand on a black ground"
    try:
        volume = read_scan(replace(scan, channels=scan.channels[:1]), ReadOptions(prefer=prefer))[0].volume
    except MedsegError as error:
        return None, f"its scan cannot be shown ({error.what})"
    return volume_onto(volume, grid, float(volume.array.min())), ""


def _layers(
    reference: LabelMap, prediction: LabelMap, scan: Volume | None, window: Window | None, frame: Frame
) -> Layers:
    r, p = frame.take(reference.array), frame.take(prediction.array)
    greys = in_bytes(frame.take(scan.array), window.shown) if scan and window else np.zeros(r.shape, np.uint8)
    return Layers(greys, r, p, frame.spacing_mm, frame.first, frame.of)


def _focus(found: Sequence[Boundary], frame: Frame) -> tuple[int, int, int] | None:
    return frame.at(found[0].index) if found and found[0].largest_mm else None


def _places(
    reference: LabelMap,
    prediction: LabelMap,
    structures: Mapping[int, str],
    found: Sequence[Boundary],
    frame: Frame,
) -> tuple[Place, ...]:
    """Where to look: structures in one map alone, then the largest errors of the others."""
    places = []
    for value, name in structures.items():
        sides = value in reference.present, value in prediction.present
        if all(sides):
            continue
        array = reference.array if sides[0] else prediction.array
        where = np.argwhere(array == value)
        middle = where[int(np.abs(where - where.mean(axis=0)).sum(axis=1).argmin())]  # a voxel of it
        mm = reference.grid.affine[:3, :3] @ middle + reference.grid.affine[:3, 3]
        what = "missed" if sides[0] else "not in the reference"
        at = _slice(frame, (int(middle[0]), int(middle[1]), int(middle[2])))
        places.append(Place((float(mm[0]), float(mm[1]), float(mm[2])), f"{name}: {what} ({at})"))
    for one in found:
        if one.largest_mm:
            places.append(Place(one.mm, f"{spoken(one.structure)}: {said(one)} ({_slice(frame, one.index)})"))
    return tuple(places[:MOST_PLACES])


def _slice(frame: Frame, index: tuple[int, int, int]) -> str:
    """Slices are numbered from the feet, as the viewer does."""
    return f"axial slice {frame.first[2] + frame.at(index)[2] + 1} of {frame.of[2]}"


def spoken(name: str) -> str:
    """What a structure is called in a sentence; one without a name by its value."""
    return f"label {name}" if name.isdecimal() else name


def said(one: Boundary) -> str:
    """The largest error of a structure in words."""
    far = f"{abs(one.largest_mm):.1f} mm"
    if one.direction == CENTRAL:
        return f"reaches {far} beyond" if one.largest_mm > 0 else f"falls {far} short"
    sides = f"on its {one.direction} side"
    return f"reaches {far} beyond {sides}" if one.largest_mm > 0 else f"falls {far} short {sides}"


def window_of(scan: Volume, frame: Frame, labels: npt.NDArray[Any]) -> Window:
    """A window by what is labelled, or by all that is shown: of CT one of the usual ones, of others by share."""
    shown = frame.take(scan.array)
    held = shown[frame.take(labels) > 0]
    every = max(1, round((shown.size / _SAMPLE) ** (1 / 3)))
    sample = shown[::every, ::every, ::every]
    low, high = (float(value) for value in np.quantile(sample, (0.005, 0.998)))
    if scan.array.min() <= AIR_HU:
        middle = float(np.median(held if held.size else sample))
        wanted = _LUNG if middle < -400 else _BONE if middle > 300 else _SOFT
        return Window((max(-1024.0, min(low, wanted[0])), max(high, wanted[1])), wanted, "HU")
    low, high = (low, high) if high > low else (low - 0.5, low + 0.5)
    return Window((low, high), (low, high))


def scans_by_case(folder: Path, predictions: Path, prefer: Prefer = "") -> dict[str, Scan]:
    """The scans in a folder by the name of their case; DICOM by the names that the predictions' case map gives them.

    Raises:
        InputError: there is no such folder, or nothing in it can be read as a scan.
    """
    if not folder.exists():
        raise InputError("there is no such file or folder", folder, "give the folder of the scans")
    where = predictions if predictions.is_dir() else predictions.parent
    found = find_scans(folder, read_case_map(where).secret, Wanted(options=ReadOptions(prefer=prefer)))
    return {scan.name: scan for scan in found.scans}
