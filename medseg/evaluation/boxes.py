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
    boxes: list[Box | None] = [find_objects(mask.view(np.uint8), 1)[0] for mask in masks]
    found = [box for box in boxes if box is not None]
    if not found:
        return None
    return tuple(slice(min(s.start for s in sides), max(s.stop for s in sides)) for sides in zip(*found, strict=True))


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
