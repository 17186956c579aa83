from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medseg.imaging.grid import Grid, closest_axes
from medseg.preprocessing.orientation import Turn, turn_to_ras, turned, turned_back, turned_numbers
from tests.preprocessing.build import grid_of, oblique, orientations, places_mm


def turned_affine(grid: Grid, turn: Turn) -> np.ndarray:
    """Where the turned array lies, worked out from the positions of its voxels."""
    places = np.stack([turned(places_mm(grid)[..., k], turn) for k in range(3)], axis=-1)
    affine = np.eye(4)
    affine[:3, 3] = places[0, 0, 0]
    for axis in range(3):
        affine[:3, axis] = np.take(places, 1, axis)[0, 0] - places[0, 0, 0]
    return affine


@pytest.mark.parametrize(("worlds", "signs"), orientations())
def test_every_orientation_comes_to_ras_and_back(worlds, signs):
    grid = grid_of(worlds, signs)
    turn = turn_to_ras(grid)
    array = np.random.default_rng(0).normal(size=grid.shape)
    ras = turned(array, turn)
    affine = turned_affine(grid, turn)
    np.testing.assert_allclose(affine[:3, :3], np.diag(turned_numbers(grid.spacing_mm, turn)), atol=1e-12)
    assert ras.shape == turned_numbers(grid.shape, turn)
    np.testing.assert_array_equal(turned_back(ras, turn), array)


@pytest.mark.parametrize(("worlds", "signs"), orientations())
def test_values_stay_at_their_place_in_the_world(worlds, signs):
    grid = grid_of(worlds, signs)
    turn = turn_to_ras(grid)
    affine = turned_affine(grid, turn)
    array = np.arange(np.prod(grid.shape)).reshape(grid.shape)
    ras = Grid(turned(array, turn).shape, affine)
    by_place = {tuple(np.round(p, 6)): v for p, v in zip(places_mm(grid).reshape(-1, 3), array.ravel(), strict=True)}
    for place, value in zip(places_mm(ras).reshape(-1, 3), turned(array, turn).ravel(), strict=True):
        assert by_place[tuple(np.round(place, 6))] == value


@settings(deadline=None, max_examples=60, database=None)
@given(seed=st.integers(0, 10_000))
def test_an_oblique_scan_comes_to_the_axes_nearest_to_ras(seed):
    grid = oblique(seed)
    turn = turn_to_ras(grid)
    assert closest_axes(turned_affine(grid, turn)) == ((0, 1), (1, 1), (2, 1))
    array = np.random.default_rng(seed).normal(size=grid.shape)
    np.testing.assert_array_equal(turned_back(turned(array, turn), turn), array)


def test_turning_copies_nothing():
    array = np.zeros((4, 5, 6))
    turn = turn_to_ras(grid_of((2, 0, 1), (-1, 1, -1)))
    turned(array, turn)[:] = 1
    assert (array == 1).all()


def test_a_turn_survives_being_written():
    turn = turn_to_ras(grid_of((2, 0, 1), (-1, 1, -1)))
    assert Turn.model_validate_json(turn.model_dump_json()) == turn
