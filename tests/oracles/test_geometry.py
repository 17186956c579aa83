"""Places and values against SimpleITK and nibabel, on built files and on real DICOM series."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813  the name that its own documentation uses
from scipy.spatial.transform import Rotation

from medseg.imaging.grid import LPS_TO_RAS, Grid, Stored
from medseg.imaging.nifti import read_volume, write_labels, write_volume
from medseg.imaging.scans import find_scans, read_scan
from medseg.imaging.volume import LabelMap, Volume
from tests.imaging.build import save_all, some_image, some_label, some_series

KEY = b"secret"


def affine_of(image: sitk.Image) -> np.ndarray:
    affine = np.eye(4)
    affine[:3, :3] = np.array(image.GetDirection()).reshape(3, 3) * image.GetSpacing()
    affine[:3, 3] = image.GetOrigin()
    return LPS_TO_RAS @ affine


def array_of(image: sitk.Image) -> np.ndarray:
    return sitk.GetArrayFromImage(image).transpose()


def oblique(seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    affine = np.eye(4)
    affine[:3, :3] = Rotation.random(rng=rng).as_matrix() * rng.uniform(0.5, 4, 3)
    affine[:3, 0] *= rng.choice([-1, 1])
    affine[:3, 3] = rng.uniform(-200, 200, 3)
    return affine


def read_by_sitk(folder: Path) -> sitk.Image:
    reader = sitk.ImageSeriesReader()
    (series,) = reader.GetGDCMSeriesIDs(str(folder))
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(folder), series))
    return reader.Execute()


def same(volume: Volume, image: sitk.Image) -> None:
    assert volume.grid.shape == image.GetSize()
    assert volume.grid.deviation_mm(Grid(image.GetSize(), affine_of(image))) < 0.01
    assert np.array_equal(volume.array, array_of(image).astype(np.float32))


@pytest.mark.parametrize("seed", range(8))
def test_both_libraries_find_what_was_written_in_its_place(tmp_path: Path, seed: int) -> None:
    grid = Grid((6, 5, 4), oblique(seed), Stored("nifti", 1, 2))
    write_volume(tmp_path / "image.nii.gz", Volume(some_image(seed).astype(np.float32), grid))
    write_labels(tmp_path / "label.nii.gz", LabelMap(some_label(3), grid, {3: "liver"}))
    for name, array in (("image", some_image(seed)), ("label", some_label(3))):
        by_sitk, by_nib = sitk.ReadImage(str(tmp_path / f"{name}.nii.gz")), nib.load(tmp_path / f"{name}.nii.gz")
        assert np.array_equal(array_of(by_sitk), array)
        assert np.array_equal(np.asarray(by_nib.dataobj), array)
        assert grid.deviation_mm(Grid(grid.shape, affine_of(by_sitk))) < 1e-3
        assert grid.deviation_mm(Grid(grid.shape, by_nib.affine)) < 1e-4
    assert grid.axcodes == nib.aff2axcodes(grid.affine)


@pytest.mark.parametrize("seed", range(8))
def test_what_simpleitk_wrote_is_read_in_its_place(tmp_path: Path, seed: int) -> None:
    lps = LPS_TO_RAS @ oblique(seed)
    spacing = np.linalg.norm(lps[:3, :3], axis=0)
    image = sitk.GetImageFromArray(some_image(seed).transpose())
    image.SetOrigin(lps[:3, 3].tolist())
    image.SetSpacing(spacing.tolist())
    image.SetDirection((lps[:3, :3] / spacing).ravel().tolist())
    sitk.WriteImage(image, str(tmp_path / "image.nii.gz"))
    same(read_volume(tmp_path / "image.nii.gz"), image)


@pytest.mark.parametrize("seed", range(8))
def test_a_built_series_lies_where_simpleitk_puts_it(tmp_path: Path, seed: int) -> None:
    rng = np.random.default_rng(seed)
    turn = Rotation.random(rng=rng).as_matrix()
    built = some_series(
        5, seed, row=turn[:, 0], column=turn[:, 1], first_mm=rng.uniform(-300, 300, 3), intercepts=[-1024.0]
    )
    save_all(built.datasets(), tmp_path, rng.permutation(5).tolist())
    same(read_scan(find_scans(tmp_path, KEY).scans[0])[0].volume, read_by_sitk(tmp_path))


@pytest.mark.parametrize(
    "series", ["dicom_mr/hippocampus_crop", "dicom_mr/t1_post", "dicom_mr/flair", "dicom_ct_pet/CT/dicom/image"]
)
def test_a_real_series_lies_where_simpleitk_puts_it(real_data: Path, series: str) -> None:
    (scan,) = find_scans(real_data / series, KEY).scans
    same(read_scan(scan)[0].volume, read_by_sitk(real_data / series))


def test_a_real_pet_keeps_the_slope_of_each_slice(real_data: Path) -> None:
    (scan,) = find_scans(real_data / "dicom_ct_pet/PET/dicom/image", KEY).scans
    volume = read_scan(scan)[0].volume
    image = read_by_sitk(real_data / "dicom_ct_pet/PET/dicom/image")
    assert volume.grid.deviation_mm(Grid(image.GetSize(), affine_of(image))) < 0.01
    assert np.allclose(volume.array, array_of(image), atol=1e-4)
