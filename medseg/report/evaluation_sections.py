"""The parts of an evaluation's page that tell of all cases at once: summary and plots."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from medseg.evaluation.records import MacroMean, Scores, StructureSummary
from medseg.evaluation.score import StructureScore
from medseg.planning.explain import counted
from medseg.report.cells import Cell, Column, cell, shown
from medseg.report.page import EMPTY, Section, html
from medseg.report.plots import Dot, Figure, Level, Spot, scatter, strips

MOST_NAMED: Final = 200  # cases in a list of warnings
Anchors = Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Row:
    """A structure in the table of the summary."""

    name: str
    n: int
    missed: int
    spurious: int
    cells: tuple[Cell, ...]


def columns(scores: Scores) -> tuple[Column, ...]:
    """The columns of the summary that were measured."""
    at = f"at {scores.tolerance_mm:g} mm"
    every = (
        Column("Dice", "mean", "higher", "dice"),
        Column("Dice", "median", "higher", "dice"),
        Column("NSD", at, "higher", "nsd"),
        Column("Boundary F1", at, "higher", "boundary_f1"),
        Column("HD95", "mm", "lower", "hd95_mm", 1),
        Column("ASSD", "mm", "lower", "assd_mm", 2),
        Column("Volume", "difference, ml", "", "volume_diff_ml", 2),
    )
    held = {name for structure in scores.structures for name in structure.metrics}
    return tuple(column for column in every if column.metric in held)


def summary_section(scores: Scores) -> Section:
    """How many cases and structures, what went wrong, and the means of every structure."""
    names = columns(scores)
    rows = [
        Row(s.structure, s.n, s.n_missed, s.n_spurious, tuple(_summed(s, column) for column in names))
        for s in scores.structures
    ]
    macro = tuple(_macro(scores.mean_over_structures.get(c.metric), c) for c in names) if len(rows) > 1 else ()
    body = html(
        "evaluation_summary.html",
        figures=_figures(scores),
        warnings=_warnings(scores),
        columns=names,
        rows=rows,
        macro=macro,
        remarks=_remarks(scores),
    )
    return Section("summary", "Summary", body)


def _summed(structure: StructureSummary, column: Column) -> Cell:
    found = structure.metrics.get(column.metric)
    if found is None:
        return cell(None)
    median = column.sub == "median"
    low, high = (found.median_low, found.median_high) if median else (found.mean_low, found.mean_high)
    more = "" if low is None or high is None else f"{shown(low, column.digits)} to {shown(high, column.digits)}"
    return cell(found.median if median else found.counted_mean, column.digits, more)


def _macro(mean: MacroMean | None, column: Column) -> Cell:
    if mean is None or column.sub == "median" or column.metric == "volume_diff_ml":
        return Cell("")
    between = f"{shown(mean.mean_low, column.digits)} to {shown(mean.mean_high, column.digits)}"
    return cell(mean.counted_mean, column.digits, "" if mean.mean_low is None else between)


def _figures(scores: Scores) -> list[tuple[str, str, str]]:
    cases = {row.case for row in scores.scores} | set(scores.failed)
    dice, nsd = (scores.mean_over_structures.get(name) for name in ("dice", "nsd"))
    missed, extra = sum(s.n_missed for s in scores.structures), sum(s.n_spurious for s in scores.structures)
    made = [("Cases", str(len(cases)), f"{len(scores.failed)} failed" if scores.failed else "")]
    made.append(("Structures", str(len(scores.structures)), ""))
    means = "mean of structures" if len(scores.structures) > 1 else "mean of cases"
    made.append(("Dice", shown(dice.mean if dice else None), _between(dice) or means))
    made.append((f"NSD at {scores.tolerance_mm:g} mm", shown(nsd.mean if nsd else None), _between(nsd) or means))
    made.append(("Missed", str(missed), "structures in the reference alone"))
    made.append(("Extra", str(extra), "structures in the prediction alone"))
    return made


def _between(mean: MacroMean | None) -> str:
    if mean is None or mean.mean_low is None:
        return ""
    return f"{shown(mean.mean_low)} to {shown(mean.mean_high)}"


def _warnings(scores: Scores) -> list[tuple[str, list[str]]]:
    """What a reader must know before the numbers, with the cases that it concerns."""
    found: list[tuple[str, list[str]]] = []
    if not scores.scores:
        found.append(("No case could be scored.", []))
    if scores.failed:
        told = [f"{case}: {reason}" for case, reason in scores.failed.items()]
        found.append((f"{counted(len(told), 'case')} could not be scored as given.", told))
    if missing := list(scores.missing_predictions):
        found.append((f"References without a prediction: {len(missing)}. They count as missed.", missing))
    if lone := list(scores.unpaired_predictions):
        found.append((f"Predictions without a reference: {len(lone)}. They are not scored.", lone))
    cut = sorted({row.case for row in scores.scores if row.touches_border})
    if cut:
        found.append(
            (f"In {counted(len(cut), 'case')} a structure reaches the border of the image and may be cut off.", cut)
        )
    return [(text, [*cases[:MOST_NAMED], *(["..."] if len(cases) > MOST_NAMED else [])]) for text, cases in found]


def _remarks(scores: Scores) -> list[str]:
    remarks = []
    if any(s.metrics[m].mean_low is not None for s in scores.structures for m in s.metrics):
        remarks.append("The second line of a cell is the 95 % interval.")
    if any(s.n_missed or s.n_spurious for s in scores.structures):
        remarks.append(
            "A missed or extra structure counts: its Dice, NSD and boundary F1 are 0, and its distances are the "
            "diagonal of the image."
        )
    if any(s.n_both_empty for s in scores.structures):
        remarks.append("Cases in which neither map holds a structure are left out of its means.")
    if scores.mean_over:
        remarks.append(f"The mean of structures is over: {', '.join(scores.mean_over)}.")
    return remarks


def plots_section(scores: Scores, anchors: Anchors) -> Section:
    """How the scores of the cases are spread, and how they go with volume."""
    spread, volumes = _spread(scores, anchors), _volumes(scores, anchors)
    lead = "Each point is a case; choose it to see its pictures. Within a plot the arrow keys go from point to point."
    return Section(
        "plots",
        "Plots",
        html("evaluation_plots.html", spread=spread, volumes=volumes, agreement=agreement_rows(scores))
        if spread
        else EMPTY,
        lead,
    )


def by_structure(scores: Scores, name: str) -> dict[str, list[StructureScore]]:
    """The rows of each structure that have a value of this metric."""
    found: dict[str, list[StructureScore]] = {s.structure: [] for s in scores.structures}
    for row in scores.scores:
        if row.value(name) is not None:
            found[row.structure].append(row)
    return {structure: rows for structure, rows in found.items() if rows}


def _spread(scores: Scores, anchors: Anchors) -> list[Figure]:
    at = f"{scores.tolerance_mm:g} mm"
    made = []
    for measure, title, says, unit, within in (
        ("dice", "Dice", "Overlap of the volumes; 1 is best.", "", (0.0, 1.0)),
        ("nsd", f"NSD at {at}", f"Share of both surfaces within {at} of the other; 1 is best.", "", (0.0, 1.0)),
        ("hd95_mm", "HD95", "Distance that 95 % of the surface does not exceed, in mm; 0 is best.", "mm", None),
    ):
        groups = {
            name: [Dot(_value(row, measure), row.case, anchors.get(row.case, "cases")) for row in rows]
            for name, rows in by_structure(scores, measure).items()
        }
        if groups:
            made.append(strips(title, says, groups, unit, within))
    return made


def _value(row: StructureScore, name: str) -> float:
    value = row.value(name)
    return math.nan if value is None else value


def _volumes(scores: Scores, anchors: Anchors) -> list[Figure]:
    dice, agree = {}, {}
    for name, rows in by_structure(scores, "dice").items():
        held = [row for row in rows if row.volume_ref_ml > 0]
        dice[name] = [Spot(r.volume_ref_ml, _value(r, "dice"), r.case, anchors.get(r.case, "cases")) for r in held]
        agree[name] = [
            Spot(
                (r.volume_ref_ml + r.volume_pred_ml) / 2,
                r.volume_pred_ml - r.volume_ref_ml,
                r.case,
                anchors.get(r.case, "cases"),
            )
            for r in rows
        ]
    dice = {name: spots for name, spots in dice.items() if spots}
    if not dice:
        return []
    says = "Small structures lose more by the same error of their boundary."
    made = [scatter("Dice against volume", says, dice, "volume of the reference, ml", "Dice", True, (), (0.0, 1.0))]
    says, levels = _agreement(scores)
    made.append(
        scatter(
            "Agreement of volumes (Bland-Altman)",
            says,
            agree,
            "mean of both volumes, ml",
            "prediction \u2212 reference, ml",
            False,
            levels,
        )
    )
    return made


def _agreement(scores: Scores) -> tuple[str, tuple[Level, ...]]:
    """Bias and limits of agreement of a structure that is alone; of several the table below the plot tells them."""
    zero = Level(0.0, "", "zero")
    if len(scores.agreement) != 1:
        return "Bias and limits of agreement of each structure stand below.", (zero,)
    of = scores.agreement[0]
    if of.loa_low_ml is None or of.loa_high_ml is None:
        return "Too few cases for limits of agreement.", (zero,)
    low, high = shown(of.loa_low_ml, 2), shown(of.loa_high_ml, 2)
    says = f"Bias {shown(of.bias_ml, 2)} ml; 95 % of differences lie between {low} and {high} ml."
    bias = Level(of.bias_ml, f"bias {shown(of.bias_ml, 2)}", "bias")
    return says, (zero, bias, Level(of.loa_low_ml, low), Level(of.loa_high_ml, high))


def agreement_rows(scores: Scores) -> list[tuple[str, list[Cell]]]:
    """Agreement of volumes, a row a structure."""
    return [
        (
            of.structure,
            [
                cell(of.bias_ml, 2, _range(of.bias_interval)),
                cell(of.loa_low_ml, 2, _range(of.loa_low_interval)),
                cell(of.loa_high_ml, 2, _range(of.loa_high_interval)),
                cell(of.ccc, 3),
                cell(of.slope, 3, _range(of.slope_interval, 3)),
            ],
        )
        for of in scores.agreement
    ]


def _range(interval: tuple[float, float] | None, digits: int = 2) -> str:
    return f"{shown(interval[0], digits)} to {shown(interval[1], digits)}" if interval else ""
