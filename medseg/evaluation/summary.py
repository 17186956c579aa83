"""Metrics summed up over cases and over structures, with their intervals. Failures count, they are never dropped."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from medseg.evaluation.metrics import Metric
from medseg.evaluation.records import QUANTILES, MacroMean, Summary
from medseg.evaluation.score import StructureScore
from medseg.evaluation.statistics import (
    FEWEST,
    Floats,
    Integers,
    Interval,
    count_patients,
    drawn_means,
    interval_of,
    intervals_of,
    median_interval,
    patients_of,
    quantile,
)


@dataclass(frozen=True, slots=True)
class Summed:
    """Summaries by structure and metric, and the means over structures by metric."""

    structures: Mapping[str, Mapping[str, Summary]]
    means: Mapping[str, MacroMean]


def sum_up(
    rows: Sequence[StructureScore],
    metrics: Sequence[Metric],
    diagonals_mm: Mapping[str, float],
    patients: Mapping[str, int],
    mean_over: Collection[str] = (),
) -> Summed:
    """Summaries of these metrics of each structure in `rows`, and the means over all structures or `mean_over`."""
    names = list(dict.fromkeys(row.structure for row in rows))
    counted = [not mean_over or name in mean_over for name in names]
    structures: dict[str, dict[str, Summary]] = {name: {} for name in names}
    means: dict[str, MacroMean] = {}
    cases = list(dict.fromkeys(row.case for row in rows))
    whose = patients_of(cases, patients)
    diagonals = np.array([diagonals_mm[case] for case in cases])[:, None]
    for metric in metrics:
        values = values_of(rows, metric.name, cases, names)
        finite = np.where(np.isinf(values), diagonals, values)
        bounds, of_mean = _intervals(finite, whose, counted)
        for k, name in enumerate(names):
            structures[name][metric.name] = _summary(metric, values[:, k], finite[:, k], whose, bounds[k])
        of_metric = [structures[name][metric.name] for name, does in zip(names, counted, strict=True) if does]
        means[metric.name] = _macro(of_metric, of_mean)
    return Summed(structures, means)


def values_of(rows: Sequence[StructureScore], metric: str, cases: Sequence[str], structures: Sequence[str]) -> Floats:
    """A metric as a table (cases, structures); NaN where there is no value."""
    of_case = {case: k for k, case in enumerate(cases)}
    of_structure = {name: k for k, name in enumerate(structures)}
    table = np.full((len(cases), len(structures)), np.nan)
    for row in rows:
        value = row.value(metric)
        if value is not None:
            table[of_case[row.case], of_structure[row.structure]] = value
    return table


def _intervals(
    finite: Floats, whose: Integers, counted: Sequence[bool]
) -> tuple[list[Interval | None], Interval | None]:
    """Of the mean of each structure, and of the mean over the structures that count."""
    patients = [count_patients(column, whose) for column in finite.T]
    if not any(n >= FEWEST for n in patients):
        return [None] * len(patients), None
    drawn = drawn_means(finite, whose)
    found = intervals_of(drawn).tolist()
    of_each = [(low, high) if n >= FEWEST else None for (low, high), n in zip(found, patients, strict=True)]
    over = [k for k, does in enumerate(counted) if does and patients[k]]
    if not over or count_patients(row_means(finite[:, over].T), whose) < FEWEST:
        return of_each, None
    return of_each, interval_of(row_means(drawn[over]))


def row_means(columns: Floats) -> Floats:
    """The mean over the first axis of what is there; NaN where nothing is."""
    there = ~np.isnan(columns)
    with np.errstate(invalid="ignore"):
        found: Floats = np.where(there, columns, 0.0).sum(axis=0) / there.sum(axis=0)
    return found


def _summary(metric: Metric, values: Floats, finite: Floats, whose: Integers, bounds: Interval | None) -> Summary:
    of_median = median_interval(values, whose)
    there: list[float] = values[~np.isnan(values)].tolist()
    measured = [value for value in there if math.isfinite(value)]
    ordered = sorted(there)
    return Summary(
        n=len(there),
        n_finite=len(measured),
        n_patients=count_patients(values, whose),
        mean=mean(measured),
        sd=float(np.std(measured, ddof=1)) if len(measured) > 1 else None,
        mean_penalised=mean(finite[~np.isnan(finite)].tolist()) if metric.is_distance else None,
        mean_low=bounds[0] if bounds else None,
        mean_high=bounds[1] if bounds else None,
        median_low=of_median[0] if of_median else None,
        median_high=of_median[1] if of_median else None,
        **{name: quantile(ordered, share) if ordered else None for name, share in QUANTILES.items()},
    )


def mean(values: Sequence[float]) -> float | None:
    """Exactly rounded; None of nothing."""
    return math.fsum(values) / len(values) if values else None


def _macro(summaries: Sequence[Summary], bounds: Interval | None) -> MacroMean:
    means = [s.mean for s in summaries if s.mean is not None]
    with_diagonals = [s.mean_penalised for s in summaries if s.mean_penalised is not None]
    low, high = bounds or (None, None)
    return MacroMean(n=len(means), mean=mean(means), mean_penalised=mean(with_diagonals), mean_low=low, mean_high=high)
