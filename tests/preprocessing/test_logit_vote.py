from __future__ import annotations

from typing import Any, Literal

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import ndimage

from medseg.preprocessing.axis import Orders
from medseg.preprocessing.logit_vote import LogitVote, cells

SIDES = st.integers(1, 9)
SHAPES = st.tuples(SIDES, SIDES, SIDES)


def smooth(classes: int, shape: tuple[int, ...], seed: int, grain: int = 3) -> NDArray[np.float32]:
    """Logits (X, Y, Z, L) in which classes form patches some voxels wide."""
    noise = np.random.default_rng(seed).normal(0, 4, (classes, *shape))
    return np.moveaxis(np.stack([ndimage.gaussian_filter(one, grain / 2) for one in noise]), 0, -1).astype(np.float32)


def zoomed(logits_XYZL: NDArray[np.float32], shape: tuple[int, ...], orders: Orders) -> NDArray[np.float64]:
    """Every class interpolated in float64, by scipy."""
    found = np.asarray(logits_XYZL, np.float64)
    for axis, (new, order) in enumerate(zip(shape, orders, strict=True)):
        factor = [1.0] * 4
        factor[axis] = new / found.shape[axis]
        if new != found.shape[axis]:
            found = ndimage.zoom(found, factor, order=order, grid_mode=True, mode="nearest")
    return found


def voted(
    logits_XYZL: NDArray[np.float32],
    shape: Any,
    orders: Orders,
    axis: int,
    planes: int,
    painted: bool = False,
    layout: Literal["C", "F"] = "F",
) -> NDArray[np.uint16]:
    out = np.full(shape, 999, np.uint16, layout)
    old = logits_XYZL.shape[:3]
    vote = LogitVote(out, old, axis, range(logits_XYZL.shape[-1] + painted), orders, painted)
    along = np.moveaxis(logits_XYZL, axis, 0)
    for start in range(0, old[axis], planes):
        vote.take(start, np.ascontiguousarray(along[start : start + planes]))
    return out


@settings(deadline=None)  # the first call may compile
@given(SHAPES, SHAPES, st.integers(1, 6), st.integers(0, 2), st.integers(1, 4), st.integers(0, 99), st.booleans())
@pytest.mark.parametrize("layout", ["C", "F"])
def test_it_is_the_largest_of_all_interpolated_classes(
    layout: Literal["C", "F"], old: Any, new: Any, classes: int, axis: int, planes: int, seed: int, painted: bool
) -> None:
    logits = smooth(classes, old, seed)
    full = zoomed(logits, new, (1, 1, 1))
    if painted:
        expected, sure = np.zeros(new, int), np.abs(full).min(-1) > 1e-9
        for k in range(classes):
            expected[full[..., k] > 0] = k + 1
    else:
        top = np.sort(full, -1)
        expected, sure = full.argmax(-1), np.ones(new, bool) if classes == 1 else top[..., -1] - top[..., -2] > 1e-9
    found = voted(logits, new, (1, 1, 1), axis, planes, painted, layout)
    np.testing.assert_array_equal(found[sure], expected[sure])


@settings(deadline=None)
@given(SHAPES, SHAPES, st.integers(0, 2), st.integers(0, 2), st.integers(0, 99))
def test_an_axis_may_take_the_nearest(old: Any, new: Any, coarse: int, axis: int, seed: int) -> None:
    logits = smooth(3, old, seed)
    orders: Any = tuple(0 if a == coarse else 1 for a in range(3))
    at = np.floor((np.arange(new[coarse]) + 0.5) * (old[coarse] / new[coarse])).astype(int).clip(0, old[coarse] - 1)
    in_plane: Any = tuple(old[a] if a == coarse else new[a] for a in range(3))
    expected = zoomed(logits, in_plane, (1, 1, 1)).take(at, coarse)
    top = np.sort(expected, -1)
    sure = top[..., -1] - top[..., -2] > 1e-9
    np.testing.assert_array_equal(voted(logits, new, orders, axis, 2)[sure], expected.argmax(-1)[sure])


@pytest.mark.parametrize("case", range(50))
def test_no_voxel_differs_from_interpolating_everything(case: int) -> None:
    """3 to 118 classes, coarser and finer, against torch in float64."""
    rng = np.random.default_rng(case)
    classes = int(rng.choice([3, 4, 7, 25, 60, 118]))
    old, new = rng.integers(8, 20, 3), rng.integers(8, 34, 3)
    logits = smooth(classes, tuple(old), case)
    tensor = torch.from_numpy(np.moveaxis(logits, -1, 0)).double()[None]
    full = torch.nn.functional.interpolate(tensor, tuple(new), mode="trilinear", align_corners=False)[0]
    assert full.argmax(0).unique().numel() > 1
    found = voted(logits, tuple(int(n) for n in new), (1, 1, 1), case % 3, 5)
    assert int((found != full.argmax(0).numpy()).sum()) == 0


def test_of_equal_logits_the_first_class_wins() -> None:
    logits = np.zeros((3, 3, 3, 4), np.float32)
    assert not voted(logits, (5, 4, 6), (1, 1, 1), 0, 1).any()


def test_planes_come_in_their_order() -> None:
    vote = LogitVote(np.zeros((4, 4, 4), np.uint8), (4, 4, 4), 0, [0, 1], (1, 1, 1))
    vote.take(0, np.zeros((2, 4, 4, 2), np.float32))
    with pytest.raises(ValueError, match="plane 2 is next, not 3"):
        vote.take(3, np.zeros((1, 4, 4, 2), np.float32))


@settings(max_examples=30)
@given(st.integers(1, 40), st.integers(1, 90), st.sampled_from([0, 1]))
def test_cells_hold_every_new_voxel_once(old: int, new: int, order: int) -> None:
    found = cells(old, new, order)
    assert found.begin[0] == 0
    assert found.begin[-1] == new
    assert (np.diff(found.begin) >= 0).all()
    assert ((found.weight >= 0) & (found.weight < 1)).all()
