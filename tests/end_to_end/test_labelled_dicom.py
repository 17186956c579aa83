"""The same scans as NIfTI and as DICOM with SEG or RTSTRUCT train on the same prepared voxels."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Literal

import numpy as np
import pytest

from medseg.imaging.dataset import Dataset, find_dataset, read_case
from medseg.imaging.dicom.scanner import scan_dicom
from medseg.imaging.nifti import read_labels, read_volume
from medseg.imaging.volume import LabelMap
from medseg.imaging.writing.result import Algorithm, Result
from medseg.imaging.writing.rtstruct import write_rtstruct
from medseg.imaging.writing.seg import write_seg
from medseg.imaging.writing.series import write_series
from medseg.preprocessing.cache import CacheJob, LoadedCase, load_cases, prepare_case
from medseg.preprocessing.settings import Normalisation, PreprocessingSettings

SAMPLE = Path(__file__).parents[2] / "sample_data" / "train"
CASES = ("phantom_02", "phantom_06", "phantom_07")  # RAS, LAS and oblique, sagittal (PIR)
SETTINGS = PreprocessingSettings(
    spacing_mm=(3.5, 3.5, 5.0),
    channels=(Normalisation(kind="ct", lower=-1000, upper=1000, mean=0, sd=300),),
)
SAME_IMAGE = 1e-4  # in standard deviations
SAME_PLACE_MM = 0.01

Kind = Literal["seg", "labelmap", "rtstruct"]


def as_nifti(root: Path) -> Path:
    """Some cases of the sample set."""
    said = json.loads((SAMPLE / "dataset.json").read_text())
    said["training"] = [entry for entry in said["training"] if any(name in entry["image"] for name in CASES)]
    for entry in said["training"]:
        for path in entry.values():
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(SAMPLE / path, root / path)
    (root / "dataset.json").write_text(json.dumps(said))
    return root


def as_dicom(root: Path, kind: Kind) -> Path:
    """The same cases as series with a label object each; returns the folder, whose names tell nothing of the cases."""
    names = {1: "liver", 2: "kidney", 3: "lesion"}
    for name in CASES:
        volume = read_volume(SAMPLE / "imagesTr" / f"{name}.nii.gz")
        written = write_series(root / name / "images", volume, "CT", name)
        (scan,) = scan_dicom(written.paths).volumes
        assert scan.grid is not None
        given = read_labels(SAMPLE / "labelsTr" / f"{name}.nii.gz")
        labels = LabelMap(reordered(given, scan.grid.affine), scan.grid, names)
        result = Result(labels, scan.grid, scan, Algorithm("tests", "1"))
        path = root / name / "labels.dcm"
        if kind == "rtstruct":
            write_rtstruct(path, result)
        else:
            write_seg(path, result, labelmap=kind == "labelmap")
    return root


def reordered(given: LabelMap, affine: np.ndarray) -> np.ndarray:
    """The labels with their slices in the order of the series, which DICOM's reader chooses."""
    backwards = np.dot(given.grid.affine[:3, 2], affine[:3, 2]) < 0
    return np.ascontiguousarray(given.array[:, :, ::-1] if backwards else given.array)


def prepared(dataset: Dataset, folder: Path) -> dict[str, LoadedCase]:
    for case in dataset.cases:
        prepare_case(CacheJob(case, dataset, SETTINGS, folder))
    return {case.name: case for case in load_cases(folder, [case.name for case in dataset.cases], SETTINGS)}


@pytest.mark.parametrize("kind", ["seg", "labelmap", "rtstruct"])
def test_dicom_with_labels_prepares_the_same_voxels_as_nifti(tmp_path: Path, kind: Kind) -> None:
    nifti = find_dataset(as_nifti(tmp_path / "nifti"))
    dicom = find_dataset(as_dicom(tmp_path / "dicom", kind), b"key")
    assert (dicom.layout, dicom.channels, dicom.left) == ("dicom", nifti.channels, ())
    assert set(dicom.labels.values()) == set(nifti.labels.values())
    ours, theirs = prepared(nifti, tmp_path / "a"), prepared(dicom, tmp_path / "b")
    table = np.zeros(4, np.uint8)  # structures of DICOM are numbered as their objects number them
    for index, value in enumerate(sorted(dicom.labels), start=1):
        table[index] = sorted(nifti.labels).index(value_of(nifti, dicom.labels[value])) + 1
    by_patient = {case.images[0].dicom.patient_id: case for case in dicom.cases if case.images[0].dicom}
    for case in nifti.cases:
        twin = by_patient[case.name]
        one, other = ours[case.name], theirs[twin.name]
        image = np.abs(np.asarray(one.image_CXYZ, np.float32) - np.asarray(other.image_CXYZ, np.float32))
        assert image.max() <= SAME_IMAGE
        classes = table[other.classes_XYZ]
        np.testing.assert_array_equal(classes, one.classes_XYZ)
        (reading,), labels, _ = read_case(twin, dicom)
        (given,), _, _ = read_case(case, nifti)
        corners = sorted(map(tuple, np.round(given.volume.grid.corners_mm, 6)))
        found = sorted(map(tuple, np.round(reading.volume.grid.corners_mm, 6)))
        assert np.linalg.norm(np.array(corners) - np.array(found), axis=1).max() <= SAME_PLACE_MM
        assert labels.grid is reading.volume.grid


def value_of(dataset: Dataset, name: str) -> int:
    return next(value for value, known in dataset.labels.items() if known == name)
