"""What several evaluations have in common: the same cases and structures, measured in the same way, as tables."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from medseg.errors import InputError
from medseg.evaluation.metrics import Group, Metric, base, metric
from medseg.evaluation.records import Scores
from medseg.evaluation.score import StructureScore, measured
from medseg.evaluation.statistics import Floats, Integers, patients_of

MOST_NAMED = 5
_SAME_VOLUME = 1e-6  # share
_BOUNDARIES: tuple[Group, ...] = ("distance", "boundary")

_Rows = Mapping[tuple[str, str], StructureScore]


@dataclass(frozen=True, slots=True)
class Common:
    """Values by metric as (methods, cases, structures): infinite where missed, NaN where a structure is nowhere.

    diagonals_mm (cases): what an infinite distance counts as in a mean. whose (cases): the index of the patient.
    counted: which structures the mean over structures is over. left: what was left out, a line each.
    """

    names: tuple[str, ...]
    metrics: tuple[Metric, ...]
    cases: tuple[str, ...]
    structures: tuple[str, ...]
    counted: NDArray[np.bool_]
    values: Mapping[str, Floats]
    diagonals_mm: Floats
    patients: Mapping[str, int]
    whose: Integers
    left: tuple[str, ...]

    def finite(self, name: str) -> Floats:
        """A metric's values with an infinite distance as the diagonal of its image."""
        values = self.values[name]
        return np.where(np.isinf(values), self.diagonals_mm[None, :, None], values)


def in_common(of: Mapping[str, Scores], metrics: Sequence[str]) -> Common:
    """Tables of the cases and structures that all evaluations have.

    A structure that one method rightly leaves empty, where another finds what is not there, counts as perfect for it: a
    spurious structure is not forgiven. A row that a method lacks is such an empty one.

    Raises:
        InputError: they have no case or structure in common, were measured in different ways, against different
            references or with other patients, or lack a metric.
    """
    wanted = _wanted(of, metrics)
    every = list(of.values())
    cases = _shared([row.case for row in scores.scores] for scores in every)
    structures = _shared([row.structure for row in scores.scores] for scores in every)
    if not cases or not structures:
        what = "case" if not cases else "structure"
        raise InputError(f"{' and '.join(of)} have no {what} in common", fix="compare evaluations of the same cases")
    _refuse_unequal(of, wanted, structures)
    rows = {name: {(row.case, row.structure): row for row in scores.scores} for name, scores in of.items()}
    _refuse_other_references(rows, cases, structures)
    patients = _patients(of, cases)
    over = every[0].mean_over if len({scores.mean_over for scores in every}) == 1 else ()
    counted = np.array([not over or name in over for name in structures])
    return Common(
        names=tuple(of),
        metrics=wanted,
        cases=tuple(cases),
        structures=tuple(structures),
        counted=counted if counted.any() else np.ones_like(counted),
        values={one.name: _table(rows, one, cases, structures) for one in wanted},
        diagonals_mm=np.array([every[0].diagonals_mm[case] for case in cases]),
        patients=patients,
        whose=patients_of(cases, patients),
        left=tuple(_left(of, cases, structures)),
    )


def _wanted(of: Mapping[str, Scores], metrics: Sequence[str]) -> tuple[Metric, ...]:
    """The metrics that were asked for, which all have; `hd95` may stand for `hd95_mm`."""
    have = {name: {one.name: one for one in measured(scores.scores)} for name, scores in of.items()}
    usable = [name for name, one in next(iter(have.values())).items() if one.better in ("higher", "lower")]
    found: dict[str, Metric] = {}
    for asked in metrics:
        name = asked if metric(asked) else f"{asked}_mm"
        known = metric(name)
        if known is None:
            raise InputError(f"there is no metric {asked}", fix=f"choose from {', '.join(usable)}")
        if known.better not in ("higher", "lower"):
            what = f"of {name}, neither more nor less is better"
            raise InputError(what, fix=f"choose from {', '.join(usable)}")
        lack = [method for method, theirs in have.items() if name not in theirs]
        if lack:
            raise InputError(f"{name} was not measured in {', '.join(lack)}", fix="evaluate it again, in the same way")
        found[name] = known
    if not found:
        raise InputError("no metric to compare by", fix=f"choose from {', '.join(usable)}")
    return tuple(found.values())


def _shared(of_each: Iterable[Iterable[str]]) -> list[str]:
    """What is in all of them, in the order of the first."""
    first, *others = ([*dict.fromkeys(own)] for own in of_each)
    sets = [set(own) for own in others]
    return [one for one in first if all(one in own for own in sets)]


def _refuse_unequal(of: Mapping[str, Scores], metrics: Sequence[Metric], structures: Sequence[str]) -> None:
    """By what changes the values of these metrics; says the first in which any differs from the first evaluation."""
    ways = {name: dict(_ways(scores, metrics, structures)) for name, scores in of.items()}
    name, *others = ways
    for other in others:
        for what, ours in ways[name].items():
            theirs = ways[other][what]
            if ours != theirs:
                said = f"{what} is {ours} in {name} and {theirs} in {other}: the numbers cannot be compared"
                raise InputError(said, fix="evaluate both in the same way")


def _ways(scores: Scores, metrics: Sequence[Metric], structures: Sequence[str]) -> Iterator[tuple[str, str]]:
    settings = scores.settings
    yield "the rule for structures in neither map", settings.both_empty
    if any(one.group in _BOUNDARIES for one in metrics):
        yield "the surface", scores.surface
        yield "the rule for surface on the border of the image", settings.fov_faces
    if any(one.at_tolerances and one.at_mm is None for one in metrics):
        for name in structures:
            yield f"the tolerance of {name}", f"{_tolerance_mm(scores, name):g} mm"
    if any(one.name == "boundary_iou" for one in metrics):
        yield "the depth of Boundary IoU", f"{settings.boundary_iou_mm:g} mm"
    if any(one.group == "lesions" for one in metrics):
        yield "the least lesion", f"{settings.min_lesion_mm3:g} mm3"
        yield "the IoU of a hit", f"{settings.lesion_iou:g}"
    for one in metrics:
        yield f"the version of {one.name}", str(_version(scores, one))


def _tolerance_mm(scores: Scores, structure: str) -> float:
    """The main one; scores of the first version tell it once for all."""
    return scores.tolerance_mm if scores.version == 1 else scores.settings.tolerances(structure)[0]


def _version(scores: Scores, of: Metric) -> int:
    meant = scores.metrics.get(of.name) or scores.metrics.get(base(of))
    return meant.version if meant else 1


def _refuse_other_references(rows: Mapping[str, _Rows], cases: Sequence[str], structures: Sequence[str]) -> None:
    """By the volume of each structure in the reference, which every evaluation tells."""
    name, *others = rows
    for key in ((case, structure) for case in cases for structure in structures):
        ours = _reference_ml(rows[name], key)
        for other in others:
            theirs = _reference_ml(rows[other], key)
            if not math.isclose(ours, theirs, rel_tol=_SAME_VOLUME):
                volumes = f"{ours:.3f} ml in {name} and {theirs:.3f} ml in {other}"
                what = f"the references differ: {key[1]} has {volumes}"
                raise InputError(what, key[0], "evaluate both against the same references")


def _reference_ml(rows: _Rows, key: tuple[str, str]) -> float:
    return rows[key].volume_ref_ml if key in rows else 0.0


def _patients(of: Mapping[str, Scores], cases: Sequence[str]) -> dict[str, int]:
    """As the first evaluation that knows of patients has it.

    Raises:
        InputError: another puts cases together in another way.
    """
    told = {name: scores.patients for name, scores in of.items() if any(case in scores.patients for case in cases)}
    if not told:
        return {}
    name, *others = told
    for other in others:
        if patients_of(cases, told[name]).tolist() != patients_of(cases, told[other]).tolist():
            what = f"{name} and {other} do not agree which cases are of one patient"
            raise InputError(what, fix="evaluate both with the same metadata")
    return {case: told[name][case] for case in cases if case in told[name]}


def _table(rows: Mapping[str, _Rows], of: Metric, cases: Sequence[str], structures: Sequence[str]) -> Floats:
    """(methods, cases, structures)."""
    perfect = 1.0 if of.better == "higher" else 0.0
    found = np.full((len(rows), len(cases), len(structures)), np.nan)
    for at_case, case in enumerate(cases):
        for at, structure in enumerate(structures):
            own = [of_method.get((case, structure)) for of_method in rows.values()]
            found[:, at_case, at] = _values(own, of.name, perfect)
    return found


def _values(rows: Sequence[StructureScore | None], name: str, perfect: float) -> list[float]:
    """Of all methods, or of none: one that rightly finds nothing is perfect beside one that finds something."""
    values = [row.value(name) if row is not None else None for row in rows]
    empty = [row is None or row.status == "both_empty" for row in rows]
    filled = [perfect if value is None and is_empty else value for value, is_empty in zip(values, empty, strict=True)]
    known = [value for value in filled if value is not None]
    if len(known) < len(filled) or all(value is None for value in values):
        return [math.nan] * len(rows)
    return known


def _left(of: Mapping[str, Scores], cases: Sequence[str], structures: Sequence[str]) -> Iterator[str]:
    for what, kept, own in (
        ("case", cases, lambda scores: {row.case for row in scores.scores} | scores.failed.keys()),
        ("structure", structures, lambda scores: {row.structure for row in scores.scores}),
    ):
        others = sorted(set().union(*map(own, of.values())) - set(kept))
        if others:
            more = ", ..." if len(others) > MOST_NAMED else ""
            yield f"{len(others)} {what}(s) are not in all and left out: {', '.join(others[:MOST_NAMED])}{more}"
