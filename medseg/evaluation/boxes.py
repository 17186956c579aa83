"""The box that holds what two masks hold: metrics of a small structure need not look at the rest of a large scan."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from scipy.ndimage import find_objects

Mask = npt.NDArray[np.bool_]
Box = tuple[slice, ...]


def box_of(*masks: Mask) -> Box | None:
    """The smallest box with every voxel of these masks of one shape; None where all are empty."""
    found = [box for mask in masks if (box := _box_of(mask)) is not None]
    if not found:
        return None
    return tuple(slice(min(s.start for s in sides), max(s.stop for s in sides)) for sides in zip(*found, strict=True))


def _box_of(mask: Mask) -> Box | None:
    order = sorted(
        range(mask.ndim), key=lambda axis: -abs(mask.strides[axis])
    )  # of memory, which is several times as fast
    box: Box | None = find_objects(mask.view(np.uint8).transpose(order), 1)[0]
    return None if box is None else tuple(box[order.index(axis)] for axis in range(mask.ndim))


def grown(box: Box, mm: float, spacing_mm: Sequence[float], shape: Sequence[int]) -> Box:
    """The box with every voxel of an array of this shape that lies within so many mm of it along an axis."""
    return tuple(
        slice(max(0, side.start - by), min(n, side.stop + by))
        for side, by, n in zip(box, steps(mm, spacing_mm), shape, strict=True)
    )


def steps(mm: float, spacing_mm: Sequence[float]) -> list[int]:
    """How many voxels along each axis are needed to come so far; rather one too many than one too few."""
    return [math.ceil(mm / spacing) for spacing in spacing_mm]


def as_mask(array: npt.NDArray[np.generic]) -> Mask:
    """An array of any type as a mask; a mask comes back as it is."""
    return array.astype(np.bool_, copy=False)
