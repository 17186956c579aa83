"""Bands and pairs of one axis; what they give on whole arrays is tested in oracles/test_resampling.py."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from medseg.preprocessing.axis import REACH, ROWS, blocks, cheapest_first, memory_order, pairs

LENGTHS = [(5, 9), (9, 5), (1, 4), (4, 1), (7, 7), (2, 31), (100, 41), (41, 100), (64, 128), (128, 64), (30, 31)]


def whole(old: int, new: int, order: int) -> np.ndarray:
    """The band as one matrix; every new voxel must be in exactly one block."""
    matrix, times = np.zeros((new, old)), np.zeros(new, int)
    for block in blocks(old, new, order):
        matrix[block.rows, block.support] = block.matrix
        times[block.rows] += 1
    assert (times == 1).all()
    return matrix


def asked_of_scipy(old: int, new: int, order: int) -> np.ndarray:
    if old == 1:
        return np.ones((new, 1))
    return ndimage.zoom(np.eye(old), (new / old, 1.0), order=order, mode="nearest", grid_mode=True)


@pytest.mark.parametrize("order", [0, 1, 3])
@pytest.mark.parametrize(("old", "new"), LENGTHS)
def test_a_band_is_what_scipy_does_to_each_voxel(order, old, new):
    matrix = whole(old, new, order)
    np.testing.assert_allclose(matrix, asked_of_scipy(old, new, order), rtol=0, atol=7e-8)
    np.testing.assert_allclose(matrix.sum(axis=1), 1, rtol=0, atol=1e-6)


@pytest.mark.parametrize(("old", "new"), [(400, 300), (300, 400), (1000, 250)])
def test_a_band_stays_narrow_in_a_long_axis(old, new):
    for block in blocks(old, new, 3):
        assert block.matrix.shape[1] <= ROWS * old / new + 2 * REACH + 1


@pytest.mark.parametrize("order", [0, 1])
@pytest.mark.parametrize(("old", "new"), LENGTHS)
def test_pairs_are_linear_interpolation_in_whole_numbers(order, old, new):
    pair = pairs(old, new, order)
    lower, upper = pair.weight
    assert np.unique(lower + upper).size == 1
    assert np.array_equal(lower, np.round(lower))
    matrix, rows = np.zeros((new, old)), np.arange(new)
    np.add.at(matrix, (rows, pair.lower), lower / (lower + upper))
    np.add.at(matrix, (rows, pair.upper), upper / (lower + upper))
    np.testing.assert_allclose(matrix, asked_of_scipy(old, new, order), rtol=0, atol=1e-12)
    np.testing.assert_array_equal(pair.nearest, np.where(upper >= lower, pair.upper, pair.lower))


def test_what_is_cached_cannot_be_changed():
    pair = pairs(5, 9, 1)
    for array in (blocks(1, 9, 3)[0].matrix, blocks(5, 9, 3)[0].matrix, pair.lower, pair.nearest, pair.weight[0]):
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 7


def test_a_part_counts_from_its_first_old_voxel():
    pair = pairs(20, 50, 1)
    part = pair.part(30, 40, 11)
    np.testing.assert_array_equal(part.lower, pair.lower[30:40] - 11)
    np.testing.assert_array_equal(part.upper, pair.upper[30:40] - 11)
    np.testing.assert_array_equal(part.nearest, pair.nearest[30:40] - 11)
    np.testing.assert_array_equal(part.weight[1], pair.weight[1][30:40])


def test_labels_are_not_interpolated_by_cubics():
    with pytest.raises(ValueError, match="order 3"):
        pairs(5, 9, 3)


def test_axes_in_order_of_memory_and_of_cost():
    array = np.zeros((4, 5, 6))
    assert memory_order(array.transpose(2, 0, 1)[::-1]) == (1, 2, 0)
    assert cheapest_first((100, 100, 100), (150, 50, 100)) == [1, 2, 0]
