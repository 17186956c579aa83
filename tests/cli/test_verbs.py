"""Every verb in process on the smallest run: tables for people, one JSON document for machines, exit codes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from medseg.cli.app import run_command
from tests.tiny import planned_run, trained_run, write_dataset

pytestmark = pytest.mark.usefixtures("one_thread")


def call(capsys: pytest.CaptureFixture[str], *arguments: Any) -> tuple[int, str, str]:
    capsys.readouterr()
    code = run_command([str(a) for a in arguments])
    said = capsys.readouterr()
    return code, said.out, said.err


def strictly(text: str) -> Any:
    def refuse(word: str) -> None:
        raise AssertionError(f"{word} is no JSON")

    return json.loads(text, parse_constant=refuse)


def test_plan(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = write_dataset(tmp_path / "data", 4)
    asked = ("plan", data, "-o", tmp_path / "run", "--budget", "3steps", "--device", "cpu")
    code, out, err = call(capsys, *asked)
    assert code == 0
    for word in ("spacing", "patch", "mirroring", "(chosen)", "why"):
        assert word in out
    assert "4 cases prepared" in err
    assert "next: medseg train" in err
    code, out, _ = call(capsys, *asked, "--json")
    said = strictly(out)
    assert (code, said["run"], said["failed"], said["plan"]["cases"]) == (0, "run", {}, 4)
    assert str(tmp_path) not in out


def test_train(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = planned_run(tmp_path)
    code, out, err = call(capsys, "train", run, "--steps", "2", "--device", "cpu")
    assert code == 0
    assert "Validation of fold 0" in out
    assert "train fold 0: 4 cases, 2 to validate on, CPU, 1 thread," in err
    code, out, err = call(capsys, "train", run, "--json", "--folds", "2", "--steps", "1")
    assert code == 2  # folds of another split are trained
    code, out, err = call(capsys, "train", run, "--json", "--fold", "1", "--steps", "1")
    said = strictly(out)
    assert code == 0
    assert [(f["fold"], f["steps"]) for f in said["folds"]] == [("1", 1)]
    assert said["folds"][0]["scores"]["structures"]
    code, out, _ = call(capsys, "train", run, "--json", "--fold", "all", "--budget", "1steps")
    assert (code, strictly(out)["folds"][0]["scores"]) == (0, None)


def test_gpus_where_there_are_none(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    code, _, err = call(capsys, "train", planned_run(tmp_path), "--gpus", "2", "--steps", "1")
    assert code == 2
    assert "--gpus 2: torch sees no GPU here; give --device cpu to train in 2 processes on the CPU" in err


def test_train_all_folds(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = planned_run(tmp_path)
    code, out, err = call(capsys, "train", run, "--folds", "2", "--steps", "1", "--device", "cpu", "--deterministic")
    assert code == 0
    assert "Cross-validation, 2 folds" in out
    assert "the cases are split anew: into 2 folds, not 5" in err
    assert "with the 95 % interval of the mean" in out
    assert (run / "folds/3d/1/curves.png").is_file()
    code, out, err = call(capsys, "train", run, "--folds", "2", "--json")
    said = strictly(out)
    assert (code, [f["fold"] for f in said["folds"]], said["failed"]) == (0, ["0", "1"], {})
    assert said["crossvalidation"] == json.loads((run / "folds/3d/crossvalidation/scores.json").read_text())
    assert "is trained already" in err


def test_infer_and_evaluate(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run, scans = trained_run(tmp_path), tmp_path / "data" / "images"
    out_folder, labels = tmp_path / "out", tmp_path / "data" / "labels"
    code, out, err = call(capsys, "infer", run, scans, "-o", out_folder)
    assert code == 0
    assert "case0" in out
    assert "Research use only" in out
    code, out, _ = call(capsys, "infer", run, scans, "-o", out_folder, "--json")
    assert (code, len(strictly(out)["cases"])) == (0, 6)

    code, out, err = call(capsys, "evaluate", out_folder, labels, "-o", tmp_path / "scores", "--tolerance", "2")
    assert code == 0
    assert "Dice" in out
    assert "at 2 mm" in out
    code, out, _ = call(capsys, "evaluate", out_folder, labels, "-o", tmp_path / "scores", "--json")
    assert (code, strictly(out)["tolerance_mm"]) == (0, 1.0)

    shutil.copytree(scans, tmp_path / "more")
    (tmp_path / "more" / "broken.nii.gz").write_bytes(b"no scan")
    for more in ((), ("--json",)):
        code, out, err = call(capsys, "infer", run, tmp_path / "more", "-o", out_folder, *more)
        assert code == 1
        assert err.splitlines()[-1].startswith("medseg: 1 case(s) failed: broken; ")
        assert "warning: broken failed: [NOT_NIFTI]" in err
    assert len(strictly(out)["cases"]) == 6
    (out_folder / "case0.nii.gz").write_bytes(b"no labels")
    code, out, err = call(capsys, "evaluate", out_folder, labels, "-o", tmp_path / "scores", "--json")
    assert code == 1
    assert list(strictly(out)["failed"]) == ["case0"]
    assert err.splitlines()[-1].startswith("medseg: 1 case(s) failed: case0; ")


def test_inspect(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = write_dataset(tmp_path / "data", 2)
    code, out, _ = call(capsys, "inspect", data)
    assert (code, "2 cases, 0 with problems" in out) == (0, True)
    code, out, _ = call(capsys, "inspect", data, "--json")
    assert (code, len(strictly(out)["cases"])) == (0, 2)
    (data / "images" / "case0.nii.gz").write_bytes(b"no scan")
    code, out, _ = call(capsys, "inspect", data)
    assert (code, "1 with problems" in out) == (1, True)


def test_doctor(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = call(capsys, "doctor", "--folder", tmp_path)
    assert code == 0
    assert "torch" in out
    code, out, _ = call(capsys, "doctor", "--folder", tmp_path, "--json")
    assert {"torch", "CPU"} <= {f["what"] for f in strictly(out)["findings"]}


def test_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_dataset(tmp_path / "data", 4)
    recipe = tmp_path / "r.yaml"
    recipe.write_text(
        "version: 1\ntitle: t\ndata: data\nbudget: 1steps\ndevice: cpu\nspacing: 2\n"
        "steps:\n  - plan: {}\n  - train: {}\n"
        "expect:\n  - {scores: run/folds/3d/0/validation, structure: mean, metric: dice, min: 0.0}\n"
    )
    code, out, err = call(capsys, "run", recipe, "-o", tmp_path / "out")
    assert code == 0
    assert "Expectations" in out
    assert "[2/2] medseg train run" in err
    code, out, _ = call(capsys, "run", recipe, "-o", tmp_path / "out", "--json")
    assert (code, strictly(out)["met"]) == (0, True)
    recipe.write_text(recipe.read_text().replace("min: 0.0", "min: 1.1"))
    code, out, err = call(capsys, "run", recipe, "-o", tmp_path / "out", "--json")
    assert (code, strictly(out)["met"]) == (1, False)
    assert "not as promised" in err
