"""DICOM segmentation objects (SEG), written by highdicom on the scan's own slices and read back before they appear."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pydicom
from pydicom.dataset import Dataset
from pydicom.pixels.utils import iter_pixels
from pydicom.uid import ExplicitVRLittleEndian, RLELossless

from medseg.errors import GeometryError, InputError
from medseg.files import written_whole
from medseg.imaging.dicom.headers import quiet
from medseg.imaging.planes import Planes
from medseg.imaging.volume import LabelMap
from medseg.imaging.writing import objects
from medseg.imaging.writing.codes import code_of, colour_of
from medseg.imaging.writing.result import Result, Written, native, result_uid, source, source_headers

DESCRIPTION = f"medseg segmentation - {objects.RESEARCH_USE_ONLY}"
SERIES_NUMBER = 9001
FARTHEST_MM = 0.05  # directions of slices may differ by 1e-4 within a series: 0.03 mm at a corner

if TYPE_CHECKING:
    from highdicom.seg import SegmentDescription

Numbers = npt.NDArray[np.unsignedinteger[Any]]


@dataclass(frozen=True, slots=True)
class Segment:
    """A structure as segment `number` (from 1, without gaps) of the object; `value` is its value in the label map.

    `label` is its name as DICOM can hold it: at most 64 characters, and no two of an object the same.
    """

    number: int
    value: int
    name: str
    label: str


def segments(labels: LabelMap) -> tuple[Segment, ...]:
    """All structures that are named or occur, in the order of their values; those without a name are called by it.

    Raises:
        InputError: there is none.
    """
    values = sorted(({*labels.names} | {*labels.present}) - {0})
    if not values:
        raise InputError("[NO_STRUCTURES] the label map has no structures", fix="name at least one")
    names = {value: labels.names.get(value, str(value)) for value in values}
    short = _short(names)
    return tuple(Segment(i, value, names[value], short[value]) for i, value in enumerate(values, start=1))


def _short(names: Mapping[int, str]) -> dict[int, str]:
    """Names within 64 characters by value; one that another has already gets its value added."""
    short: dict[int, str] = {}
    for value, name in names.items():
        text = objects.short_text(name)
        numbered = (f"{text[:50]} {value}{f' {n}' if n > 1 else ''}" for n in count(1))
        short[value] = text if text not in short.values() else next(t for t in numbered if t not in short.values())
    return short


def write_seg(path: Path, result: Result, labelmap: bool = False) -> Written:
    """Write the labels as a DICOM SEG: BINARY, or LABELMAP in RLE (smaller, but few systems read it yet).

    Every structure is described, empty ones too. The labels lie on the scan's own slices, also where it was read onto
    a straightened grid. The file is read back by pydicom and compared before it appears.

    Raises:
        InputError: the scan was no DICOM, or an image of it is gone; no structures.
        GeometryError: what was read back differs from what was meant.
        ResourceError: the disk is full or the folder cannot be written to.
    """
    _, planes = source(result)
    described = segments(result.labels)
    meant = _numbered(native(result), described)
    with quiet():
        made = _made(result, described, meant, labelmap)
        with written_whole(path) as beside:
            encoded = BytesIO()  # pydicom tells of a full disk in a page of its own
            made.save_as(encoded, enforce_file_format=True)
            del made
            beside.write_bytes(encoded.getbuffer())
            del encoded
            deviation = read_back(beside, meant, described, planes)
    return Written(path, deviation)


def _numbered(array: Numbers, described: Sequence[Segment]) -> Numbers:
    """Labels (X, Y, N) as segment numbers (N, rows, columns)."""
    kind = np.uint8 if len(described) <= 255 else np.uint16
    number = np.zeros(max(int(array.max(initial=0)), described[-1].value) + 1, kind)
    for segment in described:
        number[segment.value] = segment.number
    out = np.empty(array.shape[::-1], kind)
    for k in range(len(out)):
        out[k] = number[array[:, :, k]].T
    return out


def _made(result: Result, described: Sequence[Segment], meant: Numbers, labelmap: bool) -> Dataset:
    from highdicom.seg import Segmentation

    headers = source_headers(result)
    descriptions = [_description(result, segment) for segment in described]
    # An empty BINARY result keeps one empty frame on every slice, of its first segment: a finding too, at little size.
    empty = not meant.any()
    first_only = empty and not labelmap
    made: Dataset = Segmentation(
        source_images=objects.stand_ins(result, headers),
        pixel_array=meant,
        segmentation_type="LABELMAP" if labelmap else "BINARY",
        segment_descriptions=descriptions[:1] if first_only else descriptions,
        series_instance_uid=result_uid(result, "SEG series"),
        series_number=SERIES_NUMBER,
        sop_instance_uid=result_uid(result, "SEG labelmap" if labelmap else "SEG"),
        instance_number=1,
        transfer_syntax_uid=RLELossless if labelmap else ExplicitVRLittleEndian,
        omit_empty_frames=not empty,
        content_label="SEGMENTATION",
        content_description=DESCRIPTION,
        series_description=DESCRIPTION,
        **objects.equipment(result.algorithm),
    )
    if first_only:
        made.SegmentSequence = descriptions
    objects.refer(made, result, headers)
    objects.hand_over(made, result, headers)
    return made


def _description(result: Result, segment: Segment) -> SegmentDescription:
    from highdicom.color import CIELabColor
    from highdicom.seg import SegmentDescription

    code, _ = code_of(segment.name, result.codes)
    identification = objects.algorithm_identification(result.algorithm)
    described = SegmentDescription(
        segment_number=segment.number,
        segment_label=segment.label,
        segmented_property_category=objects.concept(code.category),
        segmented_property_type=objects.concept(code.type),
        algorithm_type=result.made or "MANUAL",
        algorithm_identification=identification if result.by_algorithm else None,
        tracking_uid=result_uid(result, f"tracking {segment.value} {segment.name}"),
        tracking_id=segment.label,
        anatomic_regions=[objects.concept(code.region)] if code.region else None,
        display_color=CIELabColor.from_rgb(*colour_of(segment.name, segment.value)),
    )
    if code.of_type:
        of_type = described.SegmentedPropertyTypeCodeSequence[0]
        of_type.SegmentedPropertyTypeModifierCodeSequence = [objects.concept(m) for m in code.of_type]
    if code.of_region:
        of_region = described.AnatomicRegionSequence[0]
        of_region.AnatomicRegionModifierSequence = [objects.concept(m) for m in code.of_region]
    return described


def read_back(path: Path, meant: Numbers, described: Sequence[Segment], planes: Planes) -> float:
    """Read a SEG by pydicom alone and compare every voxel, name and place with what was meant (N, rows, columns).

    Returns the largest distance in mm of a frame's corner from that of its slice.

    Raises:
        GeometryError: a difference; an object that says something else must not be handed on.
    """
    ds = pydicom.dcmread(path)
    names = {int(item.SegmentNumber): str(item.SegmentLabel) for item in ds.SegmentSequence}
    names.pop(0, None)  # highdicom's background of a LABELMAP
    if names != {segment.number: segment.label for segment in described}:
        raise _differs("its segments are not those that were written")
    if (ds.Rows, ds.Columns) != meant.shape[1:]:
        raise _differs("its frames have another size")
    whole = ds.SegmentationType == "LABELMAP"
    shared = ds.SharedFunctionalGroupsSequence[0]
    corners = _corners(planes)
    farthest, found, seen = 0.0, 0, set()
    for group, frame in zip(ds.PerFrameFunctionalGroupsSequence, _frames(ds), strict=True):
        away = np.linalg.norm(corners - _corners_said(group, shared, planes.shape), axis=2).max(axis=1)
        k = int(away.argmin())
        number = 0 if whole else int(_group(group, shared, "SegmentIdentificationSequence").ReferencedSegmentNumber)
        if (k, number) in seen or not np.array_equal(frame, meant[k] if whole else meant[k] == number):
            raise _differs(f"the voxels of slice {k + 1}")
        seen.add((k, number))
        found += int(np.count_nonzero(frame))
        farthest = max(farthest, float(away[k]))
    if found != np.count_nonzero(meant):
        raise _differs("slices are missing")
    if farthest > FARTHEST_MM:
        raise _differs(f"a slice lies {farthest:.3f} mm from its place")
    return farthest


def _differs(what: str) -> GeometryError:
    return GeometryError(f"[READ_BACK] the segmentation that was written differs: {what}", fix="please report this")


def _group(frame: Dataset, shared: Dataset, keyword: str) -> Dataset:
    item: Dataset = (frame if keyword in frame else shared)[keyword].value[0]
    return item


def _corners(planes: Planes) -> npt.NDArray[np.float64]:
    """World places (N, 3, 3), RAS+ mm, of three corners of every slice; they fix where all its pixels lie."""
    columns, rows = planes.shape
    across = planes.row * planes.spacing_mm[0] * (columns - 1)
    down = planes.column * planes.spacing_mm[1] * (rows - 1)
    corners: npt.NDArray[np.float64] = planes.positions_mm[:, None, :] + np.stack([np.zeros(3), across, down])
    return corners


def _corners_said(frame: Dataset, shared: Dataset, shape: tuple[int, int]) -> npt.NDArray[np.float64]:
    """The same three corners (3, 3) of one frame, as the object states them."""
    lps = np.array([-1.0, -1.0, 1.0])
    position = np.array(_group(frame, shared, "PlanePositionSequence").ImagePositionPatient, float) * lps
    said = np.array(_group(frame, shared, "PlaneOrientationSequence").ImageOrientationPatient, float).reshape(2, 3)
    row, column = (v / np.linalg.norm(v) * lps for v in said)
    between_rows, between_columns = _group(frame, shared, "PixelMeasuresSequence").PixelSpacing
    across, down = row * float(between_columns) * (shape[0] - 1), column * float(between_rows) * (shape[1] - 1)
    corners: npt.NDArray[np.float64] = position + np.stack([np.zeros(3), across, down])
    return corners


def _frames(ds: Dataset) -> Iterator[Numbers]:
    """Frames (rows, columns) one after another: packed bits run on from frame to frame; RLE by pydicom's decoder."""
    if ds.BitsAllocated != 1:
        yield from iter_pixels(ds, raw=True, decoding_plugin="pydicom")
        return
    size = int(ds.Rows) * int(ds.Columns)
    packed = np.frombuffer(ds.PixelData, np.uint8)
    for start in range(0, size * int(ds.NumberOfFrames), size):
        bits = np.unpackbits(packed[start // 8 : -(-(start + size) // 8)], bitorder="little")
        yield bits[start % 8 : start % 8 + size].reshape(int(ds.Rows), int(ds.Columns))
