"""Several evaluations beside each other, as records: what `comparison.json` and `comparison.csv` hold."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Literal

from pydantic import Field

from medseg.evaluation.records import MetricMeant
from medseg.evaluation.settings import Settings
from medseg.files import RESEARCH_USE, Record, write_record, write_text

OVER_STRUCTURES = "mean"  # in a table; in records such a difference has no structure


class Difference(Record):
    """A metric of one method minus that of another, in the same cases.

    structure: None for the mean over structures. n: cases in which the reference, or any method, holds it. Means and
    difference count an infinite distance as the diagonal of its image. low, high: the 95 % interval of the difference
    (paired bootstrap over patients), None of fewer than 5. wins: cases in which the first is better; losses: the
    second. p: Wilcoxon's signed-rank test over patients, p_holm: adjusted for all tests of the comparison.
    """

    metric: str
    structure: str | None
    first: str
    second: str
    n: int
    n_patients: int
    mean_first: float | None
    mean_second: float | None
    difference: float | None
    low: float | None = None
    high: float | None = None
    wins: int
    ties: int
    losses: int
    p: float | None = None
    p_holm: float | None = None


class Rank(Record):
    """The place of a method: by its mean rank over cases and structures, 1 the best.

    low, high: the 95 % interval of its place; first: the share of bootstrap samples in which it is first.
    """

    name: str
    mean_rank: float
    place: float
    low: float | None = None
    high: float | None = None
    first: float | None = None


class Ranking(Record):
    """All methods by one metric, or by all together (None); the best first.

    n: cases and structures in which they were ranked. tau: mean of Kendall's tau (b) between this ranking and those of
    the bootstrap samples; 1 if none changes it.
    """

    metric: str | None
    n: int
    ranks: tuple[Rank, ...]
    tau: float | None = None


class Comparison(Record):
    """Everything that a comparison found, as `comparison.json` holds it.

    names: of the methods. cases, patients: how many all have in common; structures: those that all have. left: what was
    left out, in words. differences: each pair in each structure and over structures. conclusions: what can be said and
    what not. methods: a paragraph for a paper.
    """

    version: Literal[1] = 1
    medseg: str
    software: dict[str, str] = Field(default_factory=dict)
    notice: str = RESEARCH_USE
    names: tuple[str, ...]
    cases: int
    patients: int
    structures: tuple[str, ...]
    settings: Settings
    metrics: dict[str, MetricMeant]
    left: tuple[str, ...] = ()
    differences: tuple[Difference, ...]
    rankings: tuple[Ranking, ...]
    conclusions: tuple[str, ...] = ()
    methods: str = ""


def differences_csv(comparison: Comparison) -> str:
    """A line for each difference; empty where there is nothing to tell."""
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(Difference.model_fields)
    for difference in comparison.differences:
        values = dict(difference) | {"structure": difference.structure or OVER_STRUCTURES}
        table.writerow([repr(value) if isinstance(value, float) else value for value in values.values()])
    return text.getvalue()


def write_comparison(folder: Path, comparison: Comparison) -> tuple[Path, Path]:
    """Write `comparison.csv` and `comparison.json`, each whole or not at all.

    Raises:
        ResourceError: the folder cannot be written to.
    """
    table, everything = folder / "comparison.csv", folder / "comparison.json"
    write_text(table, differences_csv(comparison))
    write_record(everything, comparison)
    return table, everything
