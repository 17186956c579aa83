"""The part of an evaluation's page that tells where the boundary is wrong, over all cases."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import numpy as np

from medseg.evaluation.metrics import at_tolerance
from medseg.evaluation.records import Scores
from medseg.report.boundary import EDGES_MM, Boundary
from medseg.report.cells import shown
from medseg.report.page import Section, html
from medseg.report.pictures import Picture, said
from medseg.report.plots import Figure, Spread, curves, signed_histograms

MOST_PLACES: Final = 12
MOST_SPREADS: Final = 24  # structures in the histogram of distances: those with most beyond the tolerance
Anchors = Mapping[str, str]


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
    same: dict[str, float] = {}
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
