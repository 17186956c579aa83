"""What resampling of labels promises by itself; against one map a class see oracles/test_resampling.py."""

from __future__ import annotations

import itertools
import tracemalloc

import numpy as np
import pytest

from medseg.preprocessing import vote
from medseg.preprocessing.vote import resampled_labels


def noise(shape: tuple[int, int, int], classes: int, dtype: type = np.uint8, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, classes, shape).astype(dtype)


def test_the_same_shape_is_the_same_array():
    labels = noise((5, 6, 7), 3)
    assert resampled_labels(labels, (5, 6, 7)) is labels


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_labels_keep_their_values_and_type(dtype):
    high = np.iinfo(dtype).max
    labels = np.zeros((6, 6, 6), dtype)
    labels[3:] = high
    out = resampled_labels(labels, (12, 5, 9))
    assert out.dtype == dtype
    assert out.flags.c_contiguous
    np.testing.assert_array_equal(out[:6], 0)
    np.testing.assert_array_equal(out[6:], high)


def test_values_above_255_vote_as_small_ones_do():
    labels = noise((9, 8, 7), 5)
    table = np.array([0, 300, 301, 40000, 65535], np.uint16)
    np.testing.assert_array_equal(
        resampled_labels(table[labels], (12, 12, 5)), table[resampled_labels(labels, (12, 12, 5))]
    )


@pytest.mark.parametrize("orders", [(1, 1, 1), (1, 0, 1), (0, 0, 0)])
def test_slabs_chunks_and_layout_do_not_matter(monkeypatch, orders):
    labels = noise((11, 13, 12), 4)
    expected = resampled_labels(labels, (17, 9, 20), orders)
    monkeypatch.setattr(vote, "SLAB", 300)
    monkeypatch.setattr(vote, "VOTERS", 37)
    for order in itertools.permutations(range(3)):
        stored = np.ascontiguousarray(labels.transpose(order)).transpose(np.argsort(order))
        backwards = np.ascontiguousarray(stored[::-1, ::-1])[::-1, ::-1]
        for same in (stored, backwards):
            np.testing.assert_array_equal(resampled_labels(same, (17, 9, 20), orders), expected)


def test_order_0_takes_the_nearest_voxel():
    labels = np.arange(6, dtype=np.uint8).reshape(6, 1, 1)
    np.testing.assert_array_equal(resampled_labels(labels, (3, 1, 1), (0, 0, 0))[:, 0, 0], [1, 3, 5])
    np.testing.assert_array_equal(resampled_labels(labels, (9, 1, 1), (0, 0, 0))[:, 0, 0], [0, 1, 1, 2, 3, 3, 4, 5, 5])


def test_a_tie_goes_to_the_nearest_voxel():
    line = np.array([0, 0, 7, 7, 7, 0, 0, 0], np.uint8).reshape(8, 1, 1)
    np.testing.assert_array_equal(resampled_labels(line, (4, 1, 1))[:, 0, 0], [0, 7, 0, 0])  # 7 7, then 7 0: upper
    flipped = line[::-1]
    np.testing.assert_array_equal(resampled_labels(flipped, (4, 1, 1))[:, 0, 0], [0, 7, 7, 0])  # 0 7, 7 7


def test_a_tie_without_the_nearest_goes_to_the_lowest_class():
    cube = np.array([5, 5, 5, 9, 9, 9, 0, 7], np.uint8).reshape(2, 2, 2)  # the nearest (7) weighs too little
    np.testing.assert_array_equal(resampled_labels(cube, (1, 1, 1)), 5)


def test_ties_neither_shrink_nor_swell_a_structure():
    for thickness in (1, 2, 3, 5):
        volumes = []
        for start in (8, 9):
            labels = np.zeros((24, 4, 4), np.uint8)
            labels[start : start + thickness] = 1
            volumes.append(8 * int(resampled_labels(labels, (12, 2, 2)).sum()))
        assert sum(volumes) / 2 == thickness * 16


def test_two_small_classes_lose_to_a_large_one_only_together():
    line = np.array([1, 2, 3, 3], np.uint8).reshape(1, 4, 1)
    np.testing.assert_array_equal(np.unique(resampled_labels(line, (3, 5, 3))), [1, 2, 3])


def test_an_axis_of_one_voxel_grows_and_shrinks():
    labels = noise((1, 5, 1), 3)
    np.testing.assert_array_equal(resampled_labels(labels, (4, 5, 3)), np.broadcast_to(labels, (4, 5, 3)))
    assert resampled_labels(noise((6, 5, 4), 3), (1, 1, 1)).shape == (1, 1, 1)


def test_a_cubic_is_refused():
    with pytest.raises(ValueError, match="order 3"):
        resampled_labels(noise((4, 4, 4), 2), (5, 5, 5), (3, 3, 3))


def test_the_labels_given_are_not_changed():
    labels = noise((6, 7, 8), 4)
    before = labels.copy()
    resampled_labels(labels, (9, 9, 9))
    np.testing.assert_array_equal(labels, before)


def test_memory_is_bounded_by_slabs(monkeypatch):
    monkeypatch.setattr(vote, "SLAB", 1 << 15)
    monkeypatch.setattr(vote, "VOTERS", 1 << 12)
    labels = noise((96, 64, 64), 4)  # every voxel votes: the worst case
    tracemalloc.start()
    out = resampled_labels(labels, (192, 64, 60))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < out.nbytes + 48 * vote.SLAB + 250 * vote.VOTERS
