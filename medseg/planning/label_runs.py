"""A label map as runs of equal labels along R, and all that planning asks of labels, from the runs alone.

A structure has far fewer runs than voxels: one pass over the labels finds them, and nothing after it looks at a voxel.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]
Labels = npt.NDArray[np.unsignedinteger[Any]]
Numbers = tuple[float, float, float]

SLAB = 16  # slices looked at together: enough to be fast where R is not stored first, few enough to need no memory
BODY = 0.05  # a piece with this share of a structure's voxels is part of its body; smaller ones may be stray
MOST_SMALL = 20  # small pieces whose distance is measured: a structure of more is scattered by nature
MOST_RUNS = 5_000_000  # labels of more are a scatter of voxels: to find their pieces would take too much memory


@dataclass(frozen=True)
class Runs:
    """Runs of one structure: voxels `x` to `stop` - 1 of row (`y`, `z`); sorted by z, y, x."""

    x: Ints
    stop: Ints
    y: Ints
    z: Ints

    @property
    def lengths(self) -> Ints:
        """Voxels of each run."""
        return self.stop - self.x


@dataclass(frozen=True, slots=True)
class SmallPiece:
    """A small piece of a structure: its voxels, and how far it lies from the structure's body."""

    voxels: int
    away_mm: float


def slabs(array_XYZ: npt.NDArray[Any]) -> Iterator[tuple[int, npt.NDArray[Any]]]:
    """The first z of each stretch of slices, and the stretch as a contiguous array (Z, Y, X)."""
    slices = array_XYZ.transpose(2, 1, 0)
    for z in range(0, slices.shape[0], SLAB):
        yield z, contiguous(slices[z : z + SLAB])


def contiguous(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """The array in C order; copied, where it must be, in parts that stay in the cache."""
    if array.flags.c_contiguous:
        return array
    slowest = int(np.argmax(np.abs(array.strides)))
    out = np.empty(array.shape, array.dtype)
    for start in range(0, len(array), SLAB):
        parts = (np.moveaxis(whole[start : start + SLAB], slowest, 0) for whole in (out, array))
        for target, source in zip(*parts, strict=True):
            target[...] = source
    return out


def runs_by_value(label_XYZ: Labels, without: int | None = None) -> dict[int, Runs]:
    """The runs of every value but 0 and `without`, sorted by value."""
    parts = [_runs_in(slab, z) for z, slab in slabs(label_XYZ)]
    value, x, stop, y, z = (np.concatenate(column) for column in zip(*parts, strict=True))
    every, found = Runs(x, stop, y, z), {}
    for one in np.flatnonzero(np.bincount(value)):
        if one != without:
            found[int(one)] = _those(every, value == one)
    return found


def _runs_in(slab_ZYX: Labels, first_z: int) -> tuple[Ints, Ints, Ints, Ints, Ints]:
    """Value, x, stop, y, z of the runs of a slab."""
    _, height, width = slab_ZYX.shape
    flat = slab_ZYX.reshape(-1)
    ends = flat[1:] != flat[:-1]
    ends[width - 1 :: width] |= flat[width - 1 : -1 : width] > 0  # a run ends with its row
    start = np.concatenate([[0], np.flatnonzero(ends) + 1])
    stop = np.append(start[1:], flat.size)
    value = flat[start]
    kept = value > 0
    start, stop = start[kept], stop[kept]
    row, x = np.divmod(start, width)
    z, y = np.divmod(row, height)
    return value[kept].astype(np.int64), x, x + stop - start, y, z + first_z


def middle(runs: Runs) -> Numbers:
    """The mean position of all voxels, as an index: 0 is the centre of the first voxel."""
    n = runs.lengths
    total = int(n.sum())
    x = float((n * (runs.x + runs.stop - 1)).sum()) / 2 / total
    return x, float((n * runs.y).sum()) / total, float((n * runs.z).sum()) / total


def touches(runs: Runs, shape: Sequence[int]) -> str:
    """The borders of the scan that the structure reaches, among L R P A I S."""
    low = (runs.x.min(), runs.y.min(), runs.z.min())
    high = (runs.stop.max(), runs.y.max() + 1, runs.z.max() + 1)
    reached = zip("LRPAIS", (v for a in range(3) for v in (low[a] == 0, high[a] == shape[a])), strict=True)
    return "".join(letter for letter, is_there in reached if is_there)


def voxels_within(runs: Runs, box: Sequence[tuple[int, int]]) -> int:
    """How many voxels of the structure lie in the box: start and stop along x, y, z."""
    (x, stop), (y, y_stop), (z, z_stop) = box
    rows = (runs.y >= y) & (runs.y < y_stop) & (runs.z >= z) & (runs.z < z_stop)
    lengths = np.minimum(runs.stop, stop) - np.maximum(runs.x, x)
    return int(np.maximum(lengths, 0)[rows].sum())


def pieces(structures: Sequence[Runs]) -> list[Ints]:
    """For each structure the number, from 0, of the piece of each run; voxels that share a corner belong together.

    All structures are stacked along z, without touching, so that the pieces of all are found at once.
    """
    depth = max(int(runs.z.max()) for runs in structures) + 2
    x, stop, y = (np.concatenate([getattr(runs, name) for runs in structures]) for name in ("x", "stop", "y"))
    z = np.concatenate([runs.z + k * depth for k, runs in enumerate(structures)])
    wide, high = int(stop.max()) + 2, int(y.max()) + 3  # so that rows and slices do not run into each other
    row = z * high + y
    first, last = row * wide + x, row * wide + stop
    joined = [_touching(first, last, rows * wide) for rows in (1, high - 1, high, high + 1)]
    one, other = (np.concatenate(column) for column in zip(*joined, strict=True))
    every = _connected(row.size, one, other)
    ends = np.cumsum([runs.x.size for runs in structures])[:-1]
    return [np.unique(part, return_inverse=True)[1].astype(np.int64) for part in np.split(every, ends)]


def _connected(n: int, one: Ints, other: Ints) -> Ints:
    """For each of `n` runs the lowest that it is linked to: links pull it down until nothing moves.

    Runs follow the number they hold, too, so the rounds grow with the logarithm of a piece's length alone.
    """
    lowest = np.arange(n)
    while True:
        pulled = lowest.copy()
        least = np.minimum(lowest[one], lowest[other])
        np.minimum.at(pulled, lowest[one], least)
        np.minimum.at(pulled, lowest[other], least)
        pulled = pulled[pulled]
        if np.array_equal(pulled, lowest):
            return lowest
        lowest = pulled


def _touching(start: Ints, stop: Ints, step: int) -> tuple[Ints, Ints]:
    """Pairs of runs of which the second touches the first, `step` farther on."""
    first = np.searchsorted(stop, start + step, side="left")
    last = np.searchsorted(start, stop + step, side="right")
    counts = np.maximum(last - first, 0)
    one = np.repeat(np.arange(start.size), counts)
    before = np.cumsum(counts) - counts
    return one, np.arange(one.size) - np.repeat(before - first, counts)


def small_pieces(structures: Sequence[Runs], spacing_mm: Numbers) -> list[tuple[int, tuple[SmallPiece, ...]]]:
    """How many pieces each structure has, and those that are no part of its body, farthest first.

    Scatters of more than `MOST_RUNS` runs are not counted: they have 0. The distance is that of the piece's box from
    the nearest voxel of the body, so it is never said too large.
    """
    if not structures or sum(runs.x.size for runs in structures) > MOST_RUNS:
        return [(0, ())] * len(structures)
    return [_small(runs, piece, spacing_mm) for runs, piece in zip(structures, pieces(structures), strict=True)]


def _small(runs: Runs, piece: Ints, spacing_mm: Numbers) -> tuple[int, tuple[SmallPiece, ...]]:
    voxels = np.bincount(piece, weights=runs.lengths).astype(np.int64)
    small = np.flatnonzero(voxels < BODY * voxels.sum())
    if not small.size or small.size == voxels.size or small.size > MOST_SMALL:
        return int(voxels.size), ()
    body = _those(runs, ~np.isin(piece, small))
    found = [SmallPiece(int(voxels[one]), _distance_mm(_those(runs, piece == one), body, spacing_mm)) for one in small]
    return int(voxels.size), tuple(sorted(found, key=lambda p: -p.away_mm))


def _those(runs: Runs, which: npt.NDArray[np.bool_]) -> Runs:
    return Runs(runs.x[which], runs.stop[which], runs.y[which], runs.z[which])


def _distance_mm(piece: Runs, body: Runs, spacing_mm: Numbers) -> float:
    dx = np.maximum(piece.x.min() - body.stop + 1, body.x - piece.stop.max() + 1)
    dy = np.maximum(piece.y.min() - body.y, body.y - piece.y.max())
    dz = np.maximum(piece.z.min() - body.z, body.z - piece.z.max())
    gaps = (np.maximum(d, 0) * mm for d, mm in zip((dx, dy, dz), spacing_mm, strict=True))
    return float(np.sqrt(sum(gap**2 for gap in gaps).min()))
