"""Label maps on another grid: a vote among the eight voxels around each new one, instead of a map for every class.

Interpolating each class linearly and taking the largest (nnU-Net's way) gives each new voxel the class whose corners
weigh most, of the eight old voxels around it. Where all eight agree there is nothing to count, and that is nearly
everywhere: only new voxels at borders vote, so the number of classes costs next to nothing.
Weights are whole numbers, so sums are exact: a tie is a tie, and goes to the nearest voxel's class if that is among
the tied, else to the lowest. (Always taking the lowest would shrink structures, the highest would swell them.)
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import combinations, product
from math import prod
from typing import Any

import numpy as np
import numpy.typing as npt

from medseg.preprocessing.axis import LINEAR, Floats, Indices, Orders, Pairs, Shape, cheapest_first, memory_order, pairs

Classes = npt.NDArray[Any]

SLAB = 1 << 21  # voxels worked on at a time
VOTERS = 1 << 15  # border voxels that vote at a time: their weights stay in the processor's cache


def resampled_labels(classes_XYZ: Classes, shape: Shape, orders: Orders = LINEAR) -> Classes:
    """A map of classes (X, Y, Z) on `shape`, of the same type: the class whose interpolated share is the largest.

    `orders` are 1 (linear) or 0 (nearest) along each axis. The array itself where the shape is its own, else a new
    C-contiguous one; beside it only slabs are held.

    Raises:
        ValueError: an order is above 1.
    """
    if classes_XYZ.shape == shape:
        return classes_XYZ
    out = np.empty(shape, classes_XYZ.dtype)
    in_memory = memory_order(classes_XYZ)
    source, target = classes_XYZ.transpose(in_memory), out.transpose(in_memory)
    axes = [pairs(source.shape[a], target.shape[a], orders[in_memory[a]]) for a in range(3)]
    for start, stop in slabs(source.shape, target.shape, SLAB):
        first, last = int(axes[0].lower[start]), int(axes[0].upper[stop - 1])
        old = np.ascontiguousarray(source[first : last + 1])
        target[start:stop] = _voted(old, [axes[0].part(start, stop, first), *axes[1:]])
    return out


def slabs(old: Sequence[int], new: Sequence[int], voxels: int) -> Iterator[tuple[int, int]]:
    """Ranges of new planes along the first axis that hold about `voxels`, new or old, whichever are more."""
    of_plane = max(new[1] * new[2], old[1] * old[2] * old[0] // new[0])
    planes = max(1, voxels // of_plane)
    return ((start, min(start + planes, new[0])) for start in range(0, new[0], planes))


def _voted(old: Classes, axes: Sequence[Pairs]) -> Classes:
    """The old voxels of a slab on the new grid: the nearest everywhere, the vote's where the eight do not agree."""
    out = _gathered(old, [axis.nearest for axis in axes])
    border = np.flatnonzero(_gathered(_mixed(old, axes), [axis.lower for axis in axes]))
    for start in range(0, border.size, VOTERS):
        places = border[start : start + VOTERS]
        classes, weights = _corners(old, axes, places)
        flat = out.reshape(-1)
        flat[places] = _winners(classes, weights, flat[places])
    return out


def _gathered(array: npt.NDArray[Any], indices: Sequence[Indices]) -> npt.NDArray[Any]:
    """array[np.ix_(*indices)], an axis at a time."""
    for axis in cheapest_first(array.shape, [len(index) for index in indices]):
        array = array.take(indices[axis], axis, mode="clip")  # no index is outside; to clip is faster than to check
    return array


def _mixed(old: Classes, axes: Sequence[Pairs]) -> npt.NDArray[np.bool_]:
    """True for old voxels that are not of one class with those next to them, upwards along the axes with a pair."""
    low = high = old
    for axis, pair in enumerate(axes):
        if pair.between:
            below, above = (*(slice(None),) * axis, slice(None, -1)), (*(slice(None),) * axis, slice(1, None))
            lower, higher = low.copy(), high.copy()
            np.minimum(low[below], low[above], out=lower[below])
            np.maximum(high[below], high[above], out=higher[below])
            low, high = lower, higher
    return np.asarray(low != high)


def _corners(old: Classes, axes: Sequence[Pairs], places: Indices) -> tuple[Classes, Floats]:
    """Classes and weights (corners, N) of the old voxels around N new ones, given by their places in the new array."""
    rows, columns = (len(axis.lower) for axis in axes[1:])
    line = places // columns
    plane = line // rows
    at = plane, line - plane * rows, places - line * columns
    steps = old.shape[1] * old.shape[2], old.shape[2], 1
    sides = [_sides(*one) for one in zip(axes, at, steps, strict=True)]
    number = prod(len(both) for both in sides)
    classes, weights = np.empty((number, places.size), old.dtype), np.empty((number, places.size))
    for corner, ((x, u), (y, v), (z, w)) in enumerate(product(*sides)):
        old.reshape(-1).take(x + y + z, out=classes[corner], mode="clip")
        np.multiply(u, v * w, out=weights[corner])
    return classes, weights


def _sides(axis: Pairs, at: Indices, step: int) -> list[tuple[Indices, Floats]]:
    """Offset in memory and weight of the lower voxel along an axis, and of the upper one if there are pairs."""
    lower = axis.lower.take(at) * step, axis.weight[0].take(at)
    return [lower, (axis.upper.take(at) * step, axis.weight[1].take(at))] if axis.between else [lower]


def _winners(classes: Classes, weights: Floats, nearest: Classes) -> Classes:
    """The class (N) with the largest sum of weights among the corners (corners, N)."""
    low, high = classes.min(axis=0), classes.max(axis=0)
    is_high = classes == high
    lead = np.where(is_high, weights, -weights).sum(axis=0)
    winner = np.where(lead > 0, high, np.where(lead < 0, low, nearest))
    several = np.flatnonzero(((classes != low) & ~is_high).any(axis=0))
    if several.size:
        winner[several] = _winners_of_several(classes[:, several], weights[:, several], nearest[several])
    return winner


def _winners_of_several(classes: Classes, weights: Floats, nearest: Classes) -> Classes:
    """As `_winners`, for more than two classes around a voxel: each corner collects the weights of its like."""
    shares = weights.copy()
    for one, other in combinations(range(len(classes)), 2):
        alike = classes[one] == classes[other]
        shares[one] += alike * weights[other]
        shares[other] += alike * weights[one]
    best = shares == shares.max(axis=0)
    lowest = np.where(best, classes, classes.max(axis=0)).min(axis=0)
    return np.where((best & (classes == nearest)).any(axis=0), nearest, lowest)
