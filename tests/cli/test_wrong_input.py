"""Wrong input to any verb: one line that says what, where and what to do; no traceback; nothing half-written."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pytest

from medseg.cli.app import run_command
from medseg.preprocessing import case_file
from tests.tiny import blobs, planned_run, untrained_run, write_case, write_dataset

pytestmark = pytest.mark.usefixtures("one_thread")


def complaint(capsys: pytest.CaptureFixture[str], *arguments: Any, code: int = 2) -> tuple[str, str]:
    """The one line that begins with `medseg:`, and all of standard error."""
    capsys.readouterr()
    assert run_command([str(a) for a in arguments]) == code
    said = capsys.readouterr()
    lines = said.err.splitlines()
    assert "Traceback" not in said.err
    assert [line.startswith("medseg: ") for line in lines].count(True) == 1
    assert lines[-1].startswith("medseg: ")
    return lines[-1], said.err


def alone(capsys: pytest.CaptureFixture[str], *arguments: Any) -> str:
    line, err = complaint(capsys, *arguments)
    assert err == line + "\n"
    return line


def plan(data: Path, run: Path) -> list[Any]:
    return ["plan", data, "-o", run, "--budget", "2steps", "--device", "cpu"]


def test_what_is_not_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    none, out = tmp_path / "none", tmp_path / "out"
    for arguments in (
        plan(none, out),
        ["train", none],
        ["infer", none, none, "-o", out],
        ["evaluate", none, none, "-o", out],
        ["run", none, "-o", out],
        ["inspect", none],
        ["doctor", "--folder", none],
    ):
        line = alone(capsys, *arguments)
        assert str(none) in line
    assert not out.exists()
    assert not none.exists()


def test_a_run_that_is_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = write_dataset(tmp_path / "data", 2)
    for arguments in (["train", data], ["infer", data, data / "images", "-o", tmp_path / "out"]):
        assert "is not a run of medseg" in (line := alone(capsys, *arguments))
        assert "make one with medseg plan DATA -o RUN" in line
    assert not (data / "folds").exists()
    run = planned_run(tmp_path / "planned")
    line = alone(capsys, "infer", run, data / "images", "-o", tmp_path / "out")
    assert "no fold is trained to its end; run medseg train run" in line
    (run / "plan.json").write_text("{")
    assert "is not a valid plan file" in alone(capsys, "train", run)
    assert not (tmp_path / "out").exists()


def test_no_labels(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = write_dataset(tmp_path / "data", 2)
    shutil.rmtree(data / "labels")
    assert "holds no dataset" in alone(capsys, *plan(data, tmp_path / "run"))
    (data / "labels").mkdir()
    assert "none of its 2 case(s) can be used" in alone(capsys, *plan(data, tmp_path / "run"))
    for k in range(2):
        write_case(data, f"case{k}", blobs(k)[0], np.zeros((16, 16, 16), np.uint8), np.eye(4))
    assert "all its labels are empty" in alone(capsys, *plan(data, tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def shape(data: Path) -> None:
    write_case(data, "case0", blobs(0)[0], None, np.eye(4))
    write_case(data / "x", "case0", blobs(0, (16, 16, 15))[0], blobs(0, (16, 16, 15))[1], np.eye(4))
    shutil.copy(data / "x/labels/case0.nii.gz", data / "labels/case0.nii.gz")


def affine(data: Path) -> None:
    write_case(data / "x", "case0", *blobs(0), np.diag([1, 1, 1.5, 1]))
    shutil.copy(data / "x/labels/case0.nii.gz", data / "labels/case0.nii.gz")


def unknown(data: Path) -> None:
    (data / "dataset.json").write_text('{"channel_names": {"0": "CT"}, "labels": {"background": 0, "a": 1, "b": 2}}')
    image, labels = blobs(0)
    write_case(data, "case0", image, labels * 3, np.eye(4))


def cut(data: Path) -> None:
    path = data / "images" / "case0.nii.gz"
    path.write_bytes(path.read_bytes()[:2000])


def flat(data: Path) -> None:
    image, labels = blobs(0)
    write_case(data, "case0", image[:, :, 8:9], labels[:, :, 8:9], np.eye(4))


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (shape, "its labels have the shape (16, 16, 15), its scan (16, 16, 16)"),
        (affine, "[OTHER_GRID] its labels lie up to"),
        (unknown, "which the dataset does not name"),
        (cut, "[TRUNCATED]"),
        (flat, "is a single slice"),
    ],
)
def test_one_bad_case_is_named_and_the_others_are_planned(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], spoil: Callable[[Path], None], words: str
) -> None:
    data = write_dataset(tmp_path / "data", 4)
    spoil(data)
    line, err = complaint(capsys, *plan(data, tmp_path / "run"), code=1)
    assert "1 case(s) failed: case0; the others are done; mend these and run the same command again" in line
    (told,) = [text for text in err.splitlines() if words in text]
    assert "case0" in told
    assert {p.name for p in (tmp_path / "run/cache/3d").iterdir()} == {f"case{k}.safetensors" for k in (1, 2, 3)}
    assert run_command(["train", str(tmp_path / "run"), "--steps", "1", "--device", "cpu"]) == 0

    write_case(data, "case0", *blobs(0), np.eye(4))
    if not (data / "dataset.json").exists():
        assert run_command([str(a) for a in plan(data, tmp_path / "run2")]) == 0


def test_an_empty_label_is_remarked_on_and_used(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = write_dataset(tmp_path / "data", 4)
    write_case(data, "case0", blobs(0)[0], np.zeros((16, 16, 16), np.uint8), np.eye(4))
    assert run_command([str(a) for a in plan(data, tmp_path / "run")]) == 0
    assert "case0: its label map is empty" in capsys.readouterr().err


def test_most_cases_bad_is_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = write_dataset(tmp_path / "data", 3)
    for path in (data / "images").iterdir():
        path.write_bytes(b"no scan")
    line, _ = complaint(capsys, *plan(data, tmp_path / "run"))
    assert "3 of 3 cases cannot be used" in line
    assert not (tmp_path / "run" / "plan.json").exists()


def test_a_place_that_cannot_be_written_to(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data, run = write_dataset(tmp_path / "data", 2), untrained_run(tmp_path)
    file = tmp_path / "file"
    file.write_text("mine")
    recipe = tmp_path / "r.yaml"
    recipe.write_text("version: 1\ntitle: t\ndata: data\nsteps: []\n")
    for out in (file, file / "below"):
        for arguments in (
            plan(data, out),
            ["infer", run, data / "images", "-o", out],
            ["evaluate", data / "labels", data / "labels", "-o", out],
            ["run", recipe, "-o", out],
        ):
            line = alone(capsys, *arguments)
            assert str(out) in line
            assert "name a folder that is not a file" in line
    assert file.read_text() == "mine"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--budget", "soon"], "--budget soon is no budget; give a time such as"),
        (["--budget", "0min"], "--budget 0min is no budget"),
        (["--budget", ""], "is no budget"),
        (["--dims", "4d"], "--dims 4d is no choice; give auto, 2d, 3d, lowres or cascade"),
        (["--also", "4d"], "--also 4d is no configuration; choose from 2d, 3d, lowres, cascade"),
        (["--init", "/none"], "/none: is neither a trained fold nor a run of medseg; name a run folder"),
        (["--network", "vnet"], "--network vnet is no family of networks; give one of unet, resenc-m, resenc-l, "),
        (["--splits", "/none.json"], "/none.json: there is no such file"),
        (["--compare", "/none.json"], "/none.json: there is no such file"),
        (["--memory", "0"], "--memory 0 GB cannot be planned for; give 1 to 1000"),
        (["--memory", "nan"], "--memory nan GB cannot"),
        (["--seed", "-1"], "--seed -1 cannot be used; give 0 to"),
        (["--seed", "99999999999999999999"], "cannot be used"),
        (["--device", "tpu"], "--device tpu is no device; give auto, cpu or cuda"),
    ],
)
def test_options_of_plan(tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], words: str) -> None:
    data = write_dataset(tmp_path / "data", 2)
    assert words in alone(capsys, "plan", data, "-o", tmp_path / "run", *options)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("spacing", ["fine", "0", "-1", "nan", "1,1,1"])
def test_spacing_of_plan(tmp_path: Path, capsys: pytest.CaptureFixture[str], spacing: str) -> None:
    data = write_dataset(tmp_path / "data", 2)
    line, _ = complaint(capsys, "plan", data, "-o", tmp_path / "run", "--spacing", spacing)
    assert f"--spacing {spacing} is no spacing; give isotropic, median" in line
    assert not (tmp_path / "run" / "plan.json").exists()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--fold", "9"], "there is no fold 9; give 0 to 4, or all"),
        (["--fold", ""], "there is no fold ; give 0 to 4, or all"),
        (["--folds", "1"], "6 cases cannot be split into 1 folds; give 2 to 6"),
        (["--folds", "0"], "6 cases cannot be split into 0 folds"),
        (["--fold", "1", "--folds", "3"], "--fold and --folds cannot both be given"),
        (["--budget", "soon"], "--budget soon is no budget"),
        (["--budget", "9min", "--steps", "3"], "--budget and --steps cannot both be given"),
        (["--steps", "0"], "--steps 0 trains nothing; give at least 1"),
        (["--device", "gpu", "--folds", "3"], "--device gpu is no device"),
        (["--configuration", "4d"], "--configuration 4d is no configuration; choose from 2d, 3d, lowres, cascade"),
        (["--configuration", "2d"], "the plan has no configuration 2d; give one of 3d"),
        (["--gpus", "0"], "--gpus 0 trains nothing; give at least 1"),
        (["--gpus", "5", "--device", "cpu"], "a batch of 2 cannot be split over 5 GPUs; give 1 or 2"),
        (["--init", "nowhere"], "nowhere: "),
    ],
)
def test_options_of_train(tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], words: str) -> None:
    run = planned_run(tmp_path)
    before = (run / "splits.json").read_bytes()
    assert words in alone(capsys, "train", run, *options)
    assert not (run / "folds").exists()
    assert (run / "splits.json").read_bytes() == before


@pytest.mark.parametrize("tolerance", ["-1", "nan", "inf"])
def test_tolerance_of_evaluate(tmp_path: Path, capsys: pytest.CaptureFixture[str], tolerance: str) -> None:
    labels = write_dataset(tmp_path / "data", 2) / "labels"
    line = alone(capsys, "evaluate", labels, labels, "-o", tmp_path / "out", "--tolerance", tolerance)
    assert "tolerance" in line
    assert not (tmp_path / "out").exists()


def test_settings_of_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = tmp_path / "r.yaml"
    recipe.write_text("version: 1\ntitle: t\nsteps: [{plan: {}}]\n")
    for setting, words in (
        ("colour=blue", "give key=value with one of budget, data"),
        ("seed=x", "seed: input should"),
    ):
        assert words in alone(capsys, "run", recipe, "-o", tmp_path / "out", "--set", setting)
    recipe.write_text("title: [")
    assert "is not YAML" in alone(capsys, "run", recipe, "-o", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_scans_that_are_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = untrained_run(tmp_path)
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "a.txt").write_text("text")
    line = alone(capsys, "infer", run, tmp_path / "text", "-o", tmp_path / "out")
    assert "holds no scan that can be used (a.txt: is neither an image file nor DICOM); give a NIfTI" in line
    line = alone(capsys, "infer", run, tmp_path / "text" / "a.txt", "-o", tmp_path / "out")
    assert "is neither an image file nor DICOM" in line
    assert not (tmp_path / "out").exists()


def test_a_model_that_was_changed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run, data = untrained_run(tmp_path), write_dataset(tmp_path / "data", 1)
    (run / "folds/3d/0/model.safetensors").write_bytes(b"tampered")
    line = alone(capsys, "infer", run, data / "images", "-o", tmp_path / "out")
    assert "the weights are not those that model.json names; train this fold again" in line


def test_a_file_that_vanishes_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = tmp_path / "r.yaml"
    recipe.write_text("version: 1\ntitle: t\nsteps: []\n")
    recipe.unlink()
    recipe.symlink_to(tmp_path / "gone.yaml")
    assert "there is no such recipe" in alone(capsys, "run", recipe, "-o", tmp_path / "out")


def test_a_full_disk_while_planning(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    data, run = write_dataset(tmp_path / "data", 3), tmp_path / "run"

    def full(file: BinaryIO, _: object) -> None:
        file.write(b"half")
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as disk:
        disk.setattr(case_file, "_write", full)
        line, _ = complaint(capsys, *plan(data, run))
    assert "no space left on device; free some space there or choose another folder" in line
    assert not list((run / "cache").rglob("*.safetensors"))
    assert not list(run.rglob(".part*"))
    assert run_command([str(a) for a in plan(data, run)]) == 0


def test_a_full_disk_while_training_and_predicting(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run, scans = planned_run(tmp_path), tmp_path / "data" / "images"

    def full(self: Path, *_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as disk:
        disk.setattr(Path, "write_bytes", full)
        line, _ = complaint(capsys, "train", run, "--steps", "1")
    assert "checkpoint.safetensors: no space left on device; free some space" in line
    assert run_command(["train", str(run), "--steps", "1"]) == 0
    with monkeypatch.context() as disk:
        disk.setattr(Path, "write_text", full)
        line, _ = complaint(capsys, "infer", run, scans, "-o", tmp_path / "out")
    assert "no space left on device; free some space" in line


def test_prefer_of_evaluate(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    labels = write_dataset(tmp_path / "data", 1) / "labels"
    line = alone(capsys, "evaluate", labels, labels, "-o", tmp_path / "out", "--prefer", "x")
    assert "--prefer x is no choice; give sform or qform" in line
    assert run_command(["evaluate", str(labels), str(labels), "-o", str(tmp_path / "out"), "--prefer", "sform"]) == 0
