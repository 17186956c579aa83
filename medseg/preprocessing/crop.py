"""The box that holds everything that is not zero: scans are often padded, and padding teaches nothing."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Box = tuple[tuple[int, int], tuple[int, int], tuple[int, int]]


def nonzero_box(image_CXYZ: npt.NDArray[Any]) -> Box:
    """Start and stop along each axis of the smallest box with every nonzero voxel of any channel; all, if none.

    Source: nnU-Net's crop to nonzero. Per-axis projections give the same box as its filled mask.
    """
    filled = (image_CXYZ != 0).any(axis=0)
    if not filled.any():
        x, y, z = ((0, n) for n in filled.shape)
        return x, y, z
    x, y, z = (_range(filled.any(axis=tuple(a for a in range(3) if a != axis))) for axis in range(3))
    return x, y, z


def _range(line: npt.NDArray[np.bool_]) -> tuple[int, int]:
    inside = np.flatnonzero(line)
    return int(inside[0]), int(inside[-1]) + 1


def slices(box: Box) -> tuple[slice, slice, slice]:
    """The box as an index of an array (X, Y, Z)."""
    x, y, z = (slice(start, stop) for start, stop in box)
    return x, y, z
