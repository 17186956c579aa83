from __future__ import annotations

import math

import numpy as np
import pytest

from medseg.errors import InputError
from medseg.planning import spacing as rules
from medseg.planning.fingerprint import Fingerprint
from medseg.planning.spacing import coarsest_axis, exact_median_shape, median_shape, target_spacing
from medseg.preprocessing.prepare import resampled_shape
from tests.planning.build import alike, by_spacing, looked_at

LEFT_RIGHT, FRONT_BACK, HEAD_FOOT = range(3)


def test_isotropic_takes_the_finest_axis_of_the_median_case():
    spacing, reason = target_spacing(by_spacing([(0.7, 0.7, 1), (0.8, 0.8, 1), (0.9, 1, 1.2)]), "isotropic")
    assert spacing == (0.8, 0.8, 0.8)
    assert "0.8 mm isotropic" in reason.choice
    assert "coarsened" not in reason.why


def test_isotropic_is_coarsened_where_slices_are_thick():
    spacing, reason = target_spacing(by_spacing([(0.7, 0.7, 5)] * 3), "isotropic")
    assert spacing == pytest.approx([(0.7 * 0.7 * 5 / 4) ** (1 / 3)] * 3, abs=1e-3)
    assert "coarsened" in reason.why


def test_what_each_axis_loses_or_gains_is_told():
    _, reason = target_spacing(by_spacing([(0.7, 0.7, 5)] * 3), "isotropic")
    assert "left-right 0.7 -> 0.849 mm (18 % fewer voxels)" in reason.why
    assert "head-foot 5 -> 0.849 mm (5.9 times the voxels)" in reason.why
    _, reason = target_spacing(by_spacing([(0.7, 0.7, 0.7)] * 3), "isotropic")
    assert reason.why.count("0.7 mm stays") == 3


@pytest.mark.parametrize("asked", ["isotropic", "median", "1.5"])
def test_the_numbers_behind_a_spacing_are_kept(asked):
    cases = by_spacing([(0.7, 0.8, z) for z in (2.5, 5, 6)], (512, 512, 60))
    spacing, reason = target_spacing(cases, asked)
    assert reason.fields == ("preprocessing.spacing_mm",)
    assert reason.numbers["head-foot: median spacing, mm"] == 5
    if asked == "isotropic":
        assert max(reason.numbers["finest with 4 times the voxels, mm"], 0.7) == pytest.approx(spacing[0], rel=1e-3)
    if asked == "median":
        assert reason.numbers["head-foot: 10th percentile, mm"] == spacing[2] == 3
    assert "head-foot: median spacing, mm" not in target_spacing(cases, asked, (0, 1))[1].numbers


def test_the_median_case_never_grows_beyond_four_times_its_voxels():
    rng = np.random.default_rng(0)
    for _ in range(100):
        x, y, z = (float(s) for s in rng.uniform(0.3, 2, 3) * rng.choice([1, 1, 5], 3))
        print_ = alike(3, spacing=(x, y, z), shape=(200, 200, 200))
        spacing, _ = target_spacing(print_, "isotropic")
        after = median_shape(print_, spacing)
        assert math.prod(after) / 200**3 <= rules.MOST_VOXELS * 1.02
        assert spacing[0] >= min(x, y, z) - 1e-3


def test_very_fine_voxels_have_a_spacing_too():
    spacing, _ = target_spacing(by_spacing([(0.0003, 0.0003, 0.0003)]), "isotropic")
    assert spacing == pytest.approx((0.0003,) * 3, rel=1e-3)


def test_within_slices_thick_slices_do_not_count():
    spacing, reason = target_spacing(by_spacing([(0.7, 0.7, 5)] * 3), "isotropic", (0, 1))
    assert spacing[:2] == (0.7, 0.7)
    assert "slice" in reason.choice


def test_median_without_thick_slices():
    spacing, _ = target_spacing(by_spacing([(1, 1, 2), (1, 2, 2.5), (3, 3, 2.9)]), "median")
    assert spacing == (1, 2, 2.5)


def test_median_with_thick_slices_takes_their_tenth_percentile():
    cases = by_spacing([(0.7, 0.7, z) for z in (2.5, 4, 5, 5, 5, 6, 6, 7, 8, 9)], (512, 512, 60))
    spacing, reason = target_spacing(cases, "median")
    assert spacing == pytest.approx((0.7, 0.7, np.percentile([2.5, 4, 5, 5, 5, 6, 6, 7, 8, 9], 10)))
    assert "10th percentile" in reason.why


def test_the_tenth_percentile_is_at_least_the_other_axes():
    cases = by_spacing([(1, 1, 0.5)] * 2 + [(1, 1, 5)] * 8, (512, 512, 60))
    spacing, _ = target_spacing(cases, "median")
    assert spacing == pytest.approx((1, 1, 1 + 1e-5), abs=1e-9)
    cases = by_spacing([(1, 1, 1)] * 2 + [(1, 1, 5)] * 8, (512, 512, 60))
    assert target_spacing(cases, "median")[0] == (1, 1, 1)


def test_thick_slices_need_few_of_them_for_the_branch():
    spacing, reason = target_spacing(by_spacing([(0.7, 0.7, z) for z in (3, 5, 6)], (512, 512, 400)), "median")
    assert spacing == (0.7, 0.7, 5)
    assert "percentile" not in reason.why


def test_millimetres_are_taken_as_asked():
    spacing, reason = target_spacing(alike(), "1.25")
    assert spacing == (1.25, 1.25, 1.25)
    assert reason.why == "as asked"


@pytest.mark.parametrize("asked", ["", "fine", "0", "-1", "nan", "inf", "1e9", "1mm"])
def test_other_spacings_are_refused(asked):
    with pytest.raises(InputError, match="--spacing"):
        target_spacing(alike(), asked)


def test_the_median_shape_is_that_after_crop_and_resampling():
    cases = tuple(looked_at(str(n), (1, 1, 2), (99, 99, 99), (n, 20, 10)) for n in (10, 11, 30))
    assert median_shape(Fingerprint(cases=cases), (1, 2, 1)) == (11, 10, 20)
    assert median_shape(Fingerprint(cases=cases), (1, 2, None)) == (11, 10, 10)


def test_the_exact_median_shape_may_end_in_a_half():
    cases = tuple(looked_at(str(n), (1, 1, 2), (n, 20, 10)) for n in (10, 13))
    assert exact_median_shape(Fingerprint(cases=cases), (1, 1, 1)) == (11.5, 20, 20)
    assert median_shape(Fingerprint(cases=cases), (1, 1, 1)) == (12, 20, 20)


def test_slices_lie_along_the_coarsest_axis():
    assert coarsest_axis(by_spacing([(1, 1, 5), (1, 1, 3), (4, 1, 1)])) == HEAD_FOOT
    assert coarsest_axis(by_spacing([(3, 1, 1)] * 3)) == LEFT_RIGHT
    assert coarsest_axis(by_spacing([(1, 2, 1)])) == FRONT_BACK
    assert coarsest_axis(by_spacing([(1, 1, 1)] * 3)) == HEAD_FOOT
    assert coarsest_axis(alike(3, spacing=(1, 1, 1.2), shape=(1, 50, 50))) == LEFT_RIGHT
    assert coarsest_axis(by_spacing([(1, 1, 0.99999)] * 2)) == HEAD_FOOT  # the same but for rounding


def test_resampled_shapes_agree_with_preprocessing():
    case = looked_at("a", (0.8, 0.8, 3), (100, 90, 30))
    after = resampled_shape(case.cropped, case.spacing_mm, (1, 1, 1))
    assert median_shape(Fingerprint(cases=(case,)), (1, 1, 1)) == after
