"""Values between the slices of a scan and a grid: images and labels onto it, labels back. Pure arrays; see `planes`."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from medseg.errors import GeometryError
from medseg.imaging.grid import Grid
from medseg.imaging.planes import SAME_POSITION_MM, Floats, Planes
from medseg.imaging.volume import LabelMap

WHOLE_PIXEL = 1e-3  # a shift this near to whole pixels copies values instead of interpolating them
FILLED = 0.75  # a grid slice farther than this share of the step from any real slice is made up


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
    from scipy import ndimage  # here, since few scans are interpolated and it takes long to import

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
