"""Intensities to network input, a channel at a time."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from medseg.preprocessing.settings import Normalisation

SMALLEST_SD = 1e-8  # a constant scan becomes zero, not a division by zero


def normalised(channel_XYZ: npt.NDArray[np.float32], how: Normalisation) -> npt.NDArray[np.float32]:
    """One channel (X, Y, Z), normalised as `how` says; float32, a new array."""
    if how.kind == "ct":
        clipped = np.clip(channel_XYZ, np.float32(how.lower), np.float32(how.upper))
        return (clipped - np.float32(how.mean)) / np.float32(max(how.sd, SMALLEST_SD))
    if not how.nonzero_only:
        return _zscore(channel_XYZ, channel_XYZ)
    inside = channel_XYZ != 0
    if not inside.any():
        return np.zeros_like(channel_XYZ)
    return np.where(inside, _zscore(channel_XYZ, channel_XYZ[inside]), np.float32(0))


def _zscore(values: npt.NDArray[np.float32], of: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    mean = np.float32(of.mean(dtype=np.float64))
    sd = np.float32(max(float(of.std(dtype=np.float64)), SMALLEST_SD))
    return (values - mean) / sd
