"""`medseg inspect` of a data set: the check in words, as JSON, and in the exit code."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from medseg.cli.app import run_command
from tests.conftest import ROOT

TRAIN = ROOT / "sample_data" / "train"


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return Path(shutil.copytree(TRAIN, tmp_path / "data"))


def call(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> tuple[int, str]:
    capsys.readouterr()
    code = run_command(["inspect", *map(str, arguments)])
    return code, " ".join(capsys.readouterr().out.split())


def test_clean_data(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, said = call(capsys, data)
    assert (code, "check of the data set: nothing found" in said) == (0, True)
    assert "Check of the data set" not in said


def test_a_suspect_case_is_told_and_ends_in_1(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copy(data / "imagesTr" / "phantom_03.nii.gz", data / "imagesTr" / "phantom_05.nii.gz")
    shutil.copy(data / "labelsTr" / "phantom_03.nii.gz", data / "labelsTr" / "phantom_05.nii.gz")
    code, said = call(capsys, data)
    assert code == 1
    assert "check of the data set: 1 suspect 12 cases, 1 with problems Check of the data set" in said
    assert "phantom_05 suspect duplicate" in said
    code, said = call(capsys, data, "--json")
    found = json.loads(said)
    assert (code, found["checked"]) == (1, True)
    (finding,) = found["findings"]
    assert finding["case"] == "phantom_05"
    assert set(finding) == {"case", "code", "what", "how_bad", "todo"}


def test_a_damaged_case_is_told_once(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (data / "imagesTr" / "phantom_05.nii.gz").unlink()
    code, said = call(capsys, data)
    assert code == 1
    assert said.count("imagesTr/phantom_05.nii.gz is missing") == 1
    assert "phantom_05 unusable missing" in said


def test_notes_end_in_0(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = sorted(path.name for path in (data / "imagesTr").iterdir())
    rows = [f"{n[:10]},imagesTr/{n},labelsTr/{n},{'one' if k < 2 else ''}" for k, n in enumerate(names)]
    (data / "manifest.csv").write_text("\n".join(["case,image,label,patient", *rows]))
    code, said = call(capsys, data)
    assert (code, "check of the data set: 1 note" in said) == (0, True)
    assert "is of the same patient as phantom_02" in said


def test_headers_alone_say_that_nothing_was_checked(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copy(data / "imagesTr" / "phantom_03.nii.gz", data / "imagesTr" / "phantom_05.nii.gz")
    code, said = call(capsys, data, "--headers")
    assert (code, "not checked for duplicates" in said) == (0, True)
    assert json.loads(call(capsys, data, "--headers", "--json")[1])["checked"] is False
