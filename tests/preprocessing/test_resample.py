"""What resampling of images promises by itself; against scipy see oracles/test_resampling.py."""

from __future__ import annotations

import itertools
import tracemalloc

import numpy as np
import pytest

from medseg.preprocessing.resample import LINEAR, ON_CPU, resampled
from medseg.preprocessing.vote import resampled_labels

CUBIC = (3, 3, 3)


def test_the_same_shape_is_the_same_array():
    image = np.random.default_rng(0).normal(size=(5, 6, 7)).astype(np.float32)
    assert resampled(image, (5, 6, 7), CUBIC) is image


def test_axes_of_the_same_length_are_not_touched():
    image = np.random.default_rng(0).normal(size=(40, 6, 35)).astype(np.float32)
    out = resampled(image, (40, 12, 35), LINEAR)
    for x, z in ((0, 0), (31, 34), (32, 3)):
        line = resampled(image[x : x + 1, :, z : z + 1], (1, 12, 1), LINEAR)
        np.testing.assert_allclose(out[x : x + 1, :, z : z + 1], line, rtol=0, atol=2e-6)


def test_a_ramp_keeps_its_place_and_slope():
    line = (np.arange(12, dtype=np.float32) + 0.5) / 12
    out = resampled(np.broadcast_to(line[:, None, None], (12, 3, 3)).copy(), (24, 3, 3), (1, 1, 1))
    np.testing.assert_allclose(out[1:-1, 0, 0], (np.arange(1, 23) + 0.5) / 24, atol=1e-6)


def test_a_cubic_never_leaves_the_range_of_its_input():
    image = (np.random.default_rng(1).random((9, 8, 7)) > 0.5).astype(np.float32)
    out = resampled(image, (17, 19, 11), CUBIC)
    assert out.min() >= 0
    assert out.max() <= 1
    assert out.dtype == np.float32


@pytest.mark.parametrize("value", [0.0, -1024.0, 1e-30, 3e38, 12345.678])
def test_a_constant_image_stays_constant(value):
    image = np.full((9, 8, 70), value, np.float32)
    np.testing.assert_array_equal(resampled(image, (4, 8, 90), CUBIC), np.float32(value))


def test_layout_in_memory_and_direction_do_not_matter():
    image = np.random.default_rng(4).normal(1000, 10, (12, 40, 33)).astype(np.float32)
    expected = resampled(image, (35, 20, 36), CUBIC)
    for order in itertools.permutations(range(3)):
        stored = np.ascontiguousarray(image.transpose(order)).transpose(np.argsort(order))
        backwards = np.ascontiguousarray(stored[::-1, :, ::-1])[::-1, :, ::-1]
        for same in (stored, backwards):
            out = resampled(same, (35, 20, 36), CUBIC)
            np.testing.assert_allclose(out, expected, rtol=0, atol=2e-4)  # float32 at 1000
            assert out.flags.c_contiguous


def test_beside_the_result_only_slabs_are_held():
    image = np.random.default_rng(5).normal(size=(200, 160, 16)).astype(np.float32)
    tracemalloc.start()
    out = resampled(image, (180, 160, 40), CUBIC)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert out.nbytes < peak < 1.25 * out.nbytes


def test_on_a_cpu_a_resampler_is_these_functions():
    assert ON_CPU.image is resampled
    assert ON_CPU.labels is resampled_labels
