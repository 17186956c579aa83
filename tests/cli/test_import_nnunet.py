from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from medseg.cli.app import run_command
from medseg.imaging.nifti import read_labels
from tests.inference.nnunet.build import KEPT

pytestmark = pytest.mark.usefixtures("single_precision")


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize(
    ("case", "configuration"), [("2d", "2d"), ("thick_slices", "3d_fullres"), ("cascade", "3d_cascade_fullres")]
)
def test_from_nnunets_folder_to_labels_as_nnunets(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], case: str, configuration: str
) -> None:
    model, scans = tmp_path / "model.medseg", tmp_path / "scans"
    asked = ["import-nnunet", str(KEPT / case), "-o", str(model), "--configuration", configuration, "--json"]
    assert run_command(asked) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["dataset"], told["trainer"], told["folds"]) == ("Dataset001_Made", "nnUNetTrainer", ["0"])
    scans.mkdir()
    shutil.copy(KEPT / case / "scan_0000.nii.gz", scans)
    assert run_command(["infer", str(model), str(scans), "-o", str(tmp_path / "out"), "--device", "cpu"]) == 0
    found = read_labels(tmp_path / "out" / "scan.nii.gz").array
    with np.load(KEPT / case / "answers.npz") as theirs:
        equal = np.mean(found == theirs["labels"])
    # of random weights, whose classes nearly tie; of a cascade its first stage, which differs likewise, is read too
    assert equal > (0.98 if case == "cascade" else 0.995)


def test_a_name_that_no_model_file_has_is_told_first(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for out in (".", "/", "model.zip"):
        assert run_command(["import-nnunet", str(tmp_path / "nowhere"), "-o", out]) == 2
        assert "a model file is called NAME.medseg" in capsys.readouterr().err


def test_what_is_no_model_is_told_in_a_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(["import-nnunet", str(tmp_path), "-o", str(tmp_path / "model.medseg")]) == 2
    assert "holds no model of nnU-Net" in capsys.readouterr().err
    assert not (tmp_path / "model.medseg").exists()
