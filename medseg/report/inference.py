"""Predictions as a table: a row a case, its volumes, the Dice to expect, what to look at; the doubtful stand first."""

from __future__ import annotations

from medseg.inference.records import Prediction, Predictions
from medseg.report.table import Table, number

MOST_SAID = 3  # remarks of a case that the table shows


def predictions_table(predictions: Predictions) -> Table:
    """Volumes in ml by structure, the lowest Dice that is to be expected of one, seconds, and what to look at; failed
    cases first, then in the order of concern.
    """
    names = tuple(predictions.regions or predictions.labels.values())
    names = tuple(n for n in names if not predictions.cases or any(n in case.volumes_ml for case in predictions.cases))
    rows = [(f.case, *("-" for _ in names), "-", "-", f"failed: {f.reason}") for f in predictions.failed]
    for case in predictions.cases:
        volumes = (number(case.volumes_ml.get(name), 2) for name in names)
        rows.append((case.case, *volumes, _expected(case), number(case.seconds, 1), _look_at(case)))
    columns = ("case", *(f"{name} ml" for name in names), "Dice ~", "s", "look at")
    by = f"by {' + '.join(predictions.configurations)}"
    remarks = (by, *(f"post-processing of {step}" for step in predictions.postprocessing), predictions.notice)
    if any(one.predicted_dice is not None for case in predictions.cases for one in case.trust):
        remarks = ("Dice ~: of its structures the lowest predicted Dice, from held-out cases", *remarks)
    return Table(f"Predictions, {len(predictions.folds)} fold(s)", columns, tuple(rows), remarks)


def _expected(case: Prediction) -> str:
    """The lowest predicted Dice of its structures."""
    known = [one.predicted_dice for one in case.trust if one.predicted_dice is not None]
    return number(min(known), 2) if known else "-"


def _look_at(case: Prediction) -> str:
    said = case.look_at
    more = f"; and {len(said) - MOST_SAID} more" if len(said) > MOST_SAID else ""
    return "; ".join(said[:MOST_SAID]) + more
