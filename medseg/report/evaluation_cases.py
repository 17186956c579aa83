"""The cases of an evaluation's page: the list, worst first, and what stands with the pictures of each."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from markupsafe import Markup

from medseg.evaluation.records import Scores
from medseg.evaluation.score import StructureScore
from medseg.report.cells import Cell, Column, cell, plain
from medseg.report.page import Panel, html
from medseg.report.pictures import Picture
from medseg.report.svg import shortened

PRINTED: Final = 12  # cases whose pictures are printed: the worst
MOST_IN_PANEL: Final = 6  # places named above the pictures of a case
NO_ROOM: Final = "This page has no more room for viewers: "
ON_OWN_PAGE: Final = "the viewer is on the page of the case."
ASK_FOR_PAGES: Final = "medseg evaluate --all-viewers writes a page with one for each case."
_STATUS: Final = {"scored": "scored", "both_empty": "in neither map", "missed": "missed", "spurious": "extra"}
_COLUMNS: Final = (
    Column("Dice", "", "higher", "dice"),
    Column("NSD", "", "higher", "nsd"),
    Column("Boundary F1", "", "higher", "boundary_f1"),
    Column("HD95", "mm", "lower", "hd95_mm", 1),
    Column("ASSD", "mm", "lower", "assd_mm", 2),
    Column("Reference", "ml", "", "volume_ref_ml", 2),
    Column("Prediction", "ml", "", "volume_pred_ml", 2),
    Column("Difference", "ml", "", "volume_diff_ml", 2),
)


@dataclass(frozen=True, slots=True)
class Ranked:
    """A case with its rows; `anchor` is its address on the page, `number` its rank, the worst is 0."""

    case: str
    number: int
    rows: tuple[StructureScore, ...]
    dice: float | None
    nsd: float | None
    failure: str

    @property
    def anchor(self) -> str:
        """Its address on the page: a case's name may hold anything."""
        return f"case-{self.number + 1}"

    @property
    def states(self) -> str:
        """What the list is filtered by."""
        found = {row.status for row in self.rows} - {"both_empty"}
        return " ".join(sorted(found | ({"failed"} if self.failure else set())))


def ranked(scores: Scores) -> list[Ranked]:
    """All cases, the worst first: those that failed, then by mean Dice, then by mean NSD; what has no score is last."""
    rows: dict[str, list[StructureScore]] = {case: [] for case in scores.failed}
    for row in scores.scores:
        rows.setdefault(row.case, []).append(row)
    counted = set(scores.mean_over)
    found = []
    for case, own in rows.items():
        over = [row for row in own if not counted or row.structure in counted]
        dice, nsd = (_mean(row.value(metric) for row in over) for metric in ("dice", "nsd"))
        found.append(Ranked(case, 0, tuple(own), dice, nsd, scores.failed.get(case, "")))
    found.sort(key=lambda one: (not one.failure, _or(one.dice), _or(one.nsd), one.case))
    return [Ranked(one.case, n, one.rows, one.dice, one.nsd, one.failure) for n, one in enumerate(found)]


def _or(value: float | None) -> float:
    return math.inf if value is None else value


def _mean(values: Iterable[float | None]) -> float | None:
    held = [value for value in values if value is not None]
    return math.fsum(held) / len(held) if held else None


def case_list(
    cases: Sequence[Ranked],
    scores: Scores,
    pictures: Mapping[str, Picture],
    panels: set[str],
    links: Mapping[str, str],
    remarks: Sequence[str],
) -> Markup:
    """The list that sorts and filters; `panels`: anchors of cases that are on this page; links: pages of their own."""
    states = {state for one in cases for state in one.states.split()}
    words = (("failed", "failed"), ("missed", "a structure missed"), ("spurious", "an extra structure"))
    rows = [
        {
            "name": one.case,
            "anchor": one.anchor,
            "linked": one.anchor in panels,
            "link": links.get(one.case, ""),
            "states": one.states,
            "failed": bool(one.failure),
            "cells": _overall(one, pictures.get(one.case)),
            "worst": _worst(one),
            "badges": _badges(one),
        }
        for one in cases
    ]
    return html(
        "evaluation_cases.html",
        rows=rows,
        nsd="NSD",
        states=[word for word in words if word[0] in states],
        structures=[s.structure for s in scores.structures],
        remarks=remarks,
    )


def _overall(one: Ranked, picture: Picture | None) -> tuple[Cell, ...]:
    farthest = [row.hd95_mm for row in one.rows if row.hd95_mm is not None]
    largest = [abs(b.largest_mm) for b in picture.boundaries] if picture else []
    hd95 = max(farthest, default=None)
    return cell(one.dice), cell(one.nsd), cell(hd95, 1), cell(max(largest, default=None), 1)


def _worst(one: Ranked) -> str:
    held = [row for row in one.rows if row.dice is not None]
    if not held:
        return "-"
    lowest = min(held, key=lambda row: (row.dice, row.nsd, row.structure))
    return f"{shortened(lowest.structure, 40)} {lowest.dice:.2f}"


def _badges(one: Ranked) -> list[str]:
    counts = {status: sum(row.status == status for row in one.rows) for status in ("missed", "spurious")}
    made = ["failed"] if one.failure else []
    made += [f"{n} {_STATUS[status]}" for status, n in counts.items() if n]
    return made


def case_values(cases: Sequence[Ranked], scores: Scores, pictures: Mapping[str, Picture]) -> dict[str, Any]:
    """For the choice of a structure: of each case by its anchor the cells of each structure by its number."""
    number = {s.structure: n for n, s in enumerate(scores.structures)}
    made: dict[str, dict[int, list[Any]]] = {}
    for one in cases:
        picture = pictures.get(one.case)
        largest = {b.structure: abs(b.largest_mm) for b in picture.boundaries} if picture else {}
        made[one.anchor] = {
            number[row.structure]: [
                plain(cell(row.dice)),
                plain(cell(row.nsd)),
                plain(cell(row.hd95_mm, 1)),
                plain(cell(largest.get(row.structure), 1)),
            ]
            for row in one.rows
            if row.status != "both_empty" and row.structure in number
        }
    return {"cases": made}


def panel(one: Ranked, picture: Picture | None, viewer: bool, link: str, missing: str = "") -> Panel:
    """One case with its pictures; `viewer`: whether there was room for one. missing: why there is no picture."""
    body = html("evaluation_case.html", columns=_COLUMNS, rows=[_row(row) for row in _by_concern(one.rows)])
    if picture is None:
        return Panel(one.anchor, one.case, head=_head(one, ()), body=body, remark=missing, printed=False)
    texts = [place.text for place in picture.places[:MOST_IN_PANEL]]
    if more := len(picture.places) - len(texts):
        texts.append(f"and {more} more")
    remark = "" if viewer else NO_ROOM + (ON_OWN_PAGE if link else ASK_FOR_PAGES)
    return Panel(
        anchor=one.anchor,
        name=one.case,
        head=_head(one, texts, checked=bool(picture.boundaries)),
        body=body,
        scene=picture.scene.as_json() if viewer and picture.scene else "",
        montage=picture.montage,
        montage_size=picture.size,
        montage_alt=f"Slices of {one.case} with the outlines of reference and prediction",
        caption=_caption(picture),
        remark=remark,
        link=link,
        printed=one.number < PRINTED,
    )


def _head(one: Ranked, texts: Sequence[str], checked: bool = False) -> Markup:
    return html("evaluation_case_head.html", reason=one.failure, places=texts, checked=checked)


def _caption(picture: Picture) -> Markup:
    keys = Markup(
        '<span class="key reference"></span>reference, and filled where it alone is (missed). '
        '<span class="key prediction"></span>prediction, and filled where it alone is (extra). White line: both. '
        '<span class="key other"></span>two different structures. R is the patient\u2019s right. '
    )
    shown = f"Shown from {picture.window}." if picture.window else ""
    note = f" {picture.note[:1].upper()}{picture.note[1:]}." if picture.note else ""
    return keys + shown + note


def _by_concern(rows: Sequence[StructureScore]) -> list[StructureScore]:
    return sorted(rows, key=lambda row: (row.status == "both_empty", _or(row.dice), row.structure))


def _row(row: StructureScore) -> dict[str, Any]:
    return {
        "name": row.structure,
        "status": _STATUS[row.status],
        "bad": row.status in ("missed", "spurious"),
        "cells": [cell(row.value(column.metric), column.digits) for column in _COLUMNS],
    }
