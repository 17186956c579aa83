"""One axis of a resampling: where the new voxels lie among the old ones, and how much of each they take.

The whole extent of the old voxels becomes the whole extent of the new ones, and beyond the edge the edge goes on: what
`scipy.ndimage.zoom` does with `grid_mode=True, mode="nearest"`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import gcd, sqrt
from typing import Any, Literal, TypeVar

import numpy as np
import numpy.typing as npt

Shape = tuple[int, int, int]
Order = Literal[0, 1, 3]
Orders = tuple[Order, Order, Order]
Floats = npt.NDArray[np.float64]
Indices = npt.NDArray[np.intp]
Array = TypeVar("Array", bound=npt.NDArray[Any])

LINEAR: Orders = (1, 1, 1)

POLE = sqrt(3) - 2  # of the cubic spline's prefilter: what a voxel adds falls by 0.27 a voxel
REACH = 14  # a cubic takes this many old voxels on either side; all the others together weigh 1.3e-8
ROWS = 32  # new voxels in one block: few enough that the band is most of the block, enough for a fast product


@dataclass(frozen=True, eq=False)
class Block:
    """New voxels `rows` are `matrix` (new, old) times the old voxels `support`."""

    rows: slice
    support: slice
    matrix: npt.NDArray[np.float32]

    @property
    def alone(self) -> Block:
        """The same for an array of nothing but `support`, to one of nothing but `rows`."""
        new, old = self.matrix.shape
        return Block(slice(0, new), slice(0, old), self.matrix)


@dataclass(frozen=True, eq=False)
class Pairs:
    """The two old voxels that each new one lies between, their weights (whole numbers, as float64), and the nearest.

    The weights of a pair add up to the same number everywhere. `between` is False where no new voxel lies between
    two (nearest neighbour, or an axis that keeps its length): `lower` alone is taken then.
    """

    lower: Indices
    upper: Indices
    weight: tuple[Floats, Floats]
    nearest: Indices
    between: bool

    def part(self, start: int, stop: int, first: int) -> Pairs:
        """The new voxels [start, stop) alone, with old voxels counted from `first`."""
        here = slice(start, stop)
        lower, upper, near = (side[here] - first for side in (self.lower, self.upper, self.nearest))
        return Pairs(lower, upper, (self.weight[0][here], self.weight[1][here]), near, self.between)


@lru_cache(maxsize=32)  # a scan needs nine at most, of a few hundred kilobytes
def blocks(old: int, new: int, order: Order, rows: int = ROWS) -> tuple[Block, ...]:
    """The zoom of one axis as a band of small matrices, so that a product costs the same for each voxel."""
    index, weight = _taps(old, new, order)
    return tuple(_block(index, weight, start, min(start + rows, new)) for start in range(0, new, rows))


def _block(index: Indices, weight: Floats, start: int, stop: int) -> Block:
    index, weight = index[start:stop], weight[start:stop]
    first, last = int(index.min()), int(index.max())
    matrix = np.zeros((stop - start, last + 1 - first))
    np.add.at(matrix, (np.arange(stop - start)[:, None], index - first), weight)
    return Block(slice(start, stop), slice(first, last + 1), _shared(matrix.astype(np.float32)))


def _taps(old: int, new: int, order: Order) -> tuple[Indices, Floats]:
    """For each new voxel the old ones that it takes (new, taps), one several times at the edge, and their weights."""
    if order == 0 or old == new:
        return _nearest(old, new)[:, None], np.ones((new, 1))
    at = _positions(old, new)
    if order == 1:
        at = at.clip(0, old - 1)
        index = np.floor(at).astype(np.intp)[:, None] + np.array([0, 1])
        weight = 1 - np.abs(at[:, None] - index)
    else:
        index = np.floor(at).astype(np.intp)[:, None] + np.arange(1 - REACH, 1 + REACH)
        weight = _cardinal(at[:, None] - index)
    return index.clip(0, old - 1), weight


def _cardinal(x: Floats) -> Floats:
    """The cubic spline that is 1 at 0 and 0 at every other whole number: the prefilter and the B-spline in one.

    Source: Unser, Splines: a perfect fit for signal and image processing, IEEE Signal Processing Magazine 1999.
    """
    whole = np.floor(x)
    part = x - whole
    sums: Floats = np.sum([POLE ** np.abs(whole + k) * _cubic_b(part - k) for k in range(-1, 3)], axis=0)
    return sums * (-6 * POLE / (1 - POLE**2))


def _cubic_b(x: Floats) -> Floats:
    x = np.abs(x)
    return np.where(x < 1, 2 / 3 - x * x * (1 - x / 2), np.maximum(2 - x, 0) ** 3 / 6)


def _positions(old: int, new: int) -> Floats:
    """Where the new voxels lie, counted in old ones; scipy's own arithmetic, so that halves round as there."""
    return (np.arange(new, dtype=np.float64) + 0.5) * (old / new) - 0.5


def _nearest(old: int, new: int) -> Indices:
    """The old voxel nearest to each new one; of two equally near ones the upper."""
    return np.floor(_positions(old, new) + 0.5).astype(np.intp).clip(0, old - 1)


@lru_cache(maxsize=32)
def pairs(old: int, new: int, order: Order) -> Pairs:
    """The zoom of one axis in whole numbers, so that sums of shares are exact and a tie is a tie.

    Raises:
        ValueError: the order is above 1.
    """
    if order > 1:
        raise ValueError(f"labels are interpolated linearly or not at all, not with order {order}")
    if order == 0 or old == new:
        alone = _shared(_nearest(old, new))
        return Pairs(alone, alone, (_shared(np.ones(new)), _shared(np.zeros(new))), alone, between=False)
    common = gcd(old, new)
    step, total = 2 * old // common, 2 * new // common
    at = np.clip(step // 2 + step * np.arange(new) - total // 2, 0, total * (old - 1))
    lower, rest = np.divmod(at, total)
    upper = np.minimum(lower + 1, old - 1)
    near = np.where(2 * rest >= total, upper, lower)
    weight = _shared((total - rest).astype(np.float64)), _shared(rest.astype(np.float64))
    return Pairs(_shared(lower), _shared(upper), weight, _shared(near), between=True)


def _shared(array: Array) -> Array:
    """The array, safe to keep in a cache: nobody can write into it."""
    array.flags.writeable = False
    return array


def memory_order(array: npt.NDArray[Any]) -> tuple[int, ...]:
    """The axes from the one with the longest steps in memory to the one with the shortest."""
    return tuple(sorted(range(array.ndim), key=lambda axis: -abs(array.strides[axis])))


def cheapest_first(old: Sequence[int], new: Sequence[int]) -> list[int]:
    """The axes in the order to resample them: the one that shrinks most first, since it leaves less for the next."""
    return sorted(range(3), key=lambda axis: new[axis] / old[axis])
