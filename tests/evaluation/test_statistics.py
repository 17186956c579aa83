"""Intervals against scipy, exact counting and simulated cohorts."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from medseg.evaluation.statistics import (
    count_patients,
    drawn_means,
    interval_of,
    mean_intervals,
    median_interval,
    patients_of,
    quantile,
)

NAN = math.nan
dices = st.lists(st.floats(0, 1), min_size=5, max_size=30)


def own(n):
    return np.arange(n)


def interval(values, patients=None):
    values = np.array(values, float)
    return mean_intervals(values[:, None], own(len(values)) if patients is None else np.array(patients))[0]


@pytest.mark.parametrize("n", [5, 20, 100])
def test_the_interval_of_a_mean_is_that_of_scipy(n):
    values = 1 - np.random.default_rng(n).beta(1, 5, n)
    theirs = stats.bootstrap((values,), np.mean, n_resamples=10_000, method="percentile", rng=1).confidence_interval
    spread = values.std() / math.sqrt(n)
    assert interval(values) == pytest.approx(tuple(theirs), abs=0.06 * spread)
    assert interval(values) == interval(values)


def test_of_fewer_than_five_patients_there_is_none():
    assert interval([0.1, 0.2, 0.3, 0.4]) is None
    assert interval([0.5] * 5) == (0.5, 0.5)
    assert interval([0.1, 0.2, 0.3, 0.4, NAN]) is None
    assert interval([0.1, 0.2, 0.3, 0.4, 0.5, 0.6], [0, 0, 1, 2, 3, 3]) is None


def test_patients_are_drawn_whole():
    """Ten alike cases of each patient tell no more than one of them."""
    of_patient = np.random.default_rng(2).normal(0.8, 0.1, 20)
    many = interval(np.repeat(of_patient, 10), np.repeat(np.arange(20), 10))
    assert many == pytest.approx(interval(of_patient))
    low, high = interval(np.repeat(of_patient, 10))
    assert high - low < 0.5 * (many[1] - many[0])


def test_draws_without_a_value_are_left_out():
    values = np.full((40, 2), NAN)
    values[:5, 0], values[:, 1] = [1, 2, 3, 4, 5], 1.0
    drawn = drawn_means(values, own(40))
    empty = np.isnan(drawn[0])
    assert 0 < empty.mean() < 0.02  # (35/40)**40
    low, high = mean_intervals(values, own(40))[0]
    assert (low, high) == pytest.approx(np.nanquantile(drawn[0], [0.025, 0.975]))
    assert interval_of(drawn[0]) == (low, high)
    assert (drawn[1] == 1).all()


def test_columns_share_their_draws():
    values = np.random.default_rng(3).random((30, 3))
    values[4, 2] = NAN
    a, b, _ = drawn_means(values, own(30))
    (both,) = drawn_means(values[:, :2].mean(axis=1)[:, None], own(30))
    assert both == pytest.approx((a + b) / 2)
    assert drawn_means(values[:, 2:], own(30))[0] == pytest.approx(drawn_means(values, own(30))[2])


@given(dices, st.randoms(use_true_random=False))
@settings(max_examples=25, deadline=None)
def test_the_order_of_cases_changes_nothing(values, random):
    cases = [f"c{k}" for k in range(len(values))]
    patients = {case: k // 2 for k, case in enumerate(cases) if k > 1}
    both = list(zip(cases, values, strict=True))
    random.shuffle(both)
    found = []
    for pairs in (zip(cases, values, strict=True), both):
        names, numbers = zip(*pairs, strict=True)
        whose = patients_of(names, patients)
        found.append((interval(numbers, whose), median_interval(np.array(numbers), whose)))
    (mean, median), (mean_of_shuffled, median_of_shuffled) = found
    assert mean == mean_of_shuffled if mean is None else mean == pytest.approx(mean_of_shuffled)
    assert median == median_of_shuffled


@given(dices, st.floats(0.01, 1000))
@settings(max_examples=25, deadline=None)
def test_scaling_scales(values, factor):
    low, high = interval(values)
    assert interval([factor * value for value in values]) == pytest.approx((factor * low, factor * high))


def test_patients_with_single_cases_are_cases():
    cases = ["b", "a", "d", "c"]
    assert patients_of(cases, {}).tolist() == patients_of(cases, dict(zip(cases, (7, 1, 3, 2), strict=True))).tolist()
    assert patients_of(cases, {}).tolist() == [1, 0, 3, 2]
    assert patients_of(["b", "a", "c"], {"a": 9, "c": 9}).tolist() == [1, 0, 0]
    assert count_patients(np.array([NAN, 1.0, 2.0]), np.array([0, 1, 1])) == 1


@pytest.mark.parametrize(("n", "k"), [(5, 0), (6, 1), (8, 1), (9, 2), (20, 6), (100, 40), (1000, 469)])
def test_the_interval_of_a_median_is_of_order_statistics(n, k):
    values = np.random.default_rng(n).permutation(n) + 1.0
    found = median_interval(values, own(n))
    if not k:
        assert found is None
        return
    assert found == (k, n + 1 - k)
    assert 1 - 2 * stats.binom.cdf(k - 1, n, 0.5) >= 0.95 > 1 - 2 * stats.binom.cdf(k, n, 0.5)


def test_medians_of_patients_and_infinities():
    assert median_interval(np.array([1, 2, 3, 4, math.inf, math.inf, NAN]), own(7)) == (1, math.inf)
    assert median_interval(np.full(6, math.inf), own(6)) == (math.inf, math.inf)
    assert median_interval(np.arange(12.0), np.arange(12) // 3) is None  # four patients
    of_patients = median_interval(np.array([0, 9, 1, 2, 3, 4, 5, 50.0]), np.array([0, 0, 0, 1, 2, 3, 4, 5]))
    assert of_patients == (1, 50)


def test_quantiles():
    assert quantile([1.0, 2.0, math.inf], 0.5) == 2.0
    assert quantile([1.0, math.inf], 0.5) == math.inf


@pytest.mark.slow
@pytest.mark.parametrize(
    ("failures", "n", "least"),
    [(0.0, 20, 0.91), (0.0, 50, 0.92), (0.0, 200, 0.93), (0.03, 20, 0.83), (0.03, 50, 0.88), (0.03, 200, 0.92)],
)
def test_intervals_hold_the_truth(failures, n, least):
    """Dice as it is: skewed, near 1. Rare failures are seldom seen in a small cohort, which no resampling mends."""
    rng = np.random.default_rng(n)
    everyone = np.where(rng.random(400_000) < failures, 0.0, 1 - rng.beta(1.2, 9, 400_000))
    cohorts = rng.choice(everyone, (n, 2000))
    means = np.array(mean_intervals(cohorts, own(n)))
    medians = np.array([median_interval(column, own(n)) for column in cohorts.T])
    of_mean, of_median = (
        ((of[:, 0] <= truth) & (truth <= of[:, 1])).mean()
        for of, truth in ((means, everyone.mean()), (medians, np.median(everyone)))
    )
    assert least < of_mean < 0.97
    assert of_median > 0.95
