"""The whole main job from DICOM with SEG labels, through the command line, beside the same job from NIfTI."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from medseg.cli.app import run_command
from medseg.files import read_record
from medseg.imaging.naming import CaseMap
from medseg.planning.plan import Plan
from medseg.preprocessing.cache import load_cases

SAMPLE = Path(__file__).parents[2] / "sample_data" / "train"
NAMES = "1=liver, 2=kidney, 3=lesion"
SAME_IMAGE = 1e-4  # in standard deviations


def medseg(*words: object) -> int:
    return run_command([str(word) for word in words])


def exported(root: Path) -> Path:
    """The sample set as a hospital has it: a folder for each patient, a CT series and a segmentation object."""
    for path in sorted((SAMPLE / "imagesTr").glob("*.nii.gz")):
        folder = root / path.name.removesuffix(".nii.gz")
        assert medseg("convert", path, folder / "CT", "--modality", "CT") == 0
        seg = folder / "labels.seg.dcm"
        assert medseg("convert", SAMPLE / "labelsTr" / path.name, seg, "--like", folder / "CT", "--names", NAMES) == 0
    return root


def cached(run: Path, case: str) -> tuple[NDArray[Any], NDArray[Any]]:
    plan = read_record(run / "plan.json", Plan)
    (found,) = load_cases(run / "cache" / plan.chosen, [case], plan.configuration.preprocessing)
    return found.image_CXYZ, found.classes_XYZ


@pytest.mark.slow
def test_dicom_with_seg_gives_the_same_cache_and_trains(tmp_path: Path, one_thread: None) -> None:
    dicom = exported(tmp_path / "dicom")
    runs = {"nifti": tmp_path / "runs" / "nifti", "dicom": tmp_path / "runs" / "dicom"}
    asked = ("--budget", "500epochs", "--spacing", "3.5", "--device", "cpu")
    assert medseg("plan", SAMPLE, "-o", runs["nifti"], *asked) == 0
    assert medseg("plan", dicom, "-o", runs["dicom"], *asked) == 0
    ours, theirs = (read_record(run / "plan.json", Plan) for run in runs.values())
    assert ours.chosen == theirs.chosen
    assert ours.configuration.patch == theirs.configuration.patch
    assert ours.channels == theirs.channels
    assert ours.structures == theirs.structures
    cases = read_record(runs["dicom"] / "case_map.json", CaseMap).cases
    assert len(cases) == len(list((SAMPLE / "imagesTr").glob("*.nii.gz"))) == 12
    worst = 0.0
    for name, mapped in cases.items():
        patient = Path(mapped.paths[0]).parents[1].name
        one, other = cached(runs["nifti"], patient), cached(runs["dicom"], name)
        worst = max(worst, float(np.abs(one[0].astype(np.float32) - other[0].astype(np.float32)).max()))
        np.testing.assert_array_equal(other[1], one[1])
    assert worst <= SAME_IMAGE
    assert medseg("train", runs["dicom"], "--steps", 4, "--device", "cpu") == 0
    assert medseg("infer", runs["dicom"], dicom / "phantom_02" / "CT", "-o", tmp_path / "out") == 0
    assert medseg("evaluate", tmp_path / "out", dicom / "phantom_02", "-o", tmp_path / "scores") == 0
    scores = json.loads((tmp_path / "scores" / "scores.json").read_text())
    assert {row["structure"] for row in scores["scores"]} == {"liver", "kidney", "lesion"}
