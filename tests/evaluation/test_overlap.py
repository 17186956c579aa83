from __future__ import annotations

import numpy as np
import pytest

from medseg.evaluation import overlap
from medseg.evaluation.overlap import Overlap, count_overlaps


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("order", ["C", "F"])
def test_counts_every_label_as_masks_would(monkeypatch, dtype, order):
    monkeypatch.setattr(overlap, "_SLAB_VOXELS", 50)
    rng = np.random.default_rng(0)
    r, p = (np.asarray(rng.integers(0, 5, (7, 6, 5)), dtype=dtype, order=order) for _ in range(2))
    counts = count_overlaps(r, p)
    assert sorted(counts) == [1, 2, 3, 4]
    for value, found in counts.items():
        assert found == Overlap(np.sum(r == value), np.sum(p == value), np.sum((r == value) & (p == value)))


def test_labels_of_one_side_only_and_large_ones():
    r, p = np.zeros((3, 3, 3), np.uint16), np.zeros((3, 3, 3), np.uint8)
    r[0], p[1] = 65535, 7
    assert count_overlaps(r, p) == {7: Overlap(0, 9, 0), 65535: Overlap(9, 0, 0)}


def test_dice_and_iou():
    found = Overlap(10, 20, 5)
    assert found.dice == pytest.approx(1 / 3)
    assert found.iou == pytest.approx(0.2)
    assert found.iou == pytest.approx(found.dice / (2 - found.dice))


def test_nothing_there():
    empty = np.zeros((2, 2, 2), np.uint8)
    assert count_overlaps(empty, empty) == {}
