from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from scipy.ndimage import map_coordinates

from medseg.errors import InputError
from medseg.planning.plan import Configuration
from medseg.preprocessing.cache import LoadedCase, foreground_voxels
from medseg.preprocessing.settings import Normalisation
from medseg.training.data import patches
from medseg.training.data.augment import Draw, place_of
from medseg.training.data.patches import Batch, Pick, batches, make_batch, pick_batch
from medseg.training.data.previous import Change
from medseg.training.data.sources import Placed, placed_as
from tests.tiny import CPU, KEY, configuration, loaded, loaded_blobs
from tests.training.data.test_gather import positions

ALL_AXES = (0, 1, 2)
SIDE = 16


def held(cases: list[LoadedCase]) -> Placed:
    return placed_as("device", cases, CPU)


def drawn(cases: list[LoadedCase], made: Configuration, seed: int = 0, augment: bool = True) -> Batch:
    return make_batch(held(cases), pick_batch(cases, made, np.random.default_rng(seed), augment), made)


def same(one: Batch, other: Batch) -> bool:
    return torch.equal(one.image, other.image) and torch.equal(one.classes, other.classes) and one.names == other.names


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
        if p < SIDE:
            assert {0, SIDE - p} <= starts  # both ends are reached


def test_with_an_ignore_label_every_patch_is_centred_on_a_voxel_that_somebody_labelled() -> None:
    (case,) = loaded_blobs(1)
    classes = case.classes_XYZ.copy()
    classes[:, :, :10] = 3  # nobody labelled the lower slices
    lists = {int(k): v for k, v in foreground_voxels(classes, KEY, ignored=3).items()}
    sparse = replace(case, classes_XYZ=classes, foreground=lists)
    made = configuration(batch=4, foreground_share=0.5, patch=(4, 4, 4))
    centres = [
        pick.centre
        for seed in range(40)
        for pick in pick_batch([sparse], made, np.random.default_rng(seed), augment=False)
    ]
    found = [int(classes[centre]) for centre in centres]
    assert 3 not in found
    assert found.count(0) > 40  # the unforced half is mostly background
    assert all(value > 0 for k, value in enumerate(found) if k % 4 >= 2)


def test_a_case_without_structures_gives_background() -> None:
    empty = loaded(np.zeros((1, 6, 6, 6), np.float32), np.zeros((6, 6, 6), np.uint8))
    assert drawn([empty], configuration(foreground_share=1.0, patch=(4, 4, 4))).classes.sum() == 0


def test_a_batch_is_as_it_says() -> None:
    cases = loaded_blobs()
    made = configuration(batch=8, mirror_axes=ALL_AXES)
    one = drawn(cases, made, 5)
    assert one.image.shape == (8, 1, 8, 8, 8)
    assert one.image.dtype == torch.float32
    assert one.image.stride() == torch.empty((8, 1, 8, 8, 8), memory_format=torch.channels_last_3d).stride()
    assert one.classes.shape == (8, 8, 8, 8)
    assert one.classes.dtype == torch.uint8
    assert set(one.names) <= {"case0", "case1"}
    assert same(one, drawn(cases, made, 5))
    assert not same(one, drawn(cases, made, 6))
    many = [replace(c, classes_XYZ=c.classes_XYZ.astype(np.uint16) * 200) for c in cases]
    wide = drawn(many, made, 5)
    assert wide.classes.dtype == torch.int64
    assert torch.equal(wide.classes, one.classes.long() * 200)


def test_a_batch_can_be_made_again_from_its_picks() -> None:
    cases = loaded_blobs()
    made = configuration(batch=12, mirror_axes=ALL_AXES)
    picks = pick_batch(cases, made, np.random.default_rng(1))
    whole = make_batch(held(cases), picks, made)
    for row in range(12):  # in any company
        alone = make_batch(held(cases), picks[row : row + 1], made)
        torch.testing.assert_close(alone.image[0], whole.image[row], rtol=0, atol=1e-5)
        assert torch.equal(alone.classes[0], whole.classes[row])
        assert alone.names == whole.names[row : row + 1]


def test_every_tier_gives_the_same_batches() -> None:
    cases = [replace(c, image_CXYZ=c.image_CXYZ.astype(np.float16)) for c in loaded_blobs(3)]
    cases = [replace(c, previous_XYZ=c.classes_XYZ) for c in cases]
    plain = configuration(batch=6, mirror_axes=ALL_AXES)
    made = plain.model_copy(update={"network": plain.network.model_copy(update={"in_channels": 3})})
    device, pinned, mapped = (
        batches(placed_as(t, cases, CPU), made, (1, 2), 0) for t in ("device", "pinned", "mapped")
    )  # type: ignore[arg-type]
    for one, other, third in itertools.islice(zip(device, pinned, mapped, strict=True), 4):
        assert same(one, other)
        assert same(one, third)


def test_ranks_see_together_what_one_process_sees() -> None:
    placed = held(loaded_blobs())
    made = configuration(batch=7, mirror_axes=ALL_AXES)
    whole = next(batches(placed, made, (3,), 5))
    for ranks in (1, 2, 3, 7):
        parts = [next(batches(placed, made, (3,), 5, (rank, ranks))) for rank in range(ranks)]
        assert max(len(p.names) for p in parts) - min(len(p.names) for p in parts) <= 1
        torch.testing.assert_close(torch.cat([p.image for p in parts]), whole.image, rtol=0, atol=1e-5)
        assert torch.equal(torch.cat([p.classes for p in parts]), whole.classes)
        assert tuple(name for p in parts for name in p.names) == whole.names
    with pytest.raises(InputError, match="8 GPUs cannot share batches of 7 patches"):
        batches(placed, made, (3,), 0, (0, 8))


def test_batches_go_on_from_any_step_as_if_they_had_never_stopped() -> None:
    placed = held(loaded_blobs())
    made = configuration(batch=2, mirror_axes=ALL_AXES)
    straight = list(itertools.islice(batches(placed, made, (3, 1), 0), 5))
    resumed = list(itertools.islice(batches(placed, made, (3, 1), 3), 2))
    assert all(same(a, b) for a, b in zip(straight[3:], resumed, strict=True))
    assert not same(straight[0], straight[1])


@pytest.mark.parametrize("tier", ["device", "mapped"])
def test_batches_made_ahead_are_the_same(tier: Any) -> None:
    placed = placed_as(tier, loaded_blobs(), CPU)
    made = configuration(batch=2, mirror_axes=ALL_AXES)
    plain = batches(placed, made, (3,), 2)
    ahead = patches._ahead(
        lambda step: patches._Making(placed, pick_batch(placed.cases, made, np.random.default_rng((3, step))), made),
        2,
        None,
    )
    for one, other in itertools.islice(zip(plain, ahead, strict=True), 4):
        assert same(one, other)
    ahead.close()  # type: ignore[attr-defined]


def test_what_goes_wrong_while_reading_ahead_is_told() -> None:
    placed = placed_as("mapped", loaded_blobs(), CPU)
    made = configuration(batch=2)
    broken = replace(placed, lying=())
    ahead = patches._ahead(
        lambda step: patches._Making(broken, pick_batch(placed.cases, made, np.random.default_rng(step)), made), 0, None
    )
    with pytest.raises(IndexError):
        next(ahead)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_2d_batch_drops_the_slice_axis(axis: int) -> None:
    cases = loaded_blobs(shape=(14, 15, 16))
    made = configuration(dims=2, slice_axis=axis, batch=9, patch=(6, 8, 10), mirror_axes=ALL_AXES)
    batch = drawn(cases, made, 1)
    flat = tuple(n for a, n in enumerate((6, 8, 10)) if a != axis)
    assert batch.image.shape == (9, 1, *flat)
    assert batch.classes.shape == (9, *flat)
    assert batch.image.stride() == torch.empty((9, 1, *flat), memory_format=torch.channels_last).stride()


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("angle", [0.0, 0.7])
def test_a_2d_patch_is_the_slice_that_it_is_centred_on(axis: int, angle: float) -> None:
    (case,) = loaded_blobs(1)
    made = configuration(dims=2, slice_axis=axis, batch=1, patch=(16, 16, 16))
    turned = tuple(angle if a == axis else 0.0 for a in range(3))
    pick = Pick(0, (8, 8, 8), Draw(rotate_rad=turned))  # type: ignore[arg-type]
    batch = make_batch(held([case]), [pick], made)
    at = positions(place_of((8, 8, 8), pick.augmentation, (1.0, 1.0, 1.0), made.patch), made.patch)
    theirs = map_coordinates(case.image_CXYZ[0], at, order=1, mode="grid-constant").squeeze(axis)
    np.testing.assert_allclose(batch.image[0, 0].numpy(), theirs, atol=1e-4)
    if angle == 0:
        assert np.array_equal(batch.classes[0].numpy(), case.classes_XYZ.take(8, axis))


def ball() -> LoadedCase:
    at = np.stack(np.meshgrid(*(np.arange(24),) * 3, indexing="ij"), axis=-1)
    classes = (np.linalg.norm(at - [17, 10, 13], axis=-1) < 4.5).astype(np.uint8)
    return loaded(100 * classes[None].astype(np.float32), classes)


@pytest.mark.parametrize(
    "how",
    [
        Draw(rotate_rad=(0.4, -0.3, 0.5)),
        Draw(rotate_rad=(0.0, 0.0, np.pi / 2)),
        Draw(scale=(1.4, 1.4, 1.4)),
        Draw(scale=(0.7, 0.7, 0.7)),
        Draw(rotate_rad=(0.2, 0.1, -0.4), scale=(1.2, 1.2, 1.2), mirror=(0, 2)),
        Draw(mirror=(0,)),
        Draw(mirror=(0, 1, 2)),
    ],
    ids=str,
)
def test_a_blob_moves_with_its_label(how: Draw) -> None:
    case, made = ball(), configuration(patch=(24, 24, 24))
    batch = make_batch(held([case]), [Pick(0, (12, 12, 12), how)], made)
    bright, classes = batch.image[0, 0] > 50, batch.classes[0]
    shared = (bright & (classes == 1)).sum()
    assert 2 * shared / (bright.sum() + (classes == 1).sum()) > 0.93
    moved = np.array(np.nonzero(classes.numpy())).mean(axis=1)
    assert np.linalg.norm(moved - [17, 10, 13]) > 1  # it did move
    ratio = (how.scale or (1.0,))[0] ** 3
    assert float(classes.sum()) == pytest.approx(ratio * case.classes_XYZ.sum(), rel=0.15)


def cascaded(structures: int) -> Configuration:
    made = configuration(batch=2, patch=(12, 12, 12))
    return made.model_copy(update={"network": made.network.model_copy(update={"in_channels": 1 + structures})})


def test_a_previous_segmentation_becomes_a_channel_a_class_and_moves_along() -> None:
    (plain,) = loaded_blobs(1)
    case = replace(plain, previous_XYZ=plain.classes_XYZ)
    for how in (Draw(), Draw(rotate_rad=(0.3, 0.2, 0.1), mirror=(1,), noise_sd=0.1, gamma=(1.3,))):
        batch = make_batch(held([case]), [Pick(0, (8, 8, 8), how)] * 2, cascaded(2))
        assert batch.image.shape == (2, 3, 12, 12, 12)
        for k in (1, 2):
            assert torch.equal(batch.image[:, k], (batch.classes == k).float())
        alone = make_batch(held([plain]), [Pick(0, (8, 8, 8), how)] * 2, configuration(batch=2, patch=(12, 12, 12)))
        assert torch.equal(batch.image[:, 0], alone.image[:, 0])


def test_a_previous_segmentation_is_roughened_and_the_truth_is_not() -> None:
    (plain,) = loaded_blobs(1)
    case = replace(plain, previous_XYZ=plain.classes_XYZ)
    how = Draw(previous=(Change("dilate", 2, 2), Change("drop", 1, key=1)))
    batch = make_batch(held([case]), [Pick(0, (8, 8, 8), how)], cascaded(2))
    whole = make_batch(held([case]), [Pick(0, (8, 8, 8), Draw())], cascaded(2))
    assert torch.equal(batch.classes, whole.classes)
    assert batch.image[0, 2].sum() > whole.image[0, 2].sum()
    assert batch.image[0, 1].sum() == 0 or whole.image[0, 1].mean() > 0.15
    changes = [pick.augmentation.previous for seed in range(40) for pick in _picks([case], cascaded(2), seed)]
    assert np.mean([bool(c) for c in changes]) == pytest.approx(1 - 0.7 * 0.85, abs=0.15)


def _picks(cases: list[LoadedCase], made: Configuration, seed: int) -> list[Pick]:
    return pick_batch(cases, made, np.random.default_rng(seed))


def test_what_lies_outside_the_outline_stays_zero_where_channels_were_normalised_within_it() -> None:
    (case,) = loaded_blobs(1)
    image = np.concatenate([case.image_CXYZ, case.image_CXYZ])
    image[:, :5] = 0
    both = replace(case, image_CXYZ=image)
    plain = configuration(batch=1, patch=(16, 16, 16), channels=2)
    channels = Normalisation(kind="zscore", nonzero_only=True), Normalisation(kind="zscore")
    made = plain.model_copy(update={"preprocessing": plain.preprocessing.model_copy(update={"channels": channels})})
    how = Draw(noise_sd=0.1, brightness=(1.2, 1.2), gamma=(0.8, 0.8), blur_sigma=((1, 1, 1), (1, 1, 1)))
    found = make_batch(held([both]), [Pick(0, (8, 8, 8), how)], made).image[0]
    assert not found[0, :5].any()
    assert found[0, 5:].all()
    assert found[1, :5].any()


def test_the_loaded_scan_is_left_as_it_is() -> None:
    cases = loaded_blobs()
    before = [c.image_CXYZ.copy() for c in cases]
    made = configuration(batch=6, mirror_axes=ALL_AXES, patch=(16, 16, 16))
    for tier in ("device", "mapped"):
        placed = placed_as(tier, cases, CPU)
        first = make_batch(placed, pick_batch(cases, made, np.random.default_rng(0)), made)
        first.image.add_(1)
        assert all(np.array_equal(c.image_CXYZ, b) for c, b in zip(cases, before, strict=True))
        again = make_batch(placed, pick_batch(cases, made, np.random.default_rng(0)), made)
        assert torch.equal(again.image + 1, first.image)
