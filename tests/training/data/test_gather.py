from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.ndimage import map_coordinates

from medseg.training.data.augment import Draw, Elastic, place_of, sampling_matrix
from medseg.training.data.gather import Boxes, Place, Size, gather, span_of
from medseg.training.data.sources import cut, placed_as, room_for
from tests.tiny import CPU, loaded

ONE_MM = (1.0, 1.0, 1.0)
PLACES = st.tuples(*[st.integers(-4, 12)] * 3)
SIZES = st.tuples(*[st.integers(1, 9)] * 3)
ANGLES = st.tuples(*[st.floats(-3, 3)] * 3)
MIRRORS = st.sets(st.integers(0, 2)).map(lambda axes: tuple(sorted(axes)))
SCAN = (6, 7, 8)
STILL = np.eye(3)
CASE = loaded(np.zeros((1, 2, 2, 2), np.float32), np.zeros((2, 2, 2), np.uint8))


def scan(channels: int = 2, shape: Size = SCAN) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    rng = np.random.default_rng(0)
    return rng.normal(size=(channels, *shape)).astype(np.float32), rng.integers(0, 3, shape).astype(np.uint8)


def gathered(image: NDArray[Any], classes: NDArray[Any], places: list[Place], patch: Size) -> Boxes:
    """Patches about these places of one scan."""
    placed = placed_as("mapped", [replace(CASE, image_CXYZ=image, classes_XYZ=classes)], CPU)
    spans = [span_of(place, patch, classes.shape) for place in places]
    x, y, z = (max(span.shape[axis] for span in spans) for axis in range(3))
    boxes = room_for(placed, len(places), (x, y, z))
    for row, span in enumerate(spans):
        cut(placed, 0, span.start, boxes, row)
    return gather(boxes, [span.start for span in spans], places, patch)


def positions(place: Place, patch: Size) -> NDArray[np.float64]:
    """(3, X, Y, Z): where each voxel of a patch is read."""
    at = np.indices(patch).reshape(3, -1).astype(float)
    for axis in place.mirror:
        at[axis] = patch[axis] - 1 - at[axis]
    offset = (STILL if place.matrix is None else place.matrix) @ (at - np.array(patch)[:, None] // 2)
    found = (np.array(place.centre)[:, None] + offset).reshape(3, *patch)
    return found if place.bend is None else found + place.bend.field()


def check_against_scipy(place: Place, patch: Size) -> None:
    image, classes = scan()
    found = gathered(image, classes, [place], patch)
    at = positions(place, patch)
    for ours, channel in zip(found.image[0].numpy(), image, strict=True):
        theirs = map_coordinates(channel, at, order=1, mode="grid-constant", cval=0.0)
        np.testing.assert_allclose(ours, theirs, atol=5e-4)
    theirs = map_coordinates(classes, at, order=0, mode="grid-constant", cval=0)
    tied = (np.abs(at - np.floor(at) - 0.5) < 1e-3).any(axis=0)  # exactly between two voxels either is right
    assert np.array_equal(found.classes[0].numpy()[~tied], theirs[~tied])


@settings(max_examples=60, deadline=None)
@given(PLACES, SIZES, ANGLES, st.floats(0.7, 1.4), MIRRORS, st.tuples(*[st.floats(0.5, 3)] * 3))
def test_patches_are_those_of_scipy(
    centre: Size, patch: Size, angles: Any, scale: float, mirror: tuple[int, ...], mm: Any
) -> None:
    how = Draw(rotate_rad=angles, scale=(scale,) * 3, mirror=mirror)
    check_against_scipy(place_of(centre, how, mm, patch), patch)


@settings(max_examples=30, deadline=None)
@given(PLACES, SIZES, MIRRORS)
def test_crops_are_those_of_scipy_too(centre: Size, patch: Size, mirror: tuple[int, ...]) -> None:
    check_against_scipy(Place(centre, None, mirror), patch)


@settings(max_examples=20, deadline=None)
@given(PLACES, SIZES, st.integers(0, 99), st.floats(0, 0.4), MIRRORS)
def test_bent_patches_are_those_of_scipy(
    centre: Size, patch: Size, seed: int, reach: float, mirror: tuple[int, ...]
) -> None:
    how = Draw(elastic=Elastic(0.3, reach, seed), mirror=mirror, rotate_rad=(0.1, 0.0, 0.0))
    check_against_scipy(place_of(centre, how, ONE_MM, patch), patch)


@settings(max_examples=30, deadline=None)
@given(PLACES, SIZES, MIRRORS)
def test_moving_by_nothing_is_the_crop(centre: Size, patch: Size, mirror: tuple[int, ...]) -> None:
    image, classes = scan()
    moved, crop = (gathered(image, classes, [Place(centre, m, mirror)], patch) for m in (STILL, None))
    torch.testing.assert_close(moved.image, crop.image, rtol=0, atol=1e-4)
    assert torch.equal(moved.classes, crop.classes)


@pytest.mark.parametrize("axes", [(0,), (1,), (2,), (0, 1, 2)])
@pytest.mark.parametrize("patch", [(4, 5, 6), (5, 4, 3)])
def test_mirroring_flips_the_patch_that_was(axes: tuple[int, ...], patch: Size) -> None:
    image, classes = scan()
    for matrix in (None, STILL, sampling_matrix(Draw(rotate_rad=(0.4, -0.2, 0.3)), ONE_MM)):
        plain, flipped = (gathered(image, classes, [Place((3, 3, 4), matrix, m)], patch) for m in ((), axes))
        torch.testing.assert_close(flipped.image, plain.image.flip([a + 2 for a in axes]), rtol=0, atol=1e-5)
        assert torch.equal(flipped.classes, plain.classes.flip([a + 1 for a in axes]))


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_four_quarter_turns_are_none_and_one_is_numpys(axis: int) -> None:
    image, classes = scan(1, (9, 9, 9))
    plane = tuple(a for a in range(3) if a != axis)
    angles = [tuple(np.pi / 2 * k if a == axis else 0.0 for a in range(3)) for k in range(5)]
    turns = [
        gathered(image, classes, [place_of((4, 4, 4), Draw(rotate_rad=a), ONE_MM, (9, 9, 9))], (9, 9, 9))  # type: ignore[arg-type]
        for a in angles
    ]
    assert torch.equal(turns[4].classes, turns[0].classes)
    either = [np.rot90(classes, k, axes=plane) for k in (1, -1)]  # type: ignore[arg-type]
    assert any(np.array_equal(turns[1].classes[0].numpy(), turned) for turned in either)
    np.testing.assert_allclose(turns[2].image[0, 0].numpy(), np.rot90(image[0], 2, axes=plane), atol=1e-4)  # type: ignore[arg-type]


def test_patches_of_one_group_are_read_as_each_alone() -> None:
    image, classes = scan(2, (14, 15, 16))
    patch = (6, 5, 4)
    places = [
        place_of(centre, Draw(rotate_rad=angles, scale=(s,) * 3, elastic=bent), ONE_MM, patch)
        for centre, angles, s, bent in (
            ((7, 7, 7), (0.1, 0.2, 0.3), 0.7, None),
            ((1, 14, 8), (0.0, 0.0, 2.0), 1.4, Elastic(0.3, 0.3, 1)),
            ((13, 2, 9), (-1.0, 0.5, 0.0), 1.0, None),
        )
    ]
    together = gathered(image, classes, places, patch)
    for row, place in enumerate(places):
        alone = gathered(image, classes, [place], patch)
        torch.testing.assert_close(together.image[row], alone.image[0], rtol=0, atol=1e-5)
        assert torch.equal(together.classes[row], alone.classes[0])


def test_a_span_holds_all_that_is_read_and_little_more() -> None:
    place = place_of((50, 50, 50), Draw(rotate_rad=(0.3, 0.2, -0.4)), ONE_MM, (20, 30, 40))
    span = span_of(place, (20, 30, 40), (100, 100, 100))
    at = positions(place, (20, 30, 40)).reshape(3, -1)
    for axis in range(3):
        assert span.start[axis] <= np.floor(at[axis].min())
        assert span.start[axis] + span.shape[axis] > np.floor(at[axis].max()) + 1
        assert span.shape[axis] <= np.ptp(at[axis]) + 6


def test_the_previous_segmentation_is_read_as_classes_are() -> None:
    image, classes = scan()
    box = Boxes(torch.from_numpy(image)[None], torch.from_numpy(classes)[None], torch.from_numpy(classes)[None])
    for matrix in (None, STILL, sampling_matrix(Draw(rotate_rad=(0.4, 0.0, 1.0)), ONE_MM)):
        found = gather(box, [(0, 0, 0)], [Place((3, 3, 4), matrix, (1,))], (5, 5, 5))
        assert found.previous is not None
        assert torch.equal(found.previous, found.classes)
        assert found.classes.dtype == torch.uint8
