"""A whole cohort: what the scores of all cases say about each structure. Failures count, they are never dropped."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from pydantic import Field, model_validator

from medseg.evaluation.metrics import Better, Metric, Unit
from medseg.evaluation.score import Number, Status, StructureScore, expected, measured
from medseg.evaluation.settings import DEFAULT, Settings, SurfaceMode
from medseg.files import RESEARCH_USE, Record, write_record, write_text

N_WORST = 3  # cases named for each structure and for the cohort
DRAWS, CONFIDENCE = 2000, 0.95  # of the bootstrap
_QUANTILES = {"min": 0.0, "p25": 0.25, "median": 0.5, "p75": 0.75, "max": 1.0}


class Summary(Record):
    """One metric over the `n` cases of a structure in which it is defined (all but `both_empty`).

    Mean and SD (of the sample) of a distance are over the `n_finite` finite cases; `mean_penalised` counts an infinite
    one as the diagonal of its image. The quantiles take infinities as they are; where n > 0, null is such an infinity.
    mean_low, mean_high: the 95 % interval of the mean, of a distance of the penalised one (bootstrap over patients).
    median_low, median_high: that of the median, by order statistics; None where cases are too few for one.
    """

    n: int
    n_finite: int
    mean: float | None
    sd: float | None
    median: Number | None
    p25: Number | None
    p75: Number | None
    min: Number | None
    max: Number | None
    mean_penalised: float | None = None
    mean_low: float | None = None
    mean_high: float | None = None
    median_low: Number | None = None
    median_high: Number | None = None

    @model_validator(mode="before")
    @classmethod
    def _infinite_again(cls, values: Any) -> Any:
        if isinstance(values, dict) and values.get("n"):
            return {key: math.inf if key in _QUANTILES and value is None else value for key, value in values.items()}
        return values


class StructureSummary(Record):
    """One structure over all cases; `worst` names the cases of lowest Dice, then lowest NSD."""

    structure: str
    n: int
    n_scored: int
    n_missed: int
    n_spurious: int
    n_both_empty: int
    metrics: dict[str, Summary]
    worst: tuple[str, ...]


class MacroMean(Record):
    """Mean over structures of their means over cases; structures without a value are left out of `n`."""

    n: int
    mean: float | None
    mean_penalised: float | None = None


class CaseMean(Record):
    """Mean Dice of one case over the structures (see `Scores.mean_over`) that either of its maps holds."""

    case: str
    dice: float


class MetricMeant(Record):
    """What a column means, as `scores.json` tells it."""

    label: str
    unit: Unit
    better: Better
    version: int
    definition: str


class Scores(Record):
    """Everything that an evaluation found, as `scores.json` holds it.

    tolerance_mm: the main one. medseg: the version that measured. metrics: what the columns mean. patients: cases of
    one patient bear one number; a case that is not named is a patient of its own.
    """

    version: Literal[1, 2] = 2
    medseg: str = ""
    surface: SurfaceMode = "surfel"
    notice: str = RESEARCH_USE
    tolerance_mm: float
    settings: Settings = DEFAULT
    metrics: dict[str, MetricMeant] = Field(default_factory=dict)
    mean_over: tuple[str, ...] = ()  # the regions that means are over, where there are any; else all structures
    mean_over_structures: dict[str, MacroMean]
    worst_cases: tuple[CaseMean, ...]
    structures: tuple[StructureSummary, ...]
    missing_predictions: tuple[str, ...] = ()
    unpaired_predictions: tuple[str, ...] = ()
    failed: dict[str, str] = Field(default_factory=dict)
    diagonals_mm: dict[str, float]
    patients: dict[str, int] = Field(default_factory=dict)
    scores: tuple[StructureScore, ...]


def summarise(
    scores: Iterable[StructureScore],
    diagonals_mm: Mapping[str, float],
    settings: Settings = DEFAULT,
    missing_predictions: Sequence[str] = (),
    unpaired_predictions: Sequence[str] = (),
    failed: Mapping[str, str] | None = None,
    mean_over: Sequence[str] = (),
) -> Scores:
    """Summarise the scores of all cases; `diagonals_mm` holds the image diagonal of every case in them.

    mean_over: the names of the structures that means over structures are over; none means all of them.
    """
    rows = tuple(scores)
    by_structure: dict[str, list[StructureScore]] = {}
    for row in rows:
        by_structure.setdefault(row.structure, []).append(row)
    metrics = tuple(one for one in measured(rows) if one.better) or expected(settings, "")
    structures = tuple(_structure(name, of_it, metrics, diagonals_mm) for name, of_it in by_structure.items())
    counted = [s for s in structures if not mean_over or s.structure in mean_over]
    return Scores(
        medseg=version("medseg"),
        surface=settings.surface,
        tolerance_mm=settings.tolerances_mm[0],
        settings=settings,
        metrics={one.name: _meant(one) for one in measured(rows)},
        mean_over=tuple(mean_over),
        mean_over_structures={
            one.name: _macro([s.metrics[one.name] for s in counted if one.name in s.metrics]) for one in metrics
        },
        worst_cases=_worst_cases(row for row in rows if not mean_over or row.structure in mean_over),
        structures=structures,
        missing_predictions=tuple(missing_predictions),
        unpaired_predictions=tuple(unpaired_predictions),
        failed=dict(failed or {}),
        diagonals_mm=dict(diagonals_mm),
        scores=rows,
    )


def mean_dice(rows: Iterable[StructureScore]) -> dict[str, float]:
    """The mean Dice of each structure over the cases in which either map holds it."""
    found: dict[str, list[float]] = {}
    for row in rows:
        if row.dice is not None:
            found.setdefault(row.structure, []).append(row.dice)
    return {name: math.fsum(values) / len(values) for name, values in found.items()}


def present(scores: Iterable[StructureScore], structure: str, metric: str = "dice") -> list[StructureScore]:
    """The rows of a structure that have a value of this metric: those that a mean of it is over."""
    return [row for row in scores if row.structure == structure and row.value(metric) is not None]


def penalised(rows: Sequence[StructureScore], metric: str, diagonals_mm: Mapping[str, float]) -> list[float]:
    """A metric's values where it has any, an infinite distance as the diagonal of its image."""
    values = ((value, diagonals_mm[row.case]) for row in rows if (value := row.value(metric)) is not None)
    return [value if math.isfinite(value) else diagonal for value, diagonal in values]


def interval(values: Sequence[float]) -> tuple[float, float]:
    """The 95 % interval of a mean: percentiles of the means of cases drawn with replacement; the same each time."""
    drawn = np.random.default_rng(0).integers(len(values), size=(DRAWS, len(values)))
    low, high = np.quantile(np.asarray(values)[drawn].mean(axis=1), [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return float(low), float(high)


def as_csv(scores: Sequence[StructureScore]) -> str:
    """One line for each case and structure; `inf` where missed or spurious, empty where there is nothing to measure."""
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    columns = [*StructureScore.model_fields, *(one.name for one in measured(scores))]
    columns = list(dict.fromkeys(columns))
    table.writerow(columns)
    for score in scores:
        values = (getattr(score, column, None) for column in columns)
        table.writerow([repr(value) if isinstance(value, float) else value for value in values])
    return text.getvalue()


def write_scores(folder: Path, scores: Scores) -> tuple[Path, Path]:
    """Write `scores.csv` (a row for each case and structure) and `scores.json` (everything), each whole or not at all.

    Raises:
        ResourceError: the folder cannot be written to.
    """
    table, everything = folder / "scores.csv", folder / "scores.json"
    write_text(table, as_csv(scores.scores))
    write_record(everything, scores)
    return table, everything


def _meant(of: Metric) -> MetricMeant:
    return MetricMeant(label=of.label, unit=of.unit, better=of.better, version=of.version, definition=of.definition)


def _structure(
    name: str, rows: Sequence[StructureScore], metrics: Sequence[Metric], diagonals_mm: Mapping[str, float]
) -> StructureSummary:
    n_of = {status: sum(row.status == status for row in rows) for status in get_args(Status)}
    worst = sorted(present(rows, name), key=lambda row: (row.dice, row.nsd, row.case))[:N_WORST]
    summaries = {one.name: _summary(one, rows, diagonals_mm) for one in metrics}
    return StructureSummary(
        structure=name,
        n=len(rows),
        n_scored=n_of["scored"],
        n_missed=n_of["missed"],
        n_spurious=n_of["spurious"],
        n_both_empty=n_of["both_empty"],
        metrics=summaries,
        worst=tuple(row.case for row in worst),
    )


def _summary(metric: Metric, rows: Sequence[StructureScore], diagonals_mm: Mapping[str, float]) -> Summary:
    values = [value for row in rows if (value := row.value(metric.name)) is not None]
    finite = [value for value in values if math.isfinite(value)]
    return Summary(
        n=len(values),
        n_finite=len(finite),
        mean=_mean(finite),
        sd=float(np.std(finite, ddof=1)) if len(finite) > 1 else None,
        mean_penalised=_mean(penalised(rows, metric.name, diagonals_mm)) if metric.is_distance else None,
        **{name: _quantile(values, share) for name, share in _QUANTILES.items()},
    )


def _mean(values: Sequence[float]) -> float | None:
    return math.fsum(values) / len(values) if values else None


def _quantile(values: Sequence[float], share: float) -> float | None:
    """Linear between neighbours, as numpy does it, but infinite (not NaN) once an infinite neighbour has weight."""
    if not values:
        return None
    ordered = sorted(values)
    below = math.floor(share * (len(ordered) - 1))
    weight = share * (len(ordered) - 1) - below
    low = ordered[below]
    if weight == 0 or math.isinf(low):
        return low
    return low + weight * (ordered[below + 1] - low)


def _macro(summaries: Sequence[Summary]) -> MacroMean:
    means = [s.mean for s in summaries if s.mean is not None]
    with_diagonals = [s.mean_penalised for s in summaries if s.mean_penalised is not None]
    return MacroMean(n=len(means), mean=_mean(means), mean_penalised=_mean(with_diagonals))


def _worst_cases(rows: Iterable[StructureScore]) -> tuple[CaseMean, ...]:
    by_case: dict[str, list[float]] = {}
    for row in rows:
        if row.dice is not None:
            by_case.setdefault(row.case, []).append(row.dice)
    means = [CaseMean(case=case, dice=math.fsum(dices) / len(dices)) for case, dices in by_case.items()]
    return tuple(sorted(means, key=lambda mean: (mean.dice, mean.case))[:N_WORST])
