from __future__ import annotations

import numpy as np
import pytest

from medseg.evaluation.boxes import as_mask, box_of, grown, steps


def test_the_box_holds_all_of_both():
    one, other = np.zeros((8, 9, 10), bool), np.zeros((8, 9, 10), bool, order="F")
    assert box_of(one, other) is None
    one[2, 3, 4] = True
    assert box_of(one, other) == box_of(other, one) == (slice(2, 3), slice(3, 4), slice(4, 5))
    other[5, 0, 4] = True
    assert box_of(one, other) == (slice(2, 6), slice(0, 4), slice(4, 5))


def test_it_grows_by_millimetres_up_to_the_edges():
    box = (slice(2, 3), slice(3, 4), slice(4, 5))
    assert grown(box, 2.0, (1.0, 2.5, 0.5), (8, 9, 10)) == (slice(0, 5), slice(2, 5), slice(0, 9))
    assert steps(10.0, (2.5, 0.8)) == [4, 13]


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_any_type_can_be_a_mask(dtype):
    array = np.array([0, 1, 3], dtype)
    assert as_mask(array).tolist() == [False, True, True]
    mask = np.ones(3, bool)
    assert as_mask(mask) is mask
