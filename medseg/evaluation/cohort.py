"""A whole cohort: what the scores of all cases say about each structure. Failures count, they are never dropped."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import version
from typing import get_args

from medseg.evaluation.agreement import volume_agreement
from medseg.evaluation.metadata import Metadata
from medseg.evaluation.methods import methods_paragraph
from medseg.evaluation.metrics import Metric
from medseg.evaluation.records import CaseMean, MetricMeant, Scores, StructureSummary, Summary
from medseg.evaluation.score import Status, StructureScore, expected, measured
from medseg.evaluation.settings import DEFAULT, Settings
from medseg.evaluation.strata import strata_of
from medseg.evaluation.summary import sum_up

N_WORST = 3  # cases named for each structure and for the cohort
LIBRARIES = ("numpy", "scipy")  # whose versions may change a value


def summarise(
    scores: Iterable[StructureScore],
    diagonals_mm: Mapping[str, float],
    settings: Settings = DEFAULT,
    missing_predictions: Sequence[str] = (),
    unpaired_predictions: Sequence[str] = (),
    failed: Mapping[str, str] | None = None,
    mean_over: Sequence[str] = (),
    patients: Mapping[str, int] | None = None,
    metadata: Metadata | None = None,
    by: Sequence[str] = (),
) -> Scores:
    """Summarise the scores of all cases; `diagonals_mm` holds the image diagonal of every case in them.

    mean_over: the names of the structures that means over structures are over; none means all of them. patients: the
    number of each case's patient, else as `metadata` has it; a case without one is a patient of its own. by: columns of
    the metadata that cases are broken down by.

    Raises:
        InputError: the metadata have no such column.
    """
    rows = tuple(scores)
    by_structure: dict[str, list[StructureScore]] = {}
    for row in rows:
        by_structure.setdefault(row.structure, []).append(row)
    cases = {row.case for row in rows}
    known = patients if patients is not None else metadata.patients if metadata is not None else {}
    of_case = {case: number for case, number in known.items() if case in cases}
    columns = measured(rows)
    metrics = tuple(one for one in columns if one.better) or expected(settings, "")
    summed = sum_up(rows, metrics, diagonals_mm, of_case, mean_over)
    groups = strata_of(rows, metadata, by, metrics, diagonals_mm, of_case, mean_over) if metadata is not None else ()
    found = Scores(
        medseg=version("medseg"),
        software={name: version(name) for name in LIBRARIES},
        surface=settings.surface,
        tolerance_mm=settings.tolerances_mm[0],
        settings=settings,
        metrics={one.name: meant(one) for one in columns},
        mean_over=tuple(mean_over),
        mean_over_structures=dict(summed.means),
        worst_cases=_worst_cases(row for row in rows if not mean_over or row.structure in mean_over),
        structures=tuple(_structure(name, own, summed.structures[name]) for name, own in by_structure.items()),
        agreement=volume_agreement(rows, of_case),
        strata=groups,
        missing_predictions=tuple(missing_predictions),
        unpaired_predictions=tuple(unpaired_predictions),
        failed=dict(failed or {}),
        diagonals_mm=dict(diagonals_mm),
        patients=of_case,
        scores=rows,
    )
    return found.model_copy(update={"methods": methods_paragraph(found)})


def mean_dice(rows: Iterable[StructureScore]) -> dict[str, float]:
    """The mean Dice of each structure over the cases in which either map holds it."""
    found: dict[str, list[float]] = {}
    for row in rows:
        if row.dice is not None:
            found.setdefault(row.structure, []).append(row.dice)
    return {name: math.fsum(values) / len(values) for name, values in found.items()}


def meant(of: Metric) -> MetricMeant:
    """What a record tells of a metric."""
    return MetricMeant(label=of.label, unit=of.unit, better=of.better, version=of.version, definition=of.definition)


def _structure(name: str, rows: Sequence[StructureScore], metrics: Mapping[str, Summary]) -> StructureSummary:
    n_of = {status: sum(row.status == status for row in rows) for status in get_args(Status)}
    worst = sorted((row for row in rows if row.dice is not None), key=lambda row: (row.dice, row.nsd, row.case))
    return StructureSummary(
        structure=name,
        n=len(rows),
        n_scored=n_of["scored"],
        n_missed=n_of["missed"],
        n_spurious=n_of["spurious"],
        n_both_empty=n_of["both_empty"],
        metrics=dict(metrics),
        worst=tuple(row.case for row in worst[:N_WORST]),
    )


def _worst_cases(rows: Iterable[StructureScore]) -> tuple[CaseMean, ...]:
    by_case: dict[str, list[float]] = {}
    for row in rows:
        if row.dice is not None:
            by_case.setdefault(row.case, []).append(row.dice)
    means = [CaseMean(case=case, dice=math.fsum(dices) / len(dices)) for case, dices in by_case.items()]
    return tuple(sorted(means, key=lambda mean: (mean.dice, mean.case))[:N_WORST])
