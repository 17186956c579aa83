"""The parts of an evaluation's page that a paper needs: groups of cases, every metric, and how it was measured."""

from __future__ import annotations

from typing import Final

from medseg.evaluation.metrics import in_order, metric
from medseg.evaluation.records import MacroMean, Scores, Stratum, Summary
from medseg.report.cells import Cell, cell, shown
from medseg.report.page import Section, html

_SURFACES: Final = {
    "surfel": "pieces between the voxels, weighted by their size (as DeepMind's surface-distance)",
    "voxel": "centres of border voxels",
    "mesh": "triangles of the surface halfway between inside and outside",
}
_MAIN: Final = (("dice", 3), ("nsd", 3), ("hd95_mm", 1))


def groups_section(scores: Scores) -> Section | None:
    """The scores of each group of cases that the metadata tell of; None where they tell of none."""
    if not scores.strata:
        return None
    tables = []
    for column in dict.fromkeys(one.column for one in scores.strata):
        groups = [one for one in scores.strata if one.column == column]
        tables.append((column, [_group(one) for one in groups], [one.warning for one in groups if one.warning]))
    heads = [found.label for name, _ in _MAIN if (found := metric(name)) is not None]
    lead = "Means over structures, then those of each structure; the second line of a cell is the 95 % interval."
    return Section("groups", "Groups", html("evaluation_groups.html", tables=tables, heads=heads), lead)


def _group(of: Stratum) -> tuple[str, int, list[tuple[str, list[Cell]]]]:
    rows = [("all structures", [_mean(of.means.get(name), digits) for name, digits in _MAIN])]
    if len(of.structures) > 1:
        rows += [(s, [_mean(held.get(name), digits) for name, digits in _MAIN]) for s, held in of.structures.items()]
    return of.value, of.n, rows


def _mean(of: Summary | MacroMean | None, digits: int) -> Cell:
    if of is None:
        return cell(None)
    between = "" if of.mean_low is None else f"{shown(of.mean_low, digits)} to {shown(of.mean_high, digits)}"
    return cell(of.counted_mean, digits, between)


def every_metric(scores: Scores) -> tuple[list[str], list[tuple[str, list[Cell]]]]:
    """Headings and rows of a table with the means of all metrics that have a direction."""
    names = in_order({name for s in scores.structures for name in s.metrics})
    heads = [f"{one.label}{f', {one.unit}' if one.unit else ''}" for one in names]
    digits = [2 if one.unit else 3 for one in names]
    rows = [
        (s.structure, [_mean(s.metrics.get(one.name), n) for one, n in zip(names, digits, strict=True)])
        for s in scores.structures
    ]
    return heads, rows


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
    return Section(
        "methods",
        "Methods",
        html(
            "evaluation_methods.html",
            terms=terms,
            metrics=_meant(scores),
            paragraph=scores.methods.splitlines(),
            every=every_metric(scores),
        ),
    )


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
