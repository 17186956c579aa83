"""Scores as a table: a row a structure, failures counted."""

from __future__ import annotations

from medseg.evaluation.records import MacroMean, Scores, Summary
from medseg.report.table import Table, number

# name, heading, digits
_COLUMNS = (
    ("dice", "Dice", 3),
    ("iou", "IoU", 3),
    ("hd_mm", "HD mm", 1),
    ("hd95_mm", "HD95 mm", 1),
    ("assd_mm", "ASSD mm", 2),
    ("nsd", "NSD", 3),
    ("boundary_f1", "BF1", 3),
)


def scores_table(scores: Scores, title: str = "Scores") -> Table:
    """Mean of each metric over the cases, and over the structures (or regions) in the last row.

    A distance of a missed or spurious structure counts as the diagonal of its image.
    """
    rows = [
        (
            s.structure,
            str(s.n),
            str(s.n_missed),
            str(s.n_spurious),
            *(_told(s.metrics[metric], metric, digits) for metric, _, digits in _COLUMNS),
        )
        for s in scores.structures
    ]
    if len(scores.structures) > 1:
        macro = scores.mean_over_structures
        means = (_told(macro[metric], metric, digits) for metric, _, digits in _COLUMNS)
        rows.append(("mean", "", "", "", *means))
    remarks = [f"means over cases; NSD and boundary F1 (BF1) at {scores.tolerance_mm:g} mm; surface: {scores.surface}"]
    if any(s.metrics["dice"].mean_low is not None for s in scores.structures):
        remarks.append(f"in brackets: the 95 % interval of the mean Dice, bootstrap over {_units(scores)}")
    if scores.mean_over:
        remarks.append(f"the mean, and that of a case, is over the regions: {', '.join(scores.mean_over)}")
    if any(s.n_missed or s.n_spurious for s in scores.structures):
        remarks.append("missed or spurious structures score 0, and the image's diagonal as a distance")
    if scores.worst_cases:
        remarks.append("worst cases: " + ", ".join(f"{c.case} (Dice {c.dice:.2f})" for c in scores.worst_cases))
    if scores.failed:
        remarks.append(f"{len(scores.failed)} case(s) could not be scored: {', '.join(sorted(scores.failed))}")
    remarks.append(scores.notice)
    columns = ("structure", "cases", "missed", "spurious", *(name for _, name, _ in _COLUMNS))
    return Table(title, columns, tuple(rows), tuple(remarks), whole="scores.json")


def _told(mean: Summary | MacroMean, metric: str, digits: int) -> str:
    """The mean; of Dice with its interval, where patients are enough for one."""
    told = number(mean.counted_mean, digits)
    if metric != "dice" or mean.mean_low is None:
        return told
    return f"{told} ({number(mean.mean_low, digits)}-{number(mean.mean_high, digits)})"


def _units(scores: Scores) -> str:
    return "patients" if scores.patients else "cases"
