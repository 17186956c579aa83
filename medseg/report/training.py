"""A training as curves, and the cross-validation of its folds as a table."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from medseg.evaluation.records import MacroMean, Scores, Summary
from medseg.evaluation.statistics import FEWEST
from medseg.files import RESEARCH_USE, written_whole
from medseg.report.table import Table, number

if TYPE_CHECKING:
    from matplotlib.axes import Axes

EVENTS, CURVES = "events.jsonl", "curves.png"
DICE = "validation Dice"
MOST_STRUCTURES = 10  # with a curve and a name of their own; of more, the mean and the range are drawn

# name, heading, digits
_COLUMNS = (("dice", "Dice", 3), ("hd95_mm", "HD95 mm", 2), ("nsd", "NSD", 3), ("boundary_f1", "BF1", 3))


def draw_curves(folder: Path) -> None:
    """Draw what a fold's `events.jsonl` tells into its `curves.png`: loss, Dice of each structure and learning rate.

    Raises:
        ResourceError: the disk is full.
    """
    from matplotlib.figure import Figure  # without pyplot, which would keep every figure; its canvas is Agg

    lines = list(_lines(folder / EVENTS))
    if not lines:
        return
    rows = [name for name in ("loss", DICE, "learning rate") if name != DICE or any(line["dice"] for line in lines)]
    figure = Figure(figsize=(10, 2.5 * len(rows)), dpi=100)
    axes: Any = figure.subplots(len(rows), 2, sharex="col", sharey="row")
    figure.subplots_adjust(
        left=0.09, right=0.98, bottom=0.21 / len(rows), top=1 - 0.18 / len(rows), hspace=0.08, wspace=0.05
    )
    unit_s, unit = _unit(max(line["elapsed_s"] for line in lines))
    for column, (key, per, unit_name) in enumerate((("step", 1.0, "steps"), ("elapsed_s", unit_s, unit))):
        for row, name in enumerate(rows):
            axis = axes[row, column]
            if name == DICE:
                _dice(axis, lines, key, per)
                axis.set_ylim(0, 1)
            else:
                _line(axis, lines, key, per, "loss" if name == "loss" else "rate")
            axis.grid(alpha=0.3)
        axis.set_xlabel(unit_name)
    for row, name in enumerate(rows):
        axes[row, 0].set_ylabel(name)
        if name == DICE:
            axes[row, 1].legend(fontsize="small", loc="lower right")
    figure.suptitle(f"{folder.parent.name}, fold {folder.name}. {RESEARCH_USE}", fontsize="small")
    with written_whole(folder / CURVES) as beside:
        figure.savefig(beside, format="png")


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    if path.is_file():
        yield from map(json.loads, path.read_text(encoding="utf-8").splitlines())


def _unit(seconds: float) -> tuple[float, str]:
    return (3600.0, "hours") if seconds > 7200 else (60.0, "minutes") if seconds > 120 else (1.0, "seconds")


def _line(axis: Axes, lines: Sequence[dict[str, Any]], key: str, per: float, value: str) -> None:
    known = [line for line in lines if line[value] is not None]
    axis.plot([line[key] / per for line in known], [line[value] for line in known], lw=1.2)


def _dice(axis: Axes, lines: Sequence[dict[str, Any]], key: str, per: float) -> None:
    known = [line for line in lines if line["dice"]]
    names = list(dict.fromkeys(name for line in known for name in line["dice"]))
    at = [line[key] / per for line in known]
    values = {name: [line["dice"].get(name, np.nan) for line in known] for name in names}
    if len(names) <= MOST_STRUCTURES:
        for name in names:
            axis.plot(at, values[name], marker="o", ms=3, lw=1.2, label=name)
    else:
        every = np.array([values[name] for name in names])
        axis.plot(at, np.nanmean(every, axis=0), marker="o", ms=3, lw=1.2, label=f"mean of {len(names)} structures")
        axis.fill_between(at, np.nanmin(every, axis=0), np.nanmax(every, axis=0), alpha=0.2, label="lowest to highest")


def crossvalidation_table(scores: Scores, title: str = "Cross-validation") -> Table:
    """Means over the cases of all folds, each case scored by the fold that held it out, with 95 % intervals."""
    few = any(0 < s.metrics[m].n_patients < FEWEST for s in scores.structures for m, _, _ in _COLUMNS)
    rows = [
        (s.structure, str(s.n), *(_with_interval(s.metrics[m], d, few) for m, _, d in _COLUMNS))
        for s in scores.structures
    ]
    if len(scores.structures) > 1:
        macro = [scores.mean_over_structures[metric] for metric, _, _ in _COLUMNS]
        rows.append(("mean", "", *(_with_interval(mean, c[2], few) for mean, c in zip(macro, _COLUMNS, strict=True))))
    unit = "patients" if scores.patients else "cases"
    remarks = (
        "means over cases, each scored by the fold that held it out, with the 95 % interval of the mean (bootstrap "
        f"over {unit}); NSD and boundary F1 (BF1) at {scores.tolerance_mm:g} mm",
        *((f"(-): fewer than {FEWEST} {unit} are too few for an interval",) if few else ()),
        "missed or spurious structures score 0, and the image's diagonal as a distance",
        scores.notice,
    )
    return Table(title, ("structure", "cases", *(name for _, name, _ in _COLUMNS)), tuple(rows), remarks, "scores.json")


def _with_interval(mean: Summary | MacroMean, digits: int, few: bool) -> str:
    if mean.counted_mean is None:
        return "-"
    told = number(mean.counted_mean, digits)
    if mean.mean_low is None:
        return f"{told} (-)" if few else told  # a record of the first version has no intervals
    return f"{told} ({number(mean.mean_low, digits)} to {number(mean.mean_high, digits)})"
