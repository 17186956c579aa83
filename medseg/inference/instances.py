"""Instances of a structure, such as single lesions: what does not touch is apart, what touches is split at necks.

Components are of voxels that touch by a face, an edge or a corner, as in post-processing. Within one, every voxel
belongs to the core (the locally deepest place, by the distance in mm to the outside) that lies uphill of it: a
watershed of the distance transform (Vincent and Soille 1991). Two cores are one instance unless the way between them
leads through a neck: less than `NECK` of the shallower core's depth is left there, and at least the side of a voxel
(the cube root of its volume) is lost. To merge by the depth lost on the way is Grimaud's dynamics of minima (1992),
that is h-maxima (Soille 2003) whose h goes with the size of the core: so neither a bump on a large lesion nor the steps
of voxels on a small one split it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from medseg.errors import InputError
from medseg.imaging.structures import LARGEST
from medseg.imaging.volume import LabelMap
from medseg.inference.boxes import apart, islands_of, pieces
from medseg.inference.postprocess import Mask, components_of, mask_of
from medseg.preprocessing.axis import memory_order

NECK = 0.7
_ROUNDING = 1e-9

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Numbers = npt.NDArray[np.integer[Any]]

_HALF_OF_26 = tuple(step for step in product((-1, 0, 1), repeat=3) if step > (0, 0, 0))


def numbered_instances(labels: LabelMap, structure: str, values: Sequence[int]) -> LabelMap:
    """The instances of the voxels with these values on the same grid, numbered from 1 by volume, the largest first.

    They are named `liver tumour 1` and so on. Beside the two maps memory holds the components of the structure's boxes,
    and up to some 80 bytes a voxel of one component at a time. Of a single slice only what lies in it counts.

    Raises:
        InputError: there are more than 65535 instances.
    """
    order = memory_order(labels.array)
    view = labels.array.transpose(order)
    islands = islands_of(view)
    boxes = apart(box for value in values for box in islands.get(value, ()))
    numbered = [components_of(mask_of(view[box], values)).numbered for box in boxes]
    spacing_mm = [labels.grid.spacing_mm[axis] for axis in order]
    flat = [axis for axis, n in enumerate(view.shape) if n == 1]
    voxels = [_split_all(one, spacing_mm, flat) for one in numbered]
    sizes = np.concatenate([np.zeros(0, np.int64), *voxels])
    if len(sizes) > LARGEST:
        what = f"{structure} has {len(sizes)} separate instances, and a label map can number {LARGEST}"
        raise InputError(what, fix="remove small ones with --min-volume")
    rank = np.zeros(len(sizes), np.uint8 if len(sizes) <= 255 else np.uint16)
    rank[np.argsort(-sizes, kind="stable")] = np.arange(1, len(sizes) + 1)
    out = np.zeros(view.shape, rank.dtype)
    before = 0
    for box, one, n in zip(boxes, numbered, map(len, voxels), strict=True):
        table = np.concatenate([np.zeros(1, rank.dtype), rank[before : before + n]])
        for planes in pieces(one.shape):
            out[box][planes] = table[one[planes]]
        before += n
    back = [order.index(axis) for axis in range(3)]
    names = {k: f"{structure} {k}" for k in range(1, len(sizes) + 1)}
    return LabelMap(out.transpose(back), labels.grid, names)


def _split_all(numbered: Numbers, spacing_mm: Sequence[float], flat: Sequence[int]) -> Ints:
    """Give the parts of components numbers of their own, in place; returns the voxels of every number from 1 on."""
    boxes = ndimage.find_objects(numbered)
    firsts, others = list[int](), list[int]()
    for number, box in enumerate(boxes, 1):
        mask = numbered[box] == number
        part = split_at_necks(mask, spacing_mm, flat)
        first, *more = np.bincount(part).tolist()
        numbered[box][mask] = np.where(part, part + (len(boxes) + len(others)), number)
        firsts.append(first)
        others += more
    return np.array([*firsts, *others])


def split_at_necks(mask: Mask, spacing_mm: Sequence[float], flat: Sequence[int] = ()) -> Ints:
    """For each voxel (N,) of one component (A, B, C), in raster order, the number of its part; all 0 where it is whole.

    Parts are numbered from 0. flat: axes along which the scan has one voxel: its faces there are no border of anything.
    Time and memory go with the voxels, but for the distance transform of the box.
    """
    bordered = np.pad(mask, [(0, 0) if axis in flat else (1, 1) for axis in range(3)])
    depth = _depth_mm(bordered, np.flatnonzero(bordered), spacing_mm)
    sides_mm = [mm for axis, mm in enumerate(spacing_mm) if axis not in flat]
    least_lost = float(np.prod(sides_mm)) ** (1 / max(len(sides_mm), 1))
    padded = np.pad(mask, 1)
    at = np.flatnonzero(padded)
    if depth.max() < min(sides_mm, default=0.0) + least_lost:  # too thin for any neck
        return np.zeros(len(at), np.int64)
    places = np.full(padded.shape, -1, np.int32)
    places[padded] = np.arange(len(at))
    neighbours = _Neighbours(places, at, spacing_mm)
    core = _uphill(neighbours, depth)
    deepest = np.zeros(int(core.max()) + 1)
    np.maximum.at(deepest, core, depth)
    part = _merged(_passes(neighbours, core, depth), deepest, least_lost)
    return np.unique(part[core], return_inverse=True)[1]


def _depth_mm(padded: Mask, at: Ints, spacing_mm: Sequence[float]) -> Floats:
    """The distance in mm of each voxel at these flat indices to the nearest voxel outside."""
    nearest = ndimage.distance_transform_edt(padded, spacing_mm, return_distances=False, return_indices=True)
    squares = np.zeros(len(at))
    for there, here, mm in zip(nearest, np.unravel_index(at, padded.shape), spacing_mm, strict=True):
        squares += np.square((there.ravel()[at] - here) * mm)
    return np.sqrt(squares)


@dataclass(frozen=True, eq=False)
class _Neighbours:
    """The voxels of a component and which of the 26 around each belong to it; `places` numbers them, -1 elsewhere."""

    places: npt.NDArray[np.int32]
    at: Ints
    spacing_mm: Sequence[float]

    def along(self, step: tuple[int, ...]) -> tuple[npt.NDArray[np.int32], float]:
        """The number of each voxel's neighbour in one direction, -1 where it has none; and how far away that is."""
        _, height, width = self.places.shape
        offset = (step[0] * height + step[1]) * width + step[2]
        away_mm = math.hypot(*(n * mm for n, mm in zip(step, self.spacing_mm, strict=True)))
        return self.places.ravel()[self.at + offset], away_mm


def _uphill(neighbours: _Neighbours, depth: Floats) -> Ints:
    """The core, numbered from 0, that each voxel comes to on the steepest way; touching tops of one depth are one."""
    every = np.arange(len(depth))
    up, steepest = every.copy(), np.full(len(depth), _ROUNDING)
    for half in _HALF_OF_26:
        for step in (half, tuple(-n for n in half)):
            other, mm = neighbours.along(step)
            slope = np.where(other >= 0, (depth[other] - depth) / mm, 0.0)
            better = slope > steepest
            steepest[better], up[better] = slope[better], other[better]
    tops = np.zeros(neighbours.places.shape, np.bool_)
    tops.ravel()[neighbours.at[up == every]] = True
    cores, _ = ndimage.label(tops, np.ones((3, 3, 3), np.bool_))
    while not np.array_equal(higher := up[up], up):
        up = higher
    return cores.ravel()[neighbours.at[up]].astype(np.int64) - 1


def _passes(neighbours: _Neighbours, core: Ints, depth: Floats) -> list[tuple[float, int, int]]:
    """For every two cores that touch the depth of the deepest way from one to the other; deepest first."""
    n = int(core.max()) + 1
    pairs, levels = [], []
    for step in _HALF_OF_26:
        other, _ = neighbours.along(step)
        here = np.flatnonzero((other >= 0) & (core[other] != core))
        there = other[here]
        pairs.append(np.minimum(core[here], core[there]) * n + np.maximum(core[here], core[there]))
        levels.append(np.minimum(depth[here], depth[there]))
    pair, level = np.concatenate(pairs), np.concatenate(levels)
    order = np.lexsort((pair, -level))
    _, first = np.unique(pair[order], return_index=True)
    deepest = order[np.sort(first)]
    return [(float(level[k]), int(pair[k]) // n, int(pair[k]) % n) for k in deepest]


def _merged(passes: Sequence[tuple[float, int, int]], deepest: Floats, least_lost: float) -> Ints:
    """For each core the one that stands for its instance."""
    of = list(range(len(deepest)))

    def instance(core: int) -> int:
        while of[core] != core:
            of[core] = core = of[of[core]]
        return core

    for level, one, other in passes:
        low, high = sorted((instance(one), instance(other)), key=lambda core: (deepest[core], core))
        lost = deepest[low] - level
        if lost < least_lost - _ROUNDING or level >= NECK * deepest[low]:
            of[low] = high
    return np.array([instance(core) for core in range(len(deepest))])
