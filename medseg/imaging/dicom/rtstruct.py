"""DICOM structure sets (RTSTRUCT) in: contours drawn on planes, filled on the slices of a grid.

A structure set says where its contours lie, not on which grid they were drawn; that is asked for. Contours on one plane
combine by exclusive-or, which is right for holes drawn as contours of their own and for keyholes. Source: DICOM PS3.3
C.8.8.6; a pixel belongs to a structure if its centre lies inside (see `raster.fill`).
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from pydicom.dataset import Dataset

from medseg.errors import GeometryError
from medseg.imaging.dicom.headers import numbers, text, whole
from medseg.imaging.dicom.label_objects import (
    AGAIN,
    RTSTRUCT,
    Noted,
    References,
    items,
    label_object,
    label_text,
    refuse_place,
    unique,
)
from medseg.imaging.dicom.raster import Points, fill
from medseg.imaging.grid import Grid
from medseg.imaging.structures import asked_for
from medseg.imaging.volume import LabelMap
from medseg.imaging.voxels import refuse

_CLOSED = ("CLOSED_PLANAR", "CLOSEDPLANAR_XOR", "CLOSED_PLANAR_XOR")  # the last is a common spelling of the second
_FLAT_MM = 0.1  # a contour's points may stand this far from their plane: places are often written with one decimal ...
_FLAT = 0.05  # ... or this share of the step between slices
_ONE_PLANE_MM = 0.2  # contours nearer than this are drawn on the same plane
_SNAP = 4  # decimals of a pixel: what lies beyond them is rounding
_SPARSE = 1.5  # steps between contours, from which on slices between them are missing


@dataclass(frozen=True, eq=False)
class Structure:
    """One region of interest: its value and name, its closed contours (n, 3) in RAS+ mm, how many others it has."""

    value: int
    name: str
    frame_of_reference: str
    contours: tuple[Points, ...]
    n_open: int


@dataclass(frozen=True, eq=False)
class _OnSlice:
    """A contour on a slice of the grid: across which axis, where along it, its points (n, 2) in the other two."""

    axis: int
    at: float
    points: Points
    inside: bool


def read_rtstruct(path: Path, onto: Grid, name: str = "", frame_of_reference: str = "") -> LabelMap:
    """The structures on the grid `onto`; as `read_rtstruct_noted`."""
    return read_rtstruct_noted(path, onto, name, frame_of_reference)[0]


@dataclass(frozen=True, eq=False)
class Filled:
    """Structures filled on a grid, notes on what was left, and how many voxels belong to several structures."""

    labels: LabelMap
    notes: tuple[str, ...]
    overlapping: int


def read_rtstruct_noted(
    path: Path, onto: Grid, name: str = "", frame_of_reference: str = "", wanted: Collection[str] | None = None
) -> Noted:
    """The structures filled on the slices of `onto`, and notes on what was left.

    Contours may be drawn across any of the grid's axes. Those between slices go to the nearest, within half a step.
    Slices without a contour stay empty. Where structures overlap, the later one counts. `name` is the case in what is
    said; `frame_of_reference` that of `onto`, where it is known; `wanted` names the structures to draw.

    Raises:
        InputError: missing, no RTSTRUCT, or damaged.
        GeometryError: as `filled`.
    """
    found = filled(read_structures(path, name, wanted), onto, name, frame_of_reference)
    return found.labels, found.notes


def filled(structures: Sequence[Structure], onto: Grid, name: str = "", frame_of_reference: str = "") -> Filled:
    """Structures filled on the slices of `onto`; as `read_rtstruct_noted`.

    Raises:
        GeometryError: their frame of reference is another, their contours are not parallel to the grid's slices, or
            none of them lies on the grid.
    """
    used = of_one_frame(structures, frame_of_reference, name)
    largest = max((s.value for s in structures), default=0)
    out = np.zeros(onto.shape, np.uint8 if largest <= 255 else np.uint16, order="F")
    told = _Told(len(structures) - len(used))
    any_inside = False
    for structure in used:
        slices = [_on_slice(contour, onto, name) for contour in structure.contours]
        any_inside |= any(one.inside for one in slices)
        told.beyond += sum(not one.inside for one in slices)
        told.open += structure.n_open
        hit, cancelled = False, told.cancelled
        for axis, k, mask in _masks(slices, onto, told):
            at = np.moveaxis(out, axis, 0)[k]
            told.overlapping += int(np.count_nonzero(mask & (at != 0) & (at != structure.value)))
            at[mask] = structure.value
            hit |= bool(mask.any())
        told.sparse += _is_sparse(slices)
        told.missed += any(one.inside for one in slices) and not hit and told.cancelled == cancelled
    if any(s.contours for s in used) and not any_inside:
        refuse_place("its contours lie nowhere on its scan", name, "give the scan that they were drawn on")
    return Filled(LabelMap(out, onto, {s.value: s.name for s in structures}), told.notes(), told.overlapping)


@dataclass
class _Told:
    """What a label map cannot say, counted."""

    elsewhere: int
    open: int = 0
    beyond: int = 0
    finer: int = 0
    sparse: int = 0
    missed: int = 0
    cancelled: int = 0
    overlapping: int = 0

    def notes(self) -> tuple[str, ...]:
        said = (
            (self.elsewhere, "structure(s) belong to another frame of reference: they are left"),
            (self.open, "contour(s) are points or open lines: they are left"),
            (self.beyond, "contour(s) lie outside the scan: they are left"),
            (self.finer, "plane(s) of contours stand closer than slices: the nearest to each slice counts"),
            (self.sparse, "structure(s) have contours on every second slice or fewer: slices between stay empty"),
            (self.missed, "structure(s) are too small to hold the centre of a voxel"),
            (self.cancelled, "slice(s) hold contours that cover each other and cancel out: they stay empty"),
            (self.overlapping, "voxel(s) belong to several structures: the later one counts"),
        )
        return tuple(f"{n} {what}" for n, what in said if n)


def read_structures(path: Path, name: str = "", wanted: Collection[str] | None = None) -> tuple[Structure, ...]:
    """The structures with their contours: all, or those with one of the names `wanted`.

    Raises:
        InputError: missing, no RTSTRUCT, or damaged.
    """
    with label_object(path, RTSTRUCT, name) as found:
        if "StructureSetROISequence" not in found or "ROIContourSequence" not in found:
            refuse("TRUNCATED", "its structure set is cut short: it holds no list of contours", name, AGAIN)
        drawn: dict[int, list[Dataset]] = {}
        for item in items(found, "ROIContourSequence"):
            drawn.setdefault(whole(item, "ReferencedROINumber", -1), []).extend(items(item, "ContourSequence"))
        frames = {whole(r, "ROINumber", -1): r for r in items(found, "StructureSetROISequence")}
        return tuple(
            _structure(value, said, text(frames[roi], "ReferencedFrameOfReferenceUID"), drawn.get(roi, []), name)
            for roi, value, said in _values(found)
            if asked_for(said, wanted)
        )


def roi_names(path: Path, name: str = "") -> dict[int, str]:
    """The names of the structures by the values that `read_rtstruct` gives them.

    Raises:
        InputError: missing, no RTSTRUCT, or damaged.
    """
    with label_object(path, RTSTRUCT, name, ["StructureSetROISequence"]) as found:
        return {value: said for _, value, said in _values(found)}


def rtstruct_references(path: Path, name: str = "") -> References:
    """The series and images that the contours say they were drawn on.

    Raises:
        InputError: missing, no RTSTRUCT, or damaged.
    """
    tags = ["FrameOfReferenceUID", "ReferencedFrameOfReferenceSequence", "StructureSetROISequence"]
    with label_object(path, RTSTRUCT, name, tags) as found:
        frames = items(found, "ReferencedFrameOfReferenceSequence")
        studies = [study for frame in frames for study in items(frame, "RTReferencedStudySequence")]
        series = [one for study in studies for one in items(study, "RTReferencedSeriesSequence")]
        images = [image for one in series for image in items(one, "ContourImageSequence")]
        of_rois = (text(roi, "ReferencedFrameOfReferenceUID") for roi in items(found, "StructureSetROISequence"))
        of_frames = (text(frame, "FrameOfReferenceUID") for frame in frames)
        said = unique(iter([*of_rois, *of_frames, text(found, "FrameOfReferenceUID")]))
        return References(
            unique(text(one, "SeriesInstanceUID") for one in series),
            said[0] if said else "",
            unique(text(image, "ReferencedSOPInstanceUID") for image in images),
        )


def _values(found: Dataset) -> list[tuple[int, int, str]]:
    """(ROI number, value, name) of each structure; values are the numbers if a label map can hold them, else 1 to n."""
    rois = items(found, "StructureSetROISequence")
    stated = [whole(roi, "ROINumber", -1) for roi in rois]
    usable = len(set(stated)) == len(stated) and all(1 <= number <= 65535 for number in stated)
    values = stated if usable else list(range(1, len(rois) + 1))
    names = [label_text(str(roi.get("ROIName") or ""), value) for roi, value in zip(rois, values, strict=True)]
    return list(zip(stated, values, names, strict=True))


def _structure(value: int, said: str, frame: str, contours: Sequence[Dataset], name: str) -> Structure:
    closed = []
    for contour in contours:
        points = np.array(numbers(contour, "ContourData"))
        stated = whole(contour, "NumberOfContourPoints", len(points) // 3)
        if len(points) % 3 or stated != len(points) // 3:
            refuse("DAMAGED", "a contour of its structure set is cut or damaged", name, AGAIN)
        if text(contour, "ContourGeometricType").upper() in _CLOSED and stated > 2:
            closed.append(points.reshape(-1, 3) * [-1.0, -1.0, 1.0])  # LPS+ to RAS+
    return Structure(value, said, frame, tuple(closed), len(contours) - len(closed))


def of_one_frame(structures: Sequence[Structure], frame_of_reference: str, name: str) -> list[Structure]:
    """The structures of the wanted frame of reference, or of that of the first contour where none is known."""
    drawn = [s for s in structures if s.contours and s.frame_of_reference]
    wanted = frame_of_reference or (drawn[0].frame_of_reference if drawn else "")
    used = [s for s in structures if not (wanted and s.contours) or s.frame_of_reference in ("", wanted)]
    if drawn and not any(s.contours for s in used):
        References((), drawn[0].frame_of_reference, ()).check(wanted, name)
    return used


def _on_slice(contour: Points, grid: Grid, name: str) -> _OnSlice:
    to_index = np.linalg.inv(grid.affine)
    index = contour @ to_index[:3, :3].T + to_index[:3, 3]
    step_mm = 1 / np.linalg.norm(to_index[:3, :3], axis=1)  # between the slices across each axis
    away_mm = np.ptp(index, axis=0) * step_mm
    axis = min((2, 1, 0), key=lambda a: round(float(away_mm[a]), 3))
    if away_mm[axis] > max(_FLAT_MM, _FLAT * step_mm[axis]):
        what = "its contours are not parallel to the slices of its scan"
        raise GeometryError(f"[OBLIQUE] {what}", name, "give the scan that they were drawn on")
    points = np.round(np.delete(index, axis, axis=1), _SNAP)
    at = round(float(index[:, axis].mean()), _SNAP)
    sizes = np.delete(grid.shape, axis)
    within = (points.max(axis=0) >= -0.5).all() and (points.min(axis=0) <= sizes - 0.5).all()
    return _OnSlice(axis, at, points, bool(within and 0 <= _slice(at) < grid.shape[axis]))


def _slice(at: float) -> int:
    return int(np.floor(at + 0.5))


def _masks(slices: Sequence[_OnSlice], grid: Grid, told: _Told) -> Iterator[tuple[int, int, npt.NDArray[np.bool_]]]:
    """(axis, number of the slice, what is inside) for each slice with contours; of several planes the nearest to it."""
    to_index = np.linalg.inv(grid.affine)
    for axis in sorted({one.axis for one in slices}):
        apart = _ONE_PLANE_MM * float(np.linalg.norm(to_index[axis, :3]))
        nearest: dict[int, list[_OnSlice]] = {}
        for plane in _planes([one for one in slices if one.axis == axis and one.inside], apart):
            k = _slice(plane[0].at)
            if k in nearest:
                told.finer += 1
            if k not in nearest or abs(plane[0].at - k) < abs(nearest[k][0].at - k):
                nearest[k] = plane
        x, y = (n for i, n in enumerate(grid.shape) if i != axis)
        for k, plane in sorted(nearest.items()):
            contours = _each_once([one.points for one in plane])
            mask = fill(contours, (x, y))
            told.cancelled += int(len(contours) > 1 and not mask.any() and bool(fill(contours[:1], (x, y)).any()))
            yield axis, k, mask


def _each_once(contours: Sequence[Points]) -> list[Points]:
    """Contours without those stored twice, from whichever point and in whichever direction: they would cancel out."""
    return list({np.unique(points, axis=0).tobytes(): points for points in contours}.values())


def _planes(slices: Sequence[_OnSlice], apart: float) -> list[list[_OnSlice]]:
    """Contours on one plane together, planes in order."""
    ordered = sorted(slices, key=lambda one: one.at)
    planes: list[list[_OnSlice]] = []
    for one in ordered:
        if planes and one.at - planes[-1][0].at <= apart:
            planes[-1].append(one)
        else:
            planes.append([one])
    return planes


def _is_sparse(slices: Sequence[_OnSlice]) -> bool:
    at = np.unique([one.at for one in slices])
    return len(at) > 2 and len({one.axis for one in slices}) == 1 and float(np.median(np.diff(at))) > _SPARSE
