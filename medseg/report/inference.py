"""Predictions as a table: a row a case, its volumes, its warnings."""

from __future__ import annotations

from medseg.inference.records import Predictions
from medseg.report.table import Table, number


def predictions_table(predictions: Predictions) -> Table:
    """Volumes in ml by structure, seconds, and what to look at; failed cases last."""
    names = tuple(predictions.regions or predictions.labels.values())
    rows = [
        (p.case, *(number(p.volumes_ml.get(n), 2) for n in names), number(p.seconds, 1), "; ".join(p.warnings))
        for p in predictions.cases
    ]
    rows += [(f.case, *("-" for _ in names), "-", f"failed: {f.reason}") for f in predictions.failed]
    columns = ("case", *(f"{name} ml" for name in names), "s", "look at")
    by = f"by {' + '.join(predictions.configurations)}"
    remarks = (by, *(f"post-processing of {step}" for step in predictions.postprocessing), predictions.notice)
    return Table(f"Predictions, {len(predictions.folds)} fold(s)", columns, tuple(rows), remarks)
