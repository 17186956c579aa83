from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import ndimage

from medseg.training.data.previous import Change, changed, components, dilated, draw_changes, one_hot, without_one

SIZES = st.tuples(*[st.integers(1, 12)] * 3)


def ball(radius: int) -> NDArray[np.bool_]:
    at = np.indices((2 * radius + 1,) * 3) - radius
    return np.asarray((at**2).sum(0) <= radius**2)


def noise(shape: tuple[int, int, int], seed: int, share: float = 0.2) -> NDArray[np.bool_]:
    return np.asarray(np.random.default_rng(seed).random(shape) < share)


@settings(max_examples=30, deadline=None)
@given(SIZES, st.integers(0, 99), st.integers(1, 5), st.sampled_from([0.0, 0.02, 0.5]))
def test_a_ball_dilates_as_scipys(shape: tuple[int, int, int], seed: int, radius: int, share: float) -> None:
    mask = noise(shape, seed, share)
    theirs = ndimage.binary_dilation(mask, ball(radius))
    assert np.array_equal(dilated(torch.from_numpy(mask), radius).numpy(), theirs)


@pytest.mark.parametrize("kind", ["dilate", "erode", "open", "close"])
@pytest.mark.parametrize("radius", [1, 2, 8])
def test_one_class_changes_by_a_ball_and_the_others_give_way(kind: str, radius: int) -> None:
    classes = ndimage.zoom(np.random.default_rng(1).integers(0, 4, (5, 5, 5)), 4, order=0).astype(np.uint8)
    mask = classes == 2
    by_scipy = {
        "dilate": lambda m: ndimage.binary_dilation(m, ball(radius)),
        "erode": lambda m: ndimage.binary_erosion(m, ball(radius), border_value=True),
    }
    by_scipy["open"] = lambda m: by_scipy["dilate"](by_scipy["erode"](m))
    by_scipy["close"] = lambda m: by_scipy["erode"](by_scipy["dilate"](m))
    wanted = by_scipy[kind](mask)
    found = changed(torch.from_numpy(classes), [Change(kind, 2, radius)]).numpy()  # type: ignore[arg-type]
    assert np.array_equal(found == 2, wanted)
    untouched = ~wanted & ~mask
    assert np.array_equal(found[untouched], classes[untouched])
    assert not found[mask & ~wanted].any()
    assert found.dtype == np.uint8


@settings(max_examples=40, deadline=None)
@given(SIZES, st.integers(0, 99), st.sampled_from([0.05, 0.15, 0.3, 0.6]))
def test_components_are_scipys(shape: tuple[int, int, int], seed: int, share: float) -> None:
    mask = noise(shape, seed, share)
    theirs, n = ndimage.label(mask, np.ones((3, 3, 3)))
    ours = components(torch.from_numpy(mask)).numpy()
    assert ((ours > 0) == mask).all()
    assert len(np.unique(ours[mask])) == n
    assert len(set(zip(ours[mask], theirs[mask], strict=True))) == n


def test_a_component_as_long_as_a_maze_is_one() -> None:
    maze = np.zeros((31, 31, 3), bool)
    for row in range(0, 31, 2):
        maze[row, :, 1] = True
        if row < 30:
            maze[row + 1, 30 if row % 4 == 0 else 0, 1] = True
    assert len(np.unique(components(torch.from_numpy(maze)).numpy())) == 2
    assert len(np.unique(components(torch.ones((40, 30, 20), dtype=torch.bool)).numpy())) == 1


def three_parts() -> NDArray[np.bool_]:
    mask = np.zeros((20, 20, 20), bool)
    mask[1:4, 1:4, 1:4] = mask[8:11, 8:11, 8:11] = mask[15:19, 15:19, 15:19] = True
    return mask


def test_one_small_component_is_dropped_each_as_often() -> None:
    mask = three_parts()
    parts, n = ndimage.label(mask)
    dropped = np.zeros(n + 1, int)
    for key in np.random.default_rng(0).integers(2**31, size=150):
        left = without_one(torch.from_numpy(mask), int(key)).numpy()
        assert not (left & ~mask).any()
        (gone,) = set(np.unique(parts)) - set(np.unique(parts[left])) - {0}
        assert np.array_equal(left, mask & (parts != gone))
        dropped[gone] += 1
    assert dropped[1:].min() > 30


def test_large_components_stay() -> None:
    mask = three_parts()
    mask[:, :, 5:] = True
    left = without_one(torch.from_numpy(mask), 7).numpy()
    assert np.array_equal(left, mask & (ndimage.label(mask)[0] != ndimage.label(mask)[0][1, 1, 1]))
    whole = torch.ones((6, 6, 6), dtype=torch.bool)
    assert torch.equal(without_one(whole, 3), whole)
    assert not without_one(torch.zeros((6, 6, 6), dtype=torch.bool), 3).any()


def test_one_channel_a_class() -> None:
    classes = torch.tensor([[[0, 1], [2, 1]]], dtype=torch.uint8)
    found = one_hot(classes, 3)
    assert found.shape == (3, 1, 2, 2)
    assert found.dtype == torch.float32
    assert torch.equal(found.argmax(0) + 1, torch.where(classes > 0, classes, 1).long())
    assert torch.equal(found.sum(0), (classes > 0).float())


def test_changes_are_drawn_as_nnunet_does() -> None:
    rng = np.random.default_rng(0)
    draws = [draw_changes(rng, 2) for _ in range(4000)]
    balls = [[c for c in d if c.kind != "drop"] for d in draws]
    drops = [[c for c in d if c.kind == "drop"] for d in draws]
    assert np.mean([bool(b) for b in balls]) == pytest.approx(0.4 * 0.75, abs=0.03)  # of two classes each by a half
    assert np.mean([len(b) for b in balls]) == pytest.approx(0.4, abs=0.04)
    assert np.mean([len(d) for d in drops]) == pytest.approx(0.2, abs=0.03)
    assert {c.radius for b in balls for c in b} == set(range(1, 9))
    assert {c.kind for b in balls for c in b} == {"dilate", "erode", "open", "close"}
    assert {c.structure for d in draws for c in d} == {1, 2}
    assert draw_changes(rng, 0) == ()
