from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medseg.preprocessing.crop import MARGIN, crop_box, crop_for, slices


def ct(shape: tuple[int, int, int] = (20, 18, 16)) -> np.ndarray:
    """Air with noise, and in its middle a body of 6 voxels a side."""
    rng = np.random.default_rng(0)
    image = rng.normal(-1000, 30, shape).astype(np.float32)
    image[8:14, 7:13, 5:11] = rng.normal(40, 30, (6, 6, 6))
    return image


def whole(image: np.ndarray) -> tuple[tuple[int, int], ...]:
    return tuple((0, n) for n in image.shape)


def test_the_box_holds_every_nonzero_voxel_of_any_channel():
    image = np.zeros((2, 6, 7, 8))
    image[0, 2, 3, 4] = -1
    image[1, 4, 3, 1] = 0.5
    assert crop_box(image, "nonzero") == ((2, 5), (3, 4), (1, 5))


def test_an_empty_scan_is_kept_whole():
    assert crop_box(np.zeros((1, 3, 1, 2)), "nonzero") == ((0, 3), (0, 1), (0, 2))
    assert crop_box(np.full((1, 3, 1, 2), -1000), "body") == ((0, 3), (0, 1), (0, 2))


@settings(deadline=None, max_examples=60, database=None)
@given(
    seed=st.integers(0, 1000),
    share=st.floats(0.001, 0.3),
    order=st.permutations((0, 1, 2)),
    flips=st.tuples(*[st.sampled_from([1, -1])] * 3),
)
def test_nothing_is_lost_and_each_side_touches_however_the_array_lies_in_memory(seed, share, order, flips):
    rng = np.random.default_rng(seed)
    image = (rng.random((2, *rng.integers(1, 9, 3))) < share) * rng.normal(size=1)
    box = crop_box(image, "nonzero")
    inside = image[(slice(None), *slices(box))]
    assert np.count_nonzero(inside) == np.count_nonzero(image)
    if image.any():
        assert crop_box(inside, "nonzero") == tuple((0, n) for n in inside.shape[1:])
    turned = [channel.transpose(order)[tuple(slice(None, None, f) for f in flips)].copy("F") for channel in image]
    there = crop_box(turned, "nonzero")
    back = [there[order.index(axis)] for axis in range(3)]
    sizes = image.shape[1:]
    expected = [
        (lo, hi) if flips[order.index(a)] == 1 or not image.any() else (sizes[a] - hi, sizes[a] - lo)
        for a, (lo, hi) in enumerate(box)
    ]
    assert back == expected


def test_a_ct_is_cropped_to_the_body_and_a_margin():
    assert crop_box([ct()], "body") == ((8 - MARGIN, 14 + MARGIN), (7 - MARGIN, 13 + MARGIN), (5 - MARGIN, 11 + MARGIN))


def test_the_margin_ends_with_the_scan():
    image = ct()[8:, 6:, :]
    assert crop_box([image], "body") == ((0, 8), (0, 9), (3, 13))


def test_a_body_in_any_channel_counts():
    other = np.roll(ct(), 2, axis=0)
    assert crop_box([ct(), other], "body")[0] == (8 - MARGIN, 16 + MARGIN)


def test_a_table_only_enlarges_the_box():
    image = ct()
    image[:, 15, :] = -200
    assert crop_box([image], "body") == ((0, 20), (5, 18), (0, 16))


def test_padding_below_air_is_cut_away_as_well():
    image = ct()
    image[:4] = -3024
    assert crop_box([image], "body")[0] == (6, 16)


@pytest.mark.parametrize(("lung", "cut"), [(-950.0, True), (-850.0, False), (-700.0, False)])
def test_a_side_on_which_a_lung_would_be_cut_away_is_kept(lung, cut):
    image = ct()
    image[:7] = lung
    assert crop_box([image], "body")[0] == (6 if cut else 0, 16)


def test_values_that_are_no_hounsfield_units_are_kept_whole():
    image = ct() + 1024
    assert crop_box([image], "body") == whole(image)


def test_no_temporary_is_as_large_as_the_scan():
    image = np.full((1, 128, 128, 128), -1000, np.float32)
    image[:, 30:60, 30:60, 30:60] = 0
    for crop in ("nonzero", "body"):
        tracemalloc.start()
        crop_box(image, crop)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < image.size / 4  # bytes, of one a voxel


@pytest.mark.parametrize(
    ("channels", "crop"),
    [
        (["CT"], "body"),
        (["ct"], "body"),
        (["CT 0", "CT 1"], "body"),
        (["CT", "PT"], "nonzero"),
        (["MR"], "nonzero"),
        (["CTA"], "nonzero"),
        (["0"], "nonzero"),
        ([], "nonzero"),
    ],
)
def test_only_ct_is_cropped_to_the_body(channels, crop):
    assert crop_for(channels) == crop
