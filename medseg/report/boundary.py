"""Where the boundary of a structure is wrong: signed distances of its surfaces, and the place of the largest.

As in the scores ("surfel"), a surface is made of the corners that voxels inside and outside share, and a distance is
that from such a corner to the nearest of the other surface. Here each corner counts as much as any other. A distance
is below 0 where the prediction falls short of the reference, above 0 where it reaches beyond.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from scipy.ndimage import find_objects
from scipy.spatial import cKDTree

from medseg.imaging.grid import Grid
from medseg.imaging.volume import LabelMap

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]

BIN_MM, BINS_MM = 0.25, 40.0  # distances are counted in bins of so many mm, up to so many
EDGES_MM: Final = np.arange(-BINS_MM - BIN_MM / 2, BINS_MM + BIN_MM, BIN_MM)  # round distances lie amid a bin
CENTRAL: Final = "central"
_WORDS = (("right", "left"), ("anterior", "posterior"), ("superior", "inferior"))


@dataclass(frozen=True, slots=True)
class Boundary:
    """One structure of one case that both maps hold.

    beyond: share of both surfaces farther apart than the tolerance, of the reference's and the prediction's together.
    largest_mm: the largest distance, signed; it is found at `mm` (RAS+), in voxel `index` of the grid, on the side of
    the reference that `direction` tells. same: corners that both surfaces share; counts: all others by signed distance,
    a bin for each pair of `EDGES_MM`.
    """

    structure: str
    beyond: float
    largest_mm: float
    mm: tuple[float, float, float]
    index: tuple[int, int, int]
    direction: str
    same: int
    counts: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class _Surface:
    corners: Ints  # (N, D), that at the low end of each voxel
    inside: Mask  # of all corners of the box: whether all voxels round it are inside


def boundaries(reference: LabelMap, prediction: LabelMap, tolerance_mm: dict[str, float]) -> tuple[Boundary, ...]:
    """The boundary of every structure that both maps hold; `tolerance_mm` has one for each that is asked about."""
    names = {**prediction.names, **reference.names}
    boxes = find_objects(reference.array), find_objects(prediction.array)
    found = []
    for value in sorted(set(reference.present) & set(prediction.present)):
        name = names.get(value, str(value))
        if name in tolerance_mm:
            box = _union(boxes[0][value - 1], boxes[1][value - 1])
            masks = reference.array[box] == value, prediction.array[box] == value
            found.append(_boundary(name, *masks, [side.start for side in box], reference.grid, tolerance_mm[name]))
    return tuple(found)


def _union(one: tuple[slice, ...], other: tuple[slice, ...]) -> tuple[slice, ...]:
    pairs = zip(one, other, strict=True)
    return tuple(slice(min(a.start, b.start), max(a.stop, b.stop)) for a, b in pairs)


def _boundary(name: str, r: Mask, p: Mask, start: Sequence[int], grid: Grid, tolerance_mm: float) -> Boundary:
    thick = [n > 1 for n in grid.shape]  # a single slice has an outline, no faces
    surfaces = _surface(r, thick), _surface(p, thick)
    spacing = np.asarray(grid.spacing_mm)
    there = _signed(surfaces[0], surfaces[1], spacing, inside_is_beyond=True)
    back = _signed(surfaces[1], surfaces[0], spacing, inside_is_beyond=False)
    apart = np.concatenate([there, back])
    corners = np.concatenate([surfaces[0].corners, surfaces[1].corners])
    worst = _amid(corners * spacing, np.abs(apart))
    at = corners[worst] + start - np.where(thick, 0.5, 0.0)
    mm = grid.affine[:3, :3] @ at + grid.affine[:3, 3]
    centre = grid.affine[:3, :3] @ (np.argwhere(r).mean(axis=0) + start) + grid.affine[:3, 3]
    counts, _ = np.histogram(np.clip(apart[apart != 0], -BINS_MM, BINS_MM), EDGES_MM)
    limit = tolerance_mm + 1e-6 * max(1.0, tolerance_mm)
    last = np.asarray(grid.shape) - 1
    i, j, k = (int(n) for n in np.clip(np.floor(at), 0, last))
    return Boundary(
        name,
        float((np.abs(apart) > limit).mean()),
        float(apart[worst]),
        (float(mm[0]), float(mm[1]), float(mm[2])),
        (i, j, k),
        direction(mm - centre),
        int(np.count_nonzero(apart == 0)),
        tuple(int(n) for n in counts),
    )


def _amid(places_mm: Floats, apart: Floats) -> int:
    """The largest; of several as large the one in their midst, which tells best where they are."""
    ties = np.flatnonzero(apart >= apart.max() - 1e-6)
    away = np.linalg.norm(places_mm[ties] - places_mm[ties].mean(axis=0), axis=1)
    return int(ties[away.argmin()])


def _surface(mask: Mask, thick: Sequence[bool]) -> _Surface:
    some = every = np.pad(mask, [(1, 1) if wide else (0, 0) for wide in thick])
    for axis, wide in enumerate(thick):
        if wide:
            low = tuple(slice(None, -1) if k == axis else slice(None) for k in range(3))
            high = tuple(slice(1, None) if k == axis else slice(None) for k in range(3))
            some, every = some[low] | some[high], every[low] & every[high]
    return _Surface(np.argwhere(some & ~every), every)


def _signed(of: _Surface, other: _Surface, spacing: npt.NDArray[Any], inside_is_beyond: bool) -> Floats:
    """From each corner of one surface to the other; most corners belong to both and need no search."""
    shape = of.inside.shape
    flat = np.zeros(shape, bool)
    flat[tuple(other.corners.T)] = True
    apart = np.zeros(len(of.corners))
    alone = ~flat[tuple(of.corners.T)]
    if alone.any():
        tree = cKDTree(other.corners * spacing, balanced_tree=False, compact_nodes=False)
        sign = np.where(other.inside[tuple(of.corners[alone].T)] == inside_is_beyond, 1.0, -1.0)
        apart[alone] = sign * tree.query(of.corners[alone] * spacing)[0]
    return apart


def direction(away_mm: Floats) -> str:
    """Where a point lies, seen from a centre, in words: `superior and left`; `away_mm` in RAS+."""
    largest = float(np.abs(away_mm).max())
    if largest == 0:
        return CENTRAL
    told = [_WORDS[axis][0 if away_mm[axis] > 0 else 1] for axis in (2, 1, 0) if abs(away_mm[axis]) > 0.5 * largest]
    return " and ".join(told)
