"""Resampling against scipy.ndimage.zoom in float64: images, and labels class by class."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from medseg.preprocessing.resample import resampled
from medseg.preprocessing.vote import resampled_labels

Three = tuple[int, int, int]

LENGTH = st.one_of(st.integers(1, 9), st.integers(1, 45))  # from 33 on an axis has several blocks
SHAPES = st.tuples(LENGTH, LENGTH, LENGTH)
IMAGE_ORDERS = st.tuples(*[st.sampled_from([3, 3, 1, 0])] * 3)
LABEL_ORDERS = st.tuples(*[st.sampled_from([1, 1, 1, 0])] * 3)
VALUES = np.array([0, 3, 7, 9, 200, 255], np.uint8)
FAST = settings(deadline=None, max_examples=60, database=None)


def zoomed(array: np.ndarray, shape: Three, orders: Three) -> np.ndarray:
    """scipy's answer, an axis at a time since it takes one order for all."""
    out = array.astype(np.float64)
    for axis, (new, order) in enumerate(zip(shape, orders, strict=True)):
        factors = [new / out.shape[axis] if a == axis else 1.0 for a in range(3)]
        out = ndimage.zoom(out, factors, order=order, mode="nearest", grid_mode=True)
    assert out.shape == shape
    return out


def check_image(image: np.ndarray, new: Three, orders: Three) -> None:
    """Equal to 1e-6 of the range; the values of a float32 are no finer than its last digit, whoever computes them."""
    ours = resampled(image, new, orders)
    theirs = np.clip(zoomed(image, new, orders), image.min(), image.max())
    assert ours.dtype == np.float32
    last_digit = float(np.spacing(np.abs(image).max())) / 2
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-6 * float(np.ptp(image)) + last_digit)


@FAST
@given(SHAPES, SHAPES, IMAGE_ORDERS, st.sampled_from([(0, 1), (0, 1e-3), (1e5, 10), (-1e6, 1e6), (3e4, 1)]), st.data())
def test_images(old, new, orders, offset_and_scale, data):
    offset, scale = offset_and_scale
    rng = np.random.default_rng(data.draw(st.integers(0, 1000)))
    noise = rng.uniform(-1, 1, old) if data.draw(st.booleans()) else rng.choice([-1.0, 1.0], old)
    image = (offset + scale * noise).astype(np.float32)
    check_image(np.asfortranarray(image) if data.draw(st.booleans()) else image, new, orders)


@pytest.mark.parametrize("new", [(33, 64, 100), (140, 3, 17), (70, 9, 39)])
def test_long_axes(new):
    check_image(np.random.default_rng(0).normal(0, 400, (70, 5, 40)).astype(np.float32), new, (3, 3, 3))


def test_one_bright_voxel_in_the_dark():
    image = np.zeros((40, 40, 40), np.float32)
    image[20, 1, 39] = 30000
    check_image(image, (57, 31, 90), (3, 3, 3))


def check_labels(labels: np.ndarray, new: Three, orders: Three) -> None:
    """The class with the largest share; another only where two shares are equal, and then one of them.

    Unequal shares differ by more than 1e-7 here (by 1 in 8 times the product of the new lengths), equal ones by 1e-15.
    """
    values = np.unique(labels)
    shares = np.stack([zoomed(labels == value, new, orders) for value in values])
    ours, theirs = resampled_labels(labels, new, orders), values[shares.argmax(axis=0)]
    assert ours.dtype == labels.dtype
    of_ours = np.take_along_axis(shares, np.searchsorted(values, ours)[None], axis=0)[0]
    ties = (shares > shares.max(axis=0) - 1e-9).sum(axis=0) > 1
    np.testing.assert_array_equal(ours[~ties], theirs[~ties])
    assert (of_ours > shares.max(axis=0) - 1e-9).all()


@FAST
@given(SHAPES, SHAPES, LABEL_ORDERS, st.integers(1, 6), st.integers(0, 1000))
def test_labels_of_noise(old, new, orders, classes, seed):
    check_labels(np.random.default_rng(seed).choice(VALUES[:classes], old), new, orders)


@FAST
@given(SHAPES, SHAPES, LABEL_ORDERS, st.integers(0, 1000))
def test_labels_of_patches(old, new, orders, seed):
    coarse = np.random.default_rng(seed).choice(VALUES, [1 + n // 4 for n in old])
    labels = coarse.repeat(4, 0).repeat(4, 1).repeat(4, 2)[tuple(slice(n) for n in old)]
    check_labels(labels.astype(np.uint16) * 257, new, orders)
