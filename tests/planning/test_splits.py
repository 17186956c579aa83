from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medseg.errors import InputError
from medseg.planning.fingerprint import Fingerprint
from medseg.planning.plan import Fold, Splits
from medseg.planning.splits import Patient, check_names, deal, given_splits, read_folds, split
from tests.planning.build import alike, looked_at

HERE = (0.5, 0.5, 0.5)


def cohort(*patients: tuple[int, Sequence[int]]) -> Fingerprint:
    """For each patient the number of cases, and the structures that its first case holds."""
    cases = []
    for number, (n, structures) in enumerate(patients):
        for k in range(n):
            held = dict.fromkeys(structures, HERE) if k == 0 else {}
            case = looked_at(f"p{number:03d}_{k}", centres=held)
            cases.append(case.model_copy(update={"patient": f"patient{number:03d}"}))
    return Fingerprint(cases=tuple(cases))


def check(fingerprint: Fingerprint, made: Splits) -> None:
    """Every case is validated once, and no patient is in both parts of a fold."""
    patient = {c.case: c.patient or c.case for c in fingerprint.cases}
    assert sorted(n for f in made.folds for n in f.validation) == sorted(patient)
    for fold in made.folds:
        assert sorted((*fold.train, *fold.validation)) == sorted(patient)
        assert not {patient[n] for n in fold.train} & {patient[n] for n in fold.validation}
        assert fold.validation


@given(
    st.lists(st.tuples(st.integers(1, 4), st.sets(st.integers(1, 6))), min_size=2, max_size=40),
    st.integers(2, 7),
    st.integers(0, 9),
)
@settings(deadline=None, max_examples=60)
def test_parts_are_of_whole_patients_and_balanced(patients: list[tuple[int, set[int]]], folds: int, seed: int) -> None:
    seen = cohort(*((n, tuple(held)) for n, held in patients))
    made = split(seen, seed, folds)
    check(seen, made)
    assert len(made.folds) == min(folds, len(patients))
    sizes = [len(fold.validation) for fold in made.folds]
    assert max(sizes) - min(sizes) <= max(n for n, _ in patients)
    assert made == split(Fingerprint(cases=seen.cases[::-1]), seed, folds)


@pytest.mark.parametrize("n", [2, 4, 5, 13, 100])
def test_single_cases_are_dealt_evenly(n: int) -> None:
    made = split(alike(n), 0)
    check(alike(n), made)
    sizes = [len(fold.validation) for fold in made.folds]
    assert len(sizes) == min(5, n)
    assert max(sizes) - min(sizes) <= 1


def test_a_structure_that_enough_patients_hold_is_in_every_fold() -> None:
    rng = np.random.default_rng(0)
    for seed in range(60):
        folds, n = int(rng.integers(2, 6)), int(rng.integers(12, 60))
        shares = rng.uniform(0.02, 0.9, 5)
        patients = [(int(rng.integers(1, 4)), [s + 1 for s in range(5) if rng.random() < shares[s]]) for _ in range(n)]
        seen = cohort(*patients)
        holders = Counter(s for _, held in patients for s in held)
        held_by = {c.case: {s.value for s in c.structures} for c in seen.cases}
        for fold in split(seen, seed, folds).folds:
            found = set().union(*(held_by[name] for name in fold.validation))
            assert found >= {s for s, k in holders.items() if k >= folds}, (seed, patients)


def test_a_rare_structure_is_spread_evenly() -> None:
    seen = cohort(*((1, (1, 2) if k < 10 else (1,)) for k in range(50)))
    rare = {c.case for c in seen.cases if len(c.structures) == 2}
    assert [len(rare & set(fold.validation)) for fold in split(seen, 3).folds] == [2] * 5


def test_structures_that_rule_each_other_out_are_dealt_all_the_same() -> None:
    patients = [Patient(str(k), 1, frozenset(held)) for k, held in enumerate([{1, 2}, {1, 2}, {1}, {2, 3}, {3}, {3}])]
    parts = deal(patients, 3, 0)
    assert sorted(p.name for part in parts for p in part) == [p.name for p in patients]
    assert [len(part) for part in parts] == [2, 2, 2]


def test_the_seed_decides() -> None:
    assert split(alike(20), 3) == split(alike(20), 3)
    assert split(alike(20), 3) != split(alike(20), 4)


def test_one_patient_cannot_be_split() -> None:
    assert split(alike(1), 0) == Splits(seed=0, folds=())
    assert split(cohort((3, (1,))), 0).folds == ()


# --- folds that the user gives ---------------------------------------------------------------------------------------


def written(folder: Path, folds: Any) -> Path:
    path = folder / "splits_final.json"
    path.write_text(folds if isinstance(folds, str) else json.dumps(folds), encoding="utf-8")
    return path


def names(n: int) -> list[str]:
    return [f"case{k:03d}" for k in range(n)]


def test_folds_of_nnunet_are_taken_as_they_are(tmp_path: Path) -> None:
    found = read_folds(written(tmp_path, [{"train": ["case001", "case000"], "val": ["case002"]}] * 2))
    check_names(found, names(3))
    made, warnings = given_splits(found, alike(3), 7)
    fold = Fold(train=("case000", "case001"), validation=("case002",))
    assert made == Splits(seed=7, folds=(fold, fold), given=True)
    assert warnings == ["2 case(s) are validated in none of the given folds: case000, case001"]
    other = read_folds(written(tmp_path, [{"train": ["case000"], "val": ["case002"]}]))
    assert other.digest != found.digest


def test_a_name_that_the_data_set_does_not_have_is_refused(tmp_path: Path) -> None:
    found = read_folds(written(tmp_path, [{"train": ["case000", "x1"], "val": ["case001", "x0"]}]))
    with pytest.raises(InputError, match=r"names 2 case\(s\) that the data set does not have: x0, x1; take them out"):
        check_names(found, names(2))


def test_cases_that_are_set_aside_or_left_out_are_told(tmp_path: Path) -> None:
    folds = [{"train": names(9)[2:], "val": ["case000"]}, {"train": ["case000"], "val": [*names(9)[2:], "case009"]}]
    found = read_folds(written(tmp_path, folds))
    made, warnings = given_splits(found, alike(9), 0)  # the tenth is set aside
    assert all("case009" not in fold.validation for fold in made.folds)
    assert warnings == ["1 case(s) are in none of the given folds and are never trained on: case001"]


def test_a_fold_whose_cases_are_all_set_aside_is_told_of(tmp_path: Path) -> None:
    found = read_folds(written(tmp_path, [{"train": ["case009"], "val": names(9)}, {"train": names(9), "val": []}]))
    _, warnings = given_splits(found, alike(9), 0)
    assert "fold 0 cannot be trained: all its cases are set aside" in warnings


def test_a_patient_on_both_sides_is_warned_of(tmp_path: Path) -> None:
    found = read_folds(written(tmp_path, [{"train": ["p000_0", "p001_0"], "val": ["p000_1"]}]))
    _, warnings = given_splits(found, cohort((2, (1,)), (1, (1,))), 0)
    assert warnings[-1] == "fold 0 validates p000_1, of patients that it also trains on: its scores flatter"


@pytest.mark.parametrize(
    ("folds", "words"),
    [
        ("{", "does not hold the folds of a cross-validation"),
        ({"train": [], "val": []}, "does not hold the folds"),
        ([{"train": ["a"]}], "does not hold the folds"),
        ([{"train": [1], "val": ["b"]}], "does not hold the folds"),
        ([], "holds no fold"),
        ([{"train": [], "val": ["a"]}], "fold 0 trains on no case"),
        ([{"train": ["a", "b"], "val": ["b"]}], "fold 0 trains on what it validates: b"),
    ],
)
def test_other_files_are_refused(tmp_path: Path, folds: Any, words: str) -> None:
    with pytest.raises(InputError, match=words):
        read_folds(written(tmp_path, folds))


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there is no such file"):
        read_folds(tmp_path / "none.json")
    with pytest.raises(InputError, match="cannot be read"):
        read_folds(tmp_path)
