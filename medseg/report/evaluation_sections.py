"""The parts of an evaluation's page that tell of all cases: summary, plots, boundary, methods."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from medseg.evaluation.metrics import at_tolerance, metric
from medseg.evaluation.records import MacroMean, Scores, StructureSummary, Summary
from medseg.evaluation.score import StructureScore
from medseg.report.boundary import EDGES_MM, Boundary
from medseg.report.cells import Cell, Column, cell, shown
from medseg.report.page import EMPTY, Section, html
from medseg.report.pictures import Picture, said
from medseg.report.plots import Dot, Figure, Level, Spot, Spread, curves, scatter, signed_histograms, strips

MOST_NAMED: Final = 200  # cases in a list of warnings
MOST_PLACES: Final = 12
MOST_SPREADS: Final = 24  # structures in the histogram of distances: those with most beyond the tolerance
FEWEST: Final = 3  # cases for limits of agreement
WITHIN_LIMITS: Final = 1.96  # standard deviations
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
        Column("Volume difference", "ml", "", "volume_diff_ml", 2),
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


def mean_of(summary: Summary) -> float | None:
    """The mean, of a distance the penalised one."""
    return summary.mean if summary.mean_penalised is None else summary.mean_penalised


def _summed(structure: StructureSummary, column: Column) -> Cell:
    found = structure.metrics.get(column.metric)
    if found is None:
        return cell(None)
    median = column.sub == "median"
    low, high = (found.median_low, found.median_high) if median else (found.mean_low, found.mean_high)
    more = "" if low is None or high is None else f"{shown(low, column.digits)} to {shown(high, column.digits)}"
    return cell(found.median if median else mean_of(found), column.digits, more)


def _macro(mean: MacroMean | None, column: Column) -> str:
    if mean is None or column.sub == "median" or column.metric == "volume_diff_ml":
        return ""
    return shown(mean.mean if mean.mean_penalised is None else mean.mean_penalised, column.digits)


def _figures(scores: Scores) -> list[tuple[str, str, str]]:
    cases = {row.case for row in scores.scores} | set(scores.failed)
    dice, nsd = (scores.mean_over_structures.get(name) for name in ("dice", "nsd"))
    missed, extra = sum(s.n_missed for s in scores.structures), sum(s.n_spurious for s in scores.structures)
    made = [("Cases", str(len(cases)), f"{len(scores.failed)} failed" if scores.failed else "")]
    made.append(("Structures", str(len(scores.structures)), ""))
    means = "mean of structures" if len(scores.structures) > 1 else "mean of cases"
    low, high = _interval(scores)
    made.append(("Dice", shown(dice.mean if dice else None), f"{low} to {high}" if low else means))
    made.append((f"NSD at {scores.tolerance_mm:g} mm", shown(nsd.mean if nsd else None), means))
    made.append(("Missed", str(missed), "structures in the reference alone"))
    made.append(("Extra", str(extra), "structures in the prediction alone"))
    return made


def _interval(scores: Scores) -> tuple[str, str]:
    """Of the mean Dice, where there is one structure alone and somebody gave its interval."""
    of_it = scores.structures[0].metrics.get("dice") if len(scores.structures) == 1 else None
    if of_it is None or of_it.mean_low is None or of_it.mean_high is None:
        return "", ""
    return shown(of_it.mean_low), shown(of_it.mean_high)


def _warnings(scores: Scores) -> list[tuple[str, list[str]]]:
    """What a reader must know before the numbers, with the cases that it concerns."""
    found: list[tuple[str, list[str]]] = []
    if not scores.scores:
        found.append(("No case could be scored.", []))
    if scores.failed:
        told = [f"{case}: {reason}" for case, reason in scores.failed.items()]
        found.append((f"{len(told)} case(s) could not be scored as given.", told))
    if missing := list(scores.missing_predictions):
        found.append((f"{len(missing)} reference(s) have no prediction: they count as missed.", missing))
    if lone := list(scores.unpaired_predictions):
        found.append((f"{len(lone)} prediction(s) have no reference: they are not scored.", lone))
    cut = sorted({row.case for row in scores.scores if row.touches_border})
    if cut:
        found.append((f"In {len(cut)} case(s) a structure reaches the border of the image and may be cut off.", cut))
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
        "plots", "Plots", html("evaluation_plots.html", spread=spread, volumes=volumes) if spread else EMPTY, lead
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
    said_of, levels = _bland_altman([spot.y for spots in agree.values() for spot in spots], len(agree) == 1)
    made.append(
        scatter(
            "Agreement of volumes (Bland-Altman)",
            said_of,
            agree,
            "mean of both volumes, ml",
            "prediction \u2212 reference, ml",
            False,
            levels,
        )
    )
    return made


def _bland_altman(differences: Sequence[float], alone: bool) -> tuple[str, tuple[Level, ...]]:
    """Bias and limits of agreement: the mean difference, and 1.96 standard deviations to either side (Bland 1986)."""
    if len(differences) < FEWEST:
        return "Too few cases for limits of agreement.", (Level(0.0, "", "zero"),)
    bias, reach = float(np.mean(differences)), WITHIN_LIMITS * float(np.std(differences, ddof=1))
    of = "" if alone else " (of all structures together)"
    says = f"Bias {shown(bias, 2)} ml; 95 % of differences lie between {shown(bias - reach, 2)} and "
    says += f"{shown(bias + reach, 2)} ml{of}."
    lines = (Level(bias, f"bias {shown(bias, 2)}", "bias"), Level(bias - reach, shown(bias - reach, 2)))
    return says, (Level(0.0, "", "zero"), *lines, Level(bias + reach, shown(bias + reach, 2)))


def boundary_section(scores: Scores, pictures: Mapping[str, Picture], anchors: Anchors) -> Section:
    """Where the boundary is wrong: at which tolerance, how far and to which side, and in which cases."""
    spreads = spreads_of(scores, pictures)
    figures = [*_against_tolerance(scores)]
    if spreads:
        says = "How far the surfaces lie apart where they differ. Blue: the prediction falls short of the reference. "
        says += "Orange: it reaches beyond. Grey: within the tolerance."
        left = (
            f" Shown: the {MOST_SPREADS} structures with most beyond the tolerance."
            if len(spreads) > MOST_SPREADS
            else ""
        )
        shown_of = dict(list(spreads.items())[:MOST_SPREADS])
        figures.append(signed_histograms("Distance from surface to surface", says + left, EDGES_MM, shown_of))
    body = html(
        "evaluation_boundary.html",
        figures=figures,
        directed=_directed(scores),
        places=_largest(pictures, anchors),
    )
    lead = "A good Dice may hide a boundary that is wrong in one place. Here surfaces are compared, in mm."
    return Section("boundary", "Boundary", body, lead)


def spreads_of(scores: Scores, pictures: Mapping[str, Picture]) -> dict[str, Spread]:
    """The surface distances of each structure over all cases, those with most beyond the tolerance first."""
    counts: dict[str, Any] = {}
    same: dict[str, int] = {}
    for picture in pictures.values():
        for one in picture.boundaries:
            counts[one.structure] = counts.get(one.structure, 0) + np.asarray(one.counts, dtype=float)
            same[one.structure] = same.get(one.structure, 0) + one.same
    made = {name: Spread(same[name], held, scores.settings.tolerances(name)[0]) for name, held in counts.items()}
    return dict(sorted(made.items(), key=lambda item: item[1].parts(EDGES_MM)[1]))


def _against_tolerance(scores: Scores) -> list[Figure]:
    """NSD and boundary F1 at every tolerance that was measured: means of each structure's cases."""
    made = []
    for base, title in (("nsd", "NSD"), ("boundary_f1", "Boundary F1")):
        series = {}
        for structure in scores.structures:
            tolerances = scores.settings.tolerances(structure.structure)
            names = [base, *(at_tolerance(base, mm) for mm in tolerances[1:])]
            found = [(mm, structure.metrics.get(name)) for mm, name in zip(tolerances, names, strict=True)]
            points = sorted((mm, one.mean) for mm, one in found if one is not None and one.mean is not None)
            if len(points) > 1:
                series[structure.structure] = points
        if series:
            says = "Mean of the cases. A line that rises late tells of errors that are far from the boundary."
            made.append(curves(f"{title} against the tolerance", says, series, "tolerance, mm", title, (0.0, 1.0)))
    return made


def _directed(scores: Scores) -> list[tuple[str, str, str]]:
    """Means of the finite cases: an infinite distance has no direction."""
    rows = []
    for s in scores.structures:
        there, back = (s.metrics.get(f"mean_{way}_mm") for way in ("ref_to_pred", "pred_to_ref"))
        if there and back and there.mean is not None and back.mean is not None:
            rows.append((s.structure, shown(there.mean, 2), shown(back.mean, 2)))
    return rows


def _largest(pictures: Mapping[str, Picture], anchors: Anchors) -> list[dict[str, str]]:
    every: list[tuple[str, Boundary]] = [(case, one) for case, p in pictures.items() for one in p.boundaries]
    worst = sorted(every, key=lambda item: (-abs(item[1].largest_mm), item[0]))[:MOST_PLACES]
    return [
        {
            "case": case,
            "anchor": anchors.get(case, ""),
            "structure": one.structure,
            "text": said(one),
            "share": f"{100 * one.beyond:.1f} %",
        }
        for case, one in worst
        if one.largest_mm
    ]


def methods_section(scores: Scores) -> Section:
    """How it was measured."""
    settings = scores.settings
    mm = ", ".join(f"{one:g}" for one in settings.tolerances_mm)
    own = "; ".join(f"{name}: {', '.join(f'{t:g}' for t in each)} mm" for name, each in settings.tolerances_of.items())
    terms = [
        ("Surface", _SURFACES.get(settings.surface, settings.surface)),
        ("Tolerances", f"{mm} mm, the first is the main one{f'; {own}' if own else ''}"),
        (
            "Structures in neither map",
            "count as perfect" if settings.both_empty == "perfect" else "are left out of means",
        ),
        ("Surface on the border of the image", "counts" if settings.fov_faces == "count" else "is left out"),
        (
            "Grid",
            "predictions on another grid are resampled" if settings.resample else "both maps must lie on one grid",
        ),
        ("Sides", "Pictures follow the radiological convention: the patient's right (R) is on their left."),
        (
            "Largest errors",
            "are measured between voxel corners on the surface, below 0 where the prediction falls short",
        ),
    ]
    return Section("methods", "Methods", html("evaluation_methods.html", terms=terms, metrics=_meant(scores)))


def _meant(scores: Scores) -> list[dict[str, str]]:
    """The metrics with their definitions; one that was measured at further tolerances stands once."""
    return [
        {
            "label": meant.label,
            "unit": meant.unit,
            "better": meant.better,
            "definition": meant.definition.replace("R n P", "R \u2229 P").replace("R u P", "R \u222a P"),
        }
        for name, meant in scores.metrics.items()
        if (known := metric(name)) is None or known.at_mm is None
    ]


_SURFACES: Final = {
    "surfel": "pieces between the voxels, weighted by their size (as DeepMind's surface-distance)",
    "voxel": "centres of border voxels",
    "mesh": "triangles of the surface halfway between inside and outside",
}
