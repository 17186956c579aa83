"""Intervals of means and medians: the one bootstrap of the package, and order statistics.

The unit is the patient: cases of one patient are alike, so patients are drawn, each with all of its cases. Every column
of a table has the same draws, so that columns may be averaged draw by draw.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

DRAWS, CONFIDENCE, SEED = 10_000, 0.95, 0
FEWEST = 5  # patients for an interval of a mean: of fewer it says nothing of others
FEWEST_FOR_MEDIAN = 6  # of 5 values the lowest and the highest hold the median with 94 %
_AT_A_TIME = 1000  # draws

Floats = NDArray[np.float64]
Integers = NDArray[np.intp]
Interval = tuple[float, float]


def patients_of(cases: Sequence[str], patients: Mapping[str, int]) -> Integers:
    """The index of each case's patient, 0 to n - 1; a case that `patients` does not name is a patient of its own.

    Patients are numbered by the first of their cases in the alphabet: the order in which cases come changes nothing.
    """
    key_of = {case: (patients.get(case), "" if case in patients else case) for case in sorted(set(cases))}
    index_of = {key: index for index, key in enumerate(dict.fromkeys(key_of.values()))}
    return np.array([index_of[key_of[case]] for case in cases], dtype=np.intp)


def count_patients(values: Floats, patients: Integers) -> int:
    """How many patients have a value; NaN is none."""
    return len(np.unique(patients[~np.isnan(values)]))


def drawn_means(values: Floats, patients: Integers) -> Floats:
    """The mean of each column of `values` (rows, columns) over patients drawn with replacement: (columns, DRAWS).

    NaN is no value: it counts in neither sum nor number. A draw without any value has the mean NaN.
    """
    n = int(patients.max()) + 1
    known = ~np.isnan(values)
    sums, counts = np.zeros((n, values.shape[1])), np.zeros((n, values.shape[1]))
    np.add.at(sums, patients, np.where(known, values, 0.0))
    np.add.at(counts, patients, known)
    patterns, which = np.unique(counts, axis=1, return_inverse=True)  # most columns lack the same values, or none
    totals, numbers = _over_draws(sums, n), _over_draws(patterns, n)
    with np.errstate(invalid="ignore"):
        totals /= numbers[which.ravel()]
    return totals


def intervals_of(draws: Floats) -> Floats:
    """The 95 % percentile interval of each row (rows, DRAWS) as (rows, 2); a draw that is NaN found nothing."""
    ordered = np.sort(draws, axis=1)  # NaN last
    last = (DRAWS - 1 - np.isnan(draws).sum(axis=1))[:, None]
    at = np.maximum(last, 0) * np.array([(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    below = np.floor(at).astype(np.intp)
    low = np.take_along_axis(ordered, below, axis=1)
    high = np.take_along_axis(ordered, np.minimum(below + 1, np.maximum(last, 0)), axis=1)
    found: Floats = low + (at - below) * (high - low)
    return found


def interval_of(draws: Floats) -> Interval:
    """That of one row (DRAWS)."""
    low, high = intervals_of(draws[None])[0].tolist()
    return low, high


def mean_intervals(values: Floats, patients: Integers) -> list[Interval | None]:
    """The 95 % interval of each column's mean, by percentiles of the bootstrap; None of fewer than 5 patients.

    values (rows, columns): finite, NaN where there is none. Efron and Tibshirani 1993, of clusters; the same each time.
    """
    enough = [count_patients(column, patients) >= FEWEST for column in values.T]
    if not any(enough):
        return [None] * len(enough)
    found = intervals_of(drawn_means(values, patients)).tolist()
    return [(low, high) if of else None for (low, high), of in zip(found, enough, strict=True)]


def median_interval(values: Floats, patients: Integers) -> Interval | None:
    """The 95 % interval of a median by order statistics, which holds it at least as often; None below 6 patients.

    Each patient counts with the median of its values. Infinities are taken as they are; NaN is no value. The ends are
    the k-th lowest and the k-th highest, of the binomial distribution (Conover 1999, 3.2).
    """
    of_each: dict[int, list[float]] = {}
    for patient, value in zip(patients.tolist(), values.tolist(), strict=True):
        if not math.isnan(value):
            of_each.setdefault(patient, []).append(value)
    ordered = sorted(quantile(sorted(own), 0.5) if len(own) > 1 else own[0] for own in of_each.values())
    k = _median_rank(len(ordered))
    return (ordered[k - 1], ordered[-k]) if k else None


def quantile(ordered: Sequence[float], share: float) -> float:
    """Linear between neighbours, as numpy does it, but infinite (not NaN) once an infinite neighbour has weight."""
    below = math.floor(share * (len(ordered) - 1))
    weight = share * (len(ordered) - 1) - below
    low = ordered[below]
    if weight == 0 or math.isinf(low):
        return low
    return low + weight * (ordered[below + 1] - low)


@lru_cache(maxsize=1024)
def _median_rank(n: int) -> int:
    """The most k for which the k-th lowest to the k-th highest of n values hold the median with 95 %; 0 if none do."""
    k, term, below = 0, 1, 1  # below: 2**n times the chance that at most k values lie below the median
    while 2 * below <= (1 - CONFIDENCE) * 2**n:
        term = term * (n - k) // (k + 1)
        k, below = k + 1, below + term
    return k


@lru_cache(maxsize=4)
def _drawn(n: int) -> NDArray[np.uint8]:
    """How often each of n patients is in each draw: (n, DRAWS). More than 255 times does not happen."""
    rng = np.random.default_rng(SEED)
    times = np.empty((n, DRAWS), np.uint8)
    for first in range(0, DRAWS, _AT_A_TIME):
        chosen = rng.integers(n, size=(_AT_A_TIME, n)) + n * np.arange(_AT_A_TIME)[:, None]
        counted = np.bincount(chosen.ravel(), minlength=n * _AT_A_TIME)
        times[:, first : first + _AT_A_TIME] = counted.reshape(_AT_A_TIME, n).T
    times.flags.writeable = False
    return times


def _over_draws(of_patients: Floats, n: int) -> Floats:
    """Sums over the patients of each draw: (n, columns) to (columns, DRAWS)."""
    drawn, found = _drawn(n), np.empty((of_patients.shape[1], DRAWS))
    for first in range(0, DRAWS, _AT_A_TIME):
        part = slice(first, first + _AT_A_TIME)
        np.matmul(of_patients.T, drawn[:, part].astype(np.float64), out=found[:, part])
    return found
