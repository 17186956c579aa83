from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from medseg.errors import GeometryError
from medseg.imaging.grid import Grid
from medseg.imaging.planes import Plane, Planes, arrange, straight_grid
from medseg.imaging.slicing import image_onto, labels_from, labels_onto, made_up
from medseg.imaging.volume import LabelMap

FLAT = (1.0, 0, 0, 0, 1, 0)
MIRROR = np.array([-1.0, -1, 1])


def planes(*heights_mm: float, orientation: tuple[float, ...] = FLAT) -> list[Plane]:
    return [Plane(5, 6, orientation, (-10.0, 20, z), (0.8, 0.7)) for z in heights_mm]


def tilted(n: int, degrees: float, step_mm: float = 2.5, rows: int = 5, columns: int = 6) -> list[Plane]:
    drift = np.tan(np.radians(degrees)) * step_mm
    return [Plane(rows, columns, FLAT, (-10.0, 20 + z * drift, z * step_mm), (0.8, 0.7)) for z in range(n)]


def arranged(given: Sequence[Plane]) -> tuple[Planes, Grid]:
    found = arrange(given)
    assert found.planes is not None
    assert found.grid is not None
    return found.planes, found.grid


def codes(given: Sequence[Plane]) -> list[str]:
    found = arrange(given)
    assert all("\n" not in fault.said and fault.said for fault in found.faults)
    return [fault.code for fault in found.faults]


def test_order_and_grid() -> None:
    found = arrange(planes(5, 0, 2.5))
    assert found.order == (1, 2, 0)
    assert not found.faults
    assert found.grid is not None
    assert found.grid.shape == (6, 5, 3)
    assert np.allclose(found.grid.affine, [[-0.7, 0, 0, 10], [0, -0.8, 0, -20], [0, 0, 2.5, 0], [0, 0, 0, 1]])
    assert found.planes is not None
    assert len(found.planes) == 3
    assert np.allclose(found.planes.along_mm, [0, 2.5, 5])
    assert np.allclose(found.planes.normal, [0, 0, 1])


def test_rounded_positions_are_regular() -> None:
    assert codes(planes(0, 3.27, 6.53, 9.8, 13.07)) == []  # two decimals
    assert codes(planes(0, 0.625, 1.25, 1.875)) == []


@pytest.mark.parametrize(
    ("step_mm", "angles"),
    [(step, (0, 0, 0)) for step in (0.5, 0.625, 0.67, 0.75, 1.25)] + [(step, (17, -9, 30)) for step in (0.75, 1.25)],
)
def test_positions_rounded_to_one_decimal_are_regular(step_mm: float, angles: tuple[float, float, float]) -> None:
    row, column, normal = Rotation.from_euler("xyz", angles, degrees=True).as_matrix().T
    for n in (3, 4, 17, 200):
        first = np.array([-100.03, 50.02, 20.04])
        true = first + np.arange(n)[:, None] * step_mm * normal
        given = [Plane(5, 6, (*row, *column), tuple(np.round(p, 1)), (0.8, 0.7)) for p in true]
        assert set(codes(given)) <= {"TILT"}
        assert n < 200 or codes(given) == []
        del given[n // 2]
        assert n < 5 or "GAP" in codes(given)


@pytest.mark.parametrize(
    "heights_mm",
    [
        [0, 0.6, 1.2, 1.9, 2.5, 3.14],  # not all of them are rounded
        [0, 0.6, 1.2, 2.0, 2.5, 3.1],  # farther away than rounding brings a slice
        [0, 0.2, 0.4, 0.7, 0.9],  # so thin that a missing slice might look like rounding
        [0, 0.4, 0.8, 1.3, 1.7],
    ],
)
def test_rounding_explains_no_other_unevenness(heights_mm: list[float]) -> None:
    assert codes(planes(*heights_mm)) == ["GAP"]


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ([], "TOO_FEW"),
        (planes(0), "TOO_FEW"),
        (planes(0, 5, 10, 20, 25), "GAP"),
        (planes(0, 5, 10, 15.5, 20), "GAP"),
        (planes(0, 1.14, 5.36, 12.74), "GAP"),
        (planes(0, 5, 5, 10), "DUPLICATE_POSITION"),
        (planes(0, 0, 5, 5, 10, 10), "MULTI_VOLUME"),
        (planes(0, 5) + planes(10, orientation=(0, 1, 0, 0, 0, 1)), "MIXED_ORIENTATION"),
        (planes(0, 5, orientation=(1, 0, 0, 0.5, 0.5, 0)), "NO_GEOMETRY"),
        (planes(0, 5, orientation=(1, 0, 0, 1, 0, 0)), "NO_GEOMETRY"),
        (planes(0, 5, orientation=(0, 0, 0, 0, 0, 0)), "NO_GEOMETRY"),
        ([*planes(0, 5), replace(planes(10)[0], rows=9)], "MIXED_SIZE"),
        ([*planes(0, 5), replace(planes(10)[0], spacing_mm=(0.9, 0.7))], "MIXED_SIZE"),
        (tilted(3, 16.7), "TILT"),
        ([*planes(0, 5), replace(planes(10)[0], position_mm=(-10, 21, 10)), *planes(15)], "SHIFTED"),
    ],
)
def test_what_makes_no_regular_volume_is_named(given: list[Plane], expected: str) -> None:
    assert codes(given) == [expected]
    found = arrange(given)
    assert found.faults
    assert (found.grid is None) == (expected not in ("GAP", "TILT"))


def test_a_gap_is_named_with_its_positions() -> None:
    (fault,) = arrange(planes(0, 5, 10, 20, 25)).faults
    assert fault.said == "slices are missing between 10.00 and 20.00 mm (usual step 5.00 mm)"
    (uneven,) = arrange(planes(0, 1.14, 5.36, 9.36)).faults
    assert uneven.said == "slices stand 1.14 to 4.22 mm apart, from 0.00 to 9.36 mm"


def test_a_tilt_is_named_with_its_angle() -> None:
    (fault,) = arrange(tilted(2, -18)).faults
    assert "18.0 degrees" in fault.said


def test_more_than_half_a_right_angle_is_no_tilt() -> None:
    assert codes(tilted(4, 44.9, rows=40)) == ["TILT"]
    found = arrange(tilted(4, 45.1, rows=40))
    assert [fault.code for fault in found.faults] == ["SHIFTED"]
    assert found.grid is None


def test_a_straight_grid_far_larger_than_the_slices_is_none() -> None:
    spread = arrange(planes(0, 1, 2, 15))
    assert spread.grid is not None
    far = arrange(planes(0, 1, 2, 16))
    assert far.grid is None
    (gap,) = far.faults
    assert gap.code == "GAP"
    assert gap.said.endswith("(usual step 1.00 mm): the gaps are too large to be filled")
    assert gap.fix == "export the whole series again"
    steep = arrange(tilted(40, 30))
    (tilt,) = steep.faults
    assert steep.grid is None
    assert tilt.code == "TILT"
    assert tilt.said.endswith("(gantry tilt of 30.0 degrees): too far to be straightened")
    assert tilt.fix


def test_a_tilt_with_a_gap_has_both_faults() -> None:
    slices = tilted(8, 18)
    del slices[3]
    assert codes(slices) == ["GAP", "TILT"]


TURNS = st.tuples(*[st.floats(-180, 180)] * 3)


@settings(max_examples=60, deadline=None)
@given(
    angles=TURNS,
    spacing=st.tuples(*[st.floats(0.3, 6)] * 3),
    degrees=st.one_of(st.just(0.0), st.floats(2, 30), st.floats(-30, -2)),
    n=st.integers(2, 9),
    seed=st.integers(0, 999),
)
def test_slices_are_found_at_their_places(
    angles: tuple[float, float, float], spacing: tuple[float, float, float], degrees: float, n: int, seed: int
) -> None:
    turn = Rotation.from_euler("xyz", angles, degrees=True).as_matrix()
    row, column, normal = turn.T
    way = spacing[2] * (normal + np.tan(np.radians(degrees)) * column)
    first = np.array([-100.0, 50, 20])
    order = np.random.default_rng(seed).permutation(n)
    given_planes = [Plane(300, 250, (*row, *column), tuple(first + k * way), spacing[:2]) for k in order]
    found = arrange(given_planes)
    assert [order[k] for k in found.order] == list(range(n))
    assert [fault.code for fault in found.faults] == (["TILT"] if degrees else [])
    assert found.planes is not None
    assert found.grid is not None
    assert np.abs(found.planes.positions_mm - (first + np.arange(n)[:, None] * way) * MIRROR).max() < 0.01
    assert found.planes.spacing_mm == (spacing[1], spacing[0])
    for x, y, z in [(0, 0, 0), (249, 299, n - 1), (249, 0, n // 2)]:
        world = (first + z * way + x * spacing[1] * row + y * spacing[0] * column) * MIRROR
        index = np.linalg.solve(found.grid.affine, [*world, 1])[:3]
        if not degrees:
            assert np.linalg.norm((found.grid.affine @ [x, y, z, 1])[:3] - world) < 0.01
        assert (index > -0.02).all()
        assert (index < np.array(found.grid.shape) - 1 + 0.02).all()
        assert index[2] == pytest.approx(z, abs=1e-6)


# --- onto the straight grid ---


def ramp(found: Planes) -> NDArray[np.float32]:
    """Values that are linear in the world: interpolation cannot but be exact."""
    x, y = np.meshgrid(*(np.arange(n) for n in found.shape), indexing="ij")
    steps = x[..., None] * found.row * found.spacing_mm[0] + y[..., None] * found.column * found.spacing_mm[1]
    world = steps[:, :, None, :] + found.positions_mm
    return (world @ [3.0, -2.0, 5.0] + 40).astype(np.float32)


def expected_ramp(grid: Grid) -> NDArray[np.float64]:
    index = np.stack(np.meshgrid(*(np.arange(n) for n in grid.shape), indexing="ij"), axis=-1)
    world = index @ grid.affine[:3, :3].T + grid.affine[:3, 3]
    values: NDArray[np.float64] = world @ [3.0, -2.0, 5.0] + 40
    return values


@settings(max_examples=30, deadline=None)
@given(angles=TURNS, degrees=st.floats(-30, 30), missing=st.sampled_from([None, 2, 4]))
def test_linear_values_stay_exact_on_the_straight_grid(
    angles: tuple[float, float, float], degrees: float, missing: int | None
) -> None:
    turn = Rotation.from_euler("xyz", angles, degrees=True).as_matrix()
    row, column, normal = turn.T
    way = 2.5 * (normal + np.tan(np.radians(degrees)) * column)
    stack = [Plane(20, 16, (*row, *column), tuple(k * way), (0.8, 0.7)) for k in range(7) if k != missing]
    found = arrange(stack)
    assert found.planes is not None
    grid = straight_grid(found.planes)
    onto = image_onto(ramp(found.planes), found.planes, grid, fill=-9999.0)
    inside = onto != -9999.0
    assert inside.mean() > 0.3
    assert np.abs(onto - expected_ramp(grid))[inside & _whole(onto)].max() < 0.02


def _whole(onto: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Voxels that are not mixed with the fill value, as they are at the rim of a slice."""
    return onto > -500


def test_slices_that_need_no_shift_keep_their_values() -> None:
    found, _ = arranged(planes(0, 2.5, 5))
    array = np.random.default_rng(0).normal(size=(6, 5, 3)).astype(np.float32)
    assert np.array_equal(image_onto(array, found, straight_grid(found), 0.0), array)


def test_a_gap_is_filled_between_its_neighbours_and_told() -> None:
    found, grid = arranged(planes(0, 2.5, 5, 12.5, 15, 17.5))
    assert grid.shape[2] == 8
    array = np.broadcast_to(np.float32([1, 2, 3, 6, 7, 8]), (6, 5, 6)).copy()
    onto = image_onto(array, found, grid, fill=-1.0)
    assert np.allclose(onto[2, 2], [1, 2, 3, 4, 5, 6, 7, 8])
    assert made_up(found, grid) == ((5.0, 12.5),)
    assert made_up(*arranged(planes(0, 2.5, 5))) == ()


def test_an_image_goes_only_onto_a_grid_along_its_slices() -> None:
    found, grid = arranged(planes(0, 2.5, 5))
    turned = grid.affine.copy()
    turned[:3, :2] = grid.affine[:3, [1, 0]]
    with pytest.raises(GeometryError, match="follow"):
        image_onto(np.zeros((6, 5, 3), np.float32), found, Grid((5, 6, 3), turned), 0.0)


# --- labels there and back ---


def blob(shape: tuple[int, int], n: int, seed: int = 0) -> NDArray[np.uint8]:
    rng = np.random.default_rng(seed)
    return rng.integers(0, 4, (*shape, n)).astype(np.uint8)


@pytest.mark.parametrize("degrees", [0.0, 5.0, -18.5, 30.0])
def test_labels_return_to_the_pixels_on_which_they_were_drawn(degrees: float) -> None:
    found, _ = arranged(tilted(6, degrees))
    grid = straight_grid(found)
    drawn = blob((6, 5), 6)
    there = labels_onto(drawn, found, grid)
    assert np.array_equal(labels_from(LabelMap(there, grid, {}), found), drawn)


def test_labels_are_not_drawn_across_a_gap() -> None:
    found, grid = arranged(planes(0, 2.5, 5, 12.5, 15, 17.5))
    there = labels_onto(np.ones((6, 5, 6), np.uint8), found, grid)
    assert [int(there[:, :, z].max()) for z in range(8)] == [1, 1, 1, 0, 0, 1, 1, 1]


@settings(max_examples=40, deadline=None)
@given(angles=TURNS, flips=st.tuples(*[st.booleans()] * 3), axes=st.permutations([0, 1, 2]))
def test_labels_on_the_same_voxels_in_another_order(
    angles: tuple[float, float, float], flips: tuple[bool, bool, bool], axes: list[int]
) -> None:
    turn = Rotation.from_euler("xyz", angles, degrees=True).as_matrix()
    row, column, normal = turn.T
    found, grid = arranged([Plane(5, 6, (*row, *column), tuple(k * 2.5 * normal), (0.8, 0.7)) for k in range(4)])
    drawn = blob((6, 5), 4)
    affine, turned = grid.affine.copy(), drawn
    for axis, flip in enumerate(flips):
        if flip:
            affine[:3, 3] += affine[:3, axis] * (grid.shape[axis] - 1)
            affine[:3, axis] *= -1
            turned = np.flip(turned, axis)
    affine[:3, :3], turned = affine[:3, axes], turned.transpose(axes)
    other = Grid(turned.shape, affine)
    assert np.array_equal(labels_onto(drawn, found, other), turned)
    assert np.array_equal(labels_from(LabelMap(np.ascontiguousarray(turned), other, {}), found), drawn)


def test_labels_beyond_the_slices_are_none() -> None:
    found, grid = arranged(planes(0, 2.5, 5))
    shifted = grid.affine.copy()
    shifted[:3, 3] += [0.7 * 2, 0, -2.5]
    there = labels_onto(np.ones((6, 5, 3), np.uint8), found, Grid((10, 5, 5), shifted))
    assert there[:, :, [0, 4]].max() == 0
    assert np.array_equal(there[:, 2, 2], [0, 0, 1, 1, 1, 1, 1, 1, 0, 0])


def test_labels_of_a_coarser_grid_are_seen_on_every_slice_that_they_cover() -> None:
    found, _ = arranged(planes(0, 1, 2, 3))
    grid = Grid(
        (1, 1, 2), np.diag([-100.0, -100, 2, 1]) + np.array([[0, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0.5], [0] * 4])
    )
    labels = LabelMap(np.array([[[1, 2]]], np.uint8), grid, {})
    on_slices = labels_from(labels, found)
    assert [int(on_slices[3, 2, z]) for z in range(4)] == [1, 1, 2, 2]
