from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import pytest
import SimpleITK

from medseg.errors import GeometryError, InputError
from medseg.imaging.convert import Wish, convert
from medseg.imaging.grid import Grid
from medseg.imaging.label_files import read_label_file
from medseg.imaging.nifti import read_volume, write_labels, write_volume
from medseg.imaging.scans import find_scans, read_scan
from medseg.imaging.volume import LabelMap, Volume
from tests.imaging.build import Built, save_all, some_series, write_nifti

NAMES = {1: "liver", 2: "left kidney"}


def oblique() -> Built:
    turn = np.deg2rad(14)
    row, column = np.array([np.cos(turn), np.sin(turn), 0]), np.array([-np.sin(turn), np.cos(turn), 0])
    return some_series(6, row=row, column=column)


def series(folder: Path) -> tuple[Path, Grid]:
    datasets = oblique().datasets()
    for ds in datasets:
        ds.StudyInstanceUID, ds.FrameOfReferenceUID, ds.SeriesNumber = "1.2.3", "1.2.4", 3
    save_all(datasets, folder)
    (scan,) = find_scans(folder, b"").scans
    return folder, read_scan(scan)[0].volume.grid


def labels_on(grid: Grid) -> LabelMap:
    array = np.zeros(grid.shape, np.uint8)
    array[1:4, 1:4, 1:4] = 1
    array[2, 2, 2] = 0
    array[4:, 3:, 4:] = 2
    return LabelMap(array, grid, NAMES)


@pytest.mark.parametrize("name", ["a.nii.gz", "a.nii", "a.nrrd", "a.mha"])
def test_dicom_to_files(tmp_path: Path, name: str) -> None:
    folder, _ = series(tmp_path / "in")
    done = convert(folder, tmp_path / name, Wish())
    assert done.deviation_mm < 0.01
    image = SimpleITK.ReadImage(str(tmp_path / name))
    values = np.transpose(SimpleITK.GetArrayFromImage(image))
    assert np.array_equal(values[:, :, 2], oblique().values(2))
    corner = np.array(image.TransformIndexToPhysicalPoint([5, 4, 5])) * [-1, -1, 1]
    assert np.allclose(corner, oblique().world_ras(5, 4, 5), atol=0.01)


def test_nifti_to_dicom_and_back(tmp_path: Path) -> None:
    _, grid = series(tmp_path / "in")
    array = np.random.default_rng(1).integers(-900, 900, grid.shape).astype(np.int16)
    write_volume(tmp_path / "a.nii.gz", Volume(array, grid))
    done = convert(tmp_path / "a.nii.gz", tmp_path / "dicom", Wish(modality="CT"))
    assert (done.form, len(done.paths)) == ("dicom", 6)
    assert done.deviation_mm < 1e-3
    back = convert(tmp_path / "dicom", tmp_path / "back.nii.gz", Wish())
    assert back.deviation_mm < 0.01
    volume = read_volume(tmp_path / "back.nii.gz")
    assert np.array_equal(nib.as_closest_canonical(nib.load(tmp_path / "back.nii.gz")).dataobj, _canonical(array, grid))
    assert volume.grid.voxel_ml == pytest.approx(grid.voxel_ml, rel=1e-6)


def _canonical(array: np.ndarray, grid: Grid) -> np.ndarray:  # type: ignore[type-arg]
    return np.asarray(nib.as_closest_canonical(nib.Nifti1Image(array, grid.affine)).dataobj)


@pytest.mark.parametrize("form", ["a.seg.dcm", "a.rtstruct.dcm", "a.seg.nrrd"])
def test_labels_there_and_back(tmp_path: Path, form: str) -> None:
    folder, grid = series(tmp_path / "in")
    labels = labels_on(grid)
    write_labels(tmp_path / "a.nii.gz", labels)
    done = convert(tmp_path / "a.nii.gz", tmp_path / form, Wish(like=folder, names=NAMES))
    assert done.deviation_mm < 0.01
    back = convert(tmp_path / form, tmp_path / "back.nii.gz", Wish(like=folder))
    assert any("liver" in note for note in back.notes)
    assert np.array_equal(read_label_file(tmp_path / "back.nii.gz").array, labels.array)


def test_seg_to_rtstruct(tmp_path: Path) -> None:
    folder, grid = series(tmp_path / "in")
    write_labels(tmp_path / "a.nii.gz", labels_on(grid))
    convert(tmp_path / "a.nii.gz", tmp_path / "a.seg.dcm", Wish(like=folder, names=NAMES))
    convert(tmp_path / "a.seg.dcm", tmp_path / "b.rtstruct.dcm", Wish(like=folder))
    rois = pydicom.dcmread(tmp_path / "b.rtstruct.dcm").StructureSetROISequence
    assert [roi.ROIName for roi in rois] == ["liver", "left kidney"]


def test_labels_stored_along_other_axes_land_in_the_same_place(tmp_path: Path) -> None:
    folder, grid = series(tmp_path / "in")
    labels = labels_on(grid)
    image = nib.as_closest_canonical(nib.Nifti1Image(labels.array, grid.affine))
    nib.save(image, tmp_path / "turned.nii.gz")
    assert convert(tmp_path / "turned.nii.gz", tmp_path / "a.seg.dcm", Wish(like=folder, names=NAMES)).notes == ()
    back = read_label_file(tmp_path / "a.seg.dcm", grid)
    assert np.array_equal(back.array, labels.array)


def test_labels_of_another_place_are_refused(tmp_path: Path) -> None:
    folder, _ = series(tmp_path / "in")
    write_nifti(tmp_path / "a.nii.gz", np.ones((4, 4, 4), np.uint8), np.diag([1.0, 1, 1, 1]) + np.eye(4, k=3) * 900)
    with pytest.raises(GeometryError, match="lie nowhere on the series"):
        convert(tmp_path / "a.nii.gz", tmp_path / "a.seg.dcm", Wish(like=folder))
    assert not (tmp_path / "a.seg.dcm").exists()


def test_wrong_use(tmp_path: Path) -> None:
    folder, grid = series(tmp_path / "in")
    write_labels(tmp_path / "a.nii.gz", labels_on(grid))
    for source, target, wish, said in (
        (tmp_path / "none", tmp_path / "x.nii.gz", Wish(), "there is no such file"),
        (folder, tmp_path / "x.jpg", Wish(), "is of no form"),
        (folder, tmp_path / "x", Wish(to="jpeg"), "is no form; give one of"),
        (tmp_path / "a.nii.gz", tmp_path / "x", Wish(), "--modality CT"),
        (tmp_path / "a.nii.gz", tmp_path / "x.seg.dcm", Wish(), "no DICOM"),
        (tmp_path / "a.nii.gz", tmp_path / "x", Wish(to="nnunet"), "is no dataset"),
        (folder, folder / "x.nii.gz", Wish(), "lies within"),
    ):
        with pytest.raises(InputError, match=said):
            convert(source, target, wish)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.nii.gz", "in"]
