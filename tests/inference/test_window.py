from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor, nn

from medseg.compute import free_gpu_bytes
from medseg.errors import InputError
from medseg.inference import blending, tiles
from medseg.inference.tiles import line_weights, slab_axis, tile_count, tile_starts
from medseg.inference.window import SlidingWindow
from medseg.networks.table import build_network
from medseg.planning.plan import Configuration
from tests.tiny import CPU, configuration, slid

SIZES = st.integers(1, 14)
PATCHES = st.integers(2, 9)
STEPS = st.sampled_from([0.25, 0.5, 0.7, 1.0])


class Same(nn.Module):
    """Gives its input back, once for each class."""

    def __init__(self, classes: int = 3) -> None:
        super().__init__()
        self.classes, self.seen = classes, 0

    def forward(self, x: Tensor) -> Tensor:
        self.seen += 1
        return torch.cat([x[:, :1] * (k + 1) for k in range(self.classes)], dim=1)


def image_of(*shape: int) -> NDArray[np.float32]:
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


@given(st.integers(1, 200), st.integers(1, 64), st.floats(0.1, 1.0))
def test_tiles_cover_everything_and_stay_inside(size: int, patch: int, step: float) -> None:
    starts = tile_starts(size, patch, step)
    seen = np.zeros(max(size, patch), int)
    for start in starts:
        assert start >= 0
        assert start + patch <= max(size, patch)
        seen[start : start + patch] += 1
    assert seen.min() >= 1
    assert starts == sorted(set(starts))
    if patch > 1:
        gaps = np.diff(starts)
        assert all(g <= math.ceil(patch * step) for g in gaps)


@given(st.integers(1, 64))
def test_weights_are_positive_symmetric_and_highest_in_the_middle(patch: int) -> None:
    weights = line_weights(patch)
    assert weights.shape == (patch,)
    assert weights.dtype == np.float32
    assert weights.min() > 0
    np.testing.assert_allclose(weights, weights[::-1], rtol=1e-5)
    assert weights[patch // 2] == weights.max()


@settings(deadline=None)  # up to thousands of tiles
@given(st.tuples(SIZES, SIZES, SIZES), st.tuples(PATCHES, PATCHES, PATCHES), STEPS)
def test_a_network_that_changes_nothing_gives_the_scan_back(shape: Any, patch: Any, step: float) -> None:
    image = image_of(1, *shape)
    logits = slid([Same()], image, configuration(patch=patch, step=step))
    assert logits.dtype == np.float32
    np.testing.assert_allclose(logits, image * np.arange(1, 4)[:, None, None, None], rtol=1e-4, atol=1e-5)


@settings(deadline=None)  # up to thousands of tiles
@given(st.tuples(SIZES, SIZES, SIZES), st.tuples(PATCHES, PATCHES, PATCHES), st.integers(0, 2), STEPS)
def test_so_does_a_2d_one_along_each_axis(shape: Any, patch: Any, axis: int, step: float) -> None:
    image = image_of(1, *shape)
    made = configuration(dims=2, slice_axis=axis, patch=patch, step=step, window_mirror=(0, 1, 2)[:axis])
    logits = slid([Same()], image, made)
    np.testing.assert_allclose(logits, image * np.arange(1, 4)[:, None, None, None], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_2d_network_sees_whole_slices(axis: int) -> None:
    seen = []

    class Looks(Same):
        def forward(self, x: Tensor) -> Tensor:
            seen.append(x.clone())
            return super().forward(x)

    image = image_of(1, 6, 6, 6)
    slid([Looks()], image, configuration(dims=2, slice_axis=axis, patch=(6, 6, 6)))
    slices = torch.cat(seen)
    assert slices.shape == (6, 1, 6, 6)
    np.testing.assert_allclose(slices[2, 0].numpy(), image[0].take(2, axis))


def test_padding_lies_evenly_around_a_small_scan_and_is_dropped() -> None:
    seen = []

    class Looks(Same):
        def forward(self, x: Tensor) -> Tensor:
            seen.append(x.clone())
            return super().forward(x)

    image = np.ones((2, 3, 8, 5), np.float32)
    logits = slid([Looks()], image, configuration(patch=(8, 8, 8), channels=2))
    assert logits.shape == (3, 3, 8, 5)
    inside = seen[0][0, 0].nonzero()
    assert inside.amin(0).tolist() == [2, 0, 1]
    assert inside.amax(0).tolist() == [4, 7, 5]


def test_read_only_and_half_precision_images_are_taken() -> None:
    image = image_of(1, 9, 8, 8)
    image.flags.writeable = False
    before = image.copy()
    slid([Same()], image, configuration())
    assert np.array_equal(image, before)


def real(made: Configuration, seed: int = 0) -> nn.Module:
    return build_network(made.network, seed).eval()


def test_several_networks_are_averaged() -> None:
    made = configuration()
    image = image_of(1, 12, 9, 8)
    one, two = real(made, 1), real(made, 2)
    together = slid([one, two], image, made)
    apart = [slid([network], image, made) for network in (one, two)]
    np.testing.assert_allclose(together, (apart[0] + apart[1]) / 2, atol=1e-4)


@pytest.mark.parametrize("axes", [(0,), (1, 2), (0, 1, 2)])
def test_mirrored_answers_are_averaged(axes: tuple[int, ...]) -> None:
    made, plain = configuration(window_mirror=axes), configuration()
    network, image = real(plain), image_of(1, 11, 9, 8)
    mirrored = slid([network], image, made)
    for axis in axes:  # the mean over all mirrorings does not know them apart
        flipped = np.flip(slid([network], np.flip(image, axis + 1), made), axis + 1)
        np.testing.assert_allclose(mirrored, flipped, atol=1e-4)
    assert not np.allclose(mirrored, slid([network], image, plain), atol=1e-3)


def test_each_network_is_asked_once_a_mirroring() -> None:
    same = Same()
    slid([same], image_of(1, 8, 8, 8), configuration(window_mirror=(0, 2)))
    assert same.seen == 4


@given(st.tuples(*(st.integers(1, 40),) * 3), st.tuples(PATCHES, PATCHES, PATCHES), STEPS)
def test_slabs_go_along_the_axis_with_most_tiles_and_hold_a_few_planes(shape: Any, patch: Any, step: float) -> None:
    made = configuration(patch=patch, step=step)
    tiles = [len(tile_starts(n, p, step)) for n, p in zip(shape, patch, strict=True)]
    axis = slab_axis(shape, made)
    assert tiles[axis] == max(tiles)
    assert tile_count(shape, made) == math.prod(tiles)


def test_memory_does_not_grow_with_the_length_of_a_scan(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(tiles.VOXELS_A_FORWARD, "cpu", 8**3)
    made = configuration(patch=(8, 8, 8))
    sizes = set()
    for length in (64, 128, 256):
        found = []
        for slab in SlidingWindow([Same()], made, CPU).slabs(image_of(1, 12, 10, length)):
            assert slab.axis == 2
            found.append(slab.logits_PQRL.untyped_storage().nbytes())
        sizes |= set(found)
    assert len(sizes) == 1


def test_a_network_is_asked_once_for_all_tiles_of_one_value() -> None:
    class Counts(Same):
        def forward(self, x: Tensor) -> Tensor:
            self.tiles = getattr(self, "tiles", 0) + len(x)
            return super().forward(x)

    image = np.zeros((1, 8, 8, 64), np.float32)
    image[..., 40:] = image_of(1, 8, 8, 24)
    made, counts = configuration(patch=(8, 8, 8)), Counts()
    found = slid([counts], image, made)
    assert counts.tiles < tile_count(image.shape[1:], made) - 5
    np.testing.assert_allclose(found, image * np.arange(1, 4)[:, None, None, None], rtol=1e-4, atol=1e-5)


def test_an_answer_that_is_no_number_is_refused() -> None:
    image = image_of(1, 8, 8, 8)
    image[0, 3, 3, 3] = np.nan
    with pytest.raises(InputError, match="NOT_FINITE"):
        slid([Same()], image, configuration())


class GivesOut(Same):
    """Memory gives out for more than `most` tiles at a time."""

    def __init__(self, most: int) -> None:
        super().__init__()
        self.most = most

    def forward(self, x: Tensor) -> Tensor:
        if len(x) > self.most:
            raise torch.OutOfMemoryError("out of memory")
        return super().forward(x)


def test_fewer_tiles_go_together_where_memory_gives_out_and_it_is_said() -> None:
    image = image_of(1, 20, 8, 8)
    slider = SlidingWindow([GivesOut(2)], configuration(), CPU)
    parts = [slab.logits_PQRL.numpy().copy() for slab in slider.slabs(image)]
    np.testing.assert_allclose(np.concatenate(parts)[..., 0], image[0], rtol=1e-4, atol=1e-5)
    assert slider.told
    assert slider.told[-1].endswith("tile(s) at a time")
    told = len(slider.told)
    list(slider.slabs(image))
    assert len(slider.told) == told  # what fitted once is kept
    with pytest.raises(torch.OutOfMemoryError):
        list(SlidingWindow([GivesOut(0)], configuration(), CPU).slabs(image))


def test_tiles_are_counted_once_where_memory_gives_out(monkeypatch: pytest.MonkeyPatch) -> None:
    class FailsAt(Same):
        def __init__(self, *calls: int) -> None:
            super().__init__()
            self.calls, self.called = calls, 0

        def forward(self, x: Tensor) -> Tensor:
            self.called += 1
            if self.called in self.calls:
                raise torch.OutOfMemoryError("out of memory")
            return super().forward(x)

    class Ballot(list[int]):
        def vote(self, answer: Tensor) -> None:
            self.append(len(answer))

    class Watch:
        ballot, tiles = Ballot, 0

        def count(self, ballot: list[int]) -> None:
            self.tiles += ballot[0]

    monkeypatch.setitem(tiles.VOXELS_A_FORWARD, "cpu", 8 * 8**3)
    counted = []
    for calls in ((), (1, 3)):
        slider, watch = SlidingWindow([FailsAt(*calls), Same()], configuration(), CPU), Watch()
        slider.watch = watch  # type: ignore[assignment]
        list(slider.slabs(image_of(1, 40, 8, 8)))
        counted.append(watch.tiles)
        assert len(slider.told) == len(calls)
    assert counted[0] == counted[1] > 1


def test_sums_that_memory_cannot_hold_lie_on_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blending, "available_memory_bytes", lambda: 10)
    image = image_of(1, 20, 8, 8)
    with pytest.raises(MemoryError):
        list(SlidingWindow([Same()], configuration(), CPU).slabs(image))
    slider = SlidingWindow([Same()], configuration(), CPU, tmp_path)
    parts = [slab.logits_PQRL.numpy().copy() for slab in slider.slabs(image)]
    np.testing.assert_allclose(np.concatenate(parts)[..., 0], image[0], rtol=1e-4, atol=1e-5)
    assert "they lie on disk" in slider.told[0]


def test_a_scan_lies_on_a_gpu_only_where_there_is_room(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = torch.device("cuda")
    told = {"memory_reserved": 8.0, "memory_allocated": 6.0, "mem_get_info": (10.0, 100.0)}
    for name, value in told.items():
        monkeypatch.setattr(torch.cuda, name, lambda _, value=value: value)
    assert free_gpu_bytes(gpu) == 12
