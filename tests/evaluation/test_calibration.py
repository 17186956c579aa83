"""Calibration against its definition voxel by voxel, its conventions, and laws that hold for any probabilities."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import cdist

from medseg.errors import InputError
from medseg.evaluation import calibration
from medseg.evaluation.calibration import BINS, calibration_metrics, reliability
from medseg.evaluation.metrics import METRICS

MM = (1.0, 1.0, 1.0)
STEPS = 65535


def near(r, p, spacing):
    """Every voxel within 10 mm of any voxel of either mask, by all distances."""
    everywhere = np.indices(r.shape).reshape(r.ndim, -1).T * np.array(spacing)
    held = np.argwhere(r | p) * np.array(spacing)
    return (cdist(everywhere, held).min(axis=1) <= 10.00001).reshape(r.shape)


def by_definition(probability, r, p, spacing):
    region = near(r, p, spacing)
    found, true = probability[region].astype(float), r[region]
    ece = 0.0
    for k in range(BINS):
        inside = (found > k / BINS + 1e-7) & (found <= (k + 1) / BINS + 1e-7) if k else found <= 1 / BINS + 1e-7
        if inside.any():
            ece += inside.mean() * abs(found[inside].mean() - true[inside].mean())
    return {"ece": ece, "brier": ((found - true) ** 2).mean()}


@st.composite
def cases(draw):
    """Probabilities and two masks, at least one not empty, coarse enough that 10 mm do not hold all of them."""
    shape = draw(st.one_of(st.tuples(*[st.integers(1, 8)] * 3), st.tuples(*[st.integers(1, 12)] * 2)))
    spacing = draw(st.tuples(*[st.sampled_from([1.0, 2.5, 3.3, 5.0, 12.0])] * len(shape)))
    rng = np.random.default_rng(draw(st.integers(0, 10_000)))
    r, p = (rng.random(shape) < draw(st.sampled_from([0.0, 0.02, 0.3])) for _ in range(2))
    r.flat[rng.integers(r.size)] = True
    probability = rng.random(shape) ** draw(st.sampled_from([1, 5]))
    probability[rng.random(shape) < 0.1] = 0
    probability[rng.random(shape) < 0.1] = 1
    return (probability, p, r, spacing) if draw(st.booleans()) else (probability, r, p, spacing)


few = settings(max_examples=60, deadline=None)
close = {"rel": 1e-9, "abs": 1e-12}


@few
@given(cases(), st.sampled_from([1 << 21, 1]))
def test_as_defined(case, slab_voxels):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(calibration, "_SLAB_VOXELS", slab_voxels)
        found = calibration_metrics(*case)
    assert list(found) == [one.name for one in METRICS if one.group == "calibration"]
    assert found == pytest.approx(by_definition(*case), **close)


@few
@given(cases(), st.data())
def test_turning_the_arrays_changes_nothing(case, data):
    *arrays, spacing = case
    order = data.draw(st.permutations(range(len(spacing))))
    flips = data.draw(st.tuples(*[st.sampled_from([1, -1])] * len(spacing)))
    turned = [array[tuple(slice(None, None, step) for step in flips)].transpose(order) for array in arrays]
    found = reliability(*turned, [spacing[axis] for axis in order])
    expected = reliability(*case)
    assert found.counts == expected.counts
    assert (found.ece, found.brier) == pytest.approx((expected.ece, expected.brier), **close)


@few
@given(cases(), st.integers(1, 4))
def test_only_what_is_near_counts(case, width):
    probability, r, p, spacing = case
    wide = np.where(near(r, p, spacing), probability, 0.7)  # what lies farther off may be anything
    assert calibration_metrics(wide, r, p, spacing) == calibration_metrics(*case)
    far = [math.ceil(10 / mm) for mm in spacing]
    padded = [np.pad(array, [(n, n + more) for n, more in zip(far, [0] * len(far), strict=True)]) for array in case[:3]]
    more = [np.pad(array, width) for array in padded]
    assert calibration_metrics(*more, spacing) == pytest.approx(calibration_metrics(*padded, spacing), **close)


def test_known_values():
    r = np.zeros((6, 6, 6), bool)
    r[:3] = True
    sure = r.astype(np.float32)
    assert calibration_metrics(sure, r, r, MM) == {"ece": 0, "brier": 0}
    assert calibration_metrics(1 - sure, r, r, MM) == {"ece": 1, "brier": 1}
    half = np.full(r.shape, 0.5, np.float32)
    assert calibration_metrics(half, r, r, MM) == {"ece": 0, "brier": 0.25}
    table = reliability(half, r, r, MM)
    assert table.counts == (*[0] * 7, 216, *[0] * 7)
    assert (table.probability[7], table.frequency[7]) == (0.5, 0.5)
    assert (table.probability[6], table.frequency[6]) == (None, None)


@pytest.mark.parametrize("dtype", [np.uint16, np.float32, np.float64])
def test_bins_are_closed_above_and_none_is_left_out(dtype):
    at = np.array([0, 1, *(k * STEPS // BINS for k in range(1, BINS + 1)), STEPS // BINS + 1])
    values = at.astype(np.uint16) if dtype == np.uint16 else (at / STEPS).astype(dtype)
    r = np.ones((len(at), 1), bool)
    assert reliability(values[:, None], r, r, (1.0, 1.0)).counts == (3, 2, *[1] * 13)


def test_type_and_order_in_memory_change_nothing():
    rng = np.random.default_rng(3)
    steps = rng.integers(0, STEPS + 1, (14, 13, 12)).astype(np.uint16)
    r, p = (rng.random(steps.shape) < 0.01 for _ in range(2))
    expected = reliability(steps, r, p, (2.5, 3.0, 4.0))
    for array in ((steps / STEPS).astype(np.float32), np.asfortranarray(steps / STEPS), np.asfortranarray(steps)):
        found = reliability(array, np.asfortranarray(r, np.uint8), p.astype(np.int16), (2.5, 3.0, 4.0))
        assert found.counts == expected.counts
        assert (found.ece, found.brier) == pytest.approx((expected.ece, expected.brier), rel=1e-6)


def test_what_is_in_one_map_alone_has_a_calibration_and_what_is_in_neither_none():
    one, none = np.zeros((30, 4, 4), bool), np.zeros((30, 4, 4), bool)
    one[0, 0, 0] = True
    probability = np.full(one.shape, 0.2, np.float32)
    assert calibration_metrics(probability, none, none, MM) == {"ece": None, "brier": None}
    assert set(reliability(probability, none, none, MM).frequency) == {None}
    spurious = calibration_metrics(probability, none, one, MM)
    assert spurious == pytest.approx({"ece": 0.2, "brier": 0.04}, rel=1e-6)
    n = int(near(one, none, MM).sum())
    missed = calibration_metrics(probability, one, none, MM)
    assert missed["ece"] == pytest.approx(0.2 - 1 / n, rel=1e-6)


@pytest.mark.parametrize("wrong", [-0.1, 1.1, math.nan, math.inf])
def test_refuses_what_is_no_probability(wrong):
    r = np.ones((3, 3, 3), bool)
    values = np.full(r.shape, 0.5, np.float32)
    values[1, 1, 1] = wrong
    with pytest.raises(InputError, match="not all from 0 to 1"):
        calibration_metrics(values, r, r, MM)
