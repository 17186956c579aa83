"""Mean, standard deviation and exact percentiles of the intensities of many voxels, none of which are kept."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

Keys = npt.NDArray[np.uint32]
Values = npt.NDArray[Any]
Counts = npt.NDArray[np.int64]

FEW = 1 << 16  # values that are sorted: their tables of counts would be larger
_HALF = 1 << 16  # different upper, and lower, halves of 32 bits
_SIGN = np.uint32(1 << 31)


def mean_sd(pieces: Iterable[Values]) -> tuple[float, float]:
    """Mean and standard deviation (divided by n) of all values, of which there is at least one, in float64.

    Pieces are joined by the formula of Chan, Golub and LeVeque (1983): no large sums of squares are subtracted.
    """
    n, mean, squares = 0, 0.0, 0.0
    for values in pieces:
        if not values.size:
            continue
        exact = values.astype(np.float64)
        here = float(exact.mean())
        exact -= here
        away, total = here - mean, n + values.size
        squares += float(np.square(exact, out=exact).sum()) + away * away * n * values.size / total
        mean += away * values.size / total
        n = total
    return mean, math.sqrt(squares / n)


def quantiles(pieces: Callable[[], Iterable[Values]], shares: Sequence[float]) -> list[float]:
    """The quantiles of all values, taken as float32; linear between neighbours, as numpy gives them.

    `pieces` goes through the values anew at each of two calls: first they are counted by the upper half of their bits,
    then, where a rank falls, by the lower. So they are exact, and memory holds a few tables of 65536 counts only. Few
    values are sorted instead.
    """
    upper = np.zeros(_HALF, np.int64)
    for values in pieces():
        upper += np.bincount(_keys(values) >> 16, minlength=_HALF)
    ends = np.cumsum(upper)
    places = [share * (int(ends[-1]) - 1) for share in shares]
    ranks = np.array(sorted({int(edge(place)) for place in places for edge in (math.floor, math.ceil)}))
    at_ranks = _sorted(pieces(), ranks) if ends[-1] <= FEW else _counted(pieces(), ranks, ends)
    found = dict(zip(ranks.tolist(), at_ranks, strict=True))
    return [_between(found[math.floor(p)], found[math.ceil(p)], p - math.floor(p)) for p in places]


def _sorted(pieces: Iterable[Values], ranks: Counts) -> list[float]:
    """The values of these ranks (from 0)."""
    values = np.concatenate([np.asarray(some, np.float32) for some in pieces])
    return [float(value) for value in np.sort(values)[ranks]]


def _counted(pieces: Iterable[Values], ranks: Counts, ends: Counts) -> list[float]:
    """The values of these ranks (from 0, sorted), by counting; `ends` counts the values up to each upper half."""
    of_rank = np.searchsorted(ends, ranks, side="right")
    wanted = np.unique(of_rank)
    row = np.full(_HALF, -1, np.int64)
    row[wanted] = np.arange(len(wanted))
    lower = np.zeros(len(wanted) * _HALF, np.int64)
    for values in pieces:
        keys = _keys(values)
        rows = row[keys >> 16]
        held = rows >= 0
        np.add.at(lower, rows[held] * _HALF + (keys[held] & np.uint32(_HALF - 1)), 1)
    found = []
    for rank, half in zip(ranks, of_rank, strict=True):
        before = int(ends[half - 1]) if half else 0
        counts = lower[row[half] * _HALF : (row[half] + 1) * _HALF]
        low = int(np.searchsorted(np.cumsum(counts), rank - before, side="right"))
        found.append(_value((int(half) << 16) | low))
    return found


def _keys(values: Values) -> Keys:
    """Numbers in the same order as the values: a float's bits, all of them turned over where it is negative."""
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    keys: Keys = np.where(bits & _SIGN, ~bits, bits | _SIGN)
    return keys


def _value(key: int) -> float:
    bits = np.uint32(key)
    return float((bits ^ _SIGN if bits & _SIGN else ~bits).view(np.float32))


def _between(low: float, high: float, weight: float) -> float:
    return low + (high - low) * weight
