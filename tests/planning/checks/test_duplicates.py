from __future__ import annotations

import numpy as np
import pytest

from medseg.planning.checks.duplicates import duplicates
from tests.planning.check_build import case, cases, seen, structure, whole


def noise(seed: int = 0):
    return np.random.default_rng(seed).normal(40, 300, (16, 20, 24)).astype(np.float32)


def told(found):
    return [(f.case, f.code, f.how_bad, f.what) for f in duplicates(found)]


def test_other_scans_are_no_duplicates():
    assert told(cases(20)) == []
    assert told([]) == []


def test_the_same_voxels():
    both = {"whole": (whole(digest="same", seed=99),)}
    found = cases(6, {1: both, 4: both})
    assert told(found) == [("c04", "duplicate", "suspect", "holds the same voxels as c01, with another label")]
    relabelled = [c.model_copy(update={"labels": "one label"}) if c.case in ("c01", "c04") else c for c in found]
    assert "with the same label" in told(relabelled)[0][3]


def test_each_of_several_is_told_once():
    found = cases(5, {k: {"whole": (whole(digest="same", seed=99),)} for k in (0, 2, 3)})
    assert [(case, what[:32]) for case, _, _, what in told(found)] == [
        ("c02", "holds the same voxels as c00, wi"),
        ("c03", "holds the same voxels as c00, wi"),
    ]


def test_two_cases_of_one_patient_are_noted_only():
    both = {"whole": (whole(digest="same", seed=99),), "patient": "patient-1"}
    assert [how_bad for _, _, how_bad, _ in told(cases(4, {1: both, 2: both}))] == ["note"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda image: image * 0.5 + 1024, "looks like c00 in other numbers"),
        (lambda image: np.repeat(np.repeat(image, 2, axis=0), 2, axis=2), "looks like c00 in other numbers"),
        (lambda image: image[::-1] * 2, "looks like c00 mirrored"),
    ],
)
def test_the_same_scan_in_another_form(change, words):
    found = [case("c00", whole=(seen(noise()),)), case("c01", whole=(seen(change(noise())),))]
    found += [case(f"c{k:02d}", whole=(seen(noise(k)),)) for k in range(2, 6)]
    assert [(name, what) for name, _, _, what in told(found)] == [("c01", words)]


def masked(seed, radius):
    """Noise within one outline, zero about it, as in scans that were registered and stripped of the skull."""
    x, y, z = np.meshgrid(*[np.linspace(-1, 1, 32)] * 3, indexing="ij")
    inside = x**2 + y**2 + z**2 < radius**2
    return np.where(inside, 500 + np.random.default_rng(seed).normal(0, 50, inside.shape), 0).astype(np.float32)


@pytest.mark.parametrize("radius", [0.5, 0.6, 0.8])
def test_scans_that_share_an_outline_alone_are_no_duplicates(radius):
    scans = [masked(k, radius) for k in range(6)]
    assert told([case(f"c{k:02d}", whole=(seen(scan),)) for k, scan in enumerate(scans)]) == []
    scans[3] = scans[1] * 2 + (scans[1] > 0) * 7
    assert [name for name, *_ in told([case(f"c{k:02d}", whole=(seen(s),)) for k, s in enumerate(scans)])] == ["c03"]


def test_many_cases_are_compared_in_parts(monkeypatch):
    monkeypatch.setattr("medseg.planning.checks.duplicates.ROWS", 3)
    found = [case(f"c{k:02d}", whole=(seen(noise(k % 7) * (1 + k)),)) for k in range(9)]
    assert [name for name, _, _, _ in told(found)] == ["c07", "c08"]


def test_a_channel_that_is_that_of_another_case_or_another_channel():
    first = cases(2, whole=(whole(seed=1, digest="T1"), whole(seed=2, digest="T2")))[0]
    other = case("c01", whole=(whole(seed=3, digest="other"), whole(seed=2, digest="T2")))
    assert told([first, other])[0][3] == "channel 1 of it holds the same voxels as c00, with another label"
    twice = case("c02", whole=(whole(seed=4, digest="x"), whole(seed=4, digest="x")))
    assert told([twice])[0][3] == "its channels 0 and 1 hold the same voxels"


def test_the_same_label_on_two_scans():
    found = cases(4, {0: {"labels": "one"}, 3: {"labels": "one"}})
    assert told(found) == [("c03", "duplicate", "suspect", "has the same label as c00, but another scan")]
    of_one = [c.model_copy(update={"patient": "p"}) for c in found]
    assert told(of_one) == []
    small = [c.model_copy(update={"structures": (structure(voxels=5),)}) for c in found]
    assert told(small) == []


def test_scans_of_one_value_are_not_alike():
    empty = seen(np.zeros((8, 8, 8), np.float32))
    assert told(cases(4, whole=(empty,))) == []
