from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from medseg.preprocessing.cache import LoadedCase
from medseg.training.augment import Draw
from medseg.training.patches import Pick, _cut, _moved, make_batch, make_patch, pick_batch
from tests.tiny import configuration, loaded, loaded_blobs

PLACES = st.integers(-4, 12)
SIZES = st.integers(1, 11)


def numbered(shape: tuple[int, ...]) -> NDArray[np.float32]:
    return np.arange(1, np.prod(shape) + 1, dtype=np.float32).reshape(shape)


def plainly_cut(array: NDArray[np.float32], centre: tuple[int, ...], patch: tuple[int, ...]) -> NDArray[np.float32]:
    out = np.zeros((array.shape[0], *patch), array.dtype)
    for at in itertools.product(*map(range, patch)):
        where = tuple(c - p // 2 + k for c, p, k in zip(centre, patch, at, strict=True))
        if all(0 <= w < n for w, n in zip(where, array.shape[1:], strict=True)):
            out[(slice(None), *at)] = array[(slice(None), *where)]
    return out


@given(st.tuples(PLACES, PLACES, PLACES), st.tuples(SIZES, SIZES, SIZES))
def test_a_cut_is_zero_wherever_it_leaves_the_scan(centre: tuple[int, int, int], patch: tuple[int, int, int]) -> None:
    array = numbered((2, 5, 4, 7))
    assert np.array_equal(_cut(array, centre, patch).numpy(), plainly_cut(array, centre, patch))


def test_a_cut_of_half_precision_is_single_and_classes_stay_whole() -> None:
    assert _cut(numbered((1, 4, 4, 4)).astype(np.float16), (2, 2, 2), (3, 3, 3)).dtype == torch.float32
    assert _cut(np.ones((1, 4, 4, 4), np.uint8), (2, 2, 2), (3, 3, 3)).dtype == torch.uint8


def test_the_cut_is_a_copy() -> None:
    array = numbered((1, 4, 4, 4))
    array.flags.writeable = False
    _cut(array, (2, 2, 2), (4, 4, 4)).add_(1)
    assert array[0, 0, 0, 0] == 1


@pytest.mark.parametrize("share", [0.0, 0.33, 0.5, 1.0])
def test_picks_respect_the_foreground_share(share: float) -> None:
    cases = loaded_blobs()
    made = configuration(batch=6, foreground_share=share, patch=(4, 4, 4))
    forced = round(6 * share)
    for seed in range(20):
        picks = pick_batch(cases, made, np.random.default_rng(seed), augment=False)
        assert len(picks) == 6
        for pick in picks[6 - forced :]:
            assert cases[pick.case].classes_XYZ[pick.centre] > 0


def test_both_structures_are_centred_on_equally_often() -> None:
    cases = loaded_blobs(1)
    made = configuration(batch=1, foreground_share=1.0)
    rng = np.random.default_rng(0)
    found = [cases[0].classes_XYZ[pick_batch(cases, made, rng)[0].centre] for _ in range(300)]
    assert 0.4 < np.mean([f == 1 for f in found]) < 0.6


@pytest.mark.parametrize("patch", [(8, 8, 8), (5, 16, 3), (16, 16, 16), (17, 24, 4)])
def test_patches_of_background_lie_inside_or_hold_the_whole_axis(patch: tuple[int, int, int]) -> None:
    cases = loaded_blobs(1)
    made = configuration(batch=4, foreground_share=0.0, patch=patch)
    seen: list[set[int]] = [set(), set(), set()]
    for seed in range(100):
        for pick in pick_batch(cases, made, np.random.default_rng(seed), augment=False):
            for axis, (c, p, n) in enumerate(zip(pick.centre, patch, cases[0].classes_XYZ.shape, strict=True)):
                start = c - p // 2
                seen[axis].add(start)
                assert (start >= 0 and start + p <= n) if p <= n else (start <= 0 and start + p >= n)
    for starts, p in zip(seen, patch, strict=True):
        if p < 16:
            assert {0, 16 - p} <= starts  # both ends are reached


def test_a_case_without_structures_gives_background() -> None:
    empty = loaded(np.zeros((1, 6, 6, 6), np.float32), np.zeros((6, 6, 6), np.uint8))
    picks = pick_batch([empty], configuration(foreground_share=1.0, patch=(4, 4, 4)), np.random.default_rng(0))
    assert make_batch([empty], picks, configuration(patch=(4, 4, 4)))[1].sum() == 0


def test_the_same_draw_gives_the_same_patch() -> None:
    cases = loaded_blobs()
    made = configuration(batch=8, mirror_axes=(0, 1, 2))
    one, other = (make_batch(cases, pick_batch(cases, made, np.random.default_rng(5)), made) for _ in range(2))
    assert torch.equal(one[0], other[0])
    assert torch.equal(one[1], other[1])
    assert one[0].shape == (8, 1, 8, 8, 8)
    assert one[0].dtype == torch.float32
    assert one[1].dtype == torch.int64


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_2d_batch_drops_the_slice_axis(axis: int) -> None:
    cases = loaded_blobs(shape=(14, 15, 16))
    made = configuration(dims=2, slice_axis=axis, batch=5, patch=(6, 8, 10))
    image, classes = make_batch(cases, pick_batch(cases, made, np.random.default_rng(1)), made)
    flat = tuple(n for a, n in enumerate((6, 8, 10)) if a != axis)
    assert image.shape == (5, 1, *flat)
    assert classes.shape == (5, *flat)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_2d_patch_is_the_slice_that_it_is_centred_on(axis: int) -> None:
    (case,) = loaded_blobs(1)
    made = configuration(dims=2, slice_axis=axis, batch=1, patch=(16, 16, 16))
    image, classes = make_batch([case], [Pick(0, (8, 8, 8), Draw(rotate_rad=(0.0, 0.0, 0.0)))], made)
    np.testing.assert_allclose(image[0, 0].numpy(), case.image_CXYZ[0].take(8, axis), atol=1e-3)
    assert np.array_equal(classes[0].numpy(), case.classes_XYZ.take(8, axis))


@given(st.tuples(PLACES, PLACES, PLACES), st.tuples(SIZES, SIZES, SIZES))
def test_moving_by_nothing_is_the_plain_cut(centre: tuple[int, int, int], patch: tuple[int, int, int]) -> None:
    rng = np.random.default_rng(0)
    case = loaded(rng.normal(size=(2, 6, 7, 8)).astype(np.float32), rng.integers(0, 3, (6, 7, 8)).astype(np.uint8))
    still = Draw(rotate_rad=(0.0, 0.0, 0.0), scale=1.0)
    image, classes = _moved(case, Pick(0, centre, still), patch)
    torch.testing.assert_close(image, _cut(case.image_CXYZ, centre, patch), rtol=0, atol=1e-4)
    assert torch.equal(classes, _cut(case.classes_XYZ[None], centre, patch)[0].float())


def ball() -> LoadedCase:
    at = np.stack(np.meshgrid(*(np.arange(24),) * 3, indexing="ij"), axis=-1)
    classes = (np.linalg.norm(at - [17, 10, 13], axis=-1) < 4.5).astype(np.uint8)
    return loaded(100 * classes[None].astype(np.float32), classes)


@pytest.mark.parametrize(
    "how",
    [
        Draw(rotate_rad=(0.4, -0.3, 0.5)),
        Draw(rotate_rad=(0.0, 0.0, np.pi / 2)),
        Draw(scale=1.4),
        Draw(scale=0.7),
        Draw(rotate_rad=(0.2, 0.1, -0.4), scale=1.2, mirror=(0, 2)),
        Draw(mirror=(0,)),
        Draw(mirror=(0, 1, 2)),
    ],
    ids=str,
)
def test_a_blob_moves_with_its_label(how: Draw) -> None:
    case = ball()
    image, classes = make_patch(case, Pick(0, (12, 12, 12), how), configuration(patch=(24, 24, 24)))
    bright = image[0] > 50
    shared = (bright & (classes == 1)).sum()
    assert 2 * shared / (bright.sum() + (classes == 1).sum()) > 0.93
    moved = np.array(np.nonzero(classes.numpy())).mean(axis=1)
    assert np.linalg.norm(moved - [17, 10, 13]) > 1  # it did move
    ratio = (how.scale or 1.0) ** 3
    assert float(classes.sum()) == pytest.approx(ratio * case.classes_XYZ.sum(), rel=0.15)


def test_a_quarter_turn_is_exact_and_keeps_millimetres() -> None:
    case = ball()
    image, classes = _moved(case, Pick(0, (12, 12, 12), Draw(rotate_rad=(0.0, 0.0, np.pi / 2))), (23, 23, 23))
    plain = _cut(case.classes_XYZ[None], (12, 12, 12), (23, 23, 23))[0].numpy()
    assert np.array_equal(classes.numpy(), np.rot90(plain, axes=(0, 1))) or np.array_equal(
        classes.numpy(), np.rot90(plain, -1, axes=(0, 1))
    )
    np.testing.assert_allclose(image[0].numpy(), 100 * classes.numpy(), atol=0.1)


def test_mirroring_flips_image_and_classes() -> None:
    case = ball()
    made = configuration(patch=(24, 24, 24))
    plain, flipped = (make_patch(case, Pick(0, (12, 12, 12), Draw(mirror=m)), made) for m in ((), (1,)))
    assert torch.equal(flipped[0], plain[0].flip(2))
    assert torch.equal(flipped[1], plain[1].flip(1))
