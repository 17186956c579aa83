"""Resampling as separable matrix products: one matrix (new x old) an axis, the spline's prefilter included.

An axis-aligned spline zoom is linear and separable, so these products give what `scipy.ndimage.zoom` gives
(grid mode, edge replicated) at a fraction of its time; scipy stays the oracle in the tests.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from scipy import ndimage

Shape = tuple[int, int, int]
Order = Literal[0, 1, 3]
Orders = tuple[Order, Order, Order]

LINEAR: Orders = (1, 1, 1)


@lru_cache(maxsize=32)  # a scan needs nine at most; one of a large scan is a megabyte
def zoom_matrix(old: int, new: int, order: Order) -> npt.NDArray[np.float32]:
    """The (new, old) matrix of a 1D spline zoom of `order` that maps the whole extent of old voxels onto new ones."""
    if old == 1:
        matrix = np.ones((new, 1))
    else:
        factors = (new / old, 1.0)
        matrix = ndimage.zoom(np.eye(old), factors, order=order, mode="nearest", grid_mode=True, prefilter=order > 1)
    shared = np.ascontiguousarray(matrix, dtype=np.float32)
    shared.flags.writeable = False
    return shared


def resampled(array_XYZ: npt.NDArray[np.float32], shape: Shape, orders: Orders) -> npt.NDArray[np.float32]:
    """An image (X, Y, Z) on `shape` by splines of `orders`, clamped to the input's range as nnU-Net does."""
    if array_XYZ.shape == shape:
        return array_XYZ
    out = _zoomed(array_XYZ, shape, orders)
    if max(orders) > 1:  # only splines above linear overshoot
        np.clip(out, array_XYZ.min(), array_XYZ.max(), out=out)
    return out


def _zoomed(array_XYZ: npt.NDArray[np.float32], shape: Shape, orders: Orders) -> npt.NDArray[np.float32]:
    axes = sorted(range(3), key=lambda a: shape[a] / array_XYZ.shape[a])  # shrink first: less to carry
    out = array_XYZ
    for axis in axes:
        if out.shape[axis] != shape[axis]:
            matrix = zoom_matrix(out.shape[axis], shape[axis], orders[axis])
            out = np.moveaxis(np.tensordot(matrix, out, axes=(1, axis)), 0, axis)
    return np.ascontiguousarray(out)


def resampled_labels(classes_XYZ: npt.NDArray[Any], shape: Shape, orders: Orders = LINEAR) -> npt.NDArray[Any]:
    """A map of classes (X, Y, Z) on `shape`: each class is interpolated, the largest share wins, ties go to the lowest.

    Source: nnU-Net's label resampling (one linear zoom per class, then arg-max).
    """
    if classes_XYZ.shape == shape:
        return classes_XYZ
    present = np.unique(classes_XYZ)
    shares = ((classes_XYZ == value).astype(np.float32) for value in present)
    return present[argmax_resampled(shares, shape, orders)]


def argmax_resampled(
    scores: Iterable[npt.NDArray[np.float32]], shape: Shape, orders: Orders = LINEAR
) -> npt.NDArray[np.intp]:
    """For score maps (X, Y, Z), one a class: the class with the highest score at each voxel of `shape`.

    One class at a time, so memory does not grow with their number.
    """
    best: npt.NDArray[np.float32] | None = None
    winner = np.zeros(shape, np.intp)
    for index, score in enumerate(scores):
        here = resampled(score, shape, orders)
        if best is None:
            best = here.copy()
        else:
            wins = here > best
            winner[wins] = index
            best[wins] = here[wins]
    return winner
