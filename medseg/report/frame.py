"""The part of a case that is shown, with its axes near to R, A, S: one cut and one order for scan and labels alike."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeVar

import numpy as np
import numpy.typing as npt

from medseg.imaging.grid import Grid, closest_axes

MARGIN_MM: Final = 30.0
A = TypeVar("A", bound=np.generic)
Three = tuple[int, int, int]


@dataclass(frozen=True, eq=False)
class Frame:
    """Which voxels of a grid are shown (`cut`), and in which order: axis n of the picture is axis `order[n]` of the
    grid, reversed where `turned[n]`. affine: of the picture. first: what comes before it along its axes; of: how many
    voxels the grid has along them.
    """

    cut: tuple[slice, ...]
    order: Three
    turned: tuple[bool, bool, bool]
    affine: npt.NDArray[np.float64]
    first: Three
    of: Three

    def take(self, array: npt.NDArray[A]) -> npt.NDArray[A]:
        """The part of an array (X, Y, Z) on the grid."""
        part = array[self.cut].transpose(self.order)
        return part[tuple(slice(None, None, -1 if turned else 1) for turned in self.turned)]

    def at(self, index: Sequence[int]) -> Three:
        """Where a voxel of the grid lies in the picture, or the nearest to it."""
        i, j, k = (self._along(axis, index) for axis in range(3))
        return i, j, k

    def _along(self, axis: int, index: Sequence[int]) -> int:
        side, n = self.cut[self.order[axis]], index[self.order[axis]]
        place = side.stop - 1 - n if self.turned[axis] else n - side.start
        return int(min(max(place, 0), side.stop - side.start - 1))

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Of the picture's voxels."""
        x, y, z = np.linalg.norm(self.affine[:3, :3], axis=0)
        return float(x), float(y), float(z)


def frame_of(arrays: Sequence[npt.NDArray[Any]], grid: Grid, margin_mm: float = MARGIN_MM) -> Frame:
    """The frame of all labels in arrays on one grid, with a margin; all of the grid where nothing is labelled."""
    cut = _cut(arrays, grid, margin_mm)
    axes = closest_axes(grid.affine)
    x, y, z = (next(v for v, (world, _) in enumerate(axes) if world == w) for w in range(3))
    order = (x, y, z)
    affine = grid.affine.copy()
    affine[:3, 3] += grid.affine[:3, :3] @ [side.start for side in cut]
    affine[:3, :3] = affine[:3, order]
    turned = []
    for n, v in enumerate(order):
        turned.append(not axes[v][1])
        if turned[n]:
            affine[:3, 3] += affine[:3, n] * (cut[v].stop - cut[v].start - 1)
            affine[:3, n] *= -1
    first = [grid.shape[v] - cut[v].stop if t else cut[v].start for v, t in zip(order, turned, strict=True)]
    return Frame(
        cut,
        order,
        (turned[0], turned[1], turned[2]),
        affine,
        (first[0], first[1], first[2]),
        (grid.shape[x], grid.shape[y], grid.shape[z]),
    )


def _cut(arrays: Sequence[npt.NDArray[Any]], grid: Grid, margin_mm: float) -> tuple[slice, ...]:
    ends: list[slice] = []
    for axis, (n, mm) in enumerate(zip(grid.shape, grid.spacing_mm, strict=True)):
        others = tuple(k for k in range(3) if k != axis)
        held = np.flatnonzero(np.logical_or.reduce([array.any(axis=others) for array in arrays]))
        margin = math.ceil(margin_mm / mm)
        low, high = (held[0] - margin, held[-1] + margin + 1) if held.size else (0, n)
        ends.append(slice(max(0, int(low)), min(n, int(high))))
    return tuple(ends)
