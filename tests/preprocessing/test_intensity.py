from __future__ import annotations

import numpy as np
import pytest

from medseg.preprocessing.intensity import normalised
from medseg.preprocessing.settings import Normalisation

CT = Normalisation(kind="ct", lower=-100, upper=200, mean=50, sd=20)


def scan(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(40, 12, (7, 6, 5)).astype(np.float32)


def test_ct_is_clipped_then_scaled_by_the_data_set():
    values = np.array([-1000, -100, 50, 90, 200, 3000], np.float32).reshape(1, 2, 3)
    np.testing.assert_allclose(normalised(values, CT).ravel(), [-7.5, -7.5, 0, 2, 7.5, 7.5])


def test_a_scan_by_its_own_mean_and_sd():
    out = normalised(scan(), Normalisation(kind="zscore"))
    assert out.mean() == pytest.approx(0, abs=1e-5)
    assert out.std() == pytest.approx(1, abs=1e-5)


def test_nonzero_voxels_alone_count_and_zero_stays_zero():
    values = scan()
    values[:4] = 0
    out = normalised(values, Normalisation(kind="zscore", nonzero_only=True))
    assert (out[:4] == 0).all()
    np.testing.assert_allclose(out[4:], (values[4:] - values[4:].mean()) / values[4:].std(), atol=1e-4)


@pytest.mark.parametrize("how", [Normalisation(kind="zscore"), Normalisation(kind="zscore", nonzero_only=True)])
@pytest.mark.parametrize("value", [0.0, 0.1, -1024.0, 3e7])
def test_a_constant_scan_becomes_zero(how, value):
    out = normalised(np.full((3, 4, 5), value, np.float32), how)
    np.testing.assert_array_equal(out, 0)


def test_a_ct_statistic_without_spread_does_not_divide_by_zero():
    flat = Normalisation(kind="ct", lower=5, upper=5, mean=5, sd=0)
    np.testing.assert_array_equal(normalised(scan(), flat), 0)


def test_the_sum_of_a_large_scan_is_exact():
    values = np.full((100, 100, 40), 20_000, np.float32)
    values[::2] += 1  # a float32 sum would lose this
    out = normalised(values, Normalisation(kind="zscore"))
    np.testing.assert_allclose(np.unique(out), [-1, 1], rtol=1e-3)


@pytest.mark.parametrize("how", [CT, Normalisation(kind="zscore"), Normalisation(kind="zscore", nonzero_only=True)])
def test_it_is_float32_and_a_new_array(how):
    values = scan()
    before = values.copy()
    out = normalised(values, how)
    assert out.dtype == np.float32
    assert not np.shares_memory(out, values)
    np.testing.assert_array_equal(values, before)
