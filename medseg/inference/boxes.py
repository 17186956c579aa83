"""Boxes that hold the voxels of a label: one about all, or several that leave out the empty space between.

Stray voxels far from a structure make the one box nearly as large as the scan. So the map is looked at block by block,
once for all labels, and boxes that touch are joined: no component reaches from one of the others to the next.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import product
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage
from scipy.sparse import csr_array
from scipy.sparse.csgraph import connected_components

from medseg.preprocessing.axis import memory_order

Labels = npt.NDArray[np.unsignedinteger[Any]]
Box = tuple[slice, ...]
Islands = Mapping[int, Sequence[Box]]

BLOCK = 64  # voxels along each side
PIECE = 1 << 20  # voxels looked at together: they stay in the processor's cache, and what is made of them is small


def islands_of(labels: Labels) -> dict[int, list[Box]]:
    """For each value of 1 or more the boxes that hold its voxels, in one pass; see `apart`."""
    found: dict[int, list[Box]] = {}
    for block in _blocks(labels.shape):
        part = labels[block]
        if not part.any():
            continue
        inner: Sequence[Box | None] = ndimage.find_objects(part)
        for value, box in enumerate(inner, 1):
            if box is not None:
                sides = zip(block, box, strict=True)
                shifted = tuple(slice(b.start + side.start, b.start + side.stop) for b, side in sides)
                found.setdefault(value, []).append(shifted)
    return {value: apart(found[value]) for value in sorted(found)}


def apart(boxes: Iterable[Box]) -> list[Box]:
    """Boxes that hold all of these, between any two of which at least one voxel lies along some axis; sorted."""
    found = np.array([[(side.start, side.stop) for side in box] for box in boxes], np.int64)
    while len(found) > 1:
        start, stop = found[..., 0], found[..., 1]
        touching = np.all((start[:, None] <= stop) & (start <= stop[:, None]), axis=2)
        n, group = connected_components(csr_array(np.asarray(touching, np.int8)), directed=False)
        if n == len(found):
            break
        joined = np.empty((n, *found.shape[1:]), np.int64)
        joined[..., 0], joined[..., 1] = np.iinfo(np.int64).max, 0
        np.minimum.at(joined[..., 0], group, start)
        np.maximum.at(joined[..., 1], group, stop)
        found = joined
    return [tuple(slice(first, last) for first, last in box) for box in sorted(found.tolist())]


def around(boxes: Sequence[Box]) -> Box:
    """The smallest box about these, of which there is at least one."""
    sides = zip(*boxes, strict=True)
    return tuple(slice(min(side.start for side in same), max(side.stop for side in same)) for same in sides)


def box_of(labels: Labels, values: Sequence[int]) -> Box | None:
    """The smallest box that holds all voxels of these values; None where there are none."""
    order = memory_order(labels)
    found: Sequence[Box | None] = ndimage.find_objects(labels.transpose(order), max(values))
    held = [box for value in set(values) if value <= len(found) and (box := found[value - 1]) is not None]
    if not held:
        return None
    box = around(held)
    return tuple(box[order.index(axis)] for axis in range(labels.ndim))


def pieces(shape: Sequence[int]) -> Iterator[slice]:
    """Ranges of planes along the first axis that hold about `PIECE` voxels, one plane at least."""
    planes = max(1, PIECE * shape[0] // max(1, int(np.prod(shape, dtype=np.int64))))
    return (slice(first, min(first + planes, shape[0])) for first in range(0, shape[0], planes))


def _blocks(shape: Sequence[int]) -> Iterator[Box]:
    sides = [[slice(first, min(first + BLOCK, n)) for first in range(0, n, BLOCK)] for n in shape]
    return product(*sides)
