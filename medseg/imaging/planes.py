"""From the planes of single slices to a volume: order, regularity, the grid, and the way back to the slices.

Pure geometry; no file is read here. DICOM's LPS+ mm come in (`Plane`), RAS+ mm go out (`Planes`, `Grid`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from medseg.errors import GeometryError
from medseg.imaging.grid import Grid, Stored
from medseg.imaging.volume import LabelMap

Floats = npt.NDArray[np.float64]

SAME_POSITION_MM = 0.01  # nearer than any two real slices, farther than any rounding of one position
UNEVEN = 0.01  # of the step: a slice may stand this far from its place in the regular grid (rounded positions) ...
UNEVEN_AT_LEAST_MM = 0.01  # ... or this far, where slices are thinner than 1 mm: the promised exactness of places
SAME_DIRECTION = 1e-4  # direction cosines are often written with 6 digits; 1e-4 moves a corner by 0.03 mm at most
SAME_SPACING = 1e-4
SHEARED = 1e-3  # drift of slices against their normal, relative to the step (highdicom's limit too)
WHOLE_PIXEL = 1e-3  # a shift this near to whole pixels copies values instead of interpolating them
FILLED = 0.75  # a grid slice farther than this share of the step from any real slice is made up


@dataclass(frozen=True, slots=True)
class Plane:
    """One slice: pixel rows and columns, direction of its rows and columns (6), first pixel (3, LPS+ mm), spacing.

    `spacing_mm` is as DICOM gives it: distance of neighbouring rows, then of neighbouring columns.
    """

    rows: int
    columns: int
    orientation: tuple[float, ...]
    position_mm: tuple[float, ...]
    spacing_mm: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Fault:
    """Why slices make no regular volume: the stable reason code, one line, and what to do about it."""

    code: str
    said: str
    fix: str = ""


@dataclass(frozen=True, eq=False)
class Planes:
    """Parallel slices as they were acquired, in order along their normal: the native geometry of a series.

    shape: (columns, rows) of each slice. spacing_mm: distance of neighbouring columns, then of neighbouring rows.
    row, column: unit directions (3,) in RAS+ in which the column index and the row index grow.
    positions_mm: (N, 3), RAS+, the first pixel of each slice.
    """

    shape: tuple[int, int]
    spacing_mm: tuple[float, float]
    row: Floats
    column: Floats
    positions_mm: Floats

    @cached_property
    def normal(self) -> Floats:
        """Unit direction in which the slices follow each other."""
        return np.cross(self.row, self.column)

    @cached_property
    def along_mm(self) -> Floats:
        """(N,) position of each slice along the normal, increasing."""
        along: Floats = self.positions_mm @ self.normal
        return along

    def __len__(self) -> int:
        return len(self.positions_mm)


@dataclass(frozen=True, eq=False)
class Arranged:
    """Slices in their order, and the straight regular grid on which they are read; or why they make none.

    A fault TILT with a grid is mended by reading onto that grid; a GAP only where the user allows it.
    """

    order: tuple[int, ...]
    planes: Planes | None
    grid: Grid | None
    faults: tuple[Fault, ...] = ()

    @property
    def native(self) -> bool:
        """True if the grid's voxels are the slices' own pixels."""
        return self.grid is not None and not self.faults


def arrange(planes: Sequence[Plane]) -> Arranged:
    """Order planes along their normal and find the grid (column, row, slice) -> RAS+ mm that they make.

    The third column of the affine is the true way from slice to slice. Codes of faults: TOO_FEW, MIXED_SIZE,
    MIXED_ORIENTATION, NO_GEOMETRY, MULTI_VOLUME, DUPLICATE_POSITION, SHIFTED (these have no grid), GAP, TILT (these
    have one that covers all slices, see `straight_grid`).
    """
    order = tuple(range(len(planes)))
    if fault := _unlike(planes):
        return Arranged(order, None, None, (fault,))
    lps_row, lps_column = np.array(planes[0].orientation, dtype=np.float64).reshape(2, 3)
    mirror = np.array([-1.0, -1.0, 1.0])
    row, column = (v / np.linalg.norm(v) * mirror for v in (lps_row, lps_column))
    normal = np.cross(row, column)
    positions = np.array([plane.position_mm for plane in planes], dtype=np.float64) * mirror
    order = tuple(int(i) for i in np.argsort(positions @ normal, kind="stable"))
    between_rows, between_columns = planes[0].spacing_mm
    shape = (planes[0].columns, planes[0].rows)
    found = Planes(shape, (between_columns, between_rows), row, column, positions[list(order)])
    if fault := _repeated(found):
        return Arranged(order, None, None, (fault,))
    gap, drift = _uneven(found), _drifting(found)
    if drift is not None and drift.code == "SHIFTED":
        return Arranged(order, found, None, (drift,))
    faults = tuple(fault for fault in (gap, drift) if fault is not None)
    return Arranged(order, found, straight_grid(found) if faults else _own_grid(found), faults)


def _unlike(planes: Sequence[Plane]) -> Fault | None:
    split = "it holds more than one volume: export each on its own"
    if len(planes) < 2:
        return Fault("TOO_FEW", f"{len(planes)} slice makes no volume", "give the whole series")
    sizes = sorted({(p.columns, p.rows) for p in planes})
    if len(sizes) > 1:
        return Fault("MIXED_SIZE", f"images of {len(sizes)} sizes, such as {sizes[0]} and {sizes[-1]}", split)
    spacing = np.array([p.spacing_mm for p in planes])
    if np.ptp(spacing, axis=0).max() > SAME_SPACING * spacing.max():
        return Fault("MIXED_SIZE", "images of several pixel spacings", split)
    orientation = np.array([p.orientation for p in planes])
    if np.ptp(orientation, axis=0).max() > SAME_DIRECTION:
        return Fault("MIXED_ORIENTATION", "its images lie in several directions", split)
    row, column = orientation[0].reshape(2, 3)
    if max(abs(np.linalg.norm(v) - 1) for v in (row, column)) > 1e-2 or abs(row @ column) > 1e-3:
        return Fault("NO_GEOMETRY", "the directions of its rows and columns are not at right angles")
    return None


def _repeated(planes: Planes) -> Fault | None:
    along = planes.along_mm
    starts = np.flatnonzero(np.diff(along, prepend=-np.inf) > SAME_POSITION_MM)
    counts = np.diff(starts, append=len(along))
    if (counts == 1).all():
        return None
    if len(counts) > 1 and (counts == counts[0]).all():
        said = f"{counts[0]} images at each of its {len(counts)} positions (phases or echoes, or sent twice)"
        return Fault("MULTI_VOLUME", said, "export one volume on its own")
    where = ", ".join(f"{along[starts[i]]:.2f}" for i in np.flatnonzero(counts > 1)[:3])
    return Fault("DUPLICATE_POSITION", f"several images at {where} mm", "keep one image at each position")


def _uneven(planes: Planes) -> Fault | None:
    along = planes.along_mm
    steps = np.diff(along)
    mean, typical = float(steps.mean()), float(np.median(steps))
    places = along[0] + mean * np.arange(len(along))
    if np.abs(along - places).max() <= max(UNEVEN * mean, UNEVEN_AT_LEAST_MM):
        return None
    wide = np.flatnonzero(steps > 1.5 * typical)
    if len(wide):
        spans = ", ".join(f"{along[i]:.2f} and {along[i + 1]:.2f}" for i in wide[:3])
        said = f"slices are missing between {spans} mm (usual step {typical:.2f} mm)"
    else:
        said = (
            f"slices stand {steps.min():.2f} to {steps.max():.2f} mm apart, from {along[0]:.2f} to {along[-1]:.2f} mm"
        )
    return Fault("GAP", said, "export the whole series again, or fill the gap with --allow-gaps")


def _drifting(planes: Planes) -> Fault | None:
    """Whether slices are displaced within their plane: evenly (TILT) or not (SHIFTED)."""
    positions, along = planes.positions_mm, planes.along_mm
    way = positions[-1] - positions[0]
    length = float(along[-1] - along[0])
    drift = float(np.linalg.norm(way - length * planes.normal))
    on_line = positions[0] + ((along - along[0]) / length)[:, None] * way
    step = length / (len(planes) - 1)
    if np.linalg.norm(positions - on_line, axis=1).max() > 2 * max(UNEVEN * step, UNEVEN_AT_LEAST_MM):
        return Fault("SHIFTED", "its slices are shifted against each other", "export the series again")
    if drift <= SHEARED * length:
        return None
    degrees = float(np.degrees(np.arctan2(drift, length)))
    return Fault("TILT", f"its slices are not stacked along their normal (gantry tilt of {degrees:.1f} degrees)")


def _own_grid(planes: Planes) -> Grid:
    affine = np.eye(4)
    affine[:3, 0], affine[:3, 1] = planes.row * planes.spacing_mm[0], planes.column * planes.spacing_mm[1]
    affine[:3, 2] = (planes.positions_mm[-1] - planes.positions_mm[0]) / (len(planes) - 1)
    affine[:3, 3] = planes.positions_mm[0]
    return Grid((*planes.shape, len(planes)), affine, Stored("dicom"))


def straight_grid(planes: Planes) -> Grid:
    """The smallest grid along row, column and normal that covers all slices, at their pixel spacing and usual step.

    Every slice of an evenly spaced tilted series lies in one slice of this grid, only displaced within it.
    """
    along = planes.along_mm
    typical = float(np.median(np.diff(along)))
    n = round(float(along[-1] - along[0]) / typical) + 1
    step = float(along[-1] - along[0]) / (n - 1)
    offsets = planes.positions_mm - planes.positions_mm[0]
    affine, shape = np.eye(4), []
    start = planes.positions_mm[0].copy()
    for axis, direction in enumerate((planes.row, planes.column)):
        along_axis = offsets @ direction
        start = start + along_axis.min() * direction
        more = (along_axis.max() - along_axis.min()) / planes.spacing_mm[axis]
        shape.append(planes.shape[axis] + int(np.ceil(more - 0.01)))
        affine[:3, axis] = direction * planes.spacing_mm[axis]
    affine[:3, 2], affine[:3, 3] = planes.normal * step, start
    return Grid((shape[0], shape[1], n), affine, Stored("dicom"))


def image_onto(array: npt.NDArray[np.float32], planes: Planes, grid: Grid, fill: float) -> npt.NDArray[np.float32]:
    """Interpolate slices (X, Y, N) linearly onto `straight_grid(planes)`; `fill` where no slice is.

    Raises:
        GeometryError: the grid's axes are not those of the slices.
    """
    if not _aligned(planes, grid):
        raise GeometryError("the grid does not follow the slices")
    out = np.empty(grid.shape, np.float32, order="F")
    along = planes.along_mm
    for z in range(grid.shape[2]):
        corner = grid.affine[:3, 3] + z * grid.affine[:3, 2]
        place = float(np.interp(corner @ planes.normal, along, np.arange(len(along))))
        below = min(int(place), len(along) - 1)
        share = place - below if place - below > WHOLE_PIXEL else 0.0
        if share > 1 - WHOLE_PIXEL:
            below, share = below + 1, 0.0
        out[:, :, z] = _displaced(array, planes, grid, corner, below, fill)
        if share:
            out[:, :, z] *= 1 - share
            out[:, :, z] += share * _displaced(array, planes, grid, corner, below + 1, fill)
    return out


def _displaced(
    array: npt.NDArray[np.float32], planes: Planes, grid: Grid, corner: Floats, k: int, fill: float
) -> npt.NDArray[np.float32]:
    """Slice `k` (X, Y) as the grid's slice that begins at `corner` sees it."""
    away = corner - planes.positions_mm[k]
    shift = np.array([away @ planes.row, away @ planes.column]) / planes.spacing_mm
    whole = np.rint(shift)
    shift = np.where(np.abs(shift - whole) < WHOLE_PIXEL, whole, shift)
    moved: npt.NDArray[np.float32] = ndimage.affine_transform(
        array[:, :, k],
        [1.0, 1.0],
        [float(s) for s in shift],
        output_shape=grid.shape[:2],
        output=np.float32,
        order=1,
        mode="constant",
        cval=fill,
    )
    return moved


def made_up(planes: Planes, grid: Grid) -> tuple[tuple[float, float], ...]:
    """Stretches along the normal, in mm, in which the grid's slices are interpolated across a gap."""
    places = (grid.affine[:3, 3] + np.arange(grid.shape[2])[:, None] * grid.affine[:3, 2]) @ planes.normal
    step = float(np.linalg.norm(grid.affine[:3, 2]))
    gaps = [(a, b) for a, b in zip(planes.along_mm, planes.along_mm[1:], strict=False) if b - a > 2 * FILLED * step]
    within = [(a, b, places[(places > a + 0.01 * step) & (places < b - 0.01 * step)]) for a, b in gaps]
    return tuple((float(a), float(b)) for a, b, inside in within if len(inside))


def labels_onto(
    array: npt.NDArray[np.unsignedinteger[Any]], planes: Planes, grid: Grid
) -> npt.NDArray[np.unsignedinteger[Any]]:
    """Labels drawn on slices (X, Y, N), brought onto any grid by the nearest pixel; 0 where no slice is near.

    A voxel belongs to a slice if it lies no farther from it than half the way to the next slice; beyond the outermost
    slices and across a gap, no farther than half the usual step.
    """
    out = np.zeros(grid.shape, array.dtype, order="F")
    steps = np.diff(planes.along_mm)
    typical = float(np.median(steps)) if len(steps) else float(min(grid.spacing_mm))
    origin, axes = grid.affine[:3, 3], grid.affine[:3, :3]
    i, j = np.arange(grid.shape[0])[:, None], np.arange(grid.shape[1])[None, :]
    frame = np.stack([planes.row / planes.spacing_mm[0], planes.column / planes.spacing_mm[1], planes.normal])
    way = frame @ axes  # (3, 3): how column, row and height change with the grid's indices
    way[np.abs(way) < 1e-9] = 0.0
    aligned = not (way[2, :2].any() or way[0, 1] or way[1, 0])
    starts = planes.positions_mm @ frame.T  # (N, 3)
    middles = (planes.along_mm[1:] + planes.along_mm[:-1]) / 2
    for z in range(grid.shape[2]):
        x0, y0, t0 = frame @ origin + z * way[:, 2]
        if aligned:
            k = int(np.searchsorted(middles, t0))
            if abs(t0 - planes.along_mm[k]) <= 0.5 * typical + SAME_POSITION_MM:
                x = _nearest(x0 - starts[k, 0] + way[0, 0] * i[:, 0])
                y = _nearest(y0 - starts[k, 1] + way[1, 1] * j[0])
                inside = np.ix_((x >= 0) & (x < planes.shape[0]), (y >= 0) & (y < planes.shape[1]))
                out[:, :, z][inside] = array[:, :, k][np.ix_(x[inside[0][:, 0]], y[inside[1][0]])]
            continue
        t = t0 + way[2, 0] * i + way[2, 1] * j
        nearest = np.searchsorted(middles, t)
        x = _nearest(x0 + way[0, 0] * i + way[0, 1] * j - starts[nearest, 0])
        y = _nearest(y0 + way[1, 0] * i + way[1, 1] * j - starts[nearest, 1])
        seen = np.abs(t - planes.along_mm[nearest]) <= 0.5 * typical + SAME_POSITION_MM
        seen &= (x >= 0) & (x < planes.shape[0]) & (y >= 0) & (y < planes.shape[1])
        out[:, :, z][seen] = array[x[seen], y[seen], nearest[seen]]
    return out


def labels_from(labels: LabelMap, planes: Planes) -> npt.NDArray[np.unsignedinteger[Any]]:
    """The label map as it lies on each slice (X, Y, N), by the nearest voxel; the way back of `labels_onto`."""
    to_index = np.linalg.inv(labels.grid.affine)
    out = np.zeros((*planes.shape, len(planes)), labels.array.dtype, order="F")
    i, j = np.arange(planes.shape[0])[:, None], np.arange(planes.shape[1])[None, :]
    across, down = to_index[:3, :3] @ planes.row * planes.spacing_mm[0], to_index[:3, :3] @ planes.column
    down = down * planes.spacing_mm[1]
    across[np.abs(across) < 1e-9], down[np.abs(down) < 1e-9] = 0.0, 0.0
    sizes = labels.grid.shape
    for k, position in enumerate(planes.positions_mm):
        start = to_index[:3, :3] @ position + to_index[:3, 3]
        index = [_nearest_down(s + a * i + d * j) for s, a, d in zip(start, across, down, strict=True)]
        inside = np.ones(planes.shape, bool)
        for n, size in zip(index, sizes, strict=True):
            inside &= (n >= 0) & (n < size)
        x, y, z = (np.broadcast_to(n, planes.shape)[inside] for n in index)
        out[:, :, k][inside] = labels.array[x, y, z]
    return out


def _aligned(planes: Planes, grid: Grid) -> bool:
    directions = grid.affine[:3, :3] / np.linalg.norm(grid.affine[:3, :3], axis=0)
    return bool(np.allclose(directions.T, [planes.row, planes.column, planes.normal], atol=1e-6))


# Half a pixel goes up on the way to the grid and down on the way back, so that a label returns to where it was drawn.
def _nearest(index: Floats) -> npt.NDArray[np.int64]:
    return np.floor(index + 0.5 + 1e-6).astype(np.int64)


def _nearest_down(index: Floats) -> npt.NDArray[np.int64]:
    return np.ceil(index - 0.5 - 1e-6).astype(np.int64)
