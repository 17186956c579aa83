"""Acceptance values of the field (surface-distance's own tests, closed forms), and laws that hold for any labels."""

from __future__ import annotations

from itertools import pairwise, permutations

import numpy as np
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from medseg.evaluation.case import score_case
from medseg.evaluation.settings import Settings
from medseg.imaging.grid import Grid
from medseg.imaging.volume import LabelMap

METRICS = ("dice", "iou", "hd_mm", "hd95_mm", "assd_mm", "nsd", "boundary_f1")


def scored(reference, prediction, spacing=(1.0, 1.0, 1.0), tolerance_mm=1.0):
    grid = Grid(reference.shape, np.diag([*spacing, 1.0]))
    maps = (LabelMap(np.asarray(a, np.uint8), grid, {}) for a in (reference, prediction))
    (score,) = score_case("case", *maps, Settings(tolerances_mm=(tolerance_mm,)))
    return score


def cube(*sides, shape=(64, 64, 64)):
    array = np.zeros(shape, np.uint8)
    array[tuple(slice(*side) for side in sides)] = 1
    return array


def test_c1_voxels_two_apart():
    r, p = np.zeros((10, 10, 10), np.uint8), np.zeros((10, 10, 10), np.uint8)
    r[1, 4, 5] = p[1, 4, 7] = 1
    score = scored(r, p, (3, 2, 1))
    assert (score.dice, score.hd_mm, score.hd95_mm) == (0, 2, 2)
    assert (score.assd_mm, score.nsd, score.boundary_f1) == pytest.approx((1.5, 0.5, 0.5))


@pytest.mark.parametrize("single", [0, 1, 2])
def test_c1_pixels_two_apart_in_a_single_slice(single):
    r, p = np.zeros((10, 10), np.uint8), np.zeros((10, 10), np.uint8)
    r[4, 5] = p[4, 7] = 1
    spacing = [2.0, 1.0]
    spacing.insert(single, 7.0)
    score = scored(np.expand_dims(r, single), np.expand_dims(p, single), spacing)
    assert (score.hd_mm, score.hd95_mm) == (2, 2)
    assert (score.assd_mm, score.nsd) == pytest.approx((1.5, 0.5))


def test_c1_half_spaces():
    shape = (100, 100, 100)
    all_of_it = (0, 100)
    score = scored(
        cube((0, 50), all_of_it, all_of_it, shape=shape), cube((0, 51), all_of_it, all_of_it, shape=shape), (2, 1, 1)
    )
    assert (score.hd_mm, score.hd95_mm) == (2, 2)
    assert score.nsd == pytest.approx(0.836, abs=5e-4)
    assert score.dice == pytest.approx(0.990, abs=5e-4)


@pytest.mark.parametrize(("tolerance_mm", "nsd"), [(2.0, 0.662003), (2.4, 1.0)])
def test_c2_shift_in_plane(tolerance_mm, nsd):
    r, p = cube((20, 30), (20, 30), (20, 30)), cube((23, 33), (20, 30), (20, 30))
    score = scored(r, p, (0.8, 0.8, 2.5), tolerance_mm)
    assert (score.dice, score.iou) == pytest.approx((0.7, 7 / 13))
    assert (score.hd_mm, score.hd95_mm) == pytest.approx((2.4, 2.4))
    assert (score.nsd, score.assd_mm) == pytest.approx((nsd, 1.050133), abs=1e-6)
    assert score.volume_ref_ml == pytest.approx(1000 * 0.8 * 0.8 * 2.5 / 1000)


def test_c3_shift_by_a_slice():
    r, p = cube((20, 30), (20, 30), (20, 30)), cube((20, 30), (20, 30), (21, 31))
    score = scored(r, p, (0.8, 0.8, 2.5))
    assert (score.dice, score.hd_mm, score.hd95_mm) == pytest.approx((0.9, 2.5, 2.5))
    assert (score.nsd, score.assd_mm) == pytest.approx((0.861026, 0.349178), abs=1e-6)


def test_c4_cube_in_cube():
    score = scored(cube((27, 37), (27, 37), (27, 37)), cube((25, 39), (25, 39), (25, 39)), tolerance_mm=2)
    assert score.dice == pytest.approx(2000 / 3744)
    assert (score.hd_mm, score.hd95_mm) == pytest.approx((12**0.5, 8**0.5))
    assert (score.nsd, score.boundary_f1, score.assd_mm) == pytest.approx((0.763309, 0.784, 2.100548), abs=1e-6)


def test_c5_cube_in_cube_with_thick_slices():
    r, p = cube((27, 37), (27, 37), (27, 37)), cube((25, 39), (25, 39), (25, 39))
    score = scored(r, p, (0.8, 0.8, 2.5), tolerance_mm=2)
    assert (score.hd_mm, score.hd95_mm) == pytest.approx((5.488169, 5.249762), abs=1e-6)
    assert (score.nsd, score.boundary_f1, score.assd_mm) == pytest.approx((0.729175, 0.750035, 2.245618), abs=1e-6)


def test_c6_a_far_island():
    r = cube((20, 40), (20, 40), (20, 40))
    p = r.copy()
    p[30:32, 30:32, 5] = 1
    score = scored(r, p)
    assert (score.hd_mm, score.hd95_mm) == (15, 0)
    assert (score.nsd, score.assd_mm) == pytest.approx((0.997988, 0.029169), abs=1e-6)


def test_a_thin_structure_of_a_solid_scan_is_still_solid():
    score = scored(cube((2, 5), (2, 5), (3, 4), shape=(8, 8, 8)), cube((2, 5), (2, 5), (4, 5), shape=(8, 8, 8)))
    assert score.hd_mm == 1
    assert score.nsd == 1


@st.composite
def pairs(draw):
    """Two masks of any shape and density, neither empty; some of a single slice."""
    shape = draw(st.tuples(*[st.integers(1, 9)] * 3))
    rng = np.random.default_rng(draw(st.integers(0, 10_000)))
    density = draw(st.sampled_from([0.03, 0.3, 0.7]))
    r, p = (np.asarray(rng.random(shape) < density, np.uint8) for _ in range(2))
    if draw(st.booleans()):
        p = np.where(rng.random(shape) < 0.1, p, r)
    assume(r.any() and p.any())
    return r, p


spacings = st.tuples(*[st.sampled_from([0.5, 0.8, 1.0, 2.5, 5.0])] * 3)
few = settings(max_examples=40, deadline=None)


def same(a, b, factor=1.0, but=()):
    for metric in METRICS:
        if metric not in but:
            scale = factor if metric.endswith("_mm") else 1.0
            assert getattr(b, metric) == pytest.approx(scale * getattr(a, metric), rel=1e-9, abs=1e-9), metric


# two axes of a single voxel: which one is the slice axis must not depend on their order
LINE = (np.array([[[0], [1]]], np.uint8), np.array([[[1], [1]]], np.uint8))


@few
@given(pairs(), spacings)
def test_swapping_the_sides_changes_nothing(pair, spacing):
    r, p = pair
    same(scored(r, p, spacing), scored(p, r, spacing))


@few
@given(pairs(), spacings, st.sampled_from([0.1, 3.0, 10.0]))
def test_scaling_the_world_scales_distances(pair, spacing, factor):
    larger = tuple(factor * s for s in spacing)
    same(scored(*pair, spacing, 1.3), scored(*pair, larger, 1.3 * factor), factor)


@few
@given(pairs(), spacings, st.permutations(range(3)), st.tuples(*[st.sampled_from([1, -1])] * 3))
@example(LINE, (0.5, 0.5, 0.8), [1, 2, 0], (1, 1, 1))
def test_turning_the_arrays_changes_nothing(pair, spacing, order, steps):
    flip = tuple(slice(None, None, step) for step in steps)
    turned = [array[flip].transpose(order) for array in pair]
    same(scored(*pair, spacing), scored(*turned, [spacing[axis] for axis in order]))


@few
@given(pairs(), spacings, st.integers(1, 4), st.integers(1, 4))
def test_empty_space_around_changes_nothing(pair, spacing, before, after):
    assume(1 not in pair[0].shape)  # a single slice is another question, answered in 2D
    same(scored(*pair, spacing), scored(*(np.pad(array, (before, after)) for array in pair), spacing))


@few
@given(pairs(), spacings)
def test_a_larger_tolerance_never_lowers_nsd(pair, spacing):
    at = [scored(*pair, spacing, tolerance_mm) for tolerance_mm in (0.0, 0.5, 1.0, 2.5, 6.0)]
    assert all(a.nsd <= b.nsd + 1e-12 for a, b in pairwise(at))
    assert all(0 <= score.nsd <= 1 + 1e-12 for score in at)
    assert at[0].hd95_mm <= at[0].hd_mm
    assert scored(*pair, spacing, at[0].hd_mm).nsd == pytest.approx(1)


def test_other_labels_nearby_change_nothing():
    rng = np.random.default_rng(3)
    r, p = (np.asarray(rng.integers(0, 4, (9, 8, 7)), np.uint8) for _ in range(2))
    grid = Grid(r.shape, np.diag([1.0, 2.0, 3.0, 1.0]))
    together = score_case("case", LabelMap(r, grid, {}), LabelMap(p, grid, {}))
    for value, row in enumerate(together, 1):
        same(row, scored(r == value, p == value, (1, 2, 3)))


@pytest.mark.parametrize("order", list(permutations(range(3)))[1:])
def test_the_order_in_memory_changes_nothing(order):
    rng = np.random.default_rng(4)
    r, p = (np.asarray(rng.random((9, 8, 7)) < 0.4, np.uint8) for _ in range(2))
    back = np.argsort(order)
    stored = [np.ascontiguousarray(array.transpose(order)).transpose(back) for array in (r, p)]
    same(scored(r, p, (1, 2, 3)), scored(*stored, (1, 2, 3)))
