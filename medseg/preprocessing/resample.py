"""Resampling images as separable matrix products: one band of small matrices an axis, the spline's prefilter included.

An axis-aligned spline zoom is linear and separable, so these products give what `scipy.ndimage.zoom` gives
(grid mode, edge replicated) at a fraction of its time; scipy stays the oracle in the tests. Labels: see `vote.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from medseg.preprocessing.axis import LINEAR, Block, Order, Orders, Shape, blocks, cheapest_first, memory_order
from medseg.preprocessing.intensity import Scale
from medseg.preprocessing.vote import resampled_labels

__all__ = [
    "LINEAR",
    "ON_CPU",
    "Order",
    "Orders",
    "Resampler",
    "Shape",
    "resampled",
]

Image = npt.NDArray[np.float32]

SLAB = 8  # new planes worked on at a time


def resampled(array_XYZ: Image, shape: Shape, orders: Orders, scale: Scale | None = None) -> Image:
    """An image (X, Y, Z), its intensities by `scale`, on `shape` by splines of `orders`, clamped to the input's range
    as nnU-Net does.

    The array itself where the shape is its own and there is no scale, else a new one, in C order where the shape is
    another; beside it only some slabs are held.
    """
    if array_XYZ.shape == shape:
        return array_XYZ if scale is None else _scaled(array_XYZ, scale)
    low, high = ends_of(array_XYZ, scale)
    middle = np.float32(low / 2 + high / 2)  # taken off and put back: products of small numbers lose fewer digits
    out = np.empty(shape, np.float32)
    in_memory = memory_order(array_XYZ)
    source, target = array_XYZ.transpose(in_memory), out.transpose(in_memory)
    lengths = list(zip(source.shape, target.shape, (orders[axis] for axis in in_memory), strict=True))
    first, *others = cheapest_first(source.shape, target.shape)
    for block in blocks(*lengths[first], rows=SLAB):
        slab = np.array(source[_along(first, block.support)], np.float32, order="C")
        if scale is not None:
            scale.apply(slab)
        slab -= middle
        if source.shape[first] != target.shape[first]:
            slab = _product([block.alone], slab, first)
        for axis in others:
            if source.shape[axis] != target.shape[axis]:
                slab = _product(blocks(*lengths[axis]), slab, axis)
        slab += middle
        target[_along(first, block.rows)] = np.clip(slab, low, high, out=slab)
    return out


def ends_of(array_XYZ: Image, scale: Scale | None) -> tuple[np.float32, np.float32]:
    """The smallest and the largest value once the intensities are scaled."""
    ends = np.array([array_XYZ.min(), array_XYZ.max()], np.float32)
    if scale is not None:
        scale.apply(ends)
    return ends[0], ends[1]


def _scaled(array_XYZ: Image, scale: Scale) -> Image:
    out = np.array(array_XYZ, np.float32, order="K")
    for plane in out.transpose(memory_order(out)):
        scale.apply(plane)
    return out


def _along(axis: int, part: slice) -> tuple[slice, ...]:
    return (*(slice(None),) * axis, part)


def _product(bands: Sequence[Block], slab: Image, axis: int) -> Image:
    """The slab with `axis` resampled; views only, so that no product copies what it multiplies."""
    x, y, z = slab.shape
    new = bands[-1].rows.stop
    if axis == 0:
        out, source, sums = np.empty((new, y, z), np.float32), slab.reshape(x, -1), (new, -1)
        for block in bands:
            np.matmul(block.matrix, source[block.support], out=out.reshape(sums)[block.rows])
    elif axis == 1:
        out = np.empty((x, new, z), np.float32)
        for block in bands:
            np.matmul(block.matrix, slab[:, block.support], out=out[:, block.rows])
    else:
        out = np.empty((x, y, new), np.float32)
        for block in bands:
            np.matmul(slab.reshape(-1, z)[:, block.support], block.matrix.T, out=out.reshape(-1, new)[:, block.rows])
    return out


class ImageResampler(Protocol):
    """See `resampled`."""

    def __call__(self, array_XYZ: Image, shape: Shape, orders: Orders, scale: Scale | None = None, /) -> Image:
        """The image on `shape`."""


@dataclass(frozen=True)
class Resampler:
    """Where resampling is done: one function for images, one for label maps; both take and give numpy arrays."""

    image: ImageResampler
    labels: Callable[[npt.NDArray[Any], Shape, Orders], npt.NDArray[Any]]


ON_CPU = Resampler(resampled, resampled_labels)
