"""Acceptance values of the field (surface-distance's own tests, closed forms), and laws that hold for any labels."""

from __future__ import annotations

from itertools import pairwise, permutations

import numpy as np
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from medseg.evaluation.case import score_case
from medseg.evaluation.score import measured
from medseg.evaluation.settings import Settings
from medseg.imaging.grid import Grid
from medseg.imaging.volume import LabelMap

MODES = ("surfel", "voxel", "mesh")


def scored(reference, prediction, spacing=(1.0, 1.0, 1.0), tolerance_mm=1.0, mode="surfel", **options):
    grid = Grid(reference.shape, np.diag([*spacing, 1.0]))
    maps = (LabelMap(np.asarray(a, np.uint8), grid, {}) for a in (reference, prediction))
    (score,) = score_case("case", *maps, Settings(tolerances_mm=(tolerance_mm,), surface=mode, **options))
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
    assert (score.mean_ref_to_pred_mm, score.mean_pred_to_ref_mm) == pytest.approx((1.5, 1.5))
    voxels = scored(r, p, (3, 2, 1), mode="voxel")
    assert (voxels.hd_mm, voxels.hd95_mm, voxels.assd_mm, voxels.masd_mm) == (2, 2, 2, 2)


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
    assert (score.mean_ref_to_pred_mm, score.mean_pred_to_ref_mm) == pytest.approx((0.322, 0.339), abs=5e-4)
    assert (score.boundary_recall, score.boundary_precision) == pytest.approx((0.842, 0.830), abs=5e-4)
    assert score.nsd == pytest.approx(0.836, abs=5e-4)
    assert score.dice == pytest.approx(0.990, abs=5e-4)


C2 = cube((20, 30), (20, 30), (20, 30)), cube((23, 33), (20, 30), (20, 30))
C3 = cube((20, 30), (20, 30), (20, 30)), cube((20, 30), (20, 30), (21, 31))
C4 = cube((27, 37), (27, 37), (27, 37)), cube((25, 39), (25, 39), (25, 39))
ISLAND = cube((20, 40), (20, 40), (20, 40))
C6 = ISLAND, np.where(np.indices(ISLAND.shape)[2] == 5, cube((30, 32), (30, 32), (5, 6)), ISLAND)
THICK, EVEN = (0.8, 0.8, 2.5), (1.0, 1.0, 1.0)


@pytest.mark.parametrize(
    ("pair", "spacing", "tolerance_mm", "mode", "expected"),
    [
        (C2, THICK, 2.0, "surfel", {"hd_mm": 2.4, "hd95_mm": 2.4, "nsd": 0.662003, "assd_mm": 1.050133}),
        (C2, THICK, 2.0, "voxel", {"hd_mm": 2.4, "hd95_mm": 2.4, "nsd": 0.729508, "assd_mm": 0.904918}),
        (C2, THICK, 2.4, "surfel", {"nsd": 1.0}),
        (C2, THICK, 2.4, "voxel", {"nsd": 1.0}),
        (C3, THICK, 1.0, "surfel", {"hd_mm": 2.5, "hd95_mm": 2.5, "nsd": 0.861026, "assd_mm": 0.349178}),
        (C3, THICK, 1.0, "voxel", {"hd_mm": 2.5, "hd95_mm": 2.5, "nsd": 0.721311, "assd_mm": 0.703279}),
        (C4, EVEN, 2.0, "surfel", {"hd_mm": 12**0.5, "hd95_mm": 8**0.5, "nsd": 0.763309, "boundary_f1": 0.784}),
        (C4, EVEN, 2.0, "surfel", {"assd_mm": 2.100548, "masd_mm": 2.075459, "boundary_precision": 0.644737}),
        (C4, EVEN, 2.0, "voxel", {"nsd": 0.723404, "boundary_f1": 0.742574, "assd_mm": 2.134686, "masd_mm": 2.099689}),
        (C5 := C4, THICK, 2.0, "surfel", {"hd_mm": 5.488169, "hd95_mm": 5.249762, "nsd": 0.729175}),
        (C5, THICK, 2.0, "surfel", {"boundary_f1": 0.750035, "assd_mm": 2.245618, "masd_mm": 2.132469}),
        (C5, THICK, 2.0, "voxel", {"nsd": 0.558511, "boundary_f1": 0.576, "assd_mm": 2.762622, "masd_mm": 2.562756}),
        (C6, EVEN, 1.0, "surfel", {"hd_mm": 15, "hd95_mm": 0, "nsd": 0.997988, "assd_mm": 0.029169}),
        (C6, EVEN, 1.0, "voxel", {"hd_mm": 15, "hd95_mm": 0, "nsd": 0.999078, "assd_mm": 0.013825}),
    ],
)
def test_c2_to_c6(pair, spacing, tolerance_mm, mode, expected):
    score = scored(*pair, spacing, tolerance_mm, mode)
    for metric, value in expected.items():
        assert score.value(metric) == pytest.approx(value, abs=1e-6), metric


def test_c2_to_c6_in_voxel_counts():
    c2, c3, c4 = (scored(*pair, THICK) for pair in (C2, C3, C4))
    assert (c2.dice, c2.iou, c2.precision, c2.recall, c2.volume_rel_diff) == pytest.approx((0.7, 7 / 13, 0.7, 0.7, 0))
    assert c2.volume_ref_ml == pytest.approx(1000 * 0.8 * 0.8 * 2.5 / 1000)
    assert c3.dice == pytest.approx(0.9)
    assert c4.dice == pytest.approx(2000 / 3744)
    assert scored(*C4, tolerance_mm=2).boundary_recall == 1


def sphere(radius_mm, spacing, offset_mm=(0.0, 0.0, 0.0)):
    shape = [int(56 / mm) for mm in spacing]
    x, y, z = ((np.arange(n) + 0.5) * mm - 28 for n, mm in zip(shape, spacing, strict=True))
    away = [a - o for a, o in zip(np.ix_(x, y, z), offset_mm, strict=True)]
    return away[0] ** 2 + away[1] ** 2 + away[2] ** 2 <= radius_mm**2


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), THICK, (0.5, 0.5, 5.0)])
def test_the_mesh_is_closest_to_continuous_truth(spacing):
    """The mean distance of two spheres about one centre is the difference of their radii."""
    pair = sphere(20, spacing), sphere(22, spacing)
    off = {mode: abs(scored(*pair, spacing, mode=mode).assd_mm - 2) / 2 for mode in MODES}
    assert off["mesh"] <= 0.16
    assert off["mesh"] < off["surfel"] - 0.1


def test_boundary_iou():
    """Of a cube of 10 in a cube of 14 the bands of 2 voxels are shells that do not meet but for one layer."""
    depth = 1.0
    score = scored(*C4, boundary_iou_mm=depth)
    shell = 14**3 - 10**3  # the outer two layers of the large cube: border voxels, and those 1 mm inside
    inner = 10**3 - 6**3
    assert score.boundary_iou == pytest.approx(0 / (shell + inner), abs=1e-12)
    same = scored(C4[0], C4[0], boundary_iou_mm=depth)
    assert same.boundary_iou == 1
    deep = scored(*C4, boundary_iou_mm=100.0)
    assert deep.boundary_iou == pytest.approx(deep.iou)


def test_what_the_field_of_view_cuts_need_not_count():
    """Two masks that end at the same face of the image agree there perfectly, whatever they do elsewhere."""
    r, p = cube((0, 10), (20, 30), (20, 30)), cube((0, 12), (20, 30), (20, 30))
    counted, excluded = (scored(r, p, tolerance_mm=0.5, fov_faces=how) for how in ("count", "exclude"))
    assert counted.touches_border
    assert excluded.nsd < counted.nsd
    inside = cube((10, 20), (20, 30), (20, 30)), cube((10, 22), (20, 30), (20, 30))
    for mode in MODES:
        same(*(scored(*inside, fov_faces=how, mode=mode) for how in ("count", "exclude")))
    assert not scored(*inside).touches_border


def test_a_structure_that_fills_the_image_has_no_surface_of_its_own():
    full = np.ones((6, 6, 6))
    nothing = scored(full, full, fov_faces="exclude")
    assert (nothing.dice, nothing.hd_mm, nothing.nsd) == (1, None, None)
    part = scored(full, cube((0, 3), (0, 6), (0, 6), shape=(6, 6, 6)), fov_faces="exclude")
    assert (part.hd_mm, part.nsd) == (np.inf, 0)


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
few = settings(max_examples=20, deadline=None)


SWAPPED = {
    "precision": "recall",
    "boundary_precision": "boundary_recall",
    "mean_ref_to_pred_mm": "mean_pred_to_ref_mm",
    "volume_ref_ml": "volume_pred_ml",
}
SWAPPED |= {b: a for a, b in SWAPPED.items()}
OF_ONE_SIDE = ("volume_diff_ml", "volume_rel_diff", "volume_abs_rel_diff")


def same(a, b, factor=1.0, swapped=False):
    for one in measured([a]):
        if swapped and one.name in OF_ONE_SIDE:
            continue
        scale = factor if one.unit == "mm" else factor**3 if one.unit == "ml" else 1.0
        found = b.value(SWAPPED.get(one.name, one.name) if swapped else one.name)
        assert found == pytest.approx(scale * a.value(one.name), rel=1e-9, abs=1e-9), one.name


# two axes of a single voxel: which one is the slice axis must not depend on their order
LINE = (np.array([[[0], [1]]], np.uint8), np.array([[[1], [1]]], np.uint8))


@pytest.mark.parametrize("mode", MODES)
@few
@given(pairs(), spacings)
def test_swapping_the_sides_swaps_what_has_a_side(mode, pair, spacing):
    r, p = pair
    same(scored(r, p, spacing, mode=mode), scored(p, r, spacing, mode=mode), swapped=True)


@pytest.mark.parametrize("mode", MODES)
@few
@given(pairs(), spacings, st.sampled_from([0.1, 3.0, 10.0]))
def test_scaling_the_world_scales_distances(mode, pair, spacing, factor):
    larger = tuple(factor * s for s in spacing)
    ones = (scored(*pair, mm, 1.3 * by, mode, boundary_iou_mm=2 * by) for mm, by in ((spacing, 1), (larger, factor)))
    same(*ones, factor)


@pytest.mark.parametrize("mode", MODES)
@few
@given(pairs(), spacings, st.permutations(range(3)), st.tuples(*[st.sampled_from([1, -1])] * 3))
@example(LINE, (0.5, 0.5, 0.8), [1, 2, 0], (1, 1, 1))
def test_turning_the_arrays_changes_nothing(mode, pair, spacing, order, steps):
    flip = tuple(slice(None, None, step) for step in steps)
    turned = [array[flip].transpose(order) for array in pair]
    same(scored(*pair, spacing, mode=mode), scored(*turned, [spacing[axis] for axis in order], mode=mode))


@pytest.mark.parametrize("mode", MODES)
@few
@given(pairs(), spacings, st.integers(1, 4), st.integers(1, 4))
def test_empty_space_around_changes_nothing(mode, pair, spacing, before, after):
    assume(1 not in pair[0].shape)  # a single slice is another question, answered in 2D
    larger = (np.pad(array, (before, after)) for array in pair)
    same(scored(*pair, spacing, mode=mode), scored(*larger, spacing, mode=mode))


@pytest.mark.parametrize("mode", MODES)
@few
@given(pairs(), spacings)
def test_a_larger_tolerance_never_lowers_nsd(mode, pair, spacing):
    at = [scored(*pair, spacing, tolerance_mm, mode) for tolerance_mm in (0.0, 0.5, 1.0, 2.5, 6.0)]
    assert all(a.nsd <= b.nsd + 1e-12 for a, b in pairwise(at))
    assert all(0 <= score.nsd <= 1 + 1e-12 for score in at)
    assert at[0].hd95_mm <= at[0].hd_mm
    assert at[0].hd95_pooled_mm <= at[0].hd_mm
    assert scored(*pair, spacing, at[0].hd_mm, mode).nsd == pytest.approx(1)


def test_other_labels_nearby_change_nothing():
    rng = np.random.default_rng(3)
    r, p = (np.asarray(rng.integers(0, 4, (9, 8, 7)), np.uint8) for _ in range(2))
    grid = Grid(r.shape, np.diag([1.0, 2.0, 3.0, 1.0]))
    together = score_case("case", LabelMap(r, grid, {}), LabelMap(p, grid, {}))
    for value, row in enumerate(together, 1):
        alone = score_case("case", *(LabelMap(np.uint8(m == value), grid, {}) for m in (r, p)))
        same(row, *alone)


@pytest.mark.parametrize("order", list(permutations(range(3)))[1:])
def test_the_order_in_memory_changes_nothing(order):
    rng = np.random.default_rng(4)
    r, p = (np.asarray(rng.random((9, 8, 7)) < 0.4, np.uint8) for _ in range(2))
    back = np.argsort(order)
    stored = [np.ascontiguousarray(array.transpose(order)).transpose(back) for array in (r, p)]
    same(scored(r, p, (1, 2, 3)), scored(*stored, (1, 2, 3)))


@pytest.mark.parametrize("mode", MODES)
def test_the_type_of_the_labels_changes_nothing(mode):
    rng = np.random.default_rng(5)
    pair = [(rng.random((9, 8, 17)) < 0.4).astype(np.uint8) for _ in range(2)]
    grid = Grid((9, 8, 17), np.diag([1.0, 2.0, 3.0, 1.0]))
    rows = [
        score_case(
            "case",
            *(LabelMap(array.astype(kind), grid, {}) for array, kind in zip(pair, kinds, strict=True)),
            Settings(surface=mode),
        )
        for kinds in ((np.uint8, np.uint8), (np.uint16, np.uint16), (np.uint16, np.uint8))
    ]
    assert rows[0] == rows[1] == rows[2]


def test_labels_of_other_numbers_have_the_same_rows():
    rng = np.random.default_rng(6)
    r, p = (rng.integers(0, 4, (9, 8, 7)).astype(np.uint16) for _ in range(2))
    grid = Grid(r.shape, np.diag([1.0, 2.0, 3.0, 1.0]))
    renamed = np.array([0, 40000, 7, 300], np.uint16)
    rows = {row.structure: row for row in score_case("case", LabelMap(r, grid, {}), LabelMap(p, grid, {}))}
    for row in score_case("case", LabelMap(renamed[r], grid, {}), LabelMap(renamed[p], grid, {})):
        same(rows[str(list(renamed).index(int(row.structure)))], row)
