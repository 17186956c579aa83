from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor, nn

from medseg.inference.window import _with_room, gaussian, slide, tile_starts
from medseg.networks.table import build_network
from medseg.planning.plan import Configuration
from tests.tiny import CPU, configuration

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


@given(st.tuples(*(st.integers(1, 40),) * 3))
def test_weights_are_positive_symmetric_and_highest_in_the_middle(patch: tuple[int, int, int]) -> None:
    weights = gaussian(patch)
    assert weights.shape == patch
    assert weights.dtype == np.float32
    assert weights.min() > 0
    for axis in range(3):
        np.testing.assert_allclose(weights, np.flip(weights, axis), rtol=1e-5)
    assert weights.argmax() in np.flatnonzero(weights == weights.max())
    assert weights[tuple(p // 2 for p in patch)] == weights.max()


@given(st.tuples(SIZES, SIZES, SIZES), st.tuples(PATCHES, PATCHES, PATCHES), STEPS)
def test_a_network_that_changes_nothing_gives_the_scan_back(shape: Any, patch: Any, step: float) -> None:
    image = image_of(1, *shape)
    logits = slide([Same()], image, configuration(patch=patch, step=step), CPU)
    assert logits.dtype == np.float32
    np.testing.assert_allclose(logits, image * np.arange(1, 4)[:, None, None, None], rtol=1e-4, atol=1e-5)


@given(st.tuples(SIZES, SIZES, SIZES), st.tuples(PATCHES, PATCHES, PATCHES), st.integers(0, 2), STEPS)
def test_so_does_a_2d_one_along_each_axis(shape: Any, patch: Any, axis: int, step: float) -> None:
    image = image_of(1, *shape)
    made = configuration(dims=2, slice_axis=axis, patch=patch, step=step, window_mirror=(0, 1, 2)[:axis])
    logits = slide([Same()], image, made, CPU)
    np.testing.assert_allclose(logits, image * np.arange(1, 4)[:, None, None, None], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_2d_network_sees_whole_slices(axis: int) -> None:
    seen = []

    class Looks(Same):
        def forward(self, x: Tensor) -> Tensor:
            seen.append(x.clone())
            return super().forward(x)

    image = image_of(1, 6, 6, 6)
    slide([Looks()], image, configuration(dims=2, slice_axis=axis, patch=(6, 6, 6)), CPU)
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
    logits = slide([Looks()], image, configuration(patch=(8, 8, 8), channels=2), CPU)
    assert logits.shape == (3, 3, 8, 5)
    inside = seen[0][0, 0].nonzero()
    assert inside.amin(0).tolist() == [2, 0, 1]
    assert inside.amax(0).tolist() == [4, 7, 5]


def test_read_only_and_half_precision_images_are_taken() -> None:
    image = image_of(1, 9, 8, 8)
    image.flags.writeable = False
    before = image.copy()
    slide([Same()], image, configuration(), CPU)
    assert np.array_equal(image, before)


def real(made: Configuration, seed: int = 0) -> nn.Module:
    return build_network(made.network, seed).eval()


def test_several_networks_are_averaged() -> None:
    made = configuration()
    image = image_of(1, 12, 9, 8)
    one, two = real(made, 1), real(made, 2)
    together = slide([one, two], image, made, CPU)
    apart = [slide([network], image, made, CPU) for network in (one, two)]
    np.testing.assert_allclose(together, (apart[0] + apart[1]) / 2, atol=1e-4)


@pytest.mark.parametrize("axes", [(0,), (1, 2), (0, 1, 2)])
def test_mirrored_answers_are_averaged(axes: tuple[int, ...]) -> None:
    made, plain = configuration(window_mirror=axes), configuration()
    network, image = real(plain), image_of(1, 11, 9, 8)
    mirrored = slide([network], image, made, CPU)
    for axis in axes:  # the mean over all mirrorings does not know them apart
        flipped = np.flip(slide([network], np.flip(image, axis + 1), made, CPU), axis + 1)
        np.testing.assert_allclose(mirrored, flipped, atol=1e-4)
    assert not np.allclose(mirrored, slide([network], image, plain, CPU), atol=1e-3)


def test_each_network_is_asked_once_a_mirroring() -> None:
    same = Same()
    slide([same], image_of(1, 8, 8, 8), configuration(window_mirror=(0, 2)), CPU)
    assert same.seen == 4


def test_a_scan_lies_on_a_gpu_only_where_there_is_room(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = torch.device("cuda")
    told = {"memory_reserved": 8.0, "memory_allocated": 6.0, "mem_get_info": (10.0, 100.0)}
    for name, value in told.items():
        monkeypatch.setattr(torch.cuda, name, lambda _, value=value: value)
    assert _with_room(gpu, 6.0) == gpu
    assert _with_room(gpu, 6.1) == CPU
    assert _with_room(CPU, 1e18) == CPU
