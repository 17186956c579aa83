"""Intensities to network input, a channel at a time.

Work goes over pieces that stay in the processor's cache. Where every voxel is changed alike (`Scale`), resampling does
it slab by slab, and no copy of the whole scan is made.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from medseg.errors import InputError
from medseg.preprocessing.axis import memory_order
from medseg.preprocessing.settings import Normalisation

BRIGHTEST = 255.0  # of a colour
SMALLEST_SD = 1e-8  # a constant scan becomes zero, not a division by zero
_NOUGHT, _ONE = np.float32(0), np.float32(1)
_PIECE, _PLANES = 1 << 16, 1 << 18  # voxels worked on, and copied, at a time

Flat = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Scale:
    """What normalisation does to a voxel, whatever lies around it: clipped, `shift` taken off, divided; all float32.

    It never puts one voxel above another that was above it.
    """

    lower: np.float32 | None = None
    upper: np.float32 | None = None
    shift: np.float32 = _NOUGHT
    divisor: np.float32 = _ONE

    def apply(self, values: Flat) -> None:
        """To all of `values`, in place."""
        if self.lower is not None or self.upper is not None:
            np.clip(values, self.lower, self.upper, out=values)
        if self.shift != 0 or self.divisor != 1:
            np.subtract(values, self.shift, out=values)
            np.divide(values, self.divisor, out=values)


def scale_of(channel_XYZ: npt.NDArray[Any], how: Normalisation) -> Scale | None:
    """The scale of one channel (X, Y, Z), of which some planes are copied at a time; None where it is not the same for
    all voxels (`nonzero_only`).

    Raises:
        InputError: the channel should hold colours, but has values that are none.
    """
    if how.kind == "zscore" and how.nonzero_only:
        return None
    if how.kind == "ct":
        return Scale(np.float32(how.lower), np.float32(how.upper), np.float32(how.mean), _divisor(np.float32(how.sd)))
    if how.kind == "zscore":
        mean, sd = _mean_and_sd(lambda: _planes(channel_XYZ))
        return Scale(shift=mean, divisor=_divisor(sd))
    if how.kind == "minmax":
        low, high = np.float32(channel_XYZ.min()), np.float32(channel_XYZ.max())
        return Scale(shift=low, divisor=_divisor(high - low))
    if how.kind == "rgb":
        _check_colours(channel_XYZ)
        return Scale(divisor=np.float32(BRIGHTEST))
    return Scale()


def normalised(channel_XYZ: npt.NDArray[Any], how: Normalisation, inside: Mask | None = None) -> Flat:
    """One channel (X, Y, Z), normalised as `how` says; float32, a new array with its axes in the order of memory.

    inside: for `nonzero_only`, the voxels (X, Y, Z) that count (`outline`); others become zero.

    Raises:
        InputError: the channel should hold colours, but has values that are none.
    """
    scale = scale_of(channel_XYZ, how)
    out = np.array(channel_XYZ, np.float32, order="K")
    flat = out.ravel(order="K")  # a view: the copy has no gaps
    if scale is None:
        mask = np.empty_like(out, np.bool_)  # its memory in the order of the copy
        mask[...] = outline([channel_XYZ]) if inside is None else inside
        _by_itself(flat, mask.ravel(order="K"))
        return out
    for at in _pieces(flat):
        scale.apply(flat[at])
    return out


def outline(channels: Sequence[npt.NDArray[Any]]) -> Mask:
    """The voxels (X, Y, Z) that are not zero in any channel, holes filled, as nnU-Net's mask."""
    from scipy import ndimage  # costs half a second to import, and few data sets need it

    found = np.zeros(channels[0].shape, np.bool_)
    for channel in channels:
        found |= channel != 0
    filled: Mask = ndimage.binary_fill_holes(found)
    return filled


def _check_colours(channel_XYZ: npt.NDArray[Any]) -> None:
    low, high = float(channel_XYZ.min()), float(channel_XYZ.max())
    if low < 0 or high > BRIGHTEST:
        raise InputError(f"has values from {low:g} to {high:g} where the model takes colours, 0 to {BRIGHTEST:g}")


def _divisor(value: np.float32) -> np.float32:
    return max(value, np.float32(SMALLEST_SD))


def _by_itself(flat: Flat, mask: Mask) -> None:
    """Within the mask by its own mean and SD, zero elsewhere."""
    mean, sd = _mean_and_sd(lambda: (flat[at][mask[at]] for at in _pieces(flat)))
    scale = Scale(shift=mean, divisor=_divisor(sd))
    for at in _pieces(flat):
        piece = flat[at]
        scale.apply(piece)
        piece[~mask[at]] = 0


def _mean_and_sd(pieces: Callable[[], Iterable[Flat]]) -> tuple[np.float32, np.float32]:
    """Of the voxels in all pieces, which are asked for twice; summed in float64, since float32 sums of a large scan are
    off at the third digit.
    """
    n, total = 0, 0.0
    for piece in pieces():
        n, total = n + piece.size, total + float(piece.sum(dtype=np.float64))
    if n == 0:
        return np.float32(0), np.float32(1)
    mean, squares = np.float32(total / n), 0.0
    for piece in pieces():
        away = piece - mean
        np.multiply(away, away, out=away)
        squares += float(away.sum(dtype=np.float64))
    return mean, np.float32(math.sqrt(squares / n))


def _planes(channel_XYZ: npt.NDArray[Any]) -> Iterator[Flat]:
    """All voxels, some planes at a time, without the gaps that a crop has in memory."""
    view = channel_XYZ.transpose(memory_order(channel_XYZ))
    n = max(1, _PLANES * len(view) // max(view.size, 1))
    for start in range(0, len(view), n):
        flat = np.ascontiguousarray(view[start : start + n], np.float32).reshape(-1)
        yield from (flat[at] for at in _pieces(flat))


def _pieces(flat: Flat) -> Iterator[slice]:
    for start in range(0, flat.size, _PIECE):
        yield slice(start, start + _PIECE)
