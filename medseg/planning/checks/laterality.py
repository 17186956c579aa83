"""Left and right: a case whose structures, or whose scan, lie on the other side than in all others.

A measure of laterality changes its sign, and nothing else, where a case is mirrored: a structure's offset from the
middle of the scan, the distance of two structures that are named after their side, how much better a scan fits the
others than its mirror image does. Measures that have one sign in nearly all cases tell where a case is mirrored;
others, as the place of a lung nodule, tell nothing.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from medseg.imaging.finding import Finding
from medseg.planning.fingerprint import CaseFingerprint
from medseg.planning.scan_values import thumbnail_of
from medseg.planning.sides import LEFT, RIGHT, words

Floats = npt.NDArray[np.float64]

FEWEST = 5  # cases that tell on which side a structure lies
FEWEST_SCANS = 8  # and scans that tell how one looks
HELPFUL = 2.0  # robust standard deviations from the middle: measures that count among others
ONE_SIDED = 3.5  # and such that tell enough alone, or taken together
AGREE = 0.8  # of the cases are on the same side
CHANCE = 0.05  # that as many are where either side is as likely, as for a tumour
CLEAR = 5.0  # robust standard deviations from where the others are
AS_FAR = 0.6  # of their distance from the middle, on the other side
LEAST_SPREAD, LEAST_SPREAD_MM = 0.02, 1.0
MOST_NAMED = 5

Verdict = Literal["mirrored", "not", "unknown"]

MIRRORED: Mapping[Verdict, str] = {  # what is mirrored if the structures are, by what the scan looks like
    "mirrored": "scan and label are mirrored",
    "not": "its label is mirrored, its scan is not",
    "unknown": "it is mirrored, or its label alone",
}


@dataclass(frozen=True)
class Sides:
    """What measures of laterality say of each case: mirrored (1), not (0), or nothing for certain (NaN).

    places: each structure on its own (cases, structures). twins: the order of two that are named after their side
    (cases, twins). structures: all of these together (cases,). scans: the scan, whatever its label (cases,).
    """

    places: Floats
    twins: Floats
    structures: Floats
    scans: Floats


def swapped_sides(cases: Sequence[CaseFingerprint], names: Mapping[int, str]) -> Iterator[Finding]:
    """Cases that are mirrored, as a whole or their label or scan alone, and structures that changed places."""
    twins = twins_by_name(names)
    found = list(_beside_others(cases, names, twins))
    yield from found
    yield from _against_their_names(cases, names, twins, {finding.case for finding in found})


def _beside_others(
    cases: Sequence[CaseFingerprint], names: Mapping[int, str], twins: Sequence[tuple[int, int]]
) -> Iterator[Finding]:
    sides = sides_of(cases, list(names), twins)
    for k, case in enumerate(cases):
        label, scan = _verdict(sides.structures[k]), _verdict(sides.scans[k])
        if label == "mirrored":
            names_too = ", or its names of left and right are exchanged" if twins and scan != "mirrored" else ""
            yield _finding(case.case, MIRRORED[scan] + names_too + _wrong(case, sides.places[k], names))
        elif scan == "mirrored":
            but = ", while its label lies as that of the others" if label == "not" else ""
            yield _finding(case.case, f"the scan looks mirrored{but}")
        else:
            yield from _of_structures(case, sides.places[k], sides.twins[k], names, twins)


def _verdict(said: float) -> Verdict:
    return "unknown" if np.isnan(said) else "mirrored" if said else "not"


def _finding(case: str, what: str) -> Finding:
    todo = "compare it with its source: an axis or the names of two structures may be turned round"
    return Finding(case=case, code="side", what=what, how_bad="suspect", todo=todo)


def _wrong(case: CaseFingerprint, places: Floats, names: Mapping[int, str]) -> str:
    """The structures that lie clearly on the wrong side, if any does on its own."""
    wrong = [value for value, said in zip(names, places, strict=True) if said == 1]
    listed = ", ".join(f"{names[value]} on the {_side(case, value)}" for value in wrong[:MOST_NAMED])
    return f": {listed}, in the others on the other side" if listed else ""


def _side(case: CaseFingerprint, value: int) -> str:
    (place,) = (s.centre[0] for s in case.structures if s.value == value)
    return "left" if place < 0.5 else "right"


def _of_structures(
    case: CaseFingerprint,
    places: Floats,
    orders: Floats,
    names: Mapping[int, str],
    twins: Sequence[tuple[int, int]],
) -> Iterator[Finding]:
    """Single structures on the wrong side of a case that is not mirrored."""
    wrong = {value for value, said in zip(names, places, strict=True) if said == 1}
    for (left, right), said in zip(twins, orders, strict=True):
        if said == 1 or {left, right} <= wrong:
            yield _finding(case.case, f"{names[left]} and {names[right]} changed places")
            wrong -= {left, right}
    for value in sorted(wrong):
        what = f"{names[value]} lies on the {_side(case, value)}, in the others on the other side"
        yield _finding(case.case, what)


def _against_their_names(
    cases: Sequence[CaseFingerprint], names: Mapping[int, str], twins: Sequence[tuple[int, int]], told: Collection[str]
) -> Iterator[Finding]:
    """Names that tell left from right and are wrong: in most cases, or in few that are not `told` of already."""
    wrong: dict[str, tuple[int, int]] = {}
    having = 0
    for case in cases:
        place = {s.value: s.centre[0] for s in case.structures}
        both = [(left, right) for left, right in twins if left in place and right in place]
        having += bool(both)
        if both and all(place[left] > place[right] for left, right in both):
            wrong[case.case] = both[0]
    if len(wrong) > having / 2:
        left, right = next(iter(wrong.values()))
        what = f"in {len(wrong)} of {having} cases {names[left]} lies to the right of {names[right]}"
        yield _finding("", what)
    elif len(wrong) <= max(1, (1 - AGREE) * having):
        for name_of_case, (left, right) in ((name, pair) for name, pair in wrong.items() if name not in told):
            yield _finding(name_of_case, f"{names[left]} lies to the right of {names[right]}")


# --- measures --------------------------------------------------------------------------------------------------------


def sides_of(cases: Sequence[CaseFingerprint], values: Sequence[int], twins: Sequence[tuple[int, int]] = ()) -> Sides:
    """What every measure of laterality says of every case."""
    column = {value: k for k, value in enumerate(values)}
    places = np.full((len(cases), len(values)), np.nan)
    for row, case in enumerate(cases):
        for structure in case.structures:
            if structure.value in column:
                places[row, column[structure.value]] = structure.centre[0] - 0.5
    width_mm = np.array([c.cropped[0] * c.spacing_mm[0] for c in cases])
    orders = np.full((len(cases), len(twins)), np.nan)
    for k, (left, right) in enumerate(twins):
        orders[:, k] = (places[:, column[right]] - places[:, column[left]]) * width_mm
    together, expected, measures = _together((places, LEAST_SPREAD), (orders, LEAST_SPREAD_MM))
    alone = measures == 1 and not twins
    return Sides(
        places=_said(places, LEAST_SPREAD, FEWEST, by_chance=True),
        twins=_said(orders, LEAST_SPREAD_MM, FEWEST),
        structures=_said(together[:, None], expected, FEWEST, by_chance=alone)[:, 0],
        scans=_said(scan_sides(cases)[:, None], LEAST_SPREAD, FEWEST_SCANS, by_chance=True)[:, 0],
    )


def _together(*parts: tuple[Floats, float]) -> tuple[Floats, float, int]:
    """All measures as one (cases,): about 1 where a case lies as the others, -1 where mirrored.

    Also its least spread, and how many measures are in it.

    Their mean, each divided by its median and weighted by how many spreads that is from 0, squared.
    """
    total = np.zeros(len(parts[0][0]))
    weights, counted = np.zeros(len(total)), 0
    for measures, least_spread in parts:
        for values in measures.T:
            middle, spread, _ = _usual(values, least_spread, FEWEST)
            if abs(middle) >= HELPFUL * spread:
                weight = (middle / spread) ** 2 * ~np.isnan(values)
                total += weight * np.nan_to_num(values) / middle
                weights += weight
                counted += 1
    together = np.where(weights > 0, total / np.maximum(weights, 1e-9), np.nan)
    weight_of_most = float(np.median(weights)) if weights.size else 0.0
    return together, weight_of_most**-0.5 if weight_of_most > 0 else 1.0, counted


def scan_sides(cases: Sequence[CaseFingerprint]) -> Floats:
    """By how much each scan (cases,) correlates better with all others than its mirror image does."""
    if len(cases) < FEWEST_SCANS or not all(case.whole for case in cases):
        return np.full(len(cases), np.nan)
    ranks = np.array([thumbnail_of(case.whole[0]) for case in cases])
    ranks -= ranks.mean(axis=(1, 2, 3), keepdims=True)
    ranks /= np.maximum(np.sqrt((ranks**2).sum(axis=(1, 2, 3), keepdims=True)), 1e-9)
    others = (ranks.sum(axis=0) - ranks) / (len(cases) - 1)
    return np.asarray(((ranks - ranks[:, ::-1]) * others).sum(axis=(1, 2, 3)))


def _said(measures: Floats, least_spread: float, fewest: int, by_chance: bool = False) -> Floats:
    """For measures (cases, k) that are one-sided, whether each case is on the other side; NaN where none can tell.

    by_chance: nothing but the cases says that a measure is one-sided, so it must not seem so by chance.
    """
    said = np.full(measures.shape, np.nan)
    for k, values in enumerate(measures.T):
        middle, spread, agree = _usual(values, least_spread, fewest)
        sure = not by_chance or _chance(agree, int(np.count_nonzero(~np.isnan(values)))) <= CHANCE
        if abs(middle) >= ONE_SIDED * spread and agree >= AGREE and sure:
            along = values * np.sign(middle)
            mirrored = (along <= -AS_FAR * abs(middle)) & (np.abs(values - middle) > CLEAR * spread)
            said[:, k] = np.where(mirrored, 1.0, np.where(along >= AS_FAR * abs(middle), 0.0, np.nan))
    return said


def _chance(agree: float, n: int) -> float:
    """The probability that of `n` cases as many or more are on one side, whichever, if either is as likely."""
    others = n - round(agree * n)
    return min(1.0, 2.0 * sum(math.comb(n, k) for k in range(others + 1)) / 2**n) if n else 1.0


def _usual(values: Floats, least_spread: float, fewest: int) -> tuple[float, float, float]:
    """Median, robust standard deviation, and the share of cases on the median's side; 0, 1, 0 for too few cases."""
    known = values[~np.isnan(values)]
    if known.size < fewest:
        return 0.0, 1.0, 0.0
    middle = float(np.median(known))
    spread = max(1.4826 * float(np.median(np.abs(known - middle))), least_spread)
    few = 1 + 3 / known.size  # the spread of few cases is often found too small
    return middle, spread * few, float(np.mean(np.sign(known) == np.sign(middle)))


def twins_by_name(names: Mapping[int, str]) -> tuple[tuple[int, int], ...]:
    """Values (left, right) of structures whose names differ in the side alone: kidney_left, Right Kidney."""
    told: dict[tuple[str, ...], dict[str, int]] = {}
    for value, name in names.items():
        said = words(name)
        side = "left" if LEFT & said else "right" if RIGHT & said else ""
        if side:
            told.setdefault(tuple(sorted(said - LEFT - RIGHT)), {})[side] = value
    return tuple((both["left"], both["right"]) for both in told.values() if len(both) == 2)
