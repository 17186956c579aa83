"""The box of a scan that is worth looking at: what is not zero, or in CT what is denser than air.

A box needs no outline of the body: what lies beside the patient and is dense as well (table, blanket, a lead) can only
enlarge it. So one pass over the voxels that notes for each plane whether it holds anything is enough, and no connected
components are looked for.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from medseg.preprocessing.settings import Crop, is_ct

Box = tuple[tuple[int, int], tuple[int, int], tuple[int, int]]
Range = tuple[int, int]
Channels = npt.NDArray[Any] | Sequence[npt.NDArray[Any]]

DENSE_HU = -500.0  # half way between air and water
AIR_HU = -900.0  # what is cut away has at most this mean: air (-1000) or padding below it, but not lung (-870 or more)
_PIECE = 1 << 16  # voxels looked at together
MARGIN = 2  # voxels about the body, so that its edge and the slope of the interpolation there lie inside


def crop_for(channels: Sequence[str]) -> Crop:
    """How scans with channels of these names are cropped: to the body if every one is CT, in which air is not zero."""
    return "body" if channels and all(map(is_ct, channels)) else "nonzero"


def crop_box(image_CXYZ: Channels, crop: Crop) -> Box:
    """Start and stop along each axis of the part of a scan (C, X, Y, Z) that is kept; one array or one a channel.

    `nonzero`: the smallest box with every nonzero voxel of any channel; per-axis projections give the same box as
    nnU-Net's filled mask. `body`: the box of everything above -500 HU in any channel and two voxels about it; a side
    on which more than air would be cut away (the scan ends within a lung) is kept. All, if the box would be empty.
    """
    return _body_box(image_CXYZ) if crop == "body" else _box(image_CXYZ, _not_zero)


def slices(box: Box) -> tuple[slice, slice, slice]:
    """The box as an index of an array (X, Y, Z)."""
    x, y, z = (slice(start, stop) for start, stop in box)
    return x, y, z


def _not_zero(voxels: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
    filled: npt.NDArray[np.bool_] = voxels != 0
    return filled


def _dense(voxels: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
    dense: npt.NDArray[np.bool_] = voxels > DENSE_HU
    return dense


def _body_box(image_CXYZ: Channels) -> Box:
    box = _box(image_CXYZ, _dense)
    x, y, z = (
        _widened(axis, start, stop, image_CXYZ) if (start, stop) != (0, image_CXYZ[0].shape[axis]) else (start, stop)
        for axis, (start, stop) in enumerate(box)
    )
    return x, y, z


def _widened(axis: int, start: int, stop: int, image_CXYZ: Channels) -> Range:
    """The range with its margin; to the end of the scan on a side where more than air would be cut away."""
    size = image_CXYZ[0].shape[axis]
    low, high = max(start - MARGIN, 0), min(stop + MARGIN, size)
    return (low if _is_air(image_CXYZ, axis, 0, low) else 0), (high if _is_air(image_CXYZ, axis, high, size) else size)


def _is_air(image_CXYZ: Channels, axis: int, start: int, stop: int) -> bool:
    if start == stop:
        return True
    part = tuple(slice(start, stop) if a == axis else slice(None) for a in range(3))
    return all(float(channel[part].mean(dtype=np.float64)) <= AIR_HU for channel in image_CXYZ)


def _box(image_CXYZ: Channels, counts: Callable[[npt.NDArray[Any]], npt.NDArray[np.bool_]]) -> Box:
    """The smallest box with every voxel that `counts` in any channel; all, if none does."""
    shape = image_CXYZ[0].shape
    lines = [np.zeros(n, np.bool_) for n in shape]
    for channel in image_CXYZ:
        slow, middle, fast = sorted(range(3), key=lambda axis: -abs(channel.strides[axis]))
        planes = channel.transpose(slow, middle, fast)  # in the order of memory, some planes at a time
        step = max(1, _PIECE // max(1, planes[0].size))
        for k in range(0, len(planes), step):
            found = counts(planes[k : k + step])
            rows: npt.NDArray[np.bool_] = np.any(found, axis=2)
            lines[fast] |= np.any(found, axis=(0, 1))
            lines[middle] |= np.any(rows, axis=0)
            lines[slow][k : k + step] |= np.any(rows, axis=1)
    if not lines[0].any():
        x, y, z = ((0, n) for n in shape)
        return x, y, z
    x, y, z = (_range(line) for line in lines)
    return x, y, z


def _range(line: npt.NDArray[np.bool_]) -> Range:
    inside = np.flatnonzero(line)
    return int(inside[0]), int(inside[-1]) + 1
