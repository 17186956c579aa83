from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medseg.imaging.dicom.raster import fill

SHAPE = (23, 17)
seeds = st.integers(0, 10**6)


def star(rng: np.random.Generator, n: int, reach: float, centre: tuple[float, float]) -> np.ndarray:
    """A polygon without crossings: points at growing angles."""
    angle = np.sort(rng.uniform(0, 2 * np.pi, n))
    radius = rng.uniform(0.3, 1, n) * reach
    return np.array(centre) + np.stack([np.cos(angle), np.sin(angle)], 1) * radius[:, None]


def by_hand(polygon: np.ndarray) -> np.ndarray:
    """Count the edges that a ray from each centre towards lower x meets, with one number at a time."""
    inside = np.zeros(SHAPE, bool)
    for x, y in np.ndindex(*SHAPE):
        met = 0
        for (x0, y0), (x1, y1) in zip(polygon, [*polygon[1:], polygon[0]], strict=True):
            if (y0 > y) != (y1 > y) and x0 + (y - y0) / (y1 - y0) * (x1 - x0) <= x:
                met += 1
        inside[x, y] = met % 2
    return inside


def square(low: float, high: float) -> np.ndarray:
    return np.array([[low, low], [high, low], [high, high], [low, high]], float)


@settings(max_examples=100, deadline=None)
@given(seeds, st.integers(3, 30), st.floats(1, 25))
def test_one_polygon_against_two_libraries(seed: int, n: int, reach: float) -> None:
    rng = np.random.default_rng(seed)
    polygon = star(rng, n, reach, (rng.uniform(-3, 25), rng.uniform(-3, 20)))  # also half outside
    draw, outline = pytest.importorskip("skimage.draw"), pytest.importorskip("matplotlib.path")
    found = fill([polygon], SHAPE)
    assert np.array_equal(found, draw.polygon2mask(SHAPE, polygon))
    centres = np.stack(np.meshgrid(*map(np.arange, SHAPE), indexing="ij"), -1).reshape(-1, 2)
    within = outline.Path([*polygon, polygon[0]], closed=True).contains_points(centres)
    assert np.array_equal(found.ravel(), within)


@settings(max_examples=15, deadline=None)
@given(seeds, st.integers(3, 12))
def test_polygons_that_cross_themselves_by_hand(seed: int, n: int) -> None:
    polygon = np.random.default_rng(seed).uniform(-3, 25, (n, 2))
    assert np.array_equal(fill([polygon], SHAPE), by_hand(polygon))


@settings(max_examples=10, deadline=None)
@given(seeds, st.integers(2, 5))
def test_several_polygons_by_exclusive_or(seed: int, n: int) -> None:
    rng = np.random.default_rng(seed)
    polygons = [star(rng, 12, 9, (rng.uniform(3, 20), rng.uniform(3, 14))) for _ in range(n)]
    expected = np.zeros(SHAPE, bool)
    for polygon in polygons:
        expected ^= by_hand(polygon)
    assert np.array_equal(fill(polygons, SHAPE), expected)


@settings(max_examples=50, deadline=None)
@given(seeds, st.booleans())
def test_direction_start_and_repeated_points_do_not_matter(seed: int, on_grid: bool) -> None:
    rng = np.random.default_rng(seed)
    polygon = star(rng, 15, 8, (11, 8))
    polygon = np.rint(polygon) if on_grid else polygon
    expected = fill([polygon], SHAPE)
    assert np.array_equal(fill([polygon[::-1]], SHAPE), expected)
    assert np.array_equal(fill([np.roll(polygon, 4, axis=0)], SHAPE), expected)
    assert np.array_equal(fill([np.repeat(polygon, 2, axis=0)], SHAPE), expected)
    assert np.array_equal(fill([np.vstack([polygon, polygon[:1]])], SHAPE), expected)


@settings(max_examples=50, deadline=None)
@given(seeds)
def test_areas_that_share_edges_share_no_pixel_and_leave_none(seed: int) -> None:
    """Triangles around a point of the grid, with all corners on pixel centres."""
    rng = np.random.default_rng(seed)
    ring = np.rint(star(rng, 9, 8, (11, 8)))
    middle = np.array([11.0, 8.0])
    whole = fill([ring], SHAPE)
    parts = [fill([np.array([middle, a, b])], SHAPE) for a, b in zip(ring, np.roll(ring, -1, axis=0), strict=True)]
    assert np.array_equal(np.bitwise_xor.reduce(parts), whole)
    (x, y), (u, v) = (ring - middle).T, (np.roll(ring, -1, axis=0) - middle).T
    turns = x * v - y * u
    if (turns >= 0).all():
        assert np.array_equal(np.sum(parts, axis=0), whole)


def test_a_centre_on_an_edge_belongs_to_higher_x_and_y() -> None:
    found = fill([square(2, 5)], (8, 8))
    assert np.argwhere(found).min(axis=0).tolist() == [2, 2]
    assert np.argwhere(found).max(axis=0).tolist() == [4, 4]
    assert found.sum() == 9
    slanted = fill([np.array([[0.0, 0], [6, 6], [0, 6]])], (8, 8))  # the edge x = y lies on the side of lower x
    assert not slanted[np.arange(1, 6), np.arange(1, 6)].any()
    other = fill([np.array([[0.0, 0], [6, 6], [6, 0]])], (8, 8))
    assert other[np.arange(1, 6), np.arange(1, 6)].all()


def test_half_a_pixel_off_the_centres() -> None:
    assert np.argwhere(fill([square(1.5, 4.5)], (8, 8))).tolist() == [[x, y] for x in (2, 3, 4) for y in (2, 3, 4)]


@pytest.mark.parametrize("at", [3.0, 3.5, 3.25])
def test_a_hole_as_a_second_polygon_and_as_a_keyhole(at: float) -> None:
    outer, inner = square(0.5, 10.5), square(at, 7.5)
    expected = fill([outer], SHAPE) & ~fill([inner], SHAPE)
    assert expected.sum() < fill([outer], SHAPE).sum()
    assert np.array_equal(fill([outer, inner], SHAPE), expected)
    keyhole = np.vstack([outer, outer[:1], inner, inner[:1]])  # there and back by the same way
    assert np.array_equal(fill([keyhole], SHAPE), expected)


@settings(max_examples=50, deadline=None)
@given(seeds)
def test_a_channel_between_any_points_leaves_no_trace(seed: int) -> None:
    rng = np.random.default_rng(seed)
    outer, inner = star(rng, 20, 12, (11, 8)), star(rng, 9, 3, (11, 8))
    i, j = rng.integers(0, 20), rng.integers(0, 9)
    outer, inner = np.roll(outer, -i, axis=0), np.roll(inner, -j, axis=0)
    keyhole = np.vstack([outer, outer[:1], inner, inner[:1]])
    assert np.array_equal(fill([keyhole], SHAPE), fill([outer, inner], SHAPE))


def test_nothing_and_what_has_no_area() -> None:
    assert not fill([], (4, 5)).any()
    assert fill([], (4, 5)).shape == (4, 5)
    assert not fill([np.array([[1.0, 1], [3, 3]]), np.array([[2.0, 2]]), np.zeros((0, 2))], (4, 5)).any()
    assert not fill([square(20, 30), square(-9, -3)], (4, 5)).any()
    assert fill([square(-9, 30)], (4, 5)).all()


def test_many_points_do_not_need_much_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    polygons = [star(rng, 40, 9, (11, 8)) for _ in range(5)]
    expected = fill(polygons, SHAPE)
    monkeypatch.setattr("medseg.imaging.dicom.raster._AT_ONCE", 7)
    assert np.array_equal(fill(polygons, SHAPE), expected)
