from __future__ import annotations

import pytest

from medseg.planning.checks.hounsfield import not_hounsfield
from tests.planning.check_build import cases, sketches, whole


def ct(shift: float = 0, times: float = 1, low: float = -1024, seed: int = 0):
    """A CT whose values were shifted, then multiplied."""
    at = [v * times + shift for v in (low, -50, 150)]
    scan = whole(low=at[0], high=1500 * times + shift, tissue=40 * times + shift, seed=seed)
    scaled = [low, low, low + 20, 40, 60, 100, 340]
    return {
        "whole": (scan.model_copy(update={"percentiles": tuple(v * times + shift for v in scaled)}),),
        "channels": sketches(at[1], at[2]),
    }


def told(found):
    return {f.case: f.what for f in not_hounsfield(found)}


def test_ct_in_hu():
    assert told(cases(10, {k: ct(seed=k) for k in range(10)})) == {}
    assert told([]) == {}


@pytest.mark.parametrize(
    ("shift", "words"),
    [
        (1024, "1024 HU above those of the other cases, as where the rescale intercept of -1024 was left out"),
        (-1024, "below those of the other cases, as where the rescale intercept of -1024 was applied twice"),
        (8192, "8192 HU above"),
    ],
)
def test_a_shift(shift, words):
    found = told(cases(10, {4: ct(shift)}))
    assert list(found) == ["c04"]
    assert words in found["c04"]


def test_a_shift_without_any_label():
    case = {**ct(1024), "channels": sketches(0, 1), "structures": ()}
    case["channels"] = (case["channels"][0].model_copy(update={"voxels": 0, "quantiles": ()}),)
    assert list(told(cases(10, {4: case}))) == ["c04"]


def test_what_contrast_bone_and_lung_do_is_no_shift():
    bone = {"channels": sketches(300, 1500)}  # the labels of this case lie on bone alone
    lung = {"channels": sketches(-900, -700)}
    padded = ct(low=-2048)
    without_air = ct(low=-150)
    assert told(cases(12, {1: bone, 2: lung, 3: padded, 4: without_air})) == {}


@pytest.mark.parametrize("times", [0.25, 4.0])
def test_a_slope(times):
    found = told(cases(10, {4: ct(times=times)}))
    assert list(found) == ["c04"]
    assert "slope" in found["c04"]


@pytest.mark.parametrize(("low", "high"), [(0, 255), (0, 1), (-4.2, 11)])
def test_pictures_and_normalised_scans(low, high):
    found = told(cases(3, {1: {"whole": (whole(low=low, high=high, tissue=low + (high - low) / 2),)}}))
    assert found == {"c01": f"its values run from {low:g} to {high:g}: they are no HU"}


def test_one_organ_that_was_cut_out_is_no_picture():
    assert told(cases(3, {1: {"whole": (whole(low=0, high=212, tissue=60),)}})) == {}


def test_few_cases_that_store_the_intercept():
    assert "intercept" in told(cases(3, {1: ct(1024)}))["c01"]


def test_an_intercept_that_was_left_out_is_told_beside_padding():
    padded = {**ct(1024), "whole": (ct(1024)["whole"][0].model_copy(update={"low": -976}),)}
    assert "intercept" in told(cases(3, {1: padded}))["c01"]
    (finding,) = not_hounsfield(cases(8, dict.fromkeys(range(5), padded)))
    assert finding.case == ""
    bone = {"channels": sketches(300, 1500), "whole": (whole(low=-1000, high=1500),)}
    assert told(cases(3, {1: bone})) == {}


def test_where_most_are_shifted_the_data_set_is():
    (finding,) = not_hounsfield(cases(8, {k: ct(1024) for k in range(8)}))
    assert finding.case == ""
    assert "in 8 of 8 cases, as in c00" in finding.what


@pytest.mark.parametrize("shift", [1024, -1024])
def test_where_most_are_shifted_the_others_are_not_blamed(shift):
    (finding,) = not_hounsfield(cases(8, {k: ct(shift) for k in range(5)}))
    assert finding.case == ""
    assert "in 5 of 8 cases, as in c00" in finding.what


def test_few_cases_in_which_the_intercept_was_applied_twice():
    assert "applied twice" in told(cases(3, {1: ct(-1024)}))["c01"]


def test_a_scan_within_the_body_with_a_label_of_one_tissue_is_not_scaled():
    inside = {
        "whole": (whole(low=-120, high=400).model_copy(update={"percentiles": (-110, -90, 0, 45, 60, 150, 280)}),)
    }
    alike = {**inside, "channels": sketches(10, 60)}
    empty = {**inside, "channels": (sketches(0, 1)[0].model_copy(update={"voxels": 0, "quantiles": ()}),)}
    assert told(cases(12, {1: alike, 2: empty})) == {}


def test_a_picture_that_does_not_fill_its_range():
    """From -1000..400 to 0..255, with nothing as bright as that."""
    shown = {"whole": (whole(low=0, high=239).model_copy(update={"percentiles": (0, 0, 4, 189, 193, 200, 212)}),)}
    assert "slope" in told(cases(12, {1: {**shown, "channels": sketches(175, 210)}}))["c01"]


def test_other_modalities_have_no_unit():
    assert told(cases(10, {4: ct(1024)}, modalities=("MR",))) == {}


def test_ct_that_nothing_names_is_known_by_its_air():
    assert list(told(cases(10, {4: ct(1024)}, modalities=("0",)))) == ["c04"]
    assert told(cases(10, {k: ct(1024) for k in range(10)}, modalities=("0",))) == {}
