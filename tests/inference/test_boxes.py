from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medseg.inference import boxes
from medseg.inference.boxes import apart, around, box_of, islands_of, pieces


def test_one_box_holds_all_voxels_of_the_values() -> None:
    array = np.zeros((9, 8, 7), np.uint8, order="F")
    array[2, 3:5, 1], array[6, 7, 6] = 3, 8
    assert box_of(array, (3,)) == np.s_[2:3, 3:5, 1:2]
    assert box_of(array, (3, 8, 9)) == np.s_[2:7, 3:8, 1:7]
    assert box_of(array, (1, 250)) is None


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from([2, 3, 7]), st.sampled_from([(11, 9, 8), (17, 13)]))
def test_islands_hold_every_voxel_and_do_not_touch(seed: int, block: int, shape: tuple[int, ...]) -> None:
    rng = np.random.default_rng(seed)
    array = np.where(rng.random(shape) < rng.uniform(0, 0.2), rng.integers(1, 4, shape), 0).astype(np.uint16)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(boxes, "BLOCK", block)
        found = islands_of(array)
    assert list(found) == [value for value in np.unique(array) if value]
    for value, held in found.items():
        assert around(held) == box_of(array, (value,))
        assert sum(np.count_nonzero(array[box] == value) for box in held) == np.count_nonzero(array == value)
        for one, other in combinations(held, 2):
            gaps = [max(a.start, b.start) - min(a.stop, b.stop) for a, b in zip(one, other, strict=True)]
            assert max(gaps) >= 1


def test_boxes_that_touch_only_once_they_are_joined_are_joined_too() -> None:
    ring = [np.s_[0:1, 0:9], np.s_[1:8, 0:1], np.s_[8:9, 0:9], np.s_[4:5, 4:5], np.s_[20:21, 20:21]]
    assert apart(ring) == [np.s_[0:9, 0:9], np.s_[20:21, 20:21]]
    assert apart([]) == []


def test_pieces_are_all_planes_in_their_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(boxes, "PIECE", 12)
    assert list(pieces((5, 2, 3))) == [slice(0, 2), slice(2, 4), slice(4, 5)]
    assert list(pieces((2, 50, 3))) == [slice(0, 1), slice(1, 2)]
