from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from medseg.planning.checks.laterality import scan_sides, sides_of, swapped_sides, twins_by_name
from tests.planning.check_build import case, of_structures, seen

NAMES = {1: "liver", 2: "spleen", 3: "aorta"}
BODY = (0.65, 0.3, 0.5)
KIDNEYS = {1: "kidney_left", 2: "kidney_right", 3: "spine"}


def cohort(n=12, at: Sequence[float] = BODY, spread=0.02, seed=0, scan=None):
    """Cases whose structures lie near `at` of the way from left to right; `scan` gives the image of a case."""
    rng = np.random.default_rng(seed)
    made = []
    for k in range(n):
        places = [(float(rng.normal(x, spread)), 0.5, 0.5) for x in at]
        more = {"whole": (seen(scan(k)),)} if scan else {}
        made.append(case(f"c{k:02d}", seed=k, structures=of_structures(places), **more))
    return made


def turned(one, *values):
    """The case with structures (all, unless some are named) on the other side."""
    chosen = values or [s.value for s in one.structures]
    flipped = [
        s.model_copy(update={"centre": (1 - s.centre[0], *s.centre[1:])}) if s.value in chosen else s
        for s in one.structures
    ]
    return one.model_copy(update={"structures": tuple(flipped)})


def lopsided(k):
    """A scan that is bright on its right, with noise of its own."""
    noise = np.random.default_rng(k).normal(0, 1, (16, 16, 16))
    return (noise + np.linspace(0, 3, 16)[:, None, None]).astype(np.float32)


def told(cases, names=NAMES):
    return {f.case: f.what for f in swapped_sides(cases, names)}


def test_nothing_is_on_the_wrong_side():
    for seed in range(30):
        for n in (1, 3, 5, 8, 20):
            assert told(cohort(n, seed=seed)) == {}
    assert told([]) == {}


def test_a_mirrored_case():
    cases = cohort()
    cases[4] = turned(cases[4])
    found = told(cases)
    assert list(found) == ["c04"]
    assert found["c04"].startswith("it is mirrored, or its label alone: liver on the left, spleen on the right")


def test_two_of_twelve():
    cases = cohort()
    for k in (2, 9):
        cases[k] = turned(cases[k])
    assert list(told(cases)) == ["c02", "c09"]


def test_structures_that_are_weak_alone_tell_together():
    names = dict(enumerate("abcd", start=1))
    cases = cohort(40, (0.57, 0.43, 0.57, 0.43))
    cases[4] = turned(cases[4])
    assert list(told(cases, names)) == ["c04"]
    assert told(cases, {1: "a"}) == {}


def test_structures_near_the_middle_or_on_either_side_tell_nothing():
    assert told([turned(c) if k == 3 else c for k, c in enumerate(cohort(12, (0.5, 0.52, 0.5)))]) == {}
    rng = np.random.default_rng(0)
    either = [cohort(1, (float(rng.choice([0.3, 0.7])), 0.5, 0.5), seed=k)[0] for k in range(20)]
    named = [c.model_copy(update={"case": f"c{k}"}) for k, c in enumerate(either)]
    assert told(named) == {}


@pytest.mark.parametrize("n", [5, 6, 8, 10, 20])
def test_a_tumour_of_either_side_is_seldom_on_the_wrong_one(n):
    rng = np.random.default_rng(0)
    alarms = 0
    for k in range(100):
        sides = rng.choice([0.25, 0.75], n)
        one = [
            cohort(1, (float(x),), seed=1000 * k + j)[0].model_copy(update={"case": f"c{j}"})
            for j, x in enumerate(sides)
        ]
        alarms += bool(told(one, {1: "tumour"}))
    assert alarms <= 5


def test_several_structures_tell_together_in_few_cases():
    cases = cohort(6)
    cases[4] = turned(cases[4])
    assert list(told(cases)) == ["c04"]


def test_one_structure_on_the_wrong_side():
    names = dict(enumerate(("liver", "spleen", "stomach", "gallbladder", "heart"), start=1))
    cases = cohort(12, (0.65, 0.3, 0.35, 0.62, 0.4))
    cases[4] = turned(cases[4], 4)
    assert told(cases, names) == {"c04": "gallbladder lies on the left, in the others on the other side"}


def test_twins_that_changed_places():
    names = dict(enumerate(("kidney_left", "kidney_right", "liver", "spleen", "stomach", "heart"), start=1))
    cases = cohort(12, (0.35, 0.65, 0.65, 0.3, 0.35, 0.4))
    cases[4] = turned(cases[4], 1, 2)
    assert told(cases, names) == {"c04": "kidney_left and kidney_right changed places"}


def test_twins_alone_may_be_mirrored_or_renamed():
    cases = cohort(12, (0.35, 0.65, 0.5))
    cases[4] = turned(cases[4], 1, 2)
    assert "names of left and right are exchanged" in told(cases, KIDNEYS)["c04"]


def test_twins_in_too_few_cases_go_by_their_names():
    cases = cohort(3, (0.35, 0.65, 0.5))
    cases[1] = turned(cases[1], 1, 2)
    assert told(cases, KIDNEYS) == {"c01": "kidney_left lies to the right of kidney_right"}


@pytest.mark.parametrize("n", [5, 6, 9])
def test_twins_go_by_their_names_where_places_vary_too_much_to_tell(n):
    cases = cohort(n, (0.4, 0.6, 0.5), spread=0.05)
    assert told(cases, KIDNEYS) == {}
    cases[1] = turned(cases[1], 1, 2)
    assert list(told(cases, KIDNEYS)) == ["c01"]


def test_names_that_are_wrong_everywhere_are_told_once():
    found = told(cohort(12, (0.65, 0.35, 0.5)), KIDNEYS)
    assert found == {"": "in 12 of 12 cases kidney_left lies to the right of kidney_right"}


@pytest.mark.parametrize(
    ("label", "scan", "words"),
    [
        (True, True, "scan and label are mirrored: liver on the left"),
        (True, False, "its label is mirrored, its scan is not: liver on the left"),
        (False, True, "the scan looks mirrored, while its label lies as that of the others"),
    ],
)
def test_the_scan_tells_what_is_mirrored(label, scan, words):
    cases = cohort(12, scan=lopsided)
    if label:
        cases[4] = turned(cases[4])
    if scan:
        cases[4] = cases[4].model_copy(update={"whole": (seen(lopsided(4)[::-1]),)})
    found = told(cases)
    assert list(found) == ["c04"]
    assert found["c04"].startswith(words)


def test_a_scan_is_known_where_no_structure_tells():
    cases = cohort(12, (0.5,), scan=lopsided)
    cases[7] = cases[7].model_copy(update={"whole": (seen(lopsided(7)[::-1]),)})
    assert told(cases, {1: "prostate"}) == {"c07": "the scan looks mirrored"}


def test_mirroring_turns_the_sign_of_what_a_scan_looks_like():
    cases = cohort(10, scan=lopsided)
    before = scan_sides(cases)
    cases[2] = cases[2].model_copy(update={"whole": (seen(lopsided(2)[::-1]),)})
    after = scan_sides(cases)
    assert after[2] == pytest.approx(-before[2])
    assert np.isnan(scan_sides(cases[:7])).all()


def test_cases_without_a_structure_say_nothing_of_it():
    cases = cohort(12)
    cases[4] = turned(cases[4]).model_copy(update={"structures": ()})
    sides = sides_of(cases, list(NAMES))
    assert np.isnan(sides.structures[4])
    assert np.isnan(sides.places[4]).all()
    assert (np.delete(sides.structures, 4) == 0).all()


def test_twins_by_name():
    names = {1: "kidney_left", 2: "Right Kidney", 3: "LungL", 4: "lung_r", 5: "liver", 6: "left atrium", 7: "lh-cortex"}
    assert twins_by_name(names) == ((1, 2), (3, 4))
    assert twins_by_name({**names, 8: "rh cortex"}) == ((1, 2), (3, 4), (7, 8))
