from __future__ import annotations

import tracemalloc
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage

from medseg.imaging.grid import Grid
from medseg.imaging.volume import LabelMap
from medseg.inference import boxes
from medseg.inference.postprocess import cleaned, filled
from medseg.inference.records import Cleaning


def labels_of(array: NDArray[Any], spacing: float = 1.0) -> LabelMap:
    array = np.asarray(array, np.uint8)
    return LabelMap(array, Grid(array.shape, np.diag([spacing] * 3 + [1.0])), {1: "a", 2: "b"})


def step(kind: Any, *values: int, ml: float = 0.0) -> Cleaning:
    return Cleaning(kind=kind, values=values, what="it", ml=ml)


def two_blobs() -> NDArray[np.uint8]:
    """Of value 1 a cube of 27 voxels and one of 8, of value 2 one of 8 beside the large cube."""
    array = np.zeros((14, 12, 10), np.uint8)
    array[1:4, 1:4, 1:4] = 1
    array[9:11, 9:11, 7:9] = 1
    array[4:6, 1:3, 1:3] = 2
    return array


def test_the_largest_component_of_a_structure_is_kept() -> None:
    array = two_blobs()
    found = cleaned(labels_of(array), [step("largest", 1)]).array
    expected = array.copy()
    expected[9:11, 9:11, 7:9] = 0
    np.testing.assert_array_equal(found, expected)


def test_of_all_structures_together_neighbours_are_one_component() -> None:
    array = two_blobs()
    array[12, 0, 0] = 2
    found = cleaned(labels_of(array), [step("largest", 1, 2)]).array
    assert np.bincount(found.ravel()).tolist()[1:] == [27, 8]


def test_voxels_that_touch_at_a_corner_are_one_component() -> None:
    array = np.zeros((4, 4, 4), np.uint8)
    array[0, 0, 0] = array[1, 1, 1] = array[3, 3, 3] = 1
    assert np.argwhere(cleaned(labels_of(array), [step("largest", 1)]).array).tolist() == [[0, 0, 0], [1, 1, 1]]


@pytest.mark.parametrize(("ml", "kept"), [(0.063, [35, 8]), (0.064, [35, 8]), (0.065, [27, 8]), (0.217, [0, 8])])
def test_components_below_a_volume_go(ml: float, kept: list[int]) -> None:
    found = cleaned(labels_of(two_blobs(), 2.0), [step("at_least", 1, ml=ml)]).array
    assert np.bincount(found.ravel(), minlength=3).tolist()[1:] == kept


def test_holes_get_the_value_that_touches_them_most_and_others_stay() -> None:
    array = np.ones((7, 7, 7), np.uint8)
    array[0] = 0
    array[3, 3, 3] = array[3, 3, 4] = 0  # a hole
    array[5, 5, 5] = 2  # another structure within the first
    array[4, 4, 0] = 0  # open to the border
    found = cleaned(labels_of(array), [step("fill", 1)]).array
    assert found[3, 3, 3] == found[3, 3, 4] == 1
    assert (found[5, 5, 5], found[4, 4, 0], found[0].any()) == (2, 0, False)
    half = np.ones((7, 7, 7), np.uint8)
    half[3:] = 2
    half[2, 3, 3] = half[5, 3, 3] = 0
    filled = cleaned(labels_of(half), [step("fill", 1, 2)]).array
    assert (filled[2, 3, 3], filled[5, 3, 3]) == (1, 2)
    np.testing.assert_array_equal(cleaned(labels_of(half), [step("fill", 1)]).array[5, 3, 3], 0)


def test_a_hole_of_a_single_slice_is_filled_one_of_a_sheet_in_3d_is_not() -> None:
    ring = np.ones((5, 5), np.uint8)
    ring[2, 2] = 0
    assert cleaned(labels_of(ring[:, :, None]), [step("fill", 1)]).array.all()
    sheet = np.zeros((5, 5, 3), np.uint8)
    sheet[:, :, 1] = ring
    np.testing.assert_array_equal(cleaned(labels_of(sheet), [step("fill", 1)]).array, sheet)


def test_a_hole_that_touches_other_structures_alone_stays() -> None:
    array = np.zeros((9, 9, 9), np.uint8)
    array[1:8, 1:8, 1:8] = 1
    array[3:6, 3:6, 3:6] = 2
    array[4, 4, 4] = 0
    assert cleaned(labels_of(array), [step("fill", 1)]).array[4, 4, 4] == 0
    assert cleaned(labels_of(array), [step("fill", 2)]).array[4, 4, 4] == 2


def test_steps_follow_one_another_and_the_grid_stays() -> None:
    labels = labels_of(two_blobs(), 0.5)
    found = cleaned(labels, [step("largest", 1), step("at_least", 2, ml=5.0), step("fill", 3)])
    assert found.grid is labels.grid
    assert dict(found.names) == dict(labels.names)
    assert found.array.dtype == np.uint8
    assert np.bincount(found.array.ravel()).tolist()[1:] == [27]
    assert cleaned(labels, []) is labels
    empty = labels_of(np.zeros((3, 3, 3)))
    assert not cleaned(empty, [step("largest", 1), step("fill", 1, 2), step("at_least", 1, ml=1.0)]).array.any()


@pytest.mark.parametrize("shape", [(12, 11, 10), (15, 14, 1)])
def test_holes_are_those_of_scipy(shape: tuple[int, ...]) -> None:
    rng = np.random.default_rng(2)
    for share in (0.5, 0.7, 0.85):
        array = (rng.random(shape) < share).astype(np.uint8)
        expected = ndimage.binary_fill_holes(array.squeeze()).reshape(shape)
        np.testing.assert_array_equal(cleaned(labels_of(array), [step("fill", 1)]).array, expected)


def test_it_is_what_scipy_finds_on_the_whole_array() -> None:
    rng = np.random.default_rng(1)
    array = (rng.random((20, 18, 16)) < 0.12).astype(np.uint8) * rng.integers(1, 3, (20, 18, 16)).astype(np.uint8)
    numbered, n = ndimage.label(array == 2, np.ones((3, 3, 3)))
    sizes = ndimage.sum_labels(array == 2, numbered, range(1, n + 1))
    expected = np.where((array == 2) & (numbered != sizes.argmax() + 1), 0, array)
    np.testing.assert_array_equal(cleaned(labels_of(array), [step("largest", 2)]).array, expected)


def one_by_one(array: NDArray[Any], steps: list[Cleaning]) -> NDArray[Any]:
    """Each step on the whole array, written down as simply as can be."""
    array = array.copy()
    around = np.ones((3, 3, 3))
    for one in steps:
        mask = np.isin(array, one.values)
        numbered, n = ndimage.label(mask, around)
        sizes = ndimage.sum_labels(mask, numbered, range(1, n + 1))
        if one.kind == "largest" and n:
            array[mask & (numbered != sizes.argmax() + 1)] = 0
        if one.kind == "at_least":
            array[np.isin(numbered, np.flatnonzero(sizes * 1e-3 < one.ml) + 1)] = 0
        if one.kind == "fill":
            holes, n = ndimage.label(ndimage.binary_fill_holes(mask) & (array == 0))
            for number in range(1, n + 1):
                rim = ndimage.binary_dilation(holes == number, around) & mask
                if rim.any():
                    array[holes == number] = np.bincount(array[rim]).argmax()
    return array


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1)])
def test_many_steps_in_boxes_do_what_they_do_on_the_whole(
    seed: int, order: tuple[int, int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(boxes, "PIECE", 200)
    monkeypatch.setattr(boxes, "BLOCK", 5)
    rng = np.random.default_rng(seed)
    field = ndimage.gaussian_filter(rng.standard_normal((22, 18, 16)), 1.0)
    array = np.digitize(field, np.quantile(field, [0.35, 0.6, 0.8])).astype(np.uint8)
    array[array == 3] = 5
    array[rng.random(array.shape) < 0.1] = 0
    every = (1, 2, 5)
    choices = [step("largest", *every), step("fill", *every), step("at_least", *every, ml=0.004)]
    choices += [step("fill", 1, 2), step("fill", 2), step("at_least", 5, ml=0.01), step("largest", 1), step("fill", 9)]
    steps = [choices[k] for k in rng.permutation(len(choices))]
    stored = np.asfortranarray(array.transpose(order))
    found = cleaned(labels_of(stored), steps).array
    np.testing.assert_array_equal(found, one_by_one(array, steps).transpose(order))


def test_an_array_without_holes_is_given_back_and_one_with_holes_is_not_changed() -> None:
    array = np.ones((5, 5, 5), np.uint8)
    assert filled(array, (1,)) is array
    array[2, 2, 2] = 0
    assert filled(array, (1,)).all()
    assert not array[2, 2, 2]


def test_memory_goes_with_the_box_of_a_structure() -> None:
    array = np.zeros((200, 200, 100), np.uint8)
    array[20:60, 20:60, 20:60] = 1
    array[40, 40, 40] = array[100, 100, 50] = 2
    array[199, 199, 99] = 1  # far away
    labels = labels_of(array)
    tracemalloc.start()
    cleaned(labels, [step("fill", 1), step("largest", 1), step("at_least", 1, ml=0.1)])
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < array.nbytes + 20 * 40**3
