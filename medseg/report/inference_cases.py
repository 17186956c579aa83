"""The cases of a page of predictions: the list, those to look at first before the others, and a panel of each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from markupsafe import Markup

from medseg.inference.records import Prediction
from medseg.inference.trust.records import StructureTrust
from medseg.report.cells import Cell, Column, cell, plain, shown
from medseg.report.inference_pictures import UNSURE, Drawn
from medseg.report.montage import STRUCTURES
from medseg.report.page import Panel, html
from medseg.report.svg import MINUS
from medseg.report.unusual import FAR

PRINTED: Final = 12  # cases whose pictures are printed: those to look at first
FEW: Final = 6  # structures that have a column of their own in the list
UNUSUAL: Final = 0.5  # that a volume far from the others adds to a case's concern: half of an unfamiliar scan's
MOST_NAMED: Final = 2  # remarks of a case in the list
STATES: Final = (
    ("look", "to look at"),
    ("unlike", "unlike the training scans"),
    ("doubtful", "a structure is doubtful"),
    ("unusual", "an unusual volume"),
    ("cut", "cut by the field of view"),
    ("warned", "with a warning"),
)


@dataclass(frozen=True, slots=True)
class Seen:
    """A case as the page has it; `number` is its rank, that to look at first is 0.

    z: by structure, how far its volume lies from those of the other cases (see `unusual.robust_z`). parts: by
    structure, the number of its separate parts, where they were numbered.
    """

    of: Prediction
    number: int
    z: Mapping[str, float]
    parts: Mapping[str, int]

    @property
    def anchor(self) -> str:
        """Its address on the page: a case's name may hold anything."""
        return f"case-{self.number + 1}"

    @property
    def far(self) -> dict[str, float]:
        """Structures whose volume is unusual, the most unusual first."""
        found = {name: z for name, z in self.z.items() if abs(z) > FAR}
        return dict(sorted(found.items(), key=lambda one: -abs(one[1])))

    @property
    def concern(self) -> float:
        """How much the case asks to be looked at."""
        return self.of.concern + (UNUSUAL if self.far else 0.0)

    @property
    def states(self) -> tuple[str, ...]:
        """What the list is filtered by."""
        held = {
            "unlike": self.of.odd,
            "doubtful": any(one.look for one in self.of.trust),
            "unusual": self.far,
            "cut": self.of.cut,
            "warned": self.of.warnings,
        }
        found = [state for state, holds in held.items() if holds]
        return ("look", *found) if found else ()

    @property
    def look_at(self) -> tuple[str, ...]:
        """What to look at, in words, the most important first."""
        words = tuple(f"{name}: {_unusual(z)}" for name, z in self.far.items())
        return (*self.of.look_at, *words)


def _unusual(z: float) -> str:
    side = "larger" if z > 0 else "smaller"
    return f"its volume is {side} than in the other cases of this folder (z {signed(z)})"


def signed(z: float) -> str:
    """A z-score with its sign."""
    return f"{MINUS if round(z, 1) < 0 else '+'}{abs(z):.1f}"


def case_list(cases: Sequence[Seen], structures: Sequence[str], panels: int, remarks: Sequence[str]) -> Markup:
    """The list that sorts and filters; the first `panels` cases have a part of the page."""
    few = len(structures) <= FEW
    states = {state for one in cases for state in one.states}
    rows = [
        {
            "name": one.of.case,
            "anchor": one.anchor,
            "linked": one.number < panels,
            "states": " ".join(one.states),
            "cells": _overall(one),
            "volumes": [_volume(one, name) for name in structures] if few else [],
            "parts": sum(one.parts.values()) if one.parts else "",
            "said": one.look_at[:MOST_NAMED],
            "more": max(0, len(one.look_at) - MOST_NAMED),
        }
        for one in cases
    ]
    return html(
        "inference_cases.html",
        rows=rows,
        states=[word for word in STATES if word[0] in states],
        structures=structures,
        volumes=structures if few else (),
        parts=any(one.parts for one in cases),
        remarks=remarks,
    )


def _overall(one: Seen) -> tuple[Cell, ...]:
    """Of all structures: the lowest Dice to expect with its interval, the lowest of the others, the farthest volume."""
    known = [t for t in one.of.trust if t.predicted_dice is not None]
    worst = min(known, key=lambda t: t.predicted_dice or 0.0, default=None)
    z = max(one.z.values(), key=abs, default=None)
    return (
        cell(worst.predicted_dice if worst else None, 2),
        _between(worst),
        cell(_least(t.confidence for t in one.of.trust), 2),
        cell(_least(t.agreement for t in one.of.trust), 2),
        _z(z),
    )


def _least(values: Any) -> float | None:
    return min((value for value in values if value is not None), default=None)


def _between(of: StructureTrust | None) -> Cell:
    if of is None or of.dice_low is None or of.dice_high is None:
        return Cell("-")
    return Cell(f"{shown(of.dice_low, 2)} to {shown(of.dice_high, 2)}", f"{of.dice_low:.6g}")


def _z(z: float | None) -> Cell:
    """Sorted by how far, on whichever side."""
    return Cell("-") if z is None else Cell(signed(z), f"{abs(z):.6g}")


def _volume(one: Seen, name: str) -> dict[str, Any]:
    z = one.z.get(name)
    more = f"z {signed(z)}" if z is not None else ""
    return {"cell": cell(one.of.volumes_ml.get(name), 2, more), "bad": z is not None and abs(z) > FAR}


def case_values(cases: Sequence[Seen], structures: Sequence[str]) -> dict[str, Any]:
    """For the choice of a structure: of each case by its anchor the cells of each structure by its number."""
    made: dict[str, dict[int, list[Any]]] = {}
    for one in cases:
        trust = {t.structure: t for t in one.of.trust}
        made[one.anchor] = {
            n: [plain(c) for c in _of_structure(trust.get(name), one.z.get(name))]
            for n, name in enumerate(structures)
            if name in one.of.volumes_ml
        }
    return {"cases": made}


def _of_structure(of: StructureTrust | None, z: float | None) -> tuple[Cell, ...]:
    if of is None:
        return (Cell("-"),) * 4 + (_z(z),)
    return cell(of.predicted_dice, 2), _between(of), cell(of.confidence, 2), cell(of.agreement, 2), _z(z)


def panel(one: Seen, picture: Drawn) -> Panel:
    """One case: what to look at, the controls of its rating, its pictures, and a table of its structures."""
    return Panel(
        anchor=one.anchor,
        name=one.of.case,
        head=html("inference_case_head.html", look_at=one.look_at, anchor=one.anchor, name=one.of.case),
        body=_table(one),
        scene=picture.scene.as_json() if picture.scene else "",
        montage=picture.montage,
        montage_size=picture.size,
        montage_alt=f"Slices of {one.of.case} with the outlines of what was found",
        caption=_caption(picture),
        remark=f"{picture.note[:1].upper()}{picture.note[1:]}." if picture.note else "",
        printed=one.number < PRINTED,
    )


def _caption(picture: Drawn) -> Markup:
    return html(
        "inference_caption.html",
        structures=picture.structures,
        colours=len(STRUCTURES),
        uncertainty=picture.uncertainty,
        unsure=UNSURE,
        window=picture.window,
    )


def _table(one: Seen) -> Markup:
    trust = {t.structure: t for t in one.of.trust}
    parts = bool(one.parts)
    columns = [
        Column("Dice to expect", _coverage(one.of.trust)),
        Column("Confidence"),
        Column("Agreement"),
        Column("Volume", "ml, with its interval"),
        Column("Volume", "z in this folder"),
        *([Column("Parts")] if parts else []),
    ]
    rows = []
    for name, ml in one.of.volumes_ml.items():
        of, z = trust.get(name), one.z.get(name)
        between = _between(of)
        cells = [
            cell(of.predicted_dice if of else None, 2, between.text if between.sort else ""),
            cell(of.confidence if of else None, 2),
            cell(of.agreement if of else None, 2),
            cell(ml, 2, _volumes_between(of)),
            _z(z),
            *([cell(one.parts.get(name), 0)] if parts else []),
        ]
        rows.append({"name": name, "cells": cells, "bad": bool(of and of.look), "words": of.words if of else ""})
    return html("inference_case.html", columns=columns, rows=rows)


def _coverage(trust: Sequence[StructureTrust]) -> str:
    """How often intervals hold, where all are alike."""
    known = {one.coverage for one in trust if one.coverage is not None}
    return f"with its interval ({100 * known.pop():.0f} %)" if len(known) == 1 else "with its interval"


def _volumes_between(of: StructureTrust | None) -> str:
    if of is None or of.volume_low_ml is None or of.volume_high_ml is None:
        return ""
    return f"{shown(of.volume_low_ml, 2)} to {shown(of.volume_high_ml, 2)}"
