"""The geometry of a volume, computed a second time by other libraries; where they disagree, the volume is refused.

Single images: SimpleITK (through GDCM, which shares no code with pydicom) says where the corners of each slice lie, and
highdicom how the slices follow each other. Multi-frame objects: highdicom says the same of their frames. Only headers
are read, and only when a volume is about to be used: this takes milliseconds a slice.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pydicom

from medseg.imaging.dicom.headers import quiet
from medseg.imaging.dicom.pixels import STRAIGHTENED
from medseg.imaging.dicom.volumes import SubVolume, Verdict
from medseg.imaging.grid import LPS_TO_RAS, Grid, Stored
from medseg.imaging.planes import RIGHT_ANGLE, SAME_DIRECTION, Planes

Floats = npt.NDArray[np.float64]
Items = Sequence[pydicom.Dataset]

AGREES_MM = 0.01
AGREES_PIXEL = 0.1  # of the smallest pixel spacing; what is really wrong is wrong by millimetres
_PLACE = ["SOPClassUID", "ImageOrientationPatient", "ImagePositionPatient", "PixelSpacing"]
_GROUPS = ["SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"]


def cross_checked(volume: SubVolume) -> SubVolume:
    """The volume, `checked` as agreeing at every corner (see `_limit_mm`); or REFUSED(GEOMETRY_DISAGREES).

    It stays `unchecked` where no other library can read its geometry, and as it was where it has none.
    """
    if not volume.verdict.usable or volume.planes is None or volume.grid is None:
        return volume
    with quiet():
        found = [away for away in _disagreements_mm(volume, volume.planes, volume.grid) if away is not None]
    if not found:
        return volume
    if max(found) > _limit_mm(volume.planes):
        said = f"another library places its corners {max(found):.2f} mm away"
        return replace(volume, verdict=Verdict("REFUSED", ("GEOMETRY_DISAGREES",), said, "export the series again"))
    return replace(volume, checked="agrees")


def _limit_mm(planes: Planes) -> float:
    """How far corners may lie apart: 0.01 mm, or what directions that are written with few digits leave open.

    Such directions stand at not quite right angles, which each library straightens in its own way, and they may differ
    a little from slice to slice, of which the volume has but one. Both count more the larger a slice is.
    """
    sides = planes.shape[0] * planes.spacing_mm[0] + planes.shape[1] * planes.spacing_mm[1]
    loose = 2 * SAME_DIRECTION + min(abs(float(planes.row @ planes.column)), RIGHT_ANGLE)
    return max(AGREES_MM, AGREES_PIXEL * min(planes.spacing_mm), loose * sides)


def _disagreements_mm(volume: SubVolume, planes: Planes, grid: Grid) -> Iterator[float | None]:
    """How far other libraries place corners from ours; None where one cannot tell."""
    straight = not STRAIGHTENED & set(volume.verdict.codes)
    single = len(volume.paths) == len(volume.frames) and not any(frame.index for frame in volume.frames)
    seen = _seen_by_simpleitk(volume.paths) if single else None
    if seen is not None:
        yield _slices(seen, planes)
    if not single and straight and len(volume.paths) == volume.of == 1:
        yield _whole_object(volume.paths[0], grid)
    if straight:
        yield _stack(volume, grid, seen)


@dataclass(frozen=True, eq=False)
class _Seen:
    """A slice as SimpleITK reads it: (columns, rows), first pixel (3), directions (6), pixel spacing, LPS+ mm."""

    size: tuple[int, int]
    origin: Floats
    directions: Floats
    spacing_mm: Floats


def _seen_by_simpleitk(paths: Sequence[Path]) -> list[_Seen] | None:
    """Each single image; None where GDCM does not understand a header or cannot open a path."""
    import SimpleITK

    if not all(map(_is_unicode, paths)):
        return None
    reader = SimpleITK.ImageFileReader()
    reader.SetImageIO("GDCMImageIO")
    seen = []
    for path in paths:
        reader.SetFileName(str(path))
        try:
            reader.ReadImageInformation()
        except RuntimeError:
            return None
        columns, rows = reader.GetSize()[:2]
        directions = np.array(reader.GetDirection()).reshape(3, 3)[:, :2].T.ravel()
        seen.append(_Seen((columns, rows), np.array(reader.GetOrigin()), directions, np.array(reader.GetSpacing()[:2])))
    return seen


def _is_unicode(path: Path) -> bool:
    """True if the path is UTF-8; at any other one, GDCM ends the whole process."""
    try:
        str(path).encode()
    except UnicodeEncodeError:
        return False
    return True


def _slices(seen: Sequence[_Seen], planes: Planes) -> float | None:
    """Largest distance of the corners of single images."""
    columns, rows = planes.shape
    index = np.array([(x, y) for x in (0, columns - 1) for y in (0, rows - 1)], dtype=np.float64)
    ours = index @ np.stack([planes.row * planes.spacing_mm[0], planes.column * planes.spacing_mm[1]])
    most = 0.0
    for one, position in zip(seen, planes.positions_mm, strict=True):
        if one.size != planes.shape:
            return None
        theirs = one.origin + index @ (one.directions.reshape(2, 3) * one.spacing_mm[:, None])
        most = max(most, float(np.linalg.norm(theirs @ LPS_TO_RAS[:3, :3] - (position + ours), axis=1).max()))
    return most


def _stack(volume: SubVolume, grid: Grid, seen: Sequence[_Seen] | None) -> float | None:
    """Distance of the corners of the stack, as highdicom orders and spaces its slices."""
    from highdicom import spatial

    try:
        places, orientation, pixel_spacing = _places(volume) if seen is None else _places_of(seen)
        spacing, order = spatial.get_volume_positions(places, orientation, index_convention="RD")
        if spacing is None or order is None:
            return None
        if list(order) != list(range(len(places))):
            return float("inf")
        lps = spatial.create_affine_matrix_from_attributes(places[0], orientation, pixel_spacing, float(spacing))
    except (ValueError, TypeError, AttributeError, KeyError, IndexError):  # it lacks what highdicom asks for
        return None
    return grid.deviation_mm(Grid(grid.shape, LPS_TO_RAS @ lps, Stored("dicom")))


def _places_of(seen: Sequence[_Seen]) -> tuple[list[list[float]], list[float], list[float]]:
    """Of each slice its position, and of all the orientation and the pixel spacing (rows first), LPS+ mm."""
    return [one.origin.tolist() for one in seen], seen[0].directions.tolist(), seen[0].spacing_mm[::-1].tolist()


def _places(volume: SubVolume) -> tuple[list[list[float]], list[float], list[float]]:
    """The same of each frame, from the headers."""
    known = {path: _read(path, [*_PLACE, *_GROUPS]) for path in volume.paths}
    groups = [_groups_of(known[frame.path], frame.index) for frame in volume.frames]
    positions = [_value(group, "PlanePositionSequence", "ImagePositionPatient") for group in groups]
    orientation = _value(groups[0], "PlaneOrientationSequence", "ImageOrientationPatient")
    return positions, orientation, _value(groups[0], "PixelMeasuresSequence", "PixelSpacing")


def _read(path: Path, tags: list[str]) -> pydicom.Dataset:
    return pydicom.dcmread(path, force=True, stop_before_pixels=True, specific_tags=tags)


def _groups_of(dataset: pydicom.Dataset, index: int) -> Items:
    """Where the values of a frame may stand: its own group, the shared one, the header."""
    own: Items = dataset.get("PerFrameFunctionalGroupsSequence") or []
    shared: Items = dataset.get("SharedFunctionalGroupsSequence") or []
    return (*own[index : index + 1], *shared[:1], dataset)


def _value(groups: Items, sequence: str, keyword: str) -> list[float]:
    for group in groups:
        if sequence in group and keyword in group[sequence].value[0]:
            return [float(v) for v in group[sequence].value[0][keyword].value]
    return [float(v) for v in groups[-1][keyword].value]


def _whole_object(path: Path, grid: Grid) -> float | None:
    """Distance of the corners of a multi-frame object that is one volume, as highdicom reads it."""
    import highdicom

    try:
        geometry = highdicom.imread(path, lazy_frame_retrieval=True).get_volume_geometry()
    except (ValueError, TypeError, AttributeError, KeyError, IndexError, RuntimeError):  # it refuses much real data
        return None
    if geometry is None:
        return None
    slices, rows, columns = geometry.spatial_shape
    affine = LPS_TO_RAS @ np.array(geometry.affine)[:, [2, 1, 0, 3]]
    if affine[:3, 2] @ grid.affine[:3, 2] < 0:  # it may count the slices from the other end
        affine[:3, 3] += (slices - 1) * affine[:3, 2]
        affine[:3, 2] *= -1
    return grid.deviation_mm(Grid((columns, rows, slices), affine, Stored("dicom")))
