"""DICOM segmentation objects (SEG) in: BINARY, FRACTIONAL and LABELMAP, by pydicom alone.

A SEG may leave out empty frames, hold them in any order, and lie on slices of its own: its frames are put on the slices
where they were drawn, and these are brought onto the wanted grid. Source: DICOM PS3.3 A.51 and C.8.20.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from pydicom.dataset import Dataset
from pydicom.pixels.utils import iter_pixels

from medseg.imaging.dicom import label_objects
from medseg.imaging.dicom.codecs import register_codecs
from medseg.imaging.dicom.headers import numbers, text, whole
from medseg.imaging.dicom.label_objects import (
    AGAIN,
    Noted,
    References,
    items,
    label_object,
    label_text,
)
from medseg.imaging.dicom.label_slices import in_order, own_grid, slices_onto
from medseg.imaging.grid import Grid
from medseg.imaging.planes import Plane, Planes
from medseg.imaging.structures import asked_for
from medseg.imaging.volume import LabelMap, distinct
from medseg.imaging.voxels import refuse

_LARGEST = 1 << 34  # voxels of all frames; more is a damaged or hostile header

Labels = npt.NDArray[np.unsignedinteger[Any]]


@dataclass(frozen=True, eq=False)
class Segments:
    """The segments of a SEG as one label map (X, Y, N) on the slices that have frames; values are segment numbers.

    stated_mm: spacing and thickness of slices as the object states them, 0 where it does not. overlapping: how many
    voxels belong to several segments.
    """

    planes: Planes
    array: Labels
    names: Mapping[int, str]
    references: References
    stated_mm: tuple[float, float]
    overlapping: int = 0

    @property
    def notes(self) -> tuple[str, ...]:
        """What a label map cannot hold."""
        n = self.overlapping
        return (f"{n} voxel(s) belong to several segments: the later one counts",) if n else ()

    def onto(self, grid: Grid, name: str = "", frame_of_reference: str = "") -> Noted:
        """The segments on `grid` by the nearest pixel, and notes on what was left.

        Raises:
            GeometryError: their frame of reference is another, or nothing of them lies on the grid.
        """
        self.references.check(frame_of_reference, name)
        array, notes = slices_onto(self.array, self.planes, self.stated_mm, grid, name)
        return LabelMap(array, grid, self.names), self.notes + notes


def read_seg(path: Path, onto: Grid | None = None, name: str = "", frame_of_reference: str = "") -> LabelMap:
    """The segments on the grid `onto`, or on that of the object; as `read_seg_noted`."""
    return read_seg_noted(path, onto, name, frame_of_reference)[0]


def read_seg_noted(
    path: Path,
    onto: Grid | None = None,
    name: str = "",
    frame_of_reference: str = "",
    wanted: Collection[str] | None = None,
) -> Noted:
    """The segments on the grid `onto` by the nearest pixel, and notes on what a label map cannot hold.

    Without `onto` the object's own slices give the grid; those that it left out as empty are filled in. `name` is the
    case in what is said; `frame_of_reference` that of `onto`, where it is known; `wanted` names the segments to draw.

    Raises:
        InputError: as `read_segments`.
        GeometryError: its frame of reference is another, or nothing of it lies on `onto`.
    """
    found = read_segments(path, name, wanted)
    if onto is not None:
        return found.onto(onto, name, frame_of_reference)
    array, grid, notes = own_grid(found.array, found.planes, found.stated_mm)
    return LabelMap(array, grid, found.names), found.notes + notes


def read_segments(path: Path, name: str = "", wanted: Collection[str] | None = None) -> Segments:
    """The segments as they lie on their own slices. Where segments overlap, that of the higher number counts.

    A FRACTIONAL segment is where its value is at least half of the largest. Only segments with one of the names
    `wanted` (see `structures.asked_for`) are drawn.

    Raises:
        InputError: missing, no SEG, cut or damaged, without a geometry, or with several frames of a segment on a slice.
    """
    with label_object(path, label_objects.SEG, name) as found:
        if "PixelData" not in found:
            refuse("TRUNCATED", "its segmentation is cut short: it holds no pixels", name, AGAIN)
        shared = (items(found, "SharedFunctionalGroupsSequence") or [Dataset()])[0]
        groups = items(found, "PerFrameFunctionalGroupsSequence")
        n = max(whole(found, "NumberOfFrames", 1), 1)
        if not groups or "TotalPixelMatrixColumns" in found:
            refuse("NO_GEOMETRY", "its segmentation is not drawn on the slices of a volume", name)
        if len(groups) != n:
            refuse("DAMAGED", f"its segmentation describes {len(groups)} of {n} frames", name, AGAIN)
        _check_pixels(found, n, name)
        planes, slices = in_order([_plane(found, shared, group) for group in groups], name)
        numbered = [_segment(shared, group) for group in groups]
        kind = text(found, "SegmentationType")
        named = _names(found)
        spared = {n for n, said in named.items() if not asked_for(said, wanted)}
        array, overlapping = _drawn(found, kind, planes, slices, numbered, name, spared)
        measures = _group(shared, groups[0], "PixelMeasuresSequence")
        stated = tuple((numbers(measures, k) or (0.0,))[0] for k in ("SpacingBetweenSlices", "SliceThickness"))
        used = {int(value) for value in distinct(array)} | set(numbered)
        names = {value: str(value) for value in sorted(used - {0})} | named
        names = {value: said for value, said in names.items() if value not in spared}
        return Segments(planes, array, names, _references(found), (stated[0], stated[1]), overlapping)


def segment_names(path: Path, name: str = "") -> dict[int, str]:
    """The names of the segments by their numbers, from the header alone.

    Raises:
        InputError: missing, no SEG, or damaged.
    """
    with label_object(path, label_objects.SEG, name, ["SegmentSequence"]) as found:
        return _names(found)


def seg_references(path: Path, name: str = "") -> References:
    """The series and images that the segments say they were drawn on, from the header alone.

    Raises:
        InputError: missing, no SEG, or damaged.
    """
    with label_object(path, label_objects.SEG, name, ["FrameOfReferenceUID", "ReferencedSeriesSequence"]) as found:
        return _references(found)


def _names(found: Dataset) -> dict[int, str]:
    names = {}
    for item in items(found, "SegmentSequence"):
        number = whole(item, "SegmentNumber")
        if number > 0:  # a LABELMAP may describe its background as segment 0
            names[number] = label_text(str(item.get("SegmentLabel") or item.get("SegmentDescription") or ""), number)
    return names


def _references(found: Dataset) -> References:
    series = items(found, "ReferencedSeriesSequence")
    images = [item for one in series for item in items(one, "ReferencedInstanceSequence")]
    return References(
        label_objects.unique(text(one, "SeriesInstanceUID") for one in series),
        text(found, "FrameOfReferenceUID"),
        label_objects.unique(text(one, "ReferencedSOPInstanceUID") for one in images),
    )


def _group(shared: Dataset, frame: Dataset, keyword: str) -> Dataset:
    """A functional group of a frame, or that of all frames."""
    return (items(frame, keyword) or items(shared, keyword) or [Dataset()])[0]


def _plane(found: Dataset, shared: Dataset, frame: Dataset) -> Plane:
    return Plane(
        whole(found, "Rows"),
        whole(found, "Columns"),
        numbers(_group(shared, frame, "PlaneOrientationSequence"), "ImageOrientationPatient"),
        numbers(_group(shared, frame, "PlanePositionSequence"), "ImagePositionPatient"),
        numbers(_group(shared, frame, "PixelMeasuresSequence"), "PixelSpacing"),
    )


def _segment(shared: Dataset, frame: Dataset) -> int:
    return whole(_group(shared, frame, "SegmentIdentificationSequence"), "ReferencedSegmentNumber")


def _check_pixels(found: Dataset, n: int, name: str) -> None:
    bits = whole(found, "BitsAllocated")
    if min(whole(found, "Rows"), whole(found, "Columns")) < 1 or bits not in (1, 8, 16):
        refuse("DAMAGED", "its segmentation does not say how its pixels are stored", name, AGAIN)
    if whole(found, "SamplesPerPixel", 1) != 1 or whole(found, "PixelRepresentation") != 0:
        refuse("DAMAGED", "its segmentation holds colours or signed numbers", name, AGAIN)
    if n * whole(found, "Rows") * whole(found, "Columns") > _LARGEST:
        refuse("TOO_LARGE", "its segmentation claims more voxels than any scan has", name, AGAIN)
    needed = n * whole(found, "Rows") * whole(found, "Columns") * bits
    if not found.file_meta.TransferSyntaxUID.is_encapsulated and 8 * len(found.get("PixelData") or b"") < needed:
        refuse("TRUNCATED", "its segmentation is cut short: it does not hold all its frames", name, AGAIN)


def _drawn(
    found: Dataset,
    kind: str,
    planes: Planes,
    slices: npt.NDArray[np.int64],
    numbered: list[int],
    name: str,
    spared: Collection[int],
) -> tuple[Labels, int]:
    """All frames on their slices but those of `spared` segments, and how many voxels belong to several segments."""
    if kind not in ("BINARY", "FRACTIONAL", "LABELMAP"):
        refuse("DAMAGED", "its segmentation is of an unknown type", name, AGAIN)
    labelmap = kind == "LABELMAP"
    wide = whole(found, "BitsAllocated") == 16 if labelmap else max(numbered) > 255
    once = set(zip(slices.tolist(), numbered, strict=True))
    if len(once) != len(slices):
        refuse("DUPLICATE_POSITION", "its segmentation holds several frames of a segment on one slice", name)
    if not labelmap and min(numbered) < 1:
        refuse("DAMAGED", "its segmentation does not say which segment a frame belongs to", name, AGAIN)
    largest = whole(found, "MaximumFractionalValue", 255) if kind == "FRACTIONAL" else 1
    out = np.zeros((*planes.shape, len(planes)), np.uint16 if wide else np.uint8, order="F")
    overlapping = 0
    for frame, k, number in zip(_frames(found), slices, numbered, strict=True):
        at = out[:, :, k]
        if labelmap:
            at[:] = np.where(np.isin(frame.T, list(spared)), 0, frame.T) if spared else frame.T
            continue
        if number in spared:
            continue
        inside = 2 * frame.T.astype(np.uint32) >= max(largest, 1)
        overlapping += int(np.count_nonzero(at[inside]))
        at[inside] = np.maximum(at[inside], number)
    return out, overlapping


def _frames(found: Dataset) -> Iterator[npt.NDArray[np.unsignedinteger[Any]]]:
    """The stored frames (rows, columns) in their order."""
    rows, columns, bits = whole(found, "Rows"), whole(found, "Columns"), whole(found, "BitsAllocated")
    syntax = found.file_meta.TransferSyntaxUID
    if syntax.is_encapsulated:
        register_codecs()
        yield from iter_pixels(found, raw=True)
        return
    size = rows * columns
    stored = np.frombuffer(found.PixelData, np.uint8)
    for k in range(max(whole(found, "NumberOfFrames", 1), 1)):
        if bits == 1:  # bits of all frames follow each other, the first in the lowest place
            first, last = k * size // 8, -(-(k + 1) * size // 8)
            unpacked = np.unpackbits(stored[first:last], bitorder="little")
            yield unpacked[k * size - 8 * first :][:size].reshape(rows, columns)
        else:
            n = size * bits // 8
            kind = np.dtype(f"{'<' if syntax.is_little_endian else '>'}u{bits // 8}")
            yield stored[k * n : (k + 1) * n].view(kind).reshape(rows, columns)
