from __future__ import annotations

import numpy as np
import pytest

from medseg.planning.checks.outliers import far_off, size_outliers, spacing_outliers, stray_voxels
from medseg.planning.fingerprint import Piece
from tests.planning.check_build import cases, structure

NAMES = {1: "liver", 2: "spleen"}


def varied(n=20, seed=0):
    """Spacings and sizes as a hospital has them."""
    rng = np.random.default_rng(seed)
    made = {}
    for k in range(n):
        x, z = rng.uniform(0.6, 0.95), float(rng.choice([1.0, 1.25, 2.5, 3.0, 5.0]))
        made[k] = {"spacing_mm": (x, x, z), "shape": (512, 512, int(rng.uniform(250, 500) / z))}
    return cases(n, made)


def test_what_hospitals_have_is_no_outlier():
    for seed in range(20):
        found = varied(seed=seed)
        assert list(spacing_outliers(found)) == []
        assert list(size_outliers(found, NAMES)) == []


def test_a_spacing_that_no_other_has():
    odd = [c.model_copy(update={"spacing_mm": (3.5, 3.5, 5.0)}) for c in cases(8)]
    odd[3] = odd[3].model_copy(update={"spacing_mm": (1.0, 1.0, 1.0)})
    (finding,) = spacing_outliers(odd)
    assert (finding.case, finding.code, finding.how_bad) == ("c03", "spacing", "suspect")
    assert "1 x 1 x 1 mm large, those of the others 3.5 x 3.5 x 5 mm" in finding.what
    assert "lost the size" in finding.what


def test_other_voxels_of_a_scan_as_large_as_the_others_are_noted():
    thick = [c.model_copy(update={"shape": (40, 40, 100)}) for c in cases(8)]
    thick[3] = thick[3].model_copy(update={"shape": (40, 40, 18), "spacing_mm": (1.0, 1.0, 5.0)})
    (finding,) = spacing_outliers(thick)
    assert (finding.case, finding.how_bad) == ("c03", "note")
    thick[3] = thick[3].model_copy(update={"shape": (40, 40, 100)})  # the header alone says so
    (finding,) = spacing_outliers(thick)
    assert (finding.case, finding.how_bad) == ("c03", "suspect")


@pytest.mark.parametrize(("n", "found"), [(4, 0), (5, 1)])
def test_few_cases_do_not_tell_what_is_usual(n, found):
    assert len(list(spacing_outliers(cases(n, {0: {"spacing_mm": (4.0, 1.0, 1.0)}})))) == found


def test_what_many_cases_have_is_how_the_data_set_is():
    thick = {k: {"spacing_mm": (1.0, 1.0, 5.0)} for k in range(4)}
    assert list(spacing_outliers(cases(12, thick))) == []
    assert len(list(spacing_outliers(cases(12, {0: thick[0]})))) == 1


def test_a_scan_that_is_much_smaller():
    (finding,) = size_outliers(cases(8, {2: {"shape": (40, 40, 9)}}), NAMES)
    assert (finding.case, finding.what) == ("c02", "the scan measures 9 mm head-foot (others 40)")


def test_a_structure_that_is_much_smaller_or_larger():
    rng = np.random.default_rng(0)
    each = {k: {"structures": (structure(ml=1500 * rng.lognormal(0, 0.25)),)} for k in range(20)}
    assert list(size_outliers(cases(20, each), NAMES)) == []
    each[7] = {"structures": (structure(ml=150),)}
    (finding,) = size_outliers(cases(20, each), NAMES)
    assert (finding.case, finding.how_bad) == ("c07", "suspect")
    assert "liver has 150 ml (others 1" in finding.what
    each[7] = {"structures": (structure(ml=150, touches="S"),)}
    (finding,) = size_outliers(cases(20, each), NAMES)
    assert finding.how_bad == "note"
    assert "reaches the border" in finding.what


def test_lesions_may_have_any_volume():
    rng = np.random.default_rng(0)
    each = {k: {"structures": (structure(ml=rng.lognormal(0, 1.5)),)} for k in range(50)}
    assert list(size_outliers(cases(50, each), NAMES)) == []


def lesions(rng):
    return structure(ml=rng.lognormal(0, 1.0), pieces=int(rng.integers(1, 6)))


def test_two_of_twelve_that_lost_their_spacing():
    odd = [c.model_copy(update={"spacing_mm": (3.5, 3.5, 5.0)}) for c in cases(12)]
    for k in (3, 7):
        odd[k] = odd[k].model_copy(update={"spacing_mm": (1.0, 1.0, 1.0)})
    assert [(f.case, f.how_bad) for f in spacing_outliers(odd)] == [("c03", "suspect"), ("c07", "suspect")]


@pytest.mark.parametrize("n", [5, 6, 8, 12, 30])
def test_few_lesions_of_any_volume_are_seldom_odd(n):
    rng = np.random.default_rng(1)
    sets = [{k: {"structures": (lesions(rng),)} for k in range(n)} for _ in range(200)]
    assert sum(bool(list(size_outliers(cases(n, each), NAMES))) for each in sets) <= 5


@pytest.mark.parametrize("n", [6, 12])
def test_a_seventh_of_a_structure_is_odd_in_few_cases(n):
    rng = np.random.default_rng(0)
    for _ in range(20):
        each = {k: {"structures": (structure(ml=1500 * rng.lognormal(0, 0.1)),)} for k in range(n)}
        each[3] = {"structures": (structure(ml=200),)}
        assert [f.case for f in size_outliers(cases(n, each), NAMES)] == ["c03"]


def with_piece(voxels, away_mm, ml=100.0):
    return {"structures": (structure(ml=ml, pieces=2, small=(Piece(voxels=voxels, away_mm=away_mm),)),)}


def test_stray_voxels():
    (finding,) = stray_voxels(cases(8, {5: with_piece(3, 40.0)}), NAMES)
    assert (finding.case, finding.code) == ("c05", "stray")
    assert finding.what == "liver has 3 voxel(s) 40 mm away from the rest of its 1000"


@pytest.mark.parametrize(
    ("voxels", "away_mm", "ml"),
    [(3, 11.0, 100.0), (30, 40.0, 100.0), (1, 2.5, 0.1)],  # near for its width; too large; three voxels are nothing
)
def test_no_stray_voxels(voxels, away_mm, ml):
    assert list(stray_voxels(cases(8, {5: with_piece(voxels, away_mm, ml)}), NAMES)) == []


def test_a_structure_of_many_parts_has_no_stray_ones():
    lesions = {k: with_piece(3, 40.0) for k in range(4)}
    assert list(stray_voxels(cases(12, lesions), NAMES)) == []
    assert len(list(stray_voxels(cases(40, lesions), NAMES))) == 4


def many_lesions(n, each):
    """Lesions in 1 to 5 parts, of which none is small; `each` replaces some."""
    rng = np.random.default_rng(0)
    parts = {k: {"structures": (structure(pieces=int(rng.integers(1, 6))),)} for k in range(n)}
    return cases(n, {**parts, **each})


@pytest.mark.parametrize("n", [4, 6, 12, 30])
def test_a_small_lesion_among_several_is_not_stray(n):
    assert list(stray_voxels(many_lesions(n, {1: with_piece(3, 40.0)}), NAMES)) == []
    assert list(stray_voxels(many_lesions(n, {1: with_piece(1, 40.0, ml=400.0)}), NAMES)) == []


def test_paired_organs_and_one_that_is_missing_leave_stray_voxels_to_be_found():
    both = {k: {"structures": (structure(pieces=1 if k == 2 else 2),)} for k in range(8)}
    (finding,) = stray_voxels(cases(8, {**both, 5: with_piece(3, 40.0)}), NAMES)
    assert finding.case == "c05"


def test_several_structures_of_a_case_are_one_finding():
    pieces = (Piece(voxels=1, away_mm=50.0),)
    both = tuple(structure(value, pieces=2, small=pieces) for value in (1, 2))
    (finding,) = stray_voxels(cases(8, {0: {"structures": both}}), NAMES)
    assert "liver has" in finding.what
    assert "spleen has" in finding.what


def test_far_off_is_robust():
    values = np.array([1.0, 1.1, 0.9, 1.05, 0.95, 9.0])[:, None]
    assert far_off(values, 0.5)[:, 0].tolist() == [False] * 5 + [True]
    assert not far_off(values, 20).any()
    assert not far_off(values[-4:], 0.5).any()
