from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from matplotlib.path import Path as Polygon
from numpy.typing import NDArray
from scipy import ndimage

from medseg.imaging.writing.contours import filled, outlines

Mask = NDArray[np.bool_]
masks = arrays(np.bool_, array_shapes(min_dims=2, max_dims=2, max_side=12))


def inside(polygon: NDArray[np.float64], shape: tuple[int, ...]) -> Mask:
    """The pixels in a polygon, by matplotlib."""
    pixels = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), axis=-1).reshape(-1, 2)
    found: Mask = Polygon(np.vstack([polygon, polygon[:1]]), closed=True).contains_points(pixels)
    return found.reshape(shape)


def united(polygons: list[NDArray[np.float64]], shape: tuple[int, ...]) -> Mask:
    """As readers see it that fill each polygon on its own."""
    mask = np.zeros(shape, bool)
    for polygon in polygons:
        mask |= inside(polygon, shape)
    return mask


def either(polygons: list[NDArray[np.float64]], shape: tuple[int, ...]) -> Mask:
    """As readers see it that combine polygons by exclusive-or."""
    mask = np.zeros(shape, bool)
    for polygon in polygons:
        mask ^= inside(polygon, shape)
    return mask


def area(polygon: NDArray[np.float64]) -> float:
    x, y = polygon.T
    return float(abs(np.sum(x * np.roll(y, -1) - np.roll(x, -1) * y)) / 2)


def drawn(*rows: str) -> Mask:
    """A mask from a picture: # is inside; lines are rows."""
    return np.array([[c == "#" for c in row] for row in rows]).T


@given(mask=masks)
def test_every_mask_comes_back_whether_polygons_are_united_or_exclude_each_other(mask: Mask) -> None:
    polygons = outlines(mask)
    assert np.array_equal(united(polygons, mask.shape), mask)
    assert np.array_equal(either(polygons, mask.shape), mask)


@given(mask=masks)
def test_filling_gives_the_mask_back(mask: Mask) -> None:
    polygons = outlines(mask)
    if polygons:
        assert np.array_equal(filled(polygons, mask.shape), mask)


@given(mask=masks, seed=st.integers(0, 99))
def test_rounding_of_a_third_of_a_pixel_loses_nothing(mask: Mask, seed: int) -> None:
    rng = np.random.default_rng(seed)
    polygons = [p + rng.uniform(-0.2, 0.2, 2) for p in outlines(mask)]
    assert np.array_equal(either(polygons, mask.shape), mask)


@given(mask=masks)
def test_each_connected_part_is_one_polygon_of_at_least_four_points(mask: Mask) -> None:
    polygons = outlines(mask)
    parts, n = ndimage.label(mask)
    assert len(polygons) == n
    assert all(len(p) >= 4 for p in polygons)
    assert sorted(np.count_nonzero(inside(p, mask.shape)) for p in polygons) == sorted(np.bincount(parts.flat)[1:])


@given(mask=masks)
def test_the_area_is_half_a_pixel_less_for_each_ring_and_more_for_each_hole(mask: Mask) -> None:
    rings = ndimage.label(mask)[1]
    holes = ndimage.label(~np.pad(mask, 1), np.ones((3, 3)))[1] - 1
    assert sum(map(area, outlines(mask))) == pytest.approx(mask.sum() - 0.5 * (rings - holes))


@given(mask=masks)
def test_no_point_lies_on_a_straight_line_between_its_neighbours(mask: Mask) -> None:
    for polygon in outlines(mask):
        came, goes = polygon - np.roll(polygon, 1, axis=0), np.roll(polygon, -1, axis=0) - polygon
        turn = came[:, 0] * goes[:, 1] - came[:, 1] * goes[:, 0]
        assert ((turn != 0) | ((came * goes).sum(axis=1) < 0)).all()


@pytest.mark.parametrize(
    "mask",
    [
        drawn("#"),
        drawn("##", "##"),
        drawn("#.#", ".#.", "#.#"),
        drawn("#####", "#...#", "#.#.#", "#...#", "#####"),
        drawn("########", "#......#", "#.####.#", "#.#..#.#", "#.#..#.#", "#.####.#", "#......#", "########"),
        drawn("#####", "##.##", "#####", "##.##", "#####"),
        drawn("#######", "#.#.#.#", "#######", "#.#.#.#", "#######"),
        drawn("######", "#.##.#", "##.###", "######"),
        drawn("####", "#..#", "#..#", "#.##", "####"),
    ],
    ids=["pixel", "square", "corners", "island", "islands", "one above", "grid", "diagonal hole", "notch"],
)
def test_pixels_holes_and_islands(mask: Mask) -> None:
    for turned in (np.rot90(mask, k) for k in range(4)):
        assert np.array_equal(united(outlines(turned), turned.shape), turned)


def test_an_empty_mask_has_no_outline() -> None:
    assert outlines(np.zeros((3, 4), bool)) == []


def test_a_pixel_is_a_diamond_around_its_centre() -> None:
    mask = np.zeros((5, 7), bool)
    mask[4, 0] = True
    (polygon,) = outlines(mask)
    assert sorted(map(tuple, polygon.tolist())) == [(3.5, 0.0), (4.0, -0.5), (4.0, 0.5), (4.5, 0.0)]


@given(seed=st.integers(0, 2**32 - 1), n=st.integers(3, 9))
def test_filling_any_polygon_crossed_or_not_agrees_with_matplotlib(seed: int, n: int) -> None:
    polygon = np.random.default_rng(seed).uniform(-3, 12, (n, 2))  # parts of it lie outside of the slice
    assert np.array_equal(filled([polygon], (9, 8)), inside(polygon, (9, 8)))
