from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from medseg.errors import GeometryError
from medseg.imaging import nifti
from medseg.imaging.grid import Grid, Stored
from medseg.imaging.regrid import map_onto, straight_cover
from medseg.imaging.volume import LabelMap
from medseg.imaging.writing.files import compared, read_by_itk, write_nifti
from medseg.imaging.writing.result import Result
from tests.imaging.build import Built, some_label, some_series
from tests.imaging.writing.results_build import ALGORITHM, gapped, oblique, some_result, tilted


def plain_result(grid: Grid, array: np.ndarray | None = None, own: Grid | None = None) -> Result:
    labels = LabelMap(some_label(shape=grid.shape) if array is None else array, grid, {1: "one"})
    return Result(labels, own or grid, None, ALGORITHM)


@pytest.mark.parametrize("built", [some_series, oblique, tilted, gapped])
def test_labels_of_dicom_come_back(built: Callable[[], Built], tmp_path: Path) -> None:
    result = some_result(tmp_path / "scan", built())
    written = write_nifti(tmp_path / "Jörg.nii.gz", result)
    image = nib.load(written.path)
    assert written.deviation_mm < 1e-3
    assert np.array_equal(np.asarray(image.dataobj), result.labels.array)
    assert np.allclose(image.affine, result.labels.grid.affine, atol=1e-4)


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 2**32 - 1))
def test_any_turned_grid_comes_back(seed: int, tmp_path: Path) -> None:
    rng = np.random.default_rng(seed)
    affine = np.eye(4)
    affine[:3, :3] = np.linalg.qr(rng.normal(size=(3, 3)))[0] * rng.uniform(0.2, 6, 3)
    affine[:3, 3] = rng.uniform(-500, 500, 3)
    grid = Grid((7, 5, 3), affine, Stored("nifti", 1, 2))
    array = rng.integers(0, 400, grid.shape).astype(np.uint16)
    path = write_nifti(tmp_path / "a.nii.gz", plain_result(grid, array)).path
    image = nib.load(path)
    assert np.array_equal(np.asarray(image.dataobj), array)
    assert Grid(image.shape, image.affine).agrees(grid)
    assert int(image.header["sform_code"]) == 2
    seen, place = read_by_itk(path)
    assert np.array_equal(seen, array)
    assert place.agrees(grid)


def test_a_sheared_file_gets_its_labels_on_its_own_grid(tmp_path: Path) -> None:
    affine = np.diag([1.0, 1.0, 2.0, 1.0])
    affine[1, 2] = 0.5
    own = Grid((6, 7, 5), affine, Stored("nifti", 0, 1))
    drawn = LabelMap(some_label(shape=own.shape), own, {1: "one"})
    straight = map_onto(drawn, straight_cover(own))
    written = write_nifti(tmp_path / "a.nii.gz", Result(straight, own, None, ALGORITHM))
    image = nib.load(written.path)
    assert written.deviation_mm < 1e-5
    assert np.allclose(image.affine, affine)
    assert np.array_equal(np.asarray(image.dataobj), drawn.array)


def test_a_grid_a_little_off_right_angles_is_not_taken_for_an_error(tmp_path: Path) -> None:
    affine = np.diag([1.0, 1.0, 3.0, 1.0])
    affine[0, 2] = 3 * 8e-4
    assert write_nifti(tmp_path / "a.nii.gz", plain_result(Grid((40, 40, 60), affine))).deviation_mm < 1e-5


def test_an_empty_segmentation_is_written(tmp_path: Path) -> None:
    path = write_nifti(
        tmp_path / "a.nii.gz", plain_result(Grid((4, 3, 2), np.eye(4)), np.zeros((4, 3, 2), np.uint8))
    ).path
    assert not SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(path))).any()


@pytest.mark.parametrize("what", ["values", "place"])
def test_a_file_that_does_not_come_back_does_not_appear(
    what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = plain_result(Grid((6, 5, 4), np.eye(4)))
    right = nifti.write_labels

    def wrong(path: Path, labels: LabelMap) -> None:
        moved = Grid(labels.grid.shape, labels.grid.affine @ np.array([[1, 0, 0, 0.02], *np.eye(4)[1:]]))
        other = np.where(labels.array == 1, 2, labels.array).astype(np.uint8)
        right(path, LabelMap(labels.array if what == "place" else other, moved if what == "place" else labels.grid, {}))

    monkeypatch.setattr(nifti, "write_labels", wrong)
    with pytest.raises(GeometryError, match=r"\[READ_BACK\]"):
        write_nifti(tmp_path / "a.nii.gz", result)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("layout", ["C", "F"])
def test_a_single_voxel_that_differs_is_found(layout: str) -> None:
    grid = Grid((3, 2, 150), np.eye(4))
    meant = LabelMap(np.asarray(np.arange(900).reshape(3, 2, 150) % 7, np.uint8, order=layout), grid, {})  # type: ignore[call-overload]
    found = meant.array.copy(order="F")
    assert compared([found[:, :, :70], found[:, :, 70:]], grid, meant) == 0
    with pytest.raises(GeometryError, match=r"\[READ_BACK\]"):
        compared([found[:, :, :70]], grid, meant)
    for k in (0, 63, 64, 149):
        found[1, 1, k] += 1
        with pytest.raises(GeometryError, match=r"\[READ_BACK\]"):
            compared([found[:, :, :70], found[:, :, 70:]], grid, meant)
        found[1, 1, k] -= 1
