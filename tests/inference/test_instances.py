from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage
from skimage.measure import label
from skimage.morphology import local_maxima, reconstruction

from medseg.errors import InputError
from medseg.imaging.grid import Grid
from medseg.imaging.volume import LabelMap
from medseg.inference import instances as module
from medseg.inference.instances import numbered_instances, split_at_necks

EVEN = (1.0, 1.0, 1.0)
THICK = (0.8, 0.8, 2.5)


def balls(spacing: tuple[float, ...], *of: tuple[tuple[float, float, float], float]) -> NDArray[np.bool_]:
    """Balls of (centre, radius) in mm, in a box of 44 x 28 x 28 mm."""
    shape = [int(np.ceil(mm / s)) for mm, s in zip((44, 28, 28), spacing, strict=True)]
    at = np.moveaxis(np.indices(shape), 0, -1) * spacing
    return np.any([np.linalg.norm(at - centre, axis=-1) <= radius for centre, radius in of], axis=0)


def labels_of(array: Any, spacing: tuple[float, ...] = EVEN, value: int = 1) -> LabelMap:
    array = np.asarray(array, np.uint8) * np.uint8(value)
    return LabelMap(array, Grid(array.shape, np.diag([*spacing, 1.0])), {value: "lesion"})


def sizes(found: LabelMap) -> list[int]:
    return np.bincount(found.array.ravel())[1:].tolist()


@pytest.mark.parametrize("spacing", [EVEN, THICK, (2.5, 0.8, 0.8)])
def test_two_balls_that_touch_are_two_instances_cut_between_them(spacing: tuple[float, ...]) -> None:
    mask = balls(spacing, ((13.0, 14.0, 14.0), 9.0), ((29.0, 14.0, 14.0), 8.0))
    assert ndimage.label(mask)[1] == 1
    found = numbered_instances(labels_of(mask, spacing), "lesion", (1,))
    assert dict(found.names) == {1: "lesion 1", 2: "lesion 2"}
    assert np.array_equal(found.array > 0, mask)
    beyond = np.indices(mask.shape)[0] * spacing[0] > 21.7  # where the two spheres meet
    assert np.mean(found.array[mask] == np.where(beyond, 2, 1)[mask]) > 0.97


@pytest.mark.parametrize("spacing", [EVEN, THICK])
def test_a_bump_or_a_long_shape_stays_whole(spacing: tuple[float, ...]) -> None:
    bump = balls(spacing, ((16.0, 14.0, 14.0), 11.0), ((27.0, 14.0, 14.0), 4.0))
    sausage = balls(spacing, *(((x, 14.0 + 0.01 * (x - 22) ** 2, 14.0), 5.0) for x in np.arange(6.0, 38.0)))
    near = balls(spacing, ((16.0, 14.0, 14.0), 9.0), ((24.0, 14.0, 14.0), 9.0))
    for mask in (bump, sausage, near):
        assert split_at_necks(mask, spacing).max() == 0


@pytest.mark.parametrize("seed", range(4))
def test_rough_lesions_stay_whole(seed: int) -> None:
    rng = np.random.default_rng(seed)
    at = np.indices((30, 28, 26)) - np.reshape((14.5, 13.5, 12.5), (3, 1, 1, 1))
    rough = ndimage.gaussian_filter(rng.standard_normal(at.shape[1:]), 2)
    distance = np.linalg.norm(at / np.reshape((12, 9, 7), (3, 1, 1, 1)), axis=0) + 0.1 * rough / rough.std()
    mask = ndimage.label(distance < 1, np.ones((3, 3, 3)))[0] == 1
    assert mask.sum() > 1000
    assert split_at_necks(mask, EVEN).max() == 0


@pytest.mark.parametrize("seed", range(6))
def test_without_the_share_of_the_neck_the_cores_are_the_h_maxima(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "NECK", 1.1)  # then only the depth that is lost counts
    spacing = (1.1, 0.83, 1.37)
    field = ndimage.gaussian_filter(np.random.default_rng(seed).standard_normal((26, 24, 22)), 1.8)
    numbered = label(field > 0.02, connectivity=3)
    mask = np.pad(numbered == np.bincount(numbered.ravel())[1:].argmax() + 1, 1)
    depth = ndimage.distance_transform_edt(mask, sampling=spacing)
    h = float(np.prod(spacing) ** (1 / 3))
    reached = reconstruction(np.maximum(depth - h, 0), depth, footprint=np.ones((3, 3, 3)))
    maxima = label(local_maxima(reached, connectivity=3) & (reached > 0), connectivity=3).max()
    found = split_at_necks(mask[1:-1, 1:-1, 1:-1], spacing)
    assert found.max() + 1 == maxima
    assert maxima > 1


def test_what_does_not_touch_is_numbered_by_volume() -> None:
    rng = np.random.default_rng(5)
    mask = rng.random((20, 18, 16)) < 0.03  # specks: too thin for any neck
    found = numbered_instances(labels_of(mask, value=3), "lesion", (3,))
    expected = label(mask, connectivity=3)
    assert sorted(sizes(found), reverse=True) == sizes(found)
    assert sizes(found) == sorted(np.bincount(expected.ravel())[1:], reverse=True)
    pairs = np.unique(np.stack([found.array[mask], expected[mask]]), axis=1)
    assert pairs.shape[1] == expected.max() == len(found.names)


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1)])
def test_memory_order_and_other_structures_change_nothing(order: tuple[int, int, int]) -> None:
    mask = balls(EVEN, ((13.0, 14.0, 14.0), 9.0), ((29.0, 14.0, 14.0), 8.0), ((40.0, 4.0, 4.0), 3.0))
    array = mask.astype(np.uint8) * 4
    array[0], array[-1, 20:] = 2, 5
    grid = Grid(array.shape, np.eye(4))
    plain = numbered_instances(LabelMap(array, grid, {4: "a", 2: "b"}), "a", (4,))
    assert len(plain.names) == 3
    stored = np.asfortranarray(array.transpose(order))
    other = numbered_instances(LabelMap(stored, Grid(stored.shape, np.eye(4)), {4: "a", 2: "b"}), "a", (4,))
    assert np.array_equal(plain.array.transpose(order) > 0, other.array > 0)
    assert sizes(plain) == pytest.approx(sizes(other), abs=40)  # at the neck ways uphill may be equally steep


def test_a_region_of_several_values_and_nothing_at_all() -> None:
    array = np.zeros((6, 6, 6), np.uint8)
    array[1:3, 1:3, 1:3], array[3:5, 1:3, 1:3] = 1, 2
    labels = LabelMap(array, Grid(array.shape, np.eye(4)), {1: "core", 2: "rim"})
    assert sizes(numbered_instances(labels, "whole", (1, 2))) == [16]
    nothing = numbered_instances(labels, "cyst", (9,))
    assert (dict(nothing.names), nothing.array.any(), nothing.array.dtype) == ({}, False, np.uint8)


def test_more_instances_than_255_need_two_bytes_and_too_many_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    array = np.zeros((16, 16, 16), np.uint8)
    array[::2, ::2, ::2] = 1
    found = numbered_instances(labels_of(array), "lesion", (1,))
    assert (found.array.dtype, found.array.max(), sizes(found)) == (np.uint16, 512, [1] * 512)
    monkeypatch.setattr(module, "LARGEST", 511)
    with pytest.raises(InputError, match="512 separate instances"):
        numbered_instances(labels_of(array), "lesion", (1,))


@pytest.mark.parametrize("thickness", [0.5, 1.0, 5.0, 20.0])
@pytest.mark.parametrize("axis", [0, 2])
def test_the_thickness_of_a_single_slice_does_not_matter(axis: int, thickness: float) -> None:
    at = np.moveaxis(np.indices((80, 40)), 0, -1)
    disc = [np.linalg.norm(at - (x, 20), axis=-1) <= 12 for x in (20, 56)]
    neck = (np.abs(at[..., 1] - 20) <= 2) & (at[..., 0] > 20) & (at[..., 0] < 56)
    mask = np.expand_dims(disc[0] | disc[1] | neck, axis)
    spacing = tuple(thickness if a == axis else 1.0 for a in range(3))
    assert len(numbered_instances(labels_of(mask, spacing), "lesion", (1,)).names) == 2
