from __future__ import annotations

import numpy as np
import pytest
import SimpleITK
from hypothesis import given, settings
from hypothesis import strategies as st

from medseg.imaging.grid import LPS_TO_RAS, Grid
from medseg.imaging.regrid import index_map, is_sheared, map_onto, straight_cover, volume_onto
from medseg.imaging.volume import LabelMap, Volume
from tests.imaging.test_grid import affines

SHAPE = (24, 22, 20)
shears = st.tuples(*[st.floats(-0.6, 0.6)] * 3)


def sheared(affine: np.ndarray, shear: tuple[float, ...], shape: tuple[int, int, int] = SHAPE) -> Grid:
    """`shear` in voxels: of x by y, of x by z, of y by z."""
    bent = np.eye(4)
    bent[0, 1], bent[0, 2], bent[1, 2] = shear
    return Grid(shape, affine @ bent)


def ball(shape: tuple[int, int, int] = SHAPE, seed: int = 0) -> np.ndarray:
    """Two touching balls with ragged surfaces."""
    index = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"))
    noise = np.random.default_rng(seed).normal(0, 0.7, shape)
    out = np.zeros(shape, np.uint8)
    for value, centre in ((1, 0.35), (7, 0.6)):
        away = index - np.array(shape)[:, None, None, None] * centre
        out[np.linalg.norm(away, axis=0) + noise < 0.3 * min(shape)] = value
    return out


def dice(a: np.ndarray, b: np.ndarray) -> float:
    return 2 * float(np.count_nonzero((a == b) & (a > 0))) / float(np.count_nonzero(a) + np.count_nonzero(b))


@settings(max_examples=25, deadline=None)
@given(affine=affines, shear=shears, seed=st.integers(0, 9))
def test_labels_return_exactly_from_the_straight_cover(affine: np.ndarray, shear: tuple[float, ...], seed: int) -> None:
    grid = sheared(affine, shear)
    labels = LabelMap(ball(seed=seed), grid, {1: "a", 7: "b"})
    straight = map_onto(labels, straight_cover(grid))
    assert straight.names == labels.names
    assert np.array_equal(map_onto(straight, grid).array, labels.array)


@settings(max_examples=25, deadline=None)
@given(affine=affines, shear=shears, to=affines)
def test_each_voxel_takes_the_label_of_the_voxel_that_it_lies_in(
    affine: np.ndarray, shear: tuple[float, ...], to: np.ndarray
) -> None:
    grid = sheared(affine, shear)
    numbered = LabelMap(np.arange(1, np.prod(SHAPE) + 1, dtype=np.uint16).reshape(SHAPE), grid, {})
    wanted = np.array(to)
    wanted[:3, 3] += grid.affine[:3, :3] @ [12, 11, 10] + grid.affine[:3, 3] - (to @ [4, 4, 4, 1])[:3]  # same middle
    found = map_onto(numbered, Grid((9, 9, 9), wanted)).array
    seen = np.argwhere(found)
    assert found[4, 4, 4]
    source = np.array(np.unravel_index(found[found > 0].astype(int) - 1, SHAPE)).T
    there = seen @ wanted[:3, :3].T + wanted[:3, 3]
    away = there - (source @ grid.affine[:3, :3].T + grid.affine[:3, 3])
    straight = straight_cover(grid).affine[:3, :3]
    assert np.abs(np.linalg.solve(straight, away.T)).max() < 0.5 + 1e-4


@settings(max_examples=60, deadline=None)
@given(affine=affines, shear=shears)
def test_the_straight_cover_is_straight_and_covers(affine: np.ndarray, shear: tuple[float, ...]) -> None:
    grid = sheared(affine, shear)
    cover = straight_cover(grid)
    assert not is_sheared(cover)
    assert cover.voxel_ml == pytest.approx(grid.voxel_ml)
    reach = np.linalg.inv(cover.affine) @ np.c_[grid.corners_mm, np.ones(8)].T
    assert reach[:3].min() >= -0.02
    assert (reach[:3].T - np.array(cover.shape)).max() <= -0.98
    assert np.allclose(cover.affine[:3, 0], grid.affine[:3, 0])
    assert np.linalg.det(cover.affine[:3, :3]) * np.linalg.det(grid.affine[:3, :3]) > 0
    normal = np.cross(grid.affine[:3, 0], grid.affine[:3, 1])
    assert abs(cover.affine[:3, 1] @ normal) < 1e-6 * np.linalg.norm(normal) * cover.spacing_mm[1]


@pytest.mark.parametrize(("by", "expected"), [(0.0, False), (9e-4, False), (1.2e-3, True), (-0.3, True)])
def test_sheared_from_a_thousandth(by: float, expected: bool) -> None:
    assert is_sheared(sheared(np.diag([2.0, 2, 2, 1]), (0, by, 0))) is expected


@pytest.mark.parametrize("as_float32", [False, True])
def test_a_cover_of_a_straight_grid_is_that_grid(as_float32: bool) -> None:
    affine = sheared(np.diag([-0.7, 0.7, 3.3, 1]), (0, 0, 0)).affine
    affine = affine.astype(np.float32).astype(np.float64) if as_float32 else affine
    assert straight_cover(Grid(SHAPE, affine)).agrees(Grid(SHAPE, affine))


def as_itk(volume: Volume) -> SimpleITK.Image:
    image = SimpleITK.GetImageFromArray(volume.array.T)
    lps = LPS_TO_RAS @ volume.grid.affine
    image.SetSpacing(volume.grid.spacing_mm)
    image.SetOrigin(lps[:3, 3])
    image.SetDirection((lps[:3, :3] / np.linalg.norm(lps[:3, :3], axis=0)).ravel())
    return image


@pytest.mark.parametrize("shear", [(0.0, 0.0, 0.0), (0.0, 0.0, 0.4), (-0.2, 0.3, 0.1)])
def test_interpolation_against_simpleitk(shear: tuple[float, ...]) -> None:
    rng = np.random.default_rng(3)
    to = Grid((15, 18, 12), np.array([[0.9, 0.1, 0, 3], [-0.1, 1.1, 0.2, 4], [0, -0.2, 1.3, 2], [0, 0, 0, 1.0]]))
    volume = Volume(rng.normal(0, 100, SHAPE).astype(np.float32), sheared(np.eye(4), shear))
    template = as_itk(Volume(np.zeros(to.shape, np.float32), to))
    expected = SimpleITK.GetArrayFromImage(
        SimpleITK.Resample(as_itk(volume), template, SimpleITK.Transform(), SimpleITK.sitkLinear, -7)
    ).T
    assert np.allclose(volume_onto(volume, to, -7).array, expected, atol=0.02)
    if any(shear):
        return  # SimpleITK rounds along the sheared axes
    labels = LabelMap(ball(), volume.grid, {})
    nearest = SimpleITK.Resample(
        as_itk(Volume(labels.array, labels.grid)), template, SimpleITK.Transform(), SimpleITK.sitkNearestNeighbor
    )
    found = map_onto(labels, to).array
    assert np.count_nonzero(found != SimpleITK.GetArrayFromImage(nearest).T) <= 0.001 * found.size


def test_what_is_there_already_stays_as_it_is() -> None:
    volume = Volume(np.random.default_rng(0).normal(size=SHAPE).astype(np.float32), Grid(SHAPE, np.eye(4)))
    moved = np.eye(4)
    moved[0, 3] = 1e-4
    assert volume_onto(volume, Grid(SHAPE, moved), 0).array.base is volume.array.base
    labels = LabelMap(ball(), volume.grid, {1: "a"})
    assert np.array_equal(map_onto(labels, Grid(SHAPE, moved)).array, labels.array)


def test_flips_and_crops_copy_values() -> None:
    array = np.random.default_rng(0).normal(size=SHAPE).astype(np.float32)
    grid = Grid(SHAPE, np.diag([0.7, 0.8, 2.5, 1]))
    to_flipped = np.array([[0, -1.0, 0, 20], [1, 0, 0, 3], [0, 0, 1, 4], [0, 0, 0, 1]])
    flipped = Grid((18, 14, 30), grid.affine @ to_flipped)
    out = volume_onto(Volume(array, grid), flipped, -1).array
    assert out[2, 5, 6] == array[15, 5, 10]
    assert (out[:, :, 16:] == -1).all()
    expected = np.flip(array, 0).transpose(1, 0, 2)[3:21, 3:17, 4:]
    assert np.array_equal(out[:, :, :16], expected)


def test_an_edge_voxel_reaches_half_a_voxel_outwards() -> None:
    volume = Volume(np.full((2, 2, 2), 5, np.float32), Grid((2, 2, 2), np.eye(4)))
    fine = np.diag([0.25, 1, 1, 1])
    fine[0, 3] = -1.0
    assert volume_onto(volume, Grid((16, 2, 2), fine), 0).array[:, 0, 0].tolist() == [0] * 2 + [5] * 9 + [0] * 5


def test_index_map_is_cleaned_of_rounding() -> None:
    affine = np.diag([0.8, 0.8, 2.5, 1.0])
    noisy = affine.astype(np.float32).astype(np.float64)
    matrix, offset = index_map(Grid(SHAPE, affine), Grid(SHAPE, noisy))
    assert np.array_equal(matrix, np.eye(3))
    assert not offset.any()
