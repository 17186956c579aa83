"""Differences between methods in the same cases: with intervals, tests and counts."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import combinations

import numpy as np

from medseg.evaluation.common import Common
from medseg.evaluation.comparison import Difference
from medseg.evaluation.metrics import Metric
from medseg.evaluation.significance import holm, signed_rank_p
from medseg.evaluation.statistics import (
    FEWEST,
    Floats,
    Integers,
    Interval,
    drawn_means,
    interval_of,
    intervals_of,
)
from medseg.evaluation.summary import mean, row_means


def differences(common: Common) -> Iterator[Difference]:
    """Of each metric and pair of methods: each structure, and the mean over structures where there are several.

    p values are not adjusted yet.
    """
    for metric in common.metrics:
        for pair in combinations(range(len(common.names)), 2):
            yield from _of_pair(common, metric, pair)


def adjusted(found: Sequence[Difference]) -> tuple[Difference, ...]:
    """The same with p values adjusted for all of their tests."""
    return tuple(
        one.model_copy(update={"p_holm": p}) for one, p in zip(found, holm([one.p for one in found]), strict=True)
    )


def by_patient(values: Floats, whose: Integers) -> Floats:
    """The mean of each patient's values, infinities as in `_mean`; NaN is none, patients without any are left out."""
    of_each: dict[int, list[float]] = {}
    for patient, value in zip(whose.tolist(), values.tolist(), strict=True):
        if not math.isnan(value):
            of_each.setdefault(patient, []).append(value)
    return np.array([_mean(own) for _, own in sorted(of_each.items())])


def _of_pair(common: Common, metric: Metric, pair: tuple[int, int]) -> Iterator[Difference]:
    finite = common.finite(metric.name)
    drawn = drawn_means(finite[pair[0]] - finite[pair[1]], common.whose)
    bounds: list[Interval] = [(low, high) for low, high in intervals_of(drawn).tolist()]
    for at, structure in enumerate(common.structures):
        yield _difference(common, metric, pair, structure, np.array([at]), bounds[at])
    over = np.flatnonzero(common.counted)
    if len(over) > 1:
        yield _difference(common, metric, pair, None, over, interval_of(row_means(drawn[over])))


def _difference(
    common: Common, metric: Metric, pair: tuple[int, int], structure: str | None, columns: Integers, bounds: Interval
) -> Difference:
    """In one structure, or over those of several columns."""
    first, second = (common.values[metric.name][method][:, columns] for method in pair)
    of_case = _apart(first, second)
    of_patient = by_patient(of_case, common.whose)
    means = [_over_columns(common.finite(metric.name)[method][:, columns]) for method in pair]
    better = of_case if metric.better == "higher" else -of_case
    low, high = bounds if len(of_patient) >= FEWEST else (None, None)
    return Difference(
        metric=metric.name,
        structure=structure,
        first=common.names[pair[0]],
        second=common.names[pair[1]],
        n=int((~np.isnan(of_case)).sum()),
        n_patients=len(of_patient),
        mean_first=means[0],
        mean_second=means[1],
        difference=None if means[0] is None or means[1] is None else means[0] - means[1],
        low=low,
        high=high,
        wins=int((better > 0).sum()),
        ties=int((better == 0).sum()),
        losses=int((better < 0).sum()),
        p=signed_rank_p(of_patient),
    )


def _apart(first: Floats, second: Floats) -> Floats:
    """The difference in each case, the mean over columns; between infinities it is 0. NaN where nothing is."""
    with np.errstate(invalid="ignore"):
        apart = np.where(first == second, 0.0, first - second)
    rows = ([value for value in row if not math.isnan(value)] for row in apart.tolist())
    return np.array([_mean(row) if row else math.nan for row in rows])


def _mean(values: Sequence[float]) -> float:
    """Infinite once there are more infinities of one sign than of the other, else over the finite values."""
    sign = sum(math.copysign(1, value) for value in values if math.isinf(value))
    finite = [value for value in values if math.isfinite(value)]
    return math.copysign(math.inf, sign) if sign else mean(finite) or 0.0


def _over_columns(values: Floats) -> float | None:
    """The mean over columns of their means over cases."""
    own = [column[~np.isnan(column)].tolist() for column in values.T]
    return mean([found for column in own if (found := mean(column)) is not None])
