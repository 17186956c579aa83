"""What resampling promises by itself; against scipy see oracles/test_resampling.py."""

from __future__ import annotations

import numpy as np
import pytest

from medseg.preprocessing.resample import argmax_resampled, resampled, resampled_labels, zoom_matrix

CUBIC = (3, 3, 3)


def test_the_same_shape_is_the_same_array():
    image = np.random.default_rng(0).normal(size=(5, 6, 7)).astype(np.float32)
    np.testing.assert_array_equal(resampled(image, (5, 6, 7), CUBIC), image)
    labels = image > 0
    np.testing.assert_array_equal(resampled_labels(labels, (5, 6, 7)), labels)


@pytest.mark.parametrize("order", [0, 1, 3])
@pytest.mark.parametrize(("old", "new"), [(5, 9), (9, 5), (1, 4), (4, 1), (7, 7), (2, 31)])
def test_a_constant_line_stays_constant(order, old, new):
    matrix = zoom_matrix(old, new, order)
    assert matrix.shape == (new, old)
    np.testing.assert_allclose(matrix.sum(axis=1), 1, atol=1e-6)


def test_a_shared_matrix_cannot_be_changed():
    for old in (1, 5):
        with pytest.raises(ValueError, match="read-only"):
            zoom_matrix(old, 9, 3)[0, 0] = 7


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


def test_labels_keep_their_values_and_type():
    labels = np.zeros((6, 6, 6), np.uint16)
    labels[3:] = 300
    out = resampled_labels(labels, (12, 5, 9))
    assert out.dtype == np.uint16
    np.testing.assert_array_equal(np.unique(out), [0, 300])
    np.testing.assert_array_equal(out[:6], 0)
    np.testing.assert_array_equal(out[6:], 300)


def test_the_lowest_class_wins_a_tie():
    scores = np.ones((3, 2, 2, 2), np.float32)
    np.testing.assert_array_equal(argmax_resampled(iter(scores), (4, 2, 3)), 0)


def test_the_scores_given_are_not_changed():
    scores = np.random.default_rng(2).normal(size=(3, 4, 4, 4)).astype(np.float32)
    before = scores.copy()
    winner = argmax_resampled(iter(scores), (4, 4, 4))
    np.testing.assert_array_equal(scores, before)
    np.testing.assert_array_equal(winner, scores.argmax(0))
