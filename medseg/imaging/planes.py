"""From the planes of single slices to a volume: order, regularity, the grid, and the way back to the slices.

Pure geometry; no file is read here. DICOM's LPS+ mm come in (`Plane`), RAS+ mm go out (`Planes`, `Grid`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from medseg.imaging.grid import Grid, Stored

Floats = npt.NDArray[np.float64]

SAME_POSITION_MM = 0.01  # nearer than any two real slices, farther than any rounding of one position
UNEVEN = 0.01  # of the step: a slice may stand this far from its place in the regular grid (rounded positions) ...
UNEVEN_AT_LEAST_MM = 0.01  # ... or this far, where slices are thinner than 1 mm: the promised exactness of places
SAME_DIRECTION = (
    1e-4  # direction cosines are often written with 6 digits; 1e-4 moves a corner 650 mm away by about 0.06 mm
)
RIGHT_ANGLE = 1e-3  # cosine between rows and columns: beyond, they are skew
ROUNDED_MM = 0.1  # positions are often written with one decimal, which moves each by up to half of this
SAME_SPACING = 1e-4
SHEARED = 1e-3  # drift of slices against their normal, relative to the step (highdicom's limit too)
STEEPEST = 1.0  # drift relative to the step (45 degrees): no gantry tilts half as far
MOST_VOXELS = 4  # times those of the slices: a straight grid with more would be made up for the most part


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

    A TILT with a grid is mended by reading onto that grid; a GAP only where the user allows it.
    """

    order: tuple[int, ...]
    planes: Planes | None
    grid: Grid | None
    faults: tuple[Fault, ...] = ()


def arrange(planes: Sequence[Plane]) -> Arranged:
    """Order planes along their normal and find the grid (column, row, slice) -> RAS+ mm that they make.

    The third column of the affine is the true way from slice to slice. Codes of faults: TOO_FEW, MIXED_SIZE,
    MIXED_ORIENTATION, NO_GEOMETRY, MULTI_VOLUME, DUPLICATE_POSITION, SHIFTED (these have no grid), GAP, TILT (these
    have one that covers all slices, see `straight_grid`, unless it needed more than four times their voxels).
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
    if not faults:
        return Arranged(order, found, _own_grid(found))
    grid = straight_grid(found)
    if math.prod(grid.shape) > MOST_VOXELS * math.prod((*shape, len(found))):
        return Arranged(order, found, None, tuple(map(_unmendable, faults)))
    return Arranged(order, found, grid, faults)


def _unmendable(fault: Fault) -> Fault:
    if fault.code == "GAP":
        return Fault("GAP", f"{fault.said}: the gaps are too large to be filled", "export the whole series again")
    return Fault(fault.code, f"{fault.said}: too far to be straightened", "export the series again")


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
    if max(abs(np.linalg.norm(v) - 1) for v in (row, column)) > 1e-2 or abs(row @ column) > RIGHT_ANGLE:
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
    exact = max(UNEVEN * mean, UNEVEN_AT_LEAST_MM)
    if np.abs(along - places).max() <= exact or _evenly_rounded(planes, exact):
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


def _rounded_mm(planes: Planes) -> float:
    """How far a coordinate may have been moved by writing positions with one decimal; 0 if they have more."""
    tenths = planes.positions_mm / ROUNDED_MM
    return ROUNDED_MM / 2 if np.abs(tenths - np.rint(tenths)).max() < 1e-6 else 0.0


def _evenly_rounded(planes: Planes, exact: float) -> bool:
    """True if rounding alone explains that the slices stand unevenly.

    A missing slice leaves others at least a quarter of a step from the best regular places, less what rounding moves
    them: slices that are too thin for that to be seen are never taken for regular.
    """
    most = _rounded_mm(planes) * float(np.abs(planes.normal).sum())
    along = planes.along_mm - planes.along_mm[0]
    n = len(along) - 1
    mean = float(along[-1]) / n
    if not most or mean <= 4 * (2 * most + exact):
        return False
    # The width of the strip that holds all slices is convex in the step, which rounding moves by 2 * most / n.
    around = (mean - 2 * most / n, mean + 2 * most / n)
    from scipy import optimize  # here, since few scans are uneven and it takes long to import

    width = optimize.minimize_scalar(
        lambda step: float(np.ptp(along - step * np.arange(n + 1))),
        bounds=around,
        method="bounded",
        options={"xatol": 1e-3 * most / n},
    ).fun
    return bool(width <= 2 * (most + exact))


def _drifting(planes: Planes) -> Fault | None:
    """Whether slices are displaced within their plane: evenly (TILT) or not (SHIFTED)."""
    positions, along = planes.positions_mm, planes.along_mm
    way = positions[-1] - positions[0]
    length = float(along[-1] - along[0])
    drift = float(np.linalg.norm(way - length * planes.normal))
    on_line = positions[0] + ((along - along[0]) / length)[:, None] * way
    step = length / (len(planes) - 1)
    rounded = 2 * np.sqrt(3) * _rounded_mm(planes)  # of a slice, and of those at the ends of the line
    if np.linalg.norm(positions - on_line, axis=1).max() > 2 * max(UNEVEN * step, UNEVEN_AT_LEAST_MM) + rounded:
        return Fault("SHIFTED", "its slices are shifted against each other", "export the series again")
    if drift <= SHEARED * length:
        return None
    if drift > STEEPEST * length:
        return Fault("SHIFTED", "its slices are shifted by more than they are apart", "export the series again")
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
