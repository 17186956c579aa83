"""Bringing volumes and label maps from one grid onto another, and the straight grid that covers a sheared one."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from medseg.imaging.grid import Grid
from medseg.imaging.planes import SHEARED
from medseg.imaging.volume import LabelMap, Volume

Floats = npt.NDArray[np.float64]

_WHOLE = 1e-5  # index maps this near to whole numbers are whole: headers are rounded to float32
_TIE = 1e-6  # two voxels whose distances differ by less are equally near
_COVERED = 0.01  # of a voxel: a grid need not grow to cover less


def is_sheared(grid: Grid) -> bool:
    """True if two axes are not at right angles: the cosine of their angle is above 1e-3."""
    return grid.skew > SHEARED


def straight_cover(grid: Grid) -> Grid:
    """The smallest orthogonal grid that covers all voxels of a sheared one, with voxels of the same volume.

    The first axis and the plane of the first two stay (Gram-Schmidt), and so do rows and slices: each voxel of the
    sheared grid lies in a row and slice of the straight one, only displaced within them.
    """
    start = grid.affine[:3, :3]
    directions, upper = np.linalg.qr(start)
    directions = directions * np.sign(np.diag(upper))
    steps = np.abs(np.diag(upper))
    reach = (grid.corners_mm - grid.affine[:3, 3]) @ directions
    low, high = reach.min(axis=0), reach.max(axis=0)
    x, y, z = (int(n) for n in np.ceil((high - low) / steps - _COVERED) + 1)
    affine = np.eye(4)
    affine[:3, :3] = directions * steps
    affine[:3, 3] = grid.affine[:3, 3] + directions @ low
    return Grid((x, y, z), affine, grid.stored)


def volume_onto(volume: Volume, grid: Grid, fill: float) -> Volume:
    """A volume interpolated linearly onto any grid, as float32; `fill` more than half a voxel outside of it.

    A volume that is on the grid already comes back as it is.
    """
    if volume.grid.agrees(grid):
        return Volume(volume.array, grid)
    from scipy import ndimage  # here, since few scans are interpolated and it takes long to import

    matrix, offset = index_map(grid, volume.grid)
    out: npt.NDArray[np.float32] = ndimage.affine_transform(
        volume.array, matrix, offset, grid.shape, output=np.float32, order=1, mode="nearest"
    )
    sizes = volume.grid.shape
    for z, index in enumerate(_slices(matrix, offset, grid.shape)):
        outside = np.zeros(grid.shape[:2], bool)
        for n, size in zip(index, sizes, strict=True):
            outside |= (n < -0.5 - _TIE) | (n > size - 0.5 + _TIE)
        out[:, :, z][outside] = fill
    return Volume(out, grid)


def map_onto(labels: LabelMap, grid: Grid) -> LabelMap:
    """A label map brought onto any grid by the nearest voxel; 0 more than half a voxel outside of it.

    Nearest in a sheared grid: the nearest slice, the nearest row in it, the nearest voxel in that. Of two equally near
    that of the higher index counts on the way from a sheared grid, that of the lower elsewhere. So labels return from
    `straight_cover` exactly to where they were.
    """
    if labels.grid.agrees(grid):
        return LabelMap(labels.array, grid, labels.names)
    matrix, offset = index_map(grid, labels.grid)
    bend = np.eye(3)
    tie = -_TIE
    if is_sheared(labels.grid):
        upper = np.linalg.qr(labels.grid.affine[:3, :3]).R
        bend = upper / np.diag(upper)[:, None]
        matrix, offset = bend @ matrix, bend @ offset
        tie = _TIE
    out: npt.NDArray[np.unsignedinteger[Any]] = np.zeros(grid.shape, labels.array.dtype, order="F")
    for z, (x, y, t) in enumerate(_slices(matrix, offset, grid.shape)):
        k = np.floor(t + 0.5 + tie)
        j = np.floor(y - bend[1, 2] * k + 0.5 + tie)
        i = np.floor(x - bend[0, 1] * j - bend[0, 2] * k + 0.5 + tie)
        inside = np.ones(grid.shape[:2], bool)
        for n, size in zip((i, j, k), labels.grid.shape, strict=True):
            inside &= (n >= 0) & (n < size)
        i, j, k = (np.broadcast_to(n, inside.shape)[inside].astype(np.int64) for n in (i, j, k))
        out[:, :, z][inside] = labels.array[i, j, k]
    return LabelMap(out, grid, labels.names)


def index_map(given: Grid, wanted: Grid) -> tuple[Floats, Floats]:
    """By which a voxel index of `given` becomes one of `wanted`: matrix (3, 3) @ index + offset (3,)."""
    found = np.asarray(np.linalg.solve(wanted.affine, given.affine), np.float64)
    nearest = np.rint(found)
    found = np.where(np.abs(found - nearest) < _WHOLE, nearest, found)
    return found[:3, :3], found[:3, 3]


def _slices(matrix: Floats, offset: Floats, shape: tuple[int, int, int]) -> Iterator[list[Floats]]:
    """For each slice the three index maps, each (X, Y) or broadcasting to it."""
    i, j = np.arange(shape[0])[:, None], np.arange(shape[1])[None, :]
    for z in range(shape[2]):
        start = offset + matrix[:, 2] * z
        yield [s + a * i + b * j for s, (a, b) in zip(start, matrix[:, :2], strict=True)]
