"""Scores broken down by what a table says of the cases: by site, by scanner, by slice thickness."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from medseg.evaluation.metadata import Metadata
from medseg.evaluation.metrics import Metric
from medseg.evaluation.records import Stratum
from medseg.evaluation.score import StructureScore
from medseg.evaluation.statistics import FEWEST, patients_of
from medseg.evaluation.summary import sum_up

MAIN = ("dice", "nsd", "hd95_mm")


def strata_of(
    rows: Sequence[StructureScore],
    metadata: Metadata,
    by: Sequence[str],
    metrics: Sequence[Metric],
    diagonals_mm: Mapping[str, float],
    patients: Mapping[str, int],
    mean_over: Collection[str] = (),
) -> tuple[Stratum, ...]:
    """A stratum for each group of each column in `by`, with the main ones of these metrics.

    Raises:
        InputError: there is no such column.
    """
    metadata.check(by)
    main = [metric for metric in metrics if metric.name in MAIN]
    cases = sorted({row.case for row in rows})
    found = []
    for column in dict.fromkeys(by):
        for value, own in metadata.groups(column, cases).items():
            of_it = set(own)
            summed = sum_up([row for row in rows if row.case in of_it], main, diagonals_mm, patients, mean_over)
            n_patients = len(set(patients_of(own, patients).tolist()))
            found.append(
                Stratum(
                    column=column,
                    value=value,
                    n=len(own),
                    n_patients=n_patients,
                    means=dict(summed.means),
                    structures={name: dict(metrics_of_it) for name, metrics_of_it in summed.structures.items()},
                    warning=_warning(len(own), n_patients),
                )
            )
    return tuple(found)


def _warning(n: int, n_patients: int) -> str:
    if n < FEWEST:
        return f"{n} case(s) are too few to tell anything of this group"
    if n_patients < FEWEST:
        return f"{n} cases of {n_patients} patient(s) are too few to tell anything of this group"
    return ""
