from __future__ import annotations

import numpy as np
import pytest

from medseg.evaluation.case import score_case
from medseg.imaging.grid import Grid
from medseg.imaging.volume import LabelMap
from medseg.report.boundary import EDGES_MM, boundaries, direction
from tests.report.scenes import SHAPE, grid, labels


def box(low, high, shape=SHAPE, spacing=(1.0, 1.0, 2.0)):
    array = np.zeros(shape, np.uint8)
    array[tuple(slice(a, b) for a, b in zip(low, high, strict=True))] = 1
    return LabelMap(array, grid(shape, spacing), {1: "box"})


def test_the_same_boundary():
    (liver, kidney) = boundaries(labels(), labels(), {"liver": 1.0, "kidney": 1.0})
    assert (liver.structure, kidney.structure) == ("liver", "kidney")
    assert liver.largest_mm == liver.beyond == 0
    assert sum(liver.counts) == 0
    assert liver.same > 100


def test_a_box_that_reaches_beyond_to_the_right():
    (one,) = boundaries(box((10, 10, 8), (20, 20, 16)), box((10, 10, 8), (24, 20, 16)), {"box": 1.0})
    assert one.largest_mm == pytest.approx(4.0)
    assert one.direction == "right"  # +x of RAS
    assert one.mm[0] == pytest.approx(-20 + 23.5)
    assert 0.05 < one.beyond < 0.5
    middles = (EDGES_MM[:-1] + EDGES_MM[1:]) / 2
    assert middles[np.flatnonzero(one.counts)].min() > 0


def test_one_that_falls_short_from_above():
    (one,) = boundaries(box((10, 10, 8), (20, 20, 16)), box((10, 10, 8), (20, 20, 13)), {"box": 1.0})
    assert one.largest_mm == pytest.approx(-6.0)
    assert one.direction.startswith("superior")
    assert one.index[2] == 15


def test_the_largest_distance_is_the_hausdorff_distance_of_the_scores():
    reference, prediction = labels(), labels(shift=3)
    scored = {row.structure: row for row in score_case("a", reference, prediction)}
    for one in boundaries(reference, prediction, {"liver": 1.0, "kidney": 1.0}):
        assert abs(one.largest_mm) == pytest.approx(scored[one.structure].hd_mm)


def test_a_single_slice_has_no_faces():
    a, b = (box((5, 5, 0), (15, 15 + n, 1), (30, 30, 1), (1.0, 1.0, 50.0)) for n in (0, 2))
    (one,) = boundaries(a, b, {"box": 1.0})
    assert one.largest_mm == pytest.approx(2.0)
    assert one.index[2] == 0


def test_only_what_both_maps_hold_and_what_was_asked_for():
    assert boundaries(labels(), labels(drop=True), {"liver": 1.0, "kidney": 1.0})[0].structure == "liver"
    assert len(boundaries(labels(), labels(drop=True), {"liver": 1.0, "kidney": 1.0})) == 1
    assert boundaries(labels(), labels(), {}) == ()


@pytest.mark.parametrize(
    ("away", "words"),
    [
        ((0, 0, 0), "central"),
        ((-9, 0, 1), "left"),
        ((0, -5, 5), "superior and posterior"),
        ((3, 1, -2), "inferior and right"),
    ],
)
def test_directions_in_words(away, words):
    assert direction(np.array(away, float)) == words


def test_a_grid_that_is_stored_otherwise_gives_the_same_place():
    reference, prediction = box((10, 10, 8), (20, 20, 16)), box((10, 10, 8), (24, 20, 16))
    affine = reference.grid.affine.copy()
    affine[:3, 3] += affine[:3, 0] * (SHAPE[0] - 1)
    affine[:3, 0] *= -1
    turned = [LabelMap(m.array[::-1], Grid(SHAPE, affine), m.names) for m in (reference, prediction)]
    (one,), (other,) = boundaries(reference, prediction, {"box": 1.0}), boundaries(*turned, {"box": 1.0})
    assert other.largest_mm == pytest.approx(one.largest_mm)
    assert other.direction == one.direction
    assert other.mm[0] == pytest.approx(one.mm[0])
