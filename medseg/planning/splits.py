"""Folds of the cross-validation: by patient, every structure spread over all folds, or as the user gives them.

Dealing the rarest structure first follows Sechidis et al., "On the stratification of multi-label data", ECML 2011.
"""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from pydantic import ConfigDict, TypeAdapter, ValidationError

from medseg.errors import InputError
from medseg.files import Record
from medseg.planning.fingerprint import Fingerprint
from medseg.planning.plan import Fold, Splits

FOLDS = 5
GIVEN = "splits_final.json"  # nnU-Net's name for folds that a user gives


@dataclass(frozen=True)
class Patient:
    """All that dealing needs to know of a patient: how many cases, and the structures in any of them."""

    name: str
    cases: int
    structures: frozenset[int]


@dataclass
class _Part:
    """The validation part of a fold while it is dealt; `room` counts, by size, the patients that it still takes."""

    room: Counter[int]
    patients: list[Patient] = field(default_factory=list)
    held: Counter[int] = field(default_factory=Counter)

    def take(self, patient: Patient) -> None:
        self.room[patient.cases] -= 1
        self.patients.append(patient)
        self.held.update(patient.structures)

    def swap(self, ours: Patient, theirs: Patient) -> None:
        self.patients[self.patients.index(ours)] = theirs
        self.held.subtract(ours.structures)
        self.held.update(theirs.structures)


def split(fingerprint: Fingerprint, seed: int, folds: int = FOLDS) -> Splits:
    """The folds of the cross-validation; all cases of a patient are in the same part, fewer folds for few patients.

    Each case is validated once, sizes differ by no more than the cases of one patient, and a structure that as many
    patients hold as there are folds is validated in every fold (unless such structures rule each other out).
    """
    cases: dict[str, list[str]] = {}
    structures: dict[str, set[int]] = {}
    for case in fingerprint.cases:
        patient = case.patient or case.case
        cases.setdefault(patient, []).append(case.case)
        structures.setdefault(patient, set()).update(s.value for s in case.structures)
    patients = [Patient(name, len(cases[name]), frozenset(structures[name])) for name in sorted(cases)]
    parts = [{name for p in part for name in cases[p.name]} for part in deal(patients, folds, seed)]
    every = {case.case for case in fingerprint.cases}
    made = (Fold(train=tuple(sorted(every - part)), validation=tuple(sorted(part))) for part in parts)
    return Splits(seed=seed, folds=tuple(made))


def deal(patients: Sequence[Patient], folds: int, seed: int) -> list[list[Patient]]:
    """The patients dealt into at most `folds` parts; none if there are fewer than two patients."""
    folds = min(folds, len(patients))
    if folds < 2:
        return []
    shuffled = [patients[i] for i in np.random.default_rng(seed).permutation(len(patients))]
    parts = [_Part(room) for room in _rooms(shuffled, folds)]
    left = dict.fromkeys(shuffled)
    for structure in _rarest_first(shuffled):
        for patient in [p for p in left if structure in p.structures]:
            _give(patient, structure, parts)
            del left[patient]
    for patient in left:  # those without any structure
        next(part for part in parts if part.room[patient.cases]).take(patient)
    _spread(parts)
    return [part.patients for part in parts]


def _rooms(patients: Sequence[Patient], folds: int) -> list[Counter[int]]:
    """How many patients of each size every part takes: the larger first, each to the part with the fewest cases."""
    rooms: list[Counter[int]] = [Counter() for _ in range(folds)]
    for size in sorted((p.cases for p in patients), reverse=True):
        min(rooms, key=lambda room: sum(n * k for n, k in room.items()))[size] += 1
    return rooms


def _rarest_first(patients: Sequence[Patient]) -> list[int]:
    held = Counter(s for p in patients for s in p.structures)
    return sorted(held, key=lambda s: (held[s], s))


def _give(patient: Patient, structure: int, parts: Sequence[_Part]) -> None:
    """To the part that lacks `structure` most; of several to the one that lacks the patient's others, or has room."""

    def held(part: _Part) -> tuple[int, int, int]:
        return part.held[structure], sum(part.held[s] for s in patient.structures), -part.room.total()

    min((part for part in parts if part.room[patient.cases]), key=held).take(patient)


def _spread(parts: Sequence[_Part]) -> None:
    """Swap patients of one size between parts as long as that lets more structures be in all parts."""
    holders = sum((part.held for part in parts), Counter[int]())
    common = [s for s, n in holders.items() if n >= len(parts)]
    while any(_mended(part, s, common, parts) for part in parts for s in common if not part.held[s]):
        pass


def _mended(part: _Part, structure: int, common: Sequence[int], parts: Sequence[_Part]) -> bool:
    """True if a swap brought `structure` into `part` and leaves fewer gaps than before."""
    for other in (p for p in parts if p.held[structure]):
        for theirs in (p for p in other.patients if structure in p.structures):
            for ours in (p for p in part.patients if p.cases == theirs.cases and p.structures != theirs.structures):
                before = _gaps(part, common) + _gaps(other, common)
                part.swap(ours, theirs)
                other.swap(theirs, ours)
                if _gaps(part, common) + _gaps(other, common) < before:
                    return True
                part.swap(theirs, ours)
                other.swap(ours, theirs)
    return False


def _gaps(part: _Part, common: Sequence[int]) -> int:
    return sum(not part.held[s] for s in common)


# --- folds that the user gives ---------------------------------------------------------------------------------------


class _Given(Record):
    """A fold as nnU-Net writes it."""

    model_config = ConfigDict(extra="ignore")

    train: tuple[str, ...]
    val: tuple[str, ...]


@dataclass(frozen=True)
class GivenFolds:
    """Folds from a file, and a digest of their text: another text is another plan."""

    path: Path
    digest: str
    folds: tuple[Fold, ...]


def read_folds(path: Path) -> GivenFolds:
    """Read nnU-Net's `splits_final.json`: a list of folds, each {"train": [names], "val": [names]}.

    Raises:
        InputError: there is no such file, it is no such list, or a fold trains on what it validates.
    """
    try:
        data = path.read_bytes()
        found = TypeAdapter(list[_Given]).validate_json(data)
    except FileNotFoundError:
        raise InputError("there is no such file", path) from None
    except OSError as error:
        raise InputError(f"cannot be read ({os.strerror(error.errno or 0).lower()})", path) from error
    except ValidationError as error:
        wanted = 'give a list of folds such as [{"train": ["a", "b"], "val": ["c"]}]'
        raise InputError("does not hold the folds of a cross-validation", path, wanted) from error
    folds = tuple(Fold(train=tuple(sorted(set(f.train))), validation=tuple(sorted(set(f.val)))) for f in found)
    for number, fold in enumerate(folds):
        if not fold.train:
            raise InputError(f"fold {number} trains on no case", path, "name cases under train")
        both = set(fold.train) & set(fold.validation)
        if both:
            raise InputError(f"fold {number} trains on what it validates: {_some(both)}", path, "name each case once")
    if not folds:
        raise InputError("holds no fold", path, "leave it out, and medseg makes folds")
    return GivenFolds(path, hashlib.sha256(data).hexdigest(), folds)


def check_names(given: GivenFolds, names: Iterable[str]) -> None:
    """Refuse folds of another data set.

    Raises:
        InputError: a fold names a case that is none of `names`.
    """
    unknown = {n for fold in given.folds for n in (*fold.train, *fold.validation)} - set(names)
    if unknown:
        what = f"names {len(unknown)} case(s) that the data set does not have: {_some(unknown)}"
        raise InputError(what, given.path, "take them out of it, or move it away")


def given_splits(given: GivenFolds, fingerprint: Fingerprint, seed: int) -> tuple[Splits, list[str]]:
    """The user's folds without the cases that are set aside, and warnings: what they leave out, or split."""
    patient = {c.case: c.patient or c.case for c in fingerprint.cases}
    folds = tuple(
        Fold(
            train=tuple(n for n in fold.train if n in patient),
            validation=tuple(n for n in fold.validation if n in patient),
        )
        for fold in given.folds
    )
    warnings = []
    named = {n for fold in folds for n in (*fold.train, *fold.validation)}
    if left := set(patient) - named:
        warnings.append(f"{len(left)} case(s) are in none of the given folds and are never trained on: {_some(left)}")
    never = named - {n for fold in folds for n in fold.validation}
    if never:
        warnings.append(f"{len(never)} case(s) are validated in none of the given folds: {_some(never)}")
    for number, fold in enumerate(folds):
        if not fold.train:
            warnings.append(f"fold {number} cannot be trained: all its cases are set aside")
        both = {patient[n] for n in fold.train} & {patient[n] for n in fold.validation}
        cases = {n for n in fold.validation if patient[n] in both}
        if cases:
            told = f"fold {number} validates {_some(cases)}, of patients that it also trains on: its scores flatter"
            warnings.append(told)
    return Splits(seed=seed, folds=folds, given=True), warnings


def _some(names: Iterable[str]) -> str:
    ordered = sorted(names)
    return ", ".join(ordered[:5]) + (", ..." if len(ordered) > 5 else "")
