from __future__ import annotations

import tracemalloc
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import zoom

from medseg.errors import GeometryError
from medseg.imaging.grid import Grid, Stored
from medseg.imaging.volume import LabelMap, Volume
from medseg.preprocessing.orientation import turn_to_ras
from medseg.preprocessing.prepare import (
    Undo,
    answer_orders,
    image_orders,
    prepare,
    prepare_labels,
    resampled_shape,
    thick_axis,
)
from medseg.preprocessing.resample import Resampler
from medseg.preprocessing.restore import Canvas
from medseg.preprocessing.settings import Normalisation, PreprocessingSettings, Resampling
from tests.preprocessing.build import grid_of, oblique, one_hot, orientations
from tests.tiny import restore

VALUES = (1, 5, 300)
NAMES = {1: "liver", 5: "spleen", 300: "lesion"}
ZSCORE = Normalisation(kind="zscore")
AS_STORED = PreprocessingSettings(spacing_mm=(None, None, None), channels=(ZSCORE,))


def restore_classes(classes: Any, undo: Undo, values: Any, names: Any) -> LabelMap:
    """Classes on the cropped grid as labels on the scan's own."""
    canvas = Canvas(undo, values)
    canvas.cropped[...] = canvas.table[classes]
    return canvas.labels(names)


def at(*spacing: float | None, channels: int = 1) -> PreprocessingSettings:
    x, y, z = spacing
    return PreprocessingSettings(spacing_mm=(x, y, z), channels=(ZSCORE,) * channels)


def scan(grid: Grid, pad: tuple[int, int, int] = (0, 0, 0), seed: int = 0) -> tuple[Volume, LabelMap]:
    """Random intensities and labels, none in a border of `pad` voxels."""
    rng = np.random.default_rng(seed)
    image, labels = np.zeros(grid.shape, np.float32), np.zeros(grid.shape, np.uint16)
    inside = tuple(slice(min(p, (n - 1) // 2), n - min(p, (n - 1) // 2)) for n, p in zip(grid.shape, pad, strict=True))
    image[inside] = rng.uniform(1, 2, image[inside].shape)
    labels[inside] = rng.choice(np.array([0, *VALUES], np.uint16), labels[inside].shape)
    return Volume(image, grid), LabelMap(labels, grid, NAMES)


GRIDS = st.builds(
    lambda how, shape, spacing: grid_of(*how, shape=shape, spacing=spacing),
    st.sampled_from(orientations()),
    st.tuples(*[st.integers(1, 9)] * 3),
    st.tuples(*[st.sampled_from([0.35, 0.7, 1.0, 1.7, 5.0])] * 3),
) | st.builds(oblique, st.integers(0, 10_000), st.tuples(*[st.integers(1, 9)] * 3))
PADS = st.tuples(*[st.integers(0, 3)] * 3)
TARGETS = st.tuples(*[st.sampled_from([None, 0.5, 1.0, 3.0])] * 3)
FAST = settings(deadline=None, max_examples=80, database=None)


@FAST
@given(grid=GRIDS, pad=PADS, target=TARGETS, seed=st.integers(0, 99))
def test_restored_labels_lie_on_the_grid_of_the_scan(grid, pad, target, seed):
    image, labels = scan(grid, pad, seed)
    prepared = prepare([image], at(*target))
    classes = prepare_labels(labels, prepared.undo, VALUES)
    assert classes.shape == prepared.image_CXYZ.shape[1:] == prepared.undo.prepared_shape
    assert prepared.image_CXYZ.dtype == np.float32
    restored = restore(one_hot(classes, 4), prepared.undo, VALUES, NAMES)
    assert restored.grid.shape == grid.shape
    assert restored.grid.stored == grid.stored
    np.testing.assert_array_equal(restored.grid.affine, grid.affine)
    assert set(np.unique(restored.array)) <= {0, *VALUES}


@FAST
@given(grid=GRIDS, pad=PADS, seed=st.integers(0, 99), keep=st.sampled_from(["none", "same"]))
def test_without_resampling_the_labels_come_back_exactly(grid, pad, seed, keep):
    image, labels = scan(grid, pad, seed)
    turn = turn_to_ras(grid)
    same = [grid.spacing_mm[a] for a in turn.order]
    prepared = prepare([image], AS_STORED if keep == "none" else at(*same))
    classes = prepare_labels(labels, prepared.undo, VALUES)
    restored = restore(one_hot(classes, 4), prepared.undo, VALUES, NAMES)
    np.testing.assert_array_equal(restored.array, labels.array)
    assert dict(restored.names) == NAMES
    assert Undo.model_validate_json(prepared.undo.model_dump_json()) == prepared.undo


CT = Normalisation(kind="ct", lower=-1000, upper=1000, mean=0, sd=500)
BODY = PreprocessingSettings(spacing_mm=(None, None, None), channels=(CT,), crop="body")


@FAST
@given(
    grid=GRIDS, pad=PADS, seed=st.integers(0, 99), order=st.sampled_from("CF"), n=st.sampled_from([2, 255, 256, 700])
)
def test_labels_of_any_number_of_structures_come_back_from_a_crop_to_the_body(grid, pad, seed, order, n):
    rng = np.random.default_rng(seed)
    values = sorted(int(v) for v in rng.choice(np.arange(1, 65536), n, replace=False))
    image, _ = scan(grid, pad, seed)
    body = np.where(image.array > 0, 40, -1000).astype(np.float32, order=order)
    given_ = np.where(image.array > 0, rng.choice([0, *values], grid.shape), 0).astype(np.uint16, order=order)
    labels = LabelMap(given_, grid, {})
    prepared = prepare([Volume(body, grid)], BODY)
    classes = prepare_labels(labels, prepared.undo, values)
    assert classes.dtype == (np.uint8 if n <= 255 else np.uint16)
    assert classes.flags.c_contiguous
    restored = restore_classes(classes, prepared.undo, values, {})
    np.testing.assert_array_equal(restored.array, given_)
    present = [0, *np.unique(classes[classes > 0])]  # a logit for each of 700 classes would be slow
    logits = np.stack([(classes == k).astype(np.float32) for k in present])
    few = [values[k - 1] for k in present[1:]] or [1]
    np.testing.assert_array_equal(restore(logits, prepared.undo, few, {}).array, given_)
    assert restored.grid.agrees(grid)


@pytest.mark.parametrize("how", [at(1, 1, 1), AS_STORED])
def test_the_scan_that_is_given_stays_as_it_is(how):
    image, labels = scan(grid_of((2, 0, 1), (-1, 1, 1)))
    before, marks = image.array.copy(), labels.array.copy()
    prepared = prepare([image], how)
    classes = prepare_labels(labels, prepared.undo, VALUES)
    assert not np.shares_memory(prepared.image_CXYZ, image.array)
    prepared.image_CXYZ[...] = 0
    restore_classes(classes, prepared.undo, VALUES, {}) if how is AS_STORED else None
    np.testing.assert_array_equal(image.array, before)
    np.testing.assert_array_equal(labels.array, marks)


def test_resampling_is_done_where_it_is_said_to_be():
    calls: list[tuple[Any, ...]] = []

    def image_of(array: Any, shape: Any, orders: Any, scale: Any = None) -> Any:
        calls.append((array.dtype, shape, orders))
        return np.full(shape, 7, np.float32)

    def labels_of(array: Any, shape: Any, orders: Any) -> Any:
        calls.append((array.dtype, shape, orders))
        return np.full(shape, 2, array.dtype)

    image, labels = scan(grid_of((0, 1, 2), (1, 1, 1), (4, 4, 4), (1, 1, 4)))
    prepared = prepare([image, image], at(2, 1, 1, channels=2), Resampler(image_of, labels_of))
    classes = prepare_labels(labels, prepared.undo, VALUES, Resampler(image_of, labels_of))
    assert calls == [(np.float32, (2, 4, 16), (3, 3, 1))] * 2 + [(np.uint8, (2, 4, 16), (1, 1, 1))]
    assert (prepared.image_CXYZ == 7).all()
    assert (classes == 2).all()


def test_only_the_crop_is_copied():
    """The peak is the crop, the copy that is resampled from, and the result, whatever the size of the scan."""
    image = np.zeros((200, 200, 120), np.float32, order="F")
    image[60:140, 60:140, 20:100] = 1
    volume = Volume(image, Grid(image.shape, np.eye(4)))
    labels = LabelMap((image > 0).astype(np.uint16, order="F") * 300, volume.grid, {})
    crop = 80**3 * 4
    prepare([volume], AS_STORED)  # what is imported or kept for good is not meant
    tracemalloc.start()
    prepared = prepare([volume], AS_STORED)
    image_peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert image_peak < 2.5 * crop
    tracemalloc.start()
    prepare_labels(labels, prepared.undo, VALUES)
    label_peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert label_peak < 1.5 * crop


def test_the_network_sees_ras_whatever_the_order_on_disk():
    shape = (5, 6, 7)
    ras = grid_of((0, 1, 2), (1, 1, 1), shape, (1, 1.5, 2))
    image, labels = scan(ras, (1, 0, 2))
    wanted = prepare([image], at(1, 1, 1))
    for worlds, signs in orientations():
        order = np.argsort(worlds)  # stored axis of each world axis
        grid = grid_of(worlds, signs, tuple(shape[w] for w in worlds), [(1, 1.5, 2)[w] for w in worlds])
        flipped = image.array[tuple(slice(None, None, signs[order[w]]) for w in range(3))].transpose(worlds)
        flipped_labels = labels.array[tuple(slice(None, None, signs[order[w]]) for w in range(3))].transpose(worlds)
        got = prepare([Volume(flipped, grid)], at(1, 1, 1))
        assert got.spacing_mm == wanted.spacing_mm
        np.testing.assert_allclose(got.image_CXYZ, wanted.image_CXYZ, atol=1e-6)
        np.testing.assert_array_equal(
            prepare_labels(LabelMap(flipped_labels, grid, NAMES), got.undo, VALUES),
            prepare_labels(labels, wanted.undo, VALUES),
        )


def test_large_structures_survive_resampling_there_and_back():
    grid = grid_of((1, 0, 2), (-1, 1, -1), (30, 28, 12), (0.8, 0.8, 2.5))
    labels = np.zeros(grid.shape, np.uint8)
    labels[6:22, 5:20, 2:9] = 5
    prepared = prepare([Volume(np.ones(grid.shape, np.float32), grid)], at(1, 1, 1))
    classes = prepare_labels(LabelMap(labels, grid, {5: "x"}), prepared.undo, (5,))
    back = restore(one_hot(classes, 2), prepared.undo, (5,), {5: "x"})
    both = np.count_nonzero((back.array == 5) & (labels == 5))
    assert 2 * both / (np.count_nonzero(back.array) + np.count_nonzero(labels)) > 0.93


def test_classes_follow_the_order_of_values_and_unknown_ones_are_background():
    grid = Grid((2, 2, 2), np.eye(4))
    labels = np.array([0, 1, 5, 300, 7, 400, 5, 1], np.uint16).reshape(2, 2, 2)
    undo = prepare([Volume(np.ones((2, 2, 2), np.float32), grid)], AS_STORED).undo
    classes = prepare_labels(LabelMap(labels, grid, {}), undo, VALUES)
    np.testing.assert_array_equal(classes.ravel(), [0, 1, 2, 3, 0, 0, 2, 1])
    assert classes.dtype == np.uint8


@pytest.mark.parametrize(("values", "dtype"), [((1, 255), np.uint8), ((1, 256), np.uint16)])
def test_restored_values_take_the_smallest_type(values, dtype):
    grid = Grid((2, 1, 1), np.eye(4), Stored("nifti", 2, 4))
    undo = prepare([Volume(np.ones(grid.shape, np.float32), grid)], AS_STORED).undo
    out = restore_classes(np.array([0, 2]).reshape(2, 1, 1), undo, values, {})
    assert out.array.dtype == dtype
    np.testing.assert_array_equal(out.array.ravel(), [0, values[1]])
    assert out.grid.stored == Stored("nifti", 2, 4)


def test_each_channel_is_normalised_by_its_own_rule():
    grid = Grid((4, 4, 4), np.eye(4))
    first, second = np.full((4, 4, 4), 60, np.float32), np.zeros((4, 4, 4), np.float32)
    second[1] = 3
    ct = Normalisation(kind="ct", lower=0, upper=50, mean=30, sd=10)
    how = PreprocessingSettings(spacing_mm=(1, 1, 2), channels=(ct, ZSCORE))
    image = prepare([Volume(first, grid), Volume(second, grid)], how).image_CXYZ
    assert image.shape == (2, 4, 4, 2)
    np.testing.assert_allclose(image[0], 2)
    assert image[1, 1].min() > 1 > image[1, 0].max()


def test_the_crop_is_normalised_not_the_padding():
    grid = Grid((8, 4, 4), np.eye(4))
    image = np.zeros(grid.shape, np.float32)
    image[2:6] = np.random.default_rng(0).uniform(5, 6, (4, 4, 4))
    prepared = prepare([Volume(image, grid)], AS_STORED)
    assert prepared.undo.box == ((2, 6), (0, 4), (0, 4))
    assert prepared.undo.cropped_shape == (4, 4, 4)
    assert prepared.image_CXYZ.std() == pytest.approx(1, abs=1e-4)


def test_the_spacing_told_is_the_one_that_came_out():
    grid = Grid((10, 10, 3), np.diag([1.0, 1, 4, 1]))
    prepared = prepare([Volume(np.ones(grid.shape, np.float32), grid)], at(3, 1, 1))
    assert prepared.image_CXYZ.shape == (1, 3, 10, 12)
    assert prepared.spacing_mm == pytest.approx((10 / 3, 1, 1))


@pytest.mark.parametrize(
    ("shape", "spacing", "target", "wanted"),
    [
        ((10, 10, 10), (1, 1, 5), (1, 1, 1), (10, 10, 50)),
        ((10, 10, 10), (1, 1, 5), (2, None, 0.7), (5, 10, 71)),
        ((1, 3, 3), (1, 1, 1), (9, 100, 1), (1, 1, 3)),
        ((102, 195, 250), (1.25, 5, 0.7), (0.6, 1.2, 0.4), (213, 813, 437)),  # halves fall as in nnU-Net
    ],
)
def test_shapes_after_resampling(shape, spacing, target, wanted):
    assert resampled_shape(shape, spacing, target) == wanted


def test_only_a_very_coarse_axis_is_interpolated_linearly():
    how, target = Resampling(), (1, 1, 9)
    assert image_orders((1, 1, 3), target, how) == (3, 3, 3)
    assert image_orders((1, 1, 3.1), target, how) == (3, 3, 1)
    assert image_orders((4, 1, 4), target, how) == (1, 3, 1)
    assert answer_orders((1, 1, 9), (1, 1, 9), how) == (1, 1, 1)


@pytest.mark.parametrize(
    ("before", "after", "axis"),
    [
        ((1, 1, 3), (1, 1, 1), None),
        ((1, 1, 3.1), (1, 1, 1), 2),
        ((1, 1, 1), (4, 1, 1), 0),
        ((1, 1, 4), (4, 1, 1), 2),  # the spacing before counts first
        ((0.2, 1, 1), (1, 1, 4), None),  # two axes are as coarse: neither is sliced
        ((1, 1, 1), (1, 1, 1), None),
    ],
)
def test_nnunets_rule_for_thick_slices(before, after, axis):
    assert thick_axis(before, after) == axis
    slices = tuple(0 if a == axis else 3 for a in range(3))
    answers = tuple(0 if a == axis else 1 for a in range(3))
    assert image_orders(before, after, Resampling(thick="nearest")) == slices
    assert answer_orders(before, after, Resampling(thick="nearest")) == answers
    assert image_orders(before, after, Resampling(order=1, thick="alike")) == (1, 1, 1)
    assert answer_orders(before, after, Resampling(thick="alike")) == (1, 1, 1)


def test_slices_are_resampled_one_by_one_each_within_its_own_range():
    """As nnU-Net does; a slice of constant brightness beside a bright one stays what it was."""
    rng = np.random.default_rng(3)
    array = rng.uniform(1, 2, (10, 8, 4)).astype(np.float32)
    array[2:5, :, 1] += 100
    array[:, :, 2] = 7
    grid = grid_of((0, 1, 2), (1, 1, 1), (10, 8, 4), (1, 1, 5))
    how = at(0.7, 0.8, 3).model_copy(
        update={"channels": (Normalisation(kind="none"),), "resampling": Resampling(thick="nearest")}
    )
    prepared = prepare([Volume(array, grid)], how)
    assert prepared.undo.prepared_shape == (14, 10, 7)
    assert prepared.undo.orders == (1, 1, 0)
    nearest = [0, 0, 1, 2, 2, 3, 3]  # of (k + 0.5) * 4 / 7 - 0.5, halves upwards
    for k, source in enumerate(nearest):
        old = array[:, :, source].astype(np.float64)
        alone = zoom(old, (14 / 10, 10 / 8), order=3, mode="nearest", grid_mode=True).clip(old.min(), old.max())
        np.testing.assert_allclose(prepared.image_CXYZ[0, :, :, k], alone, rtol=1e-5)


def test_spacings_may_be_those_of_a_nifti_file():
    """As nnU-Net reads it 0.8 is a little more: half a voxel more than 10 becomes 11, and a ratio of 3 is above 3."""
    image = Volume(np.ones((21, 8, 8), np.float32), Grid((21, 8, 8), np.diag([0.8, 0.8, 2.4, 1.0])))
    how = at(1.6, 0.8, 0.8)
    plain = how.model_copy(update={"resampling": Resampling(thick="nearest")})
    as_nnunet = how.model_copy(update={"resampling": Resampling(thick="nearest", float32_spacing=True)})
    found = prepare([image], plain).undo, prepare([image], as_nnunet).undo
    assert [undo.prepared_shape[0] for undo in found] == [10, 11]
    assert [undo.orders for undo in found] == [(1, 1, 1), (1, 1, 0)]


@FAST
@given(grid=GRIDS, pad=PADS, seed=st.integers(0, 99), target=TARGETS)
def test_a_network_may_see_a_scan_as_it_is_stored(grid, pad, seed, target):
    """The axes of the world play no part then: the same array on any grid of its spacing is seen alike."""
    image, labels = scan(grid, pad, seed)
    how = at(*target).model_copy(update={"orientation": "stored", "resampling": Resampling(thick="nearest")})
    prepared = prepare([image], how)
    plain = Grid(grid.shape, np.diag([*grid.spacing_mm, 1.0]))
    np.testing.assert_allclose(prepared.image_CXYZ, prepare([Volume(image.array, plain)], how).image_CXYZ, atol=1e-5)
    assert prepared.undo.turn.order == (0, 1, 2)
    restored = restore(one_hot(prepare_labels(labels, prepared.undo, VALUES), 4), prepared.undo, VALUES, NAMES)
    np.testing.assert_array_equal(restored.grid.affine, grid.affine)
    if prepared.undo.prepared_shape == prepared.undo.cropped_shape:
        np.testing.assert_array_equal(restored.array, labels.array)


def refused(channels: list[Volume], how: PreprocessingSettings) -> str:
    with pytest.raises(GeometryError) as caught:
        prepare(channels, how)
    return str(caught.value)


def test_channels_that_do_not_fit_are_refused():
    grid = Grid((4, 4, 4), np.eye(4))
    one = Volume(np.ones((4, 4, 4), np.float32), grid)
    away = np.eye(4)
    away[0, 3] = 2.0
    assert "2 channel(s) where the plan has 1" in refused([one, one], at(1, 1, 1))
    assert "2 mm" in refused([one, Volume(one.array, Grid((4, 4, 4), away))], at(1, 1, 1, channels=2))
    other = Volume(np.ones((4, 4, 5), np.float32), Grid((4, 4, 5), np.eye(4)))
    assert "shape" in refused([one, other], at(1, 1, 1, channels=2))


def test_channels_may_differ_by_what_headers_round():
    away = np.eye(4)
    away[0, 3] = 0.005
    grids = Grid((4, 4, 4), np.eye(4)), Grid((4, 4, 4), away)
    image: list[Any] = [Volume(np.ones((4, 4, 4), np.float32), grid) for grid in grids]
    assert prepare(image, at(1, 1, 1, channels=2)).image_CXYZ.shape == (2, 4, 4, 4)


def test_a_label_map_of_another_shape_is_refused():
    undo = prepare([Volume(np.ones((4, 4, 4), np.float32), Grid((4, 4, 4), np.eye(4)))], AS_STORED).undo
    with pytest.raises(GeometryError, match="shape"):
        prepare_labels(LabelMap(np.zeros((4, 4, 5), np.uint8), Grid((4, 4, 5), np.eye(4)), {}), undo, (1,))


@pytest.mark.parametrize("stored", [(0, 1, 2), (2, 0, 1), (1, 2, 0)])
@pytest.mark.parametrize("signs", [(1, 1, 1), (-1, 1, -1), (-1, -1, 1)])
def test_the_prepared_grid_lies_where_the_scan_does(stored: tuple[int, ...], signs: tuple[int, ...]) -> None:
    """The mean of a blob stays at its place, whatever was turned, cropped and resampled."""
    affine = np.zeros((4, 4))
    for voxel_axis, (world, sign, mm) in enumerate(zip(stored, signs, (0.9, 1.4, 2.0), strict=True)):
        affine[world, voxel_axis] = sign * mm
    affine[:, 3] = (12.0, -30.0, 55.0, 1.0)
    grid = Grid((40, 34, 26), affine)
    at = np.stack(np.meshgrid(*(np.arange(n) for n in grid.shape), indexing="ij"), axis=-1)
    array = np.exp(-((at - (25, 14, 15)) ** 2).sum(axis=-1) / 18.0).astype(np.float32)
    array[array < 1e-4] = 0.0  # so that there is something to crop
    how = Normalisation(kind="ct", lower=-1e6, upper=1e6)
    made = PreprocessingSettings(spacing_mm=(1.2, 1.0, 1.7), channels=(how,))
    prepared = prepare([Volume(array, grid)], made)
    image, found = prepared.image_CXYZ[0].astype(np.float64), prepared.undo.prepared_grid
    assert found.shape == image.shape != grid.shape
    assert found.spacing_mm == pytest.approx(prepared.spacing_mm)
    weight = image - image.min()
    index = np.array([(weight * n).sum() / weight.sum() for n in np.indices(image.shape)])
    assert found.affine[:3, :3] @ index + found.affine[:3, 3] == pytest.approx(
        affine[:3, :3] @ (25, 14, 15) + affine[:3, 3], abs=0.05
    )
