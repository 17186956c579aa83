"""What a recipe promises, checked against what came out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pydantic import model_validator

from medseg.evaluation.metrics import metric
from medseg.evaluation.records import MacroMean, Scores
from medseg.files import Record, read_record
from medseg.report.table import Table, number

OVER_STRUCTURES = "mean"
NOT_MEASURED = MacroMean(n=0, mean=None)


class Expectation(Record):
    """The mean of a metric over the cases of a structure (or over the structures: `mean`) has a floor or a ceiling."""

    scores: str
    structure: str
    metric: str
    min: float | None = None
    max: float | None = None

    @model_validator(mode="after")
    def _bounded(self) -> Expectation:
        if self.min is None and self.max is None:
            raise ValueError("an expectation needs min or max")
        if metric(self.metric) is None:
            raise ValueError(f"there is no metric {self.metric}")
        return self


class Outcome(Record):
    """An expectation and the value found; None where there is no such score."""

    expectation: Expectation
    value: float | None
    met: bool


def check_expectations(expectations: Sequence[Expectation], out: Path) -> tuple[Outcome, ...]:
    """Compare each expectation with the `scores.json` that it names, relative to `out`.

    Raises:
        InputError: such a file is missing.
    """
    return tuple(_check(e, read_record(out / e.scores / "scores.json", Scores)) for e in expectations)


def _check(expectation: Expectation, scores: Scores) -> Outcome:
    value = _value(expectation, scores)
    low = expectation.min is None or (value is not None and value >= expectation.min)
    high = expectation.max is None or (value is not None and value <= expectation.max)
    return Outcome(expectation=expectation, value=value, met=value is not None and low and high)


def _value(expectation: Expectation, scores: Scores) -> float | None:
    if expectation.structure == OVER_STRUCTURES:
        return scores.mean_over_structures.get(expectation.metric, NOT_MEASURED).counted_mean
    for structure in scores.structures:
        if structure.structure == expectation.structure:
            summary = structure.metrics.get(expectation.metric)
            return summary.counted_mean if summary else None
    return None


def outcomes_table(outcomes: Sequence[Outcome]) -> Table:
    """Each promise, the value found, and whether it holds."""
    return Table("Expectations", ("scores", "structure", "metric", "promised", "found", ""), tuple(map(_row, outcomes)))


def _row(outcome: Outcome) -> tuple[str, ...]:
    e = outcome.expectation
    bounds = (f">= {e.min:g}" if e.min is not None else "", f"<= {e.max:g}" if e.max is not None else "")
    promised = " ".join(bound for bound in bounds if bound)
    return e.scores, e.structure, e.metric, promised, number(outcome.value), "met" if outcome.met else "MISSED"
