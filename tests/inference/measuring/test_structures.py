from __future__ import annotations

import tracemalloc
from itertools import permutations
from typing import Any

import numpy as np
import pytest
import SimpleITK
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial.distance import pdist
from skimage.measure import marching_cubes, mesh_surface_area

from medseg.errors import GeometryError, InputError
from medseg.imaging.grid import LPS_TO_RAS, Grid
from medseg.imaging.volume import LabelMap, Volume
from medseg.inference import boxes
from medseg.inference.measuring.record import StructureStatistics
from medseg.inference.measuring.structures import measure, measure_instances, unit_of

SPACING = (0.9, 1.7, 3.1)


def oblique() -> NDArray[np.float64]:
    """An affine of turned axes with three different spacings, flipped along the first."""
    c, s = np.cos(0.3), np.sin(0.3)
    turn = np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]]) @ np.array([[1, 0, 0], [0, c, -s], [0, s, c]])
    affine = np.eye(4)
    affine[:3, :3] = turn @ np.diag([-SPACING[0], SPACING[1], SPACING[2]])
    affine[:3, 3] = (40.0, -12.5, 7.25)
    return affine


def blobs(shape: tuple[int, int, int] = (14, 12, 10), seed: int = 0) -> tuple[LabelMap, Volume]:
    """Three structures of random outline, of which the last is empty, on noise."""
    rng = np.random.default_rng(seed)
    field = ndimage.gaussian_filter(rng.standard_normal(shape), 1.5)
    array = np.digitize(field, np.quantile(field, [0.6, 0.8])).astype(np.uint8)
    grid = Grid(shape, oblique())
    image = Volume(rng.normal(-50, 300, shape).astype(np.float32), grid)
    return LabelMap(array, grid, {1: "liver", 2: "tumour", 7: "spleen"}), image


def itk(array: NDArray[Any], grid: Grid) -> Any:
    image = SimpleITK.GetImageFromArray(array.transpose(2, 1, 0))
    affine = LPS_TO_RAS @ grid.affine
    image.SetSpacing(np.linalg.norm(affine[:3, :3], axis=0).tolist())
    image.SetOrigin(affine[:3, 3].tolist())
    image.SetDirection((affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)).ravel().tolist())
    return image


def test_the_numbers_are_those_of_itk_and_numpy() -> None:
    labels, scan = blobs()
    shape, values = SimpleITK.LabelShapeStatisticsImageFilter(), SimpleITK.LabelIntensityStatisticsImageFilter()
    shape.Execute(itk(labels.array, labels.grid))
    values.Execute(itk(labels.array, labels.grid), itk(scan.array, scan.grid))
    found = measure(labels, scan, unit="HU")
    assert [row.structure for row in found] == ["liver", "tumour", "spleen"]
    for value, row in zip((1, 2), found, strict=False):
        inside = scan.array[labels.array == value]
        assert row.voxels == shape.GetNumberOfPixels(value)
        assert row.volume_ml == pytest.approx(shape.GetPhysicalSize(value) / 1000)
        assert row.centroid_mm == pytest.approx(LPS_TO_RAS[:3, :3] @ shape.GetCentroid(value), rel=1e-6)
        assert row.first_voxel == shape.GetBoundingBox(value)[:3]
        assert row.last_voxel is not None
        assert np.subtract(row.last_voxel, row.first_voxel).tolist() == [n - 1 for n in shape.GetBoundingBox(value)[3:]]
        assert row.size_mm == pytest.approx(np.multiply(shape.GetBoundingBox(value)[3:], SPACING))
        assert row.mean == pytest.approx(values.GetMean(value), rel=1e-6)
        n = len(inside)
        assert row.sd == pytest.approx(values.GetStandardDeviation(value) * np.sqrt((n - 1) / n), rel=1e-6)
        assert [row.p5, row.p25, row.median, row.p75, row.p95] == pytest.approx(
            np.percentile(inside.astype(np.float64), [5, 25, 50, 75, 95]), rel=1e-7
        )
        assert row.unit == "HU"


def test_the_surface_is_that_of_marching_cubes() -> None:
    at = np.indices((24, 20, 16)) * np.reshape(SPACING, (3, 1, 1, 1))
    ball = np.linalg.norm(at - np.reshape((10.5, 16.2, 22.0), (3, 1, 1, 1)), axis=0) < 9.6
    grid = Grid(ball.shape, oblique())
    (row,) = measure(LabelMap(ball.astype(np.uint8), grid, {1: "ball"}), Volume(np.zeros(ball.shape), grid))
    points, triangles, _, _ = marching_cubes(
        np.pad(ball, 1).astype(np.float32), 0.5, spacing=SPACING, method="lorensen"
    )
    assert row.surface_mm2 == pytest.approx(mesh_surface_area(points, triangles), rel=1e-5)
    assert row.surface_mm2 == pytest.approx(4 * np.pi * 9.6**2, rel=0.15)
    assert row.longest_axial_diameter_mm == pytest.approx(2 * 9.6, abs=SPACING[1])


def test_surface_of_single_voxels_and_at_the_end_of_the_scan() -> None:
    array = np.zeros((3, 3, 3), np.uint8)
    array[0, 1, 2] = 1
    grid = Grid(array.shape, np.eye(4))
    (row,) = measure(LabelMap(array, grid, {1: "dot"}), Volume(array, grid))
    assert row.surface_mm2 == pytest.approx(np.sqrt(3))  # an octahedron with edges of sqrt(1/2)
    assert row.cut_at == ("left", "superior")


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from(list(permutations(range(3)))), st.booleans())
def test_the_longest_axial_diameter_is_that_of_all_pairs_of_points_of_the_outline(
    seed: int, order: tuple[int, int, int], fortran: bool
) -> None:
    rng = np.random.default_rng(seed)
    array = (rng.random((6, 5, 4)) < rng.uniform(0.02, 0.4)).astype(np.uint8)
    array[tuple(rng.integers(array.shape))] = 1
    spacing = np.array([0.8, 1.1, 2.9])
    longest = 0.0
    padded = np.pad(array, 1)
    for plane in padded.transpose(2, 0, 1):
        inside = np.argwhere(plane).astype(float)
        if not len(inside):
            continue
        points = []
        for step in ((1, 0), (-1, 0), (0, 1), (0, -1)):
            outside = plane[tuple((inside + step).astype(int).T)] == 0
            points.append(inside[outside] + np.array(step) / 2)
        longest = max(longest, pdist(np.concatenate(points) * spacing[:2]).max())
    affine = np.eye(4)
    affine[:3, :3] = np.diag(spacing)[:, list(order)]  # stored in another order of axes, the same in the body
    stored = array.transpose(order)
    stored = np.asfortranarray(stored) if fortran else np.ascontiguousarray(stored)
    grid = Grid(stored.shape, affine)
    (row,) = measure(LabelMap(stored, grid, {1: "x"}), Volume(stored, grid))
    assert row.longest_axial_diameter_mm == pytest.approx(longest)


def stored_otherwise(labels: LabelMap, scan: Volume, order: tuple[int, ...], flips: tuple[int, ...]) -> Any:
    """The same scan with its axes in another order, some of them turned round."""
    affine = labels.grid.affine.copy()
    affine[:3, :3] = affine[:3, list(order)]
    arrays = [labels.array.transpose(order), scan.array.transpose(order)]
    for axis in flips:
        affine[:3, 3] += affine[:3, axis] * (arrays[0].shape[axis] - 1)
        affine[:3, axis] *= -1
        arrays = [np.flip(array, axis) for array in arrays]
    grid = Grid(arrays[0].shape, affine)
    return LabelMap(np.ascontiguousarray(arrays[0]), grid, labels.names), Volume(np.asfortranarray(arrays[1]), grid)


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1), (1, 0, 2)])
@pytest.mark.parametrize("flips", [(), (0, 2)])
def test_how_voxels_are_stored_changes_nothing_but_their_indices(
    order: tuple[int, ...], flips: tuple[int, ...]
) -> None:
    labels, scan = blobs()
    for a, b in zip(measure(labels, scan), measure(*stored_otherwise(labels, scan, order, flips)), strict=True):
        for name, value in a.model_dump(exclude={"first_voxel", "last_voxel", "size_mm"}).items():
            other = getattr(b, name)
            numeric = isinstance(value, float) or name == "centroid_mm"
            assert other == (pytest.approx(value, rel=1e-6) if numeric and value is not None else value), name
        assert sorted(a.size_mm or ()) == pytest.approx(sorted(b.size_mm or ()))


def test_pieces_change_nothing_and_memory_stays_small(monkeypatch: pytest.MonkeyPatch) -> None:
    labels, scan = blobs((60, 70, 80))
    whole = measure(labels, scan)
    monkeypatch.setattr(boxes, "PIECE", 1 << 13)
    monkeypatch.setattr(boxes, "BLOCK", 9)
    tracemalloc.start()
    again = measure(labels, scan)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    for a, b in zip(whole, again, strict=True):
        for (name, value), other in zip(a, dict(b).values(), strict=True):
            assert other == (pytest.approx(value, rel=1e-8) if isinstance(value, float) else value), name
    assert peak < 8e6  # tables of counts for percentiles, some 5 MB, do not grow with the structure


def test_regions_are_measured_as_wholes_and_empty_structures_have_nothing_but_a_name() -> None:
    labels, scan = blobs()
    liver, tumour, spleen = measure(labels, scan)
    both, none = measure(labels, scan, {"liver with tumour": (1, 2), "spleen": (7,)})
    assert both.voxels == liver.voxels + tumour.voxels
    assert both.mean == pytest.approx(scan.array[labels.array > 0].mean(dtype=np.float64))
    assert none == spleen == StructureStatistics(structure="spleen", voxels=0, volume_ml=0.0)
    assert (spleen.remark, spleen.cut_at) == ("", ())


def test_instances_have_numbers_and_the_name_of_their_structure() -> None:
    labels, scan = blobs()
    found = measure_instances(LabelMap(labels.array, labels.grid, {1: "lesion 1", 2: "lesion 2"}), scan, "lesion", "HU")
    assert [(row.structure, row.instance, row.words) for row in found] == [
        ("lesion", 1, "lesion 1"),
        ("lesion", 2, "lesion 2"),
    ]
    assert [row.voxels for row in found] == [row.voxels for row in measure(labels, scan)[:2]]


def test_a_single_slice_has_a_diameter_in_its_plane_and_no_surface() -> None:
    array = np.zeros((1, 9, 8), np.uint8)
    array[0, 2:8, 1:3] = 1
    grid = Grid(array.shape, np.diag([5.0, 1.0, 1.0, 1.0]))  # a sagittal slice
    (row,) = measure(LabelMap(array, grid, {1: "a"}), Volume(np.ones(array.shape, np.float32), grid))
    assert row.surface_mm2 is None
    assert row.longest_axial_diameter_mm == pytest.approx(np.hypot(6, 1))
    assert (row.mean, row.sd, row.median, row.cut_at) == (1.0, 0.0, 1.0, ())


def test_what_does_not_belong_together_is_refused() -> None:
    labels, scan = blobs()
    elsewhere = labels.grid.affine.copy()
    elsewhere[0, 3] += 5
    with pytest.raises(GeometryError, match="different grids"):
        measure(labels, Volume(scan.array, Grid(scan.grid.shape, elsewhere)))
    with pytest.raises(InputError, match="not finite"):
        measure(labels, Volume(np.where(labels.array == 1, np.nan, scan.array), scan.grid))


def test_a_record_goes_through_json_without_loss() -> None:
    labels, scan = blobs()
    for row in measure(labels, scan):
        assert StructureStatistics.model_validate_json(row.model_dump_json()) == row
        assert "NaN" not in row.model_dump_json()


@pytest.mark.parametrize(
    ("channel", "modality", "notes", "unit"),
    [
        ("CT", "CT", (), "HU"),
        ("CT", "", (), "HU"),
        ("T1", "MR", (), None),
        ("0", "", (), None),
        ("CT", "CT", ("[UNITS] 3 of 3 images name no rescale intercept",), None),
        ("PET", "PT", ("body-weight SUV (decay corrected)",), "g/ml"),
        ("PET", "PT", (), None),
    ],
)
def test_the_unit_is_what_is_known_of_it(channel: str, modality: str, notes: tuple[str, ...], unit: str | None) -> None:
    assert unit_of(channel, modality, notes) == unit
