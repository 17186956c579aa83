from __future__ import annotations

from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pydicom
import pytest
import SimpleITK

from medseg.errors import GeometryError, InputError
from medseg.imaging.convert import Converted, Wish
from medseg.imaging.convert import convert as converting
from medseg.imaging.grid import Grid
from medseg.imaging.label_files import read_label_file
from medseg.imaging.nifti import read_volume, write_labels, write_volume
from medseg.imaging.scans import find_scans, read_scan
from medseg.imaging.source import ReadOptions
from medseg.imaging.volume import LabelMap, Volume
from medseg.imaging.writing.result import Algorithm, Made, Result
from medseg.imaging.writing.rtstruct import write_rtstruct
from tests.imaging import labelled_build
from tests.imaging.build import Built, change, save_all, some_series, write_nifti

NAMES = {1: "liver", 2: "left kidney"}


def convert(source: Path, target: Path, wish: Wish) -> Converted:
    *_, done = converting(source, target, wish)
    assert isinstance(done, Converted)
    return done


def oblique() -> Built:
    turn = np.deg2rad(14)
    row, column = np.array([np.cos(turn), np.sin(turn), 0]), np.array([-np.sin(turn), np.cos(turn), 0])
    return some_series(6, row=row, column=column)


def series(folder: Path, **header: Any) -> tuple[Path, Grid]:
    datasets = oblique().datasets()
    for ds in datasets:
        change(ds, **{"StudyInstanceUID": "1.2.3", "FrameOfReferenceUID": "1.2.4", "SeriesNumber": 3, **header})
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


def test_labels_of_another_patient_are_refused(tmp_path: Path) -> None:
    """The same place in another frame of reference is another place."""
    folder, grid = series(tmp_path / "a")
    other, _ = series(tmp_path / "b", FrameOfReferenceUID="1.2.5")
    unknown, _ = series(tmp_path / "c", FrameOfReferenceUID=None)
    write_labels(tmp_path / "a.nii.gz", labels_on(grid))
    for form in ("a.seg.dcm", "a.rtstruct.dcm"):
        convert(tmp_path / "a.nii.gz", tmp_path / form, Wish(like=folder, names=NAMES))
        for target in ("x.nii.gz", "x.seg.dcm"):
            with pytest.raises(GeometryError, match="another frame of reference"):
                convert(tmp_path / form, tmp_path / target, Wish(like=other))
            assert not (tmp_path / target).exists()
        convert(tmp_path / form, tmp_path / f"{form}.nii.gz", Wish(like=unknown))


@pytest.mark.parametrize("target", ["a.seg.dcm", "b.nii.gz"])
def test_the_affine_that_is_preferred(tmp_path: Path, target: str) -> None:
    folder, grid = series(tmp_path / "in")
    image = nib.Nifti1Image(labels_on(grid).array, grid.affine)
    image.set_sform(grid.affine, 1)
    image.set_qform(np.eye(4, k=3) * 5 + grid.affine, 1)
    nib.save(image, tmp_path / "a.nii.gz")
    with pytest.raises(GeometryError, match="--prefer"):
        convert(tmp_path / "a.nii.gz", tmp_path / target, Wish(like=folder))
    options = ReadOptions(prefer="sform")
    convert(tmp_path / "a.nii.gz", tmp_path / target, Wish(like=folder, names=NAMES, options=options))
    assert np.array_equal(read_label_file(tmp_path / target, grid).array, labels_on(grid).array)


@pytest.mark.parametrize("said", ["AUTOMATIC", "SEMIAUTOMATIC", "MANUAL", ""])
def test_labels_stay_what_they_were_drawn_by(tmp_path: Path, said: Made) -> None:
    folder, grid = series(tmp_path / "in")
    (scan,) = find_scans(folder, b"").scans
    drawn = Result(labels_on(grid), grid, scan.channels[0].dicom, Algorithm("x", "1"), made=said)
    write_rtstruct(tmp_path / "a.dcm", drawn)
    convert(tmp_path / "a.dcm", tmp_path / "b.seg.dcm", Wish(like=folder))
    segments = pydicom.dcmread(tmp_path / "b.seg.dcm").SegmentSequence
    assert {segment.SegmentAlgorithmType for segment in segments} == {said or "MANUAL"}
    convert(tmp_path / "b.seg.dcm", tmp_path / "c.rtstruct.dcm", Wish(like=folder))
    rois = pydicom.dcmread(tmp_path / "c.rtstruct.dcm").StructureSetROISequence
    assert {roi.ROIGenerationAlgorithm for roi in rois} == {said or "MANUAL"}


def test_labels_of_a_file_are_not_said_to_be_an_algorithms(tmp_path: Path) -> None:
    folder, grid = series(tmp_path / "in")
    write_labels(tmp_path / "a.nii.gz", labels_on(grid))
    convert(tmp_path / "a.nii.gz", tmp_path / "a.seg.dcm", Wish(like=folder, names=NAMES))
    convert(tmp_path / "a.nii.gz", tmp_path / "a.rtstruct.dcm", Wish(like=folder, names=NAMES))
    assert pydicom.dcmread(tmp_path / "a.seg.dcm").SegmentSequence[0].SegmentAlgorithmType == "MANUAL"
    assert pydicom.dcmread(tmp_path / "a.rtstruct.dcm").StructureSetROISequence[0].ROIGenerationAlgorithm == ""


def test_names_that_are_of_no_use_are_told(tmp_path: Path) -> None:
    folder, grid = series(tmp_path / "in")
    write_labels(tmp_path / "a.nii.gz", labels_on(grid))

    def notes(source: str, target: str, names: dict[int, str]) -> tuple[str, ...]:
        return convert(tmp_path / source, tmp_path / target, Wish(like=folder, names=names)).notes

    assert notes("a.nii.gz", "a.seg.dcm", NAMES) == ()
    (absent, nameless) = notes("a.nii.gz", "b.seg.nrrd", {1: "liver", 7: "spleen"})
    assert "names to 7, which no voxel has" in absent
    assert nameless.startswith("2 has no name")
    (nameless,) = notes("a.nii.gz", "c.seg.nrrd", {})
    assert nameless.startswith("1, 2 has no name")
    assert notes("a.seg.dcm", "d.rtstruct.dcm", NAMES) == ("--names is ignored: the file names its structures itself",)
    assert notes("a.nii.gz", "e.mha", NAMES) == ("--names is ignored: only labels have names",)


@pytest.mark.parametrize("kind", ["seg", "rtstruct"])
def test_structures_that_share_voxels_are_named(tmp_path: Path, kind: Any) -> None:
    volume = labelled_build.series(tmp_path / "in")
    arrays = {1: labelled_build.box(at=2), 2: labelled_build.box(at=1)}
    labelled_build.overlapping(tmp_path / "a.dcm", volume, arrays, NAMES, kind)
    notes = convert(tmp_path / "a.dcm", tmp_path / "a.nii.gz", Wish(like=tmp_path / "in")).notes
    assert "[OVERLAP] liver loses 56% of its voxels to left kidney" in notes


def test_a_structure_set_needs_its_series(tmp_path: Path) -> None:
    folder, grid = series(tmp_path / "in")
    write_labels(tmp_path / "a.nii.gz", labels_on(grid))
    convert(tmp_path / "a.nii.gz", tmp_path / "a.rtstruct.dcm", Wish(like=folder, names=NAMES))
    with pytest.raises(InputError, match="with --like"):
        convert(tmp_path / "a.rtstruct.dcm", tmp_path / "b.nii.gz", Wish())


def test_wrong_use(tmp_path: Path) -> None:
    folder, grid = series(tmp_path / "in")
    write_labels(tmp_path / "a.nii.gz", labels_on(grid))
    for source, target, wish, said in (
        (tmp_path / "none", tmp_path / "x.nii.gz", Wish(), "there is no such file"),
        (folder, tmp_path / "x.jpg", Wish(), "is of no form"),
        (folder, tmp_path / "x", Wish(to="jpeg"), "is no form; give one of"),
        (tmp_path / "a.nii.gz", tmp_path / "x", Wish(), "--modality CT"),
        (tmp_path / "a.nii.gz", tmp_path / "x.seg.dcm", Wish(), "with --like"),
        (tmp_path / "a.nii.gz", tmp_path / "x.mha", Wish(to="nifti"), "--to nifti contradicts"),
        (tmp_path / "a.nii.gz", tmp_path / "y.nii", Wish(to="seg", like=folder), "a name that ends in .seg.dcm"),
        (tmp_path / "a.nii.gz", tmp_path / "y.seg.dcm", Wish(to="rtstruct", like=folder), "contradicts"),
        (tmp_path / "a.nii.gz", tmp_path / "y.seg.nrrd", Wish(to="nrrd"), "contradicts"),
        (tmp_path / "a.nii.gz", tmp_path / "y.dcm", Wish(to="dicom", modality="CT"), "the name of a folder"),
        (tmp_path / "a.nii.gz", tmp_path / "y", Wish(to="mha"), "a name that ends in .mha"),
        (tmp_path / "a.nii.gz", tmp_path / "x", Wish(to="nnunet"), "is no dataset"),
        (folder, folder / "x.nii.gz", Wish(), "lies within"),
    ):
        with pytest.raises(InputError, match=said):
            convert(source, target, wish)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.nii.gz", "in"]
