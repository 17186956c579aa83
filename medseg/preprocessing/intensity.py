"""Intensities to network input, a channel at a time, in one copy.

Work goes over pieces that stay in the processor's cache, cut from the flat memory of the copy.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from medseg.errors import InputError
from medseg.preprocessing.settings import Normalisation

BRIGHTEST = 255.0  # of a colour
SMALLEST_SD = 1e-8  # a constant scan becomes zero, not a division by zero
_PIECE = 1 << 16  # voxels

Flat = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]


def normalised(channel_XYZ: npt.NDArray[Any], how: Normalisation, inside: Mask | None = None) -> Flat:
    """One channel (X, Y, Z), normalised as `how` says; float32, a new array with its axes in the order of memory.

    inside: for `nonzero_only`, the voxels (X, Y, Z) that count (`outline`); others become zero.

    Raises:
        InputError: the channel should hold colours, but has values that are none.
    """
    out = np.array(channel_XYZ, np.float32, order="K")
    flat = out.ravel(order="K")  # a view: the copy has no gaps
    if how.kind == "ct":
        _by_data_set(flat, how)
    elif how.kind == "minmax":
        _scaled(flat, np.float32(flat.min()), np.float32(flat.max()))
    elif how.kind == "rgb":
        _check_colours(flat)
        _scaled(flat, np.float32(0), np.float32(BRIGHTEST))
    elif how.kind == "zscore" and not how.nonzero_only:
        _by_itself(flat, None)
    elif how.kind == "zscore":
        mask = np.empty_like(out, np.bool_)  # its memory in the order of the copy
        mask[...] = outline([channel_XYZ]) if inside is None else inside
        _by_itself(flat, mask.ravel(order="K"))
    return out


def outline(channels: Sequence[npt.NDArray[Any]]) -> Mask:
    """The voxels (X, Y, Z) that are not zero in any channel, holes filled, as nnU-Net's mask."""
    from scipy import ndimage  # costs half a second to import, and few data sets need it

    found = np.zeros(channels[0].shape, np.bool_)
    for channel in channels:
        found |= channel != 0
    filled: Mask = ndimage.binary_fill_holes(found)
    return filled


def _by_data_set(flat: Flat, how: Normalisation) -> None:
    low, high, mean = np.float32(how.lower), np.float32(how.upper), np.float32(how.mean)
    sd = np.float32(max(how.sd, SMALLEST_SD))
    for at in _pieces(flat):
        piece = flat[at]
        np.clip(piece, low, high, out=piece)
        np.subtract(piece, mean, out=piece)
        np.divide(piece, sd, out=piece)


def _scaled(flat: Flat, low: np.float32, high: np.float32) -> None:
    """From `low`, which becomes 0, to `high`, which becomes 1."""
    for at in _pieces(flat):
        piece = flat[at]
        np.subtract(piece, low, out=piece)
        np.divide(piece, max(high - low, np.float32(SMALLEST_SD)), out=piece)


def _check_colours(flat: Flat) -> None:
    low, high = float(flat.min()), float(flat.max())
    if low < 0 or high > BRIGHTEST:
        raise InputError(f"has values from {low:g} to {high:g} where the model takes colours, 0 to {BRIGHTEST:g}")


def _by_itself(flat: Flat, mask: Mask | None) -> None:
    mean, sd = _mean_and_sd(flat, mask)
    for at in _pieces(flat):
        piece = flat[at]
        np.subtract(piece, mean, out=piece)
        np.divide(piece, max(sd, np.float32(SMALLEST_SD)), out=piece)
        if mask is not None:
            piece[~mask[at]] = 0


def _mean_and_sd(flat: Flat, mask: Mask | None) -> tuple[np.float32, np.float32]:
    """Of the voxels that count; summed in float64, since float32 sums of a large scan are off at the third digit."""
    n = flat.size if mask is None else int(np.count_nonzero(mask))
    if n == 0:
        return np.float32(0), np.float32(1)
    mean = np.float32(sum(float(piece.sum(dtype=np.float64)) for piece in _counting(flat, mask)) / n)
    squares = 0.0
    for piece in _counting(flat, mask):
        away = piece - mean
        np.multiply(away, away, out=away)
        squares += float(away.sum(dtype=np.float64))
    return mean, np.float32(math.sqrt(squares / n))


def _counting(flat: Flat, mask: Mask | None) -> Iterator[Flat]:
    for at in _pieces(flat):
        yield flat[at] if mask is None else flat[at][mask[at]]


def _pieces(flat: Flat) -> Iterator[slice]:
    for start in range(0, flat.size, _PIECE):
        yield slice(start, start + _PIECE)
