"""Inspecting goes on where it was ended, in parts and in other processes, and always finds the same."""

from __future__ import annotations

import os
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from medseg.cli.app import run_command
from medseg.errors import InputError
from medseg.events import Note
from medseg.imaging import looking
from medseg.imaging.inspect import Inspected
from medseg.imaging.source import ReadOptions
from medseg.kept import PartDone
from medseg.parallel import WorkerKilled
from medseg.parts import Part, claimed
from medseg.pipeline import inspecting
from tests.imaging.build import PATIENT, save_all, some_image, some_label, some_series, write_nifti
from tests.imaging.labelled_build import box, label, series
from tests.imaging.test_dataset import decathlon
from tests.places import Two


@pytest.fixture(autouse=True)
def one_key(monkeypatch: pytest.MonkeyPatch) -> None:
    """All runs have the same secret, so that what they write can be compared."""
    monkeypatch.setattr("secrets.token_hex", lambda n: "ab" * n)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    root = decathlon(tmp_path / "Task03", n=8)
    (root / "imagesTr/liver_1.nii.gz").write_bytes(b"cut")
    write_nifti(root / "labelsTr/liver_2.nii.gz", some_label(0))
    write_nifti(root / "imagesTr/liver_6.nii.gz", np.zeros((6, 5, 4), np.int16))
    return root


@pytest.fixture
def dicom(tmp_path: Path) -> Path:
    """Labelled and unlabelled series, some in a zip file, and files, two of one name."""
    root = tmp_path / PATIENT
    for i in range(2):
        volume = series(root / f"{i}", seed=i, patient=f"{PATIENT} {i}")
        label(root / f"{i}" / "labels.dcm", volume, box())
    save_all(some_series(series="7").datasets(), root / "good")
    gap = some_series(6, series="8").datasets()
    del gap[2]
    save_all(gap, tmp_path / "packed")
    with zipfile.ZipFile(root / "packed.zip", "w") as archive:
        for path in (tmp_path / "packed").iterdir():
            archive.write(path, path.name)
    for folder in ("x", "y"):
        write_nifti(root / folder / "scan.nii.gz", some_image())
    return root


@pytest.fixture
def tried(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    names: list[str] = []

    def noted(job: Any, *rest: Any, **others: Any) -> Any:
        names.append(job.name)
        return seen(job, *rest, **others)

    seen = looking._seen
    monkeypatch.setattr(looking, "_seen", noted)
    return names


def last(path: Path, out: Path, **options: Any) -> Any:
    return [*inspecting.inspect(path, ReadOptions(), out=out, **options)][-1]


def written(out: Path) -> list[bytes]:
    return [path.read_bytes() for path in (out, out.with_name(f"{out.stem}.case_map.json"))]


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
@pytest.mark.parametrize("kind", ["data", "dicom"])
def test_parts_write_what_the_whole_writes(request: Any, tmp_path: Path, kind: str, order: tuple[int, int]) -> None:
    path = request.getfixturevalue(kind)
    whole = last(path, tmp_path / "whole.json")
    assert isinstance(whole, Inspected)
    out = tmp_path / "new" / "parts.json"
    first = last(path, out, part=Part(order[0], 2))
    assert isinstance(first, PartDone)
    assert not out.exists()
    kept = tmp_path / "new" / "parts.cases"
    text = "".join(p.read_text() for p in (kept / "records").iterdir())
    assert not [part for part in (*PATIENT.split("^"), str(tmp_path)) if part in text]
    if os.name == "posix":
        assert (kept / ".key").stat().st_mode & 0o777 == 0o600
    second = last(path, out, part=Part(order[1], 2))
    assert second == whole or second.inspection == whole.inspection
    assert written(out) == written(tmp_path / "whole.json")
    assert not kept.exists()


@pytest.mark.parametrize("kind", ["data", "dicom"])
def test_other_processes_and_machines_find_the_same(request: Any, tmp_path: Path, kind: str) -> None:
    path = request.getfixturevalue(kind)
    last(path, tmp_path / "whole.json")
    for name, where in (("two", Two()), ("elsewhere", Two(here=False))):
        *events, end = inspecting.inspect(path, ReadOptions(), out=tmp_path / f"{name}.json", where=where)
        assert isinstance(end, Inspected)
        assert Note("two work") in events
        assert written(tmp_path / f"{name}.json") == written(tmp_path / "whole.json")
    assert not list(tmp_path.glob("*.cases"))


def test_what_was_ended_goes_on(data: Path, tmp_path: Path, tried: list[str]) -> None:
    out = tmp_path / "found.json"
    last(data, tmp_path / "whole.json")
    first = inspecting.inspect(data, ReadOptions(), out=out, part=Part(0, 2))
    tried.clear()
    while len(tried) < 2:
        next(first)
    first.close()
    seen = tried[:-1]
    write_nifti(data / "imagesTr" / f"{seen[0]}.nii.gz", some_image(99))
    last(data, tmp_path / "whole.json")
    tried.clear()
    assert isinstance(last(data, out, part=Part(0, 2)), PartDone)
    assert seen[0] in tried  # it changed
    assert not set(seen[1:]) & set(tried)
    (next((tmp_path / "found.cases" / "records").iterdir())).write_text("{")
    last(data, out, part=Part(0, 2))
    tried.clear()
    last(data, out, part=Part(1, 2))
    assert 0 < len(tried) < 8
    assert written(out) == written(tmp_path / "whole.json")


def test_headers_alone_in_parts(data: Path, tmp_path: Path) -> None:
    last(data, tmp_path / "whole.json", headers=True)
    for number in range(2):
        last(data, tmp_path / "parts.json", headers=True, part=Part(number, 2))
    assert written(tmp_path / "parts.json") == written(tmp_path / "whole.json")


def test_a_case_that_kills_its_worker_is_a_problem(data: Path, tmp_path: Path, monkeypatch: Any) -> None:
    def killed(job: Any, headers: bool, examine: Any = None) -> Any:
        if job.name == "liver_3" and not headers:
            raise WorkerKilled
        return seen(job, headers, examine)

    seen = looking._seen
    monkeypatch.setattr(looking, "_seen", killed)
    for part, out in ((Part(), "one"), (Part(0, 2), "two"), (Part(1, 2), "two")):
        end = last(data, tmp_path / f"{out}.json", part=part)
    assert written(tmp_path / "one.json") == written(tmp_path / "two.json")
    (look,) = [one for one in end.inspection.cases if one.name == "liver_3"]
    assert "killed 3 times" in look.problems[0]
    assert any(finding.case == "liver_3" for finding in end.inspection.findings)


def test_what_cannot_be(data: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="-o FILE"):
        list(inspecting.inspect(data, ReadOptions(), part=Part(0, 2)))
    with pytest.raises(InputError, match="no such"):
        last(tmp_path / "nothing", tmp_path / "found.json", part=Part(0, 2))
    assert not list(tmp_path.glob("found*"))
    out = tmp_path / "found.json"
    with claimed(tmp_path / "found.cases", Part(0, 2), "."):
        with pytest.raises(InputError, match="works on part 0/2"):
            last(data, out, part=Part(0, 2))
        last(data, out, part=Part(1, 2))


def test_the_command(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    told = ["inspect", str(data), "-o", str(tmp_path / "found.json"), "--part"]
    assert run_command([*told, "0/2"]) == 0
    said = capsys.readouterr()
    assert said.out == ""
    assert "part 0/2 is done; the result is written when" in said.err
    assert run_command([*told, "1/2"]) == 1  # suspect cases
    assert (tmp_path / "found.json").is_file()
    assert run_command(["inspect", str(data), "--part", "0/2"]) == 2
