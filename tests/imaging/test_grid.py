from __future__ import annotations

import nibabel as nib
import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from medseg.errors import GeometryError
from medseg.imaging.grid import Grid, closest_axes
from medseg.imaging.volume import LabelMap, Volume, distinct

spacings = st.tuples(*[st.floats(0.2, 8.0)] * 3)
angles = st.tuples(*[st.floats(-180, 180)] * 3)
origins = st.tuples(*[st.floats(-500, 500)] * 3)


def affine_of(
    spacing: tuple[float, ...], angle: tuple[float, ...], origin: tuple[float, ...], flip: bool
) -> np.ndarray:
    affine = np.eye(4)
    affine[:3, :3] = Rotation.from_euler("xyz", angle, degrees=True).as_matrix() * spacing
    affine[:3, 0] *= -1 if flip else 1
    affine[:3, 3] = origin
    return affine


affines = st.builds(affine_of, spacings, angles, origins, st.booleans())


@given(affines)
def test_voxel_to_world_and_back(affine: np.ndarray) -> None:
    grid = Grid((7, 8, 9), affine)
    index = np.array([3.0, 7, 2, 1])
    back = np.linalg.inv(grid.affine) @ (grid.affine @ index)
    assert np.allclose(back, index, atol=1e-6)


@given(affines)
def test_axcodes_are_those_of_nibabel(affine: np.ndarray) -> None:
    cosines = np.sort(np.abs(affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)), axis=0)
    assume((cosines[2] - cosines[1]).min() > 0.05)  # near 45 degrees either name is right
    assume(len({world for world, _ in closest_axes(affine)}) == 3)
    strongest = np.abs(affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)).argmax(axis=0)
    assume(len(set(strongest)) == 3)
    assert Grid((2, 2, 2), affine).axcodes == nib.aff2axcodes(affine)


@given(affines)
def test_each_world_axis_is_given_once(affine: np.ndarray) -> None:
    assert sorted(world for world, _ in closest_axes(affine)) == [0, 1, 2]


@given(spacings, angles)
def test_spacing_and_volume(spacing: tuple[float, ...], angle: tuple[float, ...]) -> None:
    grid = Grid((2, 2, 2), affine_of(spacing, angle, (0, 0, 0), flip=False))
    assert np.allclose(grid.spacing_mm, spacing, rtol=1e-5)
    assert np.isclose(grid.voxel_ml, np.prod(spacing) / 1000)


def test_spacing_is_cleaned_of_float32_noise() -> None:
    assert Grid((1, 1, 1), np.diag(np.float32([0.8, 0.7, 3.3, 1]))).spacing_mm == (0.8, 0.7, 3.3)


def test_deviation_is_that_of_the_farthest_corner() -> None:
    turned = Grid((101, 2, 2), affine_of((1, 1, 1), (0, 0, 0.1), (0, 0, 0), flip=False))
    assert Grid((101, 2, 2), np.eye(4)).deviation_mm(turned) == pytest.approx(0.1745, abs=1e-3)
    assert not Grid((101, 2, 2), np.eye(4)).agrees(turned)
    assert Grid((2, 2, 2), np.eye(4)).deviation_mm(Grid((2, 2, 3), np.eye(4))) == float("inf")


@pytest.mark.parametrize("affine", [np.zeros((4, 4)), np.full((4, 4), np.nan), np.eye(3), np.diag([1.0, 1, 0, 1])])
def test_an_affine_that_cannot_be_used_is_refused(affine: np.ndarray) -> None:
    with pytest.raises(GeometryError):
        Grid((2, 2, 2), affine)


@pytest.mark.parametrize("shape", [(2, 2), (0, 1, 1), (1, 2, 3, 4)])
def test_a_shape_that_is_no_scan_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(GeometryError):
        Grid(shape, np.eye(4))  # type: ignore[arg-type]


def test_arrays_must_fill_their_grid_and_stay_as_they_are() -> None:
    grid = Grid((2, 3, 4), np.eye(4))
    with pytest.raises(GeometryError):
        Volume(np.zeros((4, 3, 2)), grid)
    with pytest.raises(GeometryError):
        LabelMap(np.zeros((2, 3, 4), np.int16), grid, {})  # type: ignore[arg-type]
    array = np.zeros((2, 3, 4), np.uint8)
    labels = LabelMap(array, grid, {1: "liver"})
    with pytest.raises(ValueError, match="read-only"):
        labels.array[0, 0, 0] = 1
    array[0, 0, 0] = 1  # the giver's own array is not frozen


def test_present_are_the_values_that_occur() -> None:
    array = np.zeros((3, 3, 3), np.uint16)
    array[0, 0, 0], array[2, 2, 2] = 300, 7
    assert LabelMap(array, Grid((3, 3, 3), np.eye(4)), {7: "a", 300: "b", 9: "c"}).present == (7, 300)
    assert list(distinct(array)) == [0, 7, 300]
