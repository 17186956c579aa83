from __future__ import annotations

import itertools
import tracemalloc

import numpy as np
import pytest

from medseg.errors import InputError
from medseg.preprocessing import intensity
from medseg.preprocessing.intensity import normalised, outline
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


@pytest.mark.parametrize("how", [CT, Normalisation(kind="zscore"), Normalisation(kind="zscore", nonzero_only=True)])
@pytest.mark.parametrize("order", list(itertools.permutations((0, 1, 2))))
def test_it_does_not_matter_how_the_scan_lies_in_memory(monkeypatch, how, order):
    values = scan()
    values[:2] = 0
    wanted = normalised(values, how)
    monkeypatch.setattr(intensity, "_PIECE", 16)
    wider = np.zeros([n + 3 for n in values.shape], np.float32)
    wider[1:-2, 1:-2, 1:-2] = values
    for given in (values.transpose(order).copy().transpose(np.argsort(order)), wider[1:-2, 1:-2, 1:-2]):
        for flip in (1, -1):
            out = normalised(given[::flip, ::flip], how)
            np.testing.assert_allclose(out[::flip, ::flip], wanted, atol=2e-6)


def test_whole_numbers_are_taken_as_they_are():
    values = (10 * scan()).astype(np.int16)
    np.testing.assert_array_equal(normalised(values, CT), normalised(values.astype(np.float32), CT))


def test_zeros_within_the_outline_count_as_in_nnunet():
    """The mask is what is not zero in any channel, holes filled; statistics are those of the mask."""
    first, second = np.zeros((9, 9, 9), np.float32), np.zeros((9, 9, 9), np.float32)
    first[2:7, 2:7, 2:7] = scan()[:5, :5, :5]
    first[4, 4, 4] = 0
    second[7, 2:7, 2:7] = 1
    inside = np.zeros(first.shape, bool)
    inside[2:8, 2:7, 2:7] = True
    np.testing.assert_array_equal(outline([first, second]), inside)
    out = normalised(first, Normalisation(kind="zscore", nonzero_only=True), outline([first, second]))
    np.testing.assert_allclose(out[inside], (first[inside] - first[inside].mean()) / first[inside].std(), atol=1e-5)
    assert (out[~inside] == 0).all()
    assert out[4, 4, 4] < -0.5


def test_the_other_schemes_of_nnunet():
    values = np.array([10, 60, 110, 210], np.float32).reshape(1, 2, 2)
    np.testing.assert_array_equal(normalised(values, Normalisation(kind="none")), values)
    np.testing.assert_allclose(normalised(values, Normalisation(kind="minmax")).ravel(), [0, 0.25, 0.5, 1])
    np.testing.assert_allclose(normalised(values, Normalisation(kind="rgb")), values / 255, rtol=1e-6)
    np.testing.assert_array_equal(normalised(np.full((2, 2, 2), 7.0), Normalisation(kind="minmax")), 0)


@pytest.mark.parametrize("value", [-1.0, 255.5])
def test_what_is_no_colour_is_refused(value):
    with pytest.raises(InputError, match=r"where the model takes colours, 0 to 255"):
        normalised(np.array([[[0.0, value, 255.0]]]), Normalisation(kind="rgb"))


@pytest.mark.parametrize("how", [CT, Normalisation(kind="zscore")])
def test_the_copy_is_all_the_memory_that_it_takes(how):
    values = np.zeros((100, 100, 100), np.float32, order="F")
    tracemalloc.start()
    normalised(values, how)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1.3 * values.nbytes
