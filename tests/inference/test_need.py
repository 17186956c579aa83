"""What a scan takes, told from its header, is what it takes."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medseg.imaging.grid import Grid
from medseg.imaging.volume import Volume
from medseg.imaging.writing.table import FORMATS
from medseg.inference.blending import Sums
from medseg.inference.need import (
    disk_bytes,
    forward_bytes,
    need_of,
    prepared_shape,
    sums_bytes,
    tile_shape,
)
from medseg.inference.tiles import tiles_a_forward
from medseg.preprocessing.prepare import prepare
from tests.tiny import CPU, configuration

SIDES = st.integers(1, 40)


def grid(shape: tuple[int, int, int], spacing: tuple[float, float, float] = (1, 1, 1), axes: str = "xyz") -> Grid:
    affine = np.zeros((4, 4))
    affine[3, 3] = 1
    for voxel, world in enumerate("xyz".index(axis) for axis in axes):
        affine[world, voxel] = -spacing[voxel]
    return Grid(shape, affine)


@given(st.tuples(SIDES, SIDES, SIDES), st.sampled_from([0.25, 0.5, 0.8]), st.sampled_from([4, 8, 13]))
@settings(max_examples=60, deadline=None)
def test_tiles_and_sums_are_those_of_the_window(shape: tuple[int, int, int], step: float, side: int) -> None:
    made = configuration(patch=(side, 8, 8), step=step)
    need = need_of(grid(shape), {"3d": made}, (1, 2), ("nifti",), "cpu")
    sums = Sums(shape, made, tiles_a_forward(made.patch, "cpu"), CPU, None)
    boxes = [box for group, _ in sums.groups for box in group]
    assert need.tiles["3d"] == len(boxes)
    assert sums_bytes(shape, made, "cpu") == sums._ring.numel() * sums._ring.element_size()


@pytest.mark.parametrize("axes", ["xyz", "zxy", "yzx"])
def test_the_prepared_shape_is_that_of_a_scan_of_which_nothing_is_cropped(axes: str) -> None:
    made = configuration()
    made = made.model_copy(
        update={"preprocessing": made.preprocessing.model_copy(update={"spacing_mm": (1.0, 0.7, 2.0)})}
    )
    on = grid((9, 14, 6), (1.5, 0.8, 3.0), axes)
    array = np.random.default_rng(0).normal(100, 5, on.shape).astype(np.float32)
    assert prepared_shape(on, made) == prepare([Volume(array, on)], made.preprocessing).undo.prepared_shape


def test_memory_counts_each_copy_once() -> None:
    made, other = configuration(channels=2), configuration(dims=2, channels=2)
    shape = (100, 80, 60)
    voxels = math.prod(shape)
    one = need_of(grid(shape), {"3d": made}, (1, 2), ("nifti",), "cpu")
    assert one.compute_bytes == 4 * 2 * voxels + 4 * 2 * voxels + 3 * voxels  # the scan, prepared, and labels
    assert one.load_bytes > 4 * 3 * voxels * 2
    alike = need_of(grid(shape), {"3d": made, "2d": other}, (1, 2), ("nifti",), "cpu")
    assert alike.compute_bytes == one.compute_bytes  # both see the scan alike: one copy serves them
    assert set(alike.tiles) == {"3d", "2d"}
    assert alike.tiles["2d"] >= 60
    many = need_of(grid(shape), {"3d": made}, (1, 300), ("nifti",), "cpu")
    assert many.compute_bytes == one.compute_bytes + 3 * voxels
    whole = need_of(grid(shape), {"3d": made, "2d": other}, (1, 2), ("nifti",), "cpu", ("3d", "2d"))
    assert whole.scratch_bytes == 2 * 4 * 3 * voxels


def test_the_second_stage_of_a_cascade_holds_a_channel_for_each_class() -> None:
    made = configuration(channels=41)
    made = made.model_copy(update={"preprocessing": configuration().preprocessing, "previous": "lowres"})
    shape = (50, 40, 30)
    alone = need_of(grid(shape), {"3d": configuration()}, (1, 2), ("nifti",), "cpu")
    staged = need_of(grid(shape), {"3d": made}, (1, 2), ("nifti",), "cpu")
    assert staged.compute_bytes == alone.compute_bytes + 4 * 41 * math.prod(shape)
    assert staged.image_bytes == 41 * alone.image_bytes == 4 * 41 * math.prod(shape)


def test_slices_are_counted_head_to_foot() -> None:
    assert need_of(grid((512, 500, 120)), {"3d": configuration()}, (1,), ("nifti",), "cpu").slices == 120
    assert need_of(grid((512, 120, 500), axes="xzy"), {"3d": configuration()}, (1,), ("nifti",), "cpu").slices == 120


def test_memory_above_the_scan_does_not_grow_with_its_length() -> None:
    made = configuration()
    short, long = (need_of(grid((64, 64, n)), {"3d": made}, (1, 2), ("nifti",), "cpu") for n in (256, 1024))
    assert short.sums_bytes == long.sums_bytes
    assert long.compute_bytes == 4 * short.compute_bytes


def test_every_format_has_a_size() -> None:
    sizes = {name: disk_bytes(name, 1000, 8) for name in FORMATS}
    assert sizes["seg"] == 250
    assert all(0 <= size <= 1000 for size in sizes.values())
    one, both = (need_of(grid((9, 9, 9)), {"3d": configuration()}, (1,), of, "cpu") for of in (("sr",), ("sr", "seg")))
    assert one.disk_bytes == both.disk_bytes > 0  # a report comes with the SEG that it speaks of


def test_a_tile_as_the_network_takes_it() -> None:
    assert tile_shape(configuration(patch=(8, 10, 12))) == (8, 10, 12)
    assert tile_shape(configuration(dims=2, slice_axis=1, patch=(8, 10, 12))) == (8, 12)
    small, large = (forward_bytes(configuration(patch=(n, n, n)), "cpu") for n in (64, 128))
    assert 7 < (large - 5e7) / (small - 5e7) < 9
