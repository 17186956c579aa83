"""Real series, and everything that pydicom brings, through the scanner and the second look at the geometry."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pydicom
import pytest
import SimpleITK

from medseg.imaging.dicom.check import cross_checked
from medseg.imaging.dicom.scanner import scan_dicom
from medseg.imaging.dicom.select import choose, parse_rule
from medseg.imaging.dicom.volumes import Scanned
from medseg.imaging.grid import LPS_TO_RAS, Grid

FOLDERS = {  # folder -> verdict, slices and orientation of each volume; the order is that of the scanner
    "dicom_mr/flair": [("OK", 22, "AXIAL")],
    "dicom_mr/t1_post": [("OK", 22, "AXIAL")],
    "dicom_mr/hippocampus_crop": [("OK", 32, "AXIAL")],
    "dicom_ct_pet/CT/dicom/image": [("OK", 59, "AXIAL")],
    "dicom_ct_pet/PET/dicom/image": [("OK", 59, "AXIAL")],
    "dicom_seg/image": [("CHOOSE(MULTI_VOLUME)", 60, "SAGITTAL")] * 3,
    "dicom_transfer_syntaxes": [("REFUSED(MOSAIC)", 9, "")],
}


def files(folder: Path) -> list[Path]:
    found = [path for path in folder.rglob("*") if path.is_file()]
    assert found
    return found


def by_simple_itk(paths: tuple[Path, ...]) -> Grid:
    """The grid of slices that are given in their order."""
    reader = SimpleITK.ImageSeriesReader()
    reader.SetFileNames([str(path) for path in paths])
    image = reader.Execute()
    affine = np.eye(4)
    affine[:3, :3] = np.array(image.GetDirection()).reshape(3, 3) * image.GetSpacing()
    affine[:3, 3] = image.GetOrigin()
    columns, rows, slices = image.GetSize()
    return Grid((columns, rows, slices), LPS_TO_RAS @ affine)


def test_every_real_folder_is_known(real_data: Path) -> None:
    parents = {path.parent for path in real_data.glob("dicom_*/**/*.dcm")}
    known = {real_data / folder for folder in FOLDERS}
    assert {path for path in parents if path.name != "mask"} == known


@pytest.mark.parametrize("folder", FOLDERS)
def test_real_folders(real_data: Path, folder: str) -> None:
    found = scan_dicom(files(real_data / folder))
    said = [(str(v.verdict), len(v.frames), v.tags.get("Orientation", "")) for v in found.volumes]
    assert said == FOLDERS[folder]
    assert found.labels == ()
    assert found.left == ()
    for volume in found.volumes:
        if volume.grid is not None:
            assert volume.grid.deviation_mm(by_simple_itk(volume.paths)) < 0.01
            assert cross_checked(volume).checked == "agrees"


def test_a_series_of_three_phases_is_split_by_the_time(real_data: Path) -> None:
    volumes = scan_dicom(files(real_data / "dicom_seg" / "image")).volumes
    moments = []
    for volume in volumes:
        headers = [pydicom.dcmread(path, stop_before_pixels=True) for path in volume.paths]
        (moment,) = {header.ContentTime for header in headers}
        moments.append(moment)
    assert moments == ["102551", "103238", "103832"]
    assert choose(volumes, None, "MR").candidates == volumes
    assert choose(volumes, parse_rule("AcquisitionNumber=1"), "MR").volume is volumes[0]
    assert choose(volumes, parse_rule("Volume=3"), "MR").volume is volumes[2]


def test_a_study_of_ct_and_pet_with_labels(real_data: Path) -> None:
    found = scan_dicom(files(real_data / "dicom_ct_pet"))
    assert [volume.modality for volume in found.volumes] == ["PT", "CT"]
    assert [label.kind for label in found.labels] == ["rtstruct", "rtstruct"]
    frames = {volume.frame_of_reference for volume in found.volumes}
    assert {label.frame_of_reference for label in found.labels} == frames
    assert {left.reason for left in found.left} == {"is no DICOM file"}
    assert choose(found.volumes, None, "PET").volume is found.volumes[0]
    assert choose(found.volumes, None, "CT").volume is found.volumes[1]


def test_a_segmentation_names_its_frame_of_reference(real_data: Path) -> None:
    found = scan_dicom(files(real_data / "dicom_seg"))
    (label,) = found.labels
    assert label.kind == "seg"
    assert {volume.frame_of_reference for volume in found.volumes} == {label.frame_of_reference}


def test_five_hundred_headers_are_scanned_in_two_seconds(real_data: Path) -> None:
    paths = files(real_data / "dicom_seg" / "image") * 3
    start = time.process_time()
    found = scan_dicom(paths)
    assert time.process_time() - start < 2 * len(paths) / 500
    assert sum(len(volume.repeats) for volume in found.volumes) == 360


def scanned_package() -> Scanned:
    return scan_dicom(files(Path(pydicom.__file__).parent / "data"))


def test_everything_that_pydicom_brings(capfd: pytest.CaptureFixture[str]) -> None:
    found = scanned_package()
    assert capfd.readouterr() == ("", "")
    usable = [(v.modality, len(v.frames), str(v.verdict)) for v in found.volumes if v.verdict.usable]
    assert usable == [("CT", 5, "OK")]
    codes = {volume.verdict.codes[0] for volume in found.volumes if not volume.verdict.usable}
    assert codes == {"TOO_FEW", "NO_GEOMETRY", "LOCALIZER", "PROJECTION", "GAP", "TRUNCATED"}
    assert sorted(label.kind for label in found.labels) == ["rtstruct", "seg", "seg"]
    reasons = {left.reason for left in found.left}
    assert "is an index of files (DICOMDIR), which is not followed" in reasons
    assert "is a DICOM object without a volume (RT Dose Storage)" in reasons
    assert "is a DICOM object without a volume (Comprehensive SR Storage)" in reasons
