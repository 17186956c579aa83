"""Resampling against scipy.ndimage.zoom: cubic and linear images, and labels class by class."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from medseg.preprocessing.resample import resampled, resampled_labels

SHAPES = st.tuples(*[st.integers(1, 14)] * 3)
FAST = settings(deadline=None, max_examples=60, database=None)


def zoomed(array: np.ndarray, shape: tuple[int, int, int], order: int) -> np.ndarray:
    factors = [new / old for new, old in zip(shape, array.shape, strict=True)]
    out = ndimage.zoom(array.astype(np.float64), factors, order=order, mode="nearest", grid_mode=True)
    assert out.shape == shape
    return out


def close(ours: np.ndarray, theirs: np.ndarray, image: np.ndarray) -> None:
    assert ours.dtype == np.float32
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-5 * max(float(np.ptp(image)), 1e-3))


@FAST
@given(old=SHAPES, new=SHAPES, seed=st.integers(0, 1000))
def test_cubic(old, new, seed):
    image = np.random.default_rng(seed).normal(0, 1, old).astype(np.float32)
    close(resampled(image, new, (3, 3, 3)), np.clip(zoomed(image, new, 3), image.min(), image.max()), image)


@FAST
@given(old=SHAPES, new=SHAPES, seed=st.integers(0, 1000))
def test_linear(old, new, seed):
    image = np.random.default_rng(seed).normal(0, 1, old).astype(np.float32)
    close(resampled(image, new, (1, 1, 1)), zoomed(image, new, 1), image)


@pytest.mark.parametrize(("old", "new"), [((40, 41, 12), (57, 30, 33)), ((3, 64, 50), (31, 40, 80))])
def test_an_order_for_each_axis(old, new):
    image = np.random.default_rng(3).normal(0, 400, old).astype(np.float32)
    theirs = image.astype(np.float64)
    for axis, order in enumerate((3, 3, 1)):
        shape = tuple(new[a] if a == axis else n for a, n in enumerate(theirs.shape))
        theirs = zoomed(theirs, shape, order)
    close(resampled(image, new, (3, 3, 1)), np.clip(theirs, image.min(), image.max()), image)


@FAST
@given(old=SHAPES, new=SHAPES, seed=st.integers(0, 1000))
def test_labels(old, new, seed):
    labels = np.random.default_rng(seed).choice(np.array([0, 3, 7, 9], np.uint8), old)
    values = np.unique(labels)
    shares = np.stack([zoomed(labels == value, new, 1) for value in values])
    ours = resampled_labels(labels, new)
    of_ours = np.take_along_axis(shares, np.searchsorted(values, ours)[None], axis=0)[0]
    assert (of_ours >= shares.max(axis=0) - 1e-6).all()  # shares closer than this are ties that rounding decides
    second = np.sort(shares, axis=0)[-2] if len(values) > 1 else np.zeros(new)
    clear = shares.max(axis=0) - second > 1e-6
    np.testing.assert_array_equal(ours[clear], values[shares.argmax(axis=0)][clear])
