from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from medseg.cli.app import run_command
from medseg.imaging.nifti import read_labels
from tests.inference.test_folder import scans_of
from tests.tiny import untrained_run

pytestmark = pytest.mark.usefixtures("one_thread")


def call(capsys: pytest.CaptureFixture[str], *arguments: Any) -> tuple[int, str, str]:
    code = run_command([str(a) for a in arguments])
    said = capsys.readouterr()
    return code, said.out, said.err


def test_a_model_file_predicts_as_its_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run, scans = untrained_run(tmp_path), scans_of(tmp_path / "scans", 1)
    code, out, err = call(capsys, "export", run, "-o", tmp_path / "m.medseg")
    assert code == 0
    assert "m.medseg" in out
    assert "1 network" in out
    assert "no licence of the weights is stated" in err
    for model, where in ((run, "a"), (tmp_path / "m.medseg", "b")):
        assert call(capsys, "infer", model, scans, "-o", tmp_path / where, "--device", "cpu")[0] == 0
    found, expected = (read_labels(tmp_path / where / "scan0.nii.gz").array for where in ("a", "b"))
    np.testing.assert_array_equal(found, expected)


def test_json_is_one_document(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asked = ("export", untrained_run(tmp_path), "-o", tmp_path / "m.medseg", "--licence", "CC0-1.0", "--json")
    code, out, err = call(capsys, *asked)
    assert code == 0
    (written,) = json.loads(out)["written"]
    assert (written["form"], written["name"], written["difference"]) == ("medseg", "m.medseg", None)
    assert written["bytes"] == (tmp_path / "m.medseg").stat().st_size
    assert "licence" not in err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "nothing is asked for; give -o MODEL.medseg, --onnx, --openvino or --monai-bundle"),
        (["-o", "m.onnx"], "a model file is called NAME.medseg"),
        (["-o", "."], "is a folder; a model file is called NAME.medseg; give -o model.medseg"),
        (["-o", "m.medseg", "--folds", "7"], "fold 7 of 3d is not there"),
    ],
)
def test_wrong_use_is_one_line(
    tmp_path: Path, arguments: list[str], said: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    code, _, err = call(capsys, "export", untrained_run(tmp_path), *arguments)
    assert code == 2
    assert said in err.splitlines()[-1]
    assert not list(tmp_path.glob("m.*"))
