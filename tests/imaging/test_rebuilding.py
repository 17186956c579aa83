"""A data set is converted in parts, in other processes and after an end as it is at once."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from medseg.cli.app import run_command
from medseg.errors import CasesFailed, InputError
from medseg.events import Note
from medseg.imaging import rebuilding
from medseg.imaging.restructure import Restructured, decathlon_to_nnunet, nnunet_to_decathlon
from medseg.kept import PartDone
from medseg.parts import Part, claimed
from tests.imaging.build import some_image, write_json, write_nifti
from tests.imaging.test_restructure import decathlon, described, nnunet, oblique
from tests.places import Two

KILLED = """
import os, signal, sys
from pathlib import Path
from medseg.imaging import rebuilding
from medseg.imaging.restructure import decathlon_to_nnunet
def once_more(job, whole):
    left.pop()
    if not left:
        os.kill(os.getpid(), signal.SIGKILL)
    return rewritten(job, whole)
left, rewritten = [1, 2, 3, 4], rebuilding._rewritten
rebuilding._rewritten = once_more
list(decathlon_to_nnunet(Path(sys.argv[1]), Path(sys.argv[2])))
"""


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Six scans, one of them a test scan."""
    root = decathlon(tmp_path / "a")
    for i in range(2, 5):
        for folder in ("imagesTr", "labelsTr"):
            (root / folder / f"c{i}.nii.gz").write_bytes((root / folder / f"c{i % 2}.nii.gz").read_bytes())
    listed = [{"image": f"./imagesTr/c{i}.nii.gz", "label": f"./labelsTr/c{i}.nii.gz"} for i in range(5)]
    write_json(root / "dataset.json", described(root) | {"training": listed})
    return root


@pytest.fixture
def tried(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    names: list[str] = []

    def noted(job: Any, whole: Path) -> Any:
        names.append(job.scan.name)
        return rewritten(job, whole)

    rewritten = rebuilding._rewritten
    monkeypatch.setattr(rebuilding, "_rewritten", noted)
    return names


def last(*arguments: Any, **options: Any) -> Any:
    return [*decathlon_to_nnunet(*arguments, **options)][-1]


def tree(root: Path) -> dict[str, bytes]:
    return {p.relative_to(root).as_posix(): p.read_bytes() for p in root.rglob("*") if p.is_file()}


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_parts_write_what_the_whole_writes(source: Path, tmp_path: Path, order: tuple[int, int]) -> None:
    last(source, tmp_path / "whole")
    first = last(source, tmp_path / "parts", part=Part(order[0], 2))
    assert isinstance(first, PartDone)
    assert first.left > 0
    assert not (tmp_path / "parts").exists()
    assert isinstance(last(source, tmp_path / "parts", part=Part(order[1], 2)), Restructured)
    assert tree(tmp_path / "parts") == tree(tmp_path / "whole")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a", "parts", "whole"]


def test_other_processes_write_the_same(source: Path, tmp_path: Path) -> None:
    end = last(source, tmp_path / "whole")
    *events, there = decathlon_to_nnunet(source, tmp_path / "two", where=Two(here=False))
    assert there == end
    assert Note("two work") in events
    assert tree(tmp_path / "two") == tree(tmp_path / "whole")


def test_what_was_ended_goes_on(source: Path, tmp_path: Path, tried: list[str]) -> None:
    last(source, tmp_path / "whole")
    tried.clear()
    first = decathlon_to_nnunet(source, tmp_path / "b")
    while len(tried) < 4:
        next(first)
    first.close()
    assert not (tmp_path / "b").exists()
    assert len(tried) == 4
    made, tried[:] = list(tried), []
    place = tmp_path / ".b.converting"
    (place / "records" / f"imagesTr.{made[0]}.json").write_text("{")
    (place / "whole" / "imagesTr" / f"{made[1]}_0001.nii.gz").write_bytes(b"less")
    write_nifti(source / "imagesTr" / f"{made[2]}.nii.gz", two_channels(), oblique())
    (place / "whole" / "imagesTr" / "other_0000.nii.gz").write_bytes(b"of another data set")
    *events, end = decathlon_to_nnunet(source, tmp_path / "b")
    assert isinstance(end, Restructured)
    assert made[3] not in tried
    assert sorted(tried) == sorted({"c0", "c1", "c2", "c3", "c4", "t"} - {made[3]})
    assert Note("1 of 6 already done") in events
    last(source, tmp_path / "fresh")
    assert tree(tmp_path / "b") == tree(tmp_path / "fresh")
    assert not place.exists()


@pytest.mark.skipif(os.name != "posix", reason="kills as POSIX does")
def test_who_is_killed_loses_one_scan_at_most(source: Path, tmp_path: Path, tried: list[str]) -> None:
    last(source, tmp_path / "whole")
    tried.clear()
    command = [sys.executable, "-c", KILLED, source, tmp_path / "b"]
    assert subprocess.run(command, check=False).returncode == -signal.SIGKILL
    assert not (tmp_path / "b").exists()
    last(source, tmp_path / "b")
    assert len(tried) == 3  # of six, of which three were done
    assert tree(tmp_path / "b") == tree(tmp_path / "whole")


def two_channels() -> Any:
    image = some_image(7)
    return (image[..., None] + [0, 1]).astype(image.dtype)


def test_a_failing_scan_of_another_part_is_told(source: Path, tmp_path: Path) -> None:
    path = source / "imagesTr" / "c3.nii.gz"
    whole = path.read_bytes()
    path.write_bytes(whole[:-30])
    ends = []
    for number in range(2):
        try:
            ends.append(last(source, tmp_path / "b", part=Part(number, 2)))
        except CasesFailed as error:
            ends.append(error)
    assert isinstance(ends[0], PartDone)
    assert isinstance(ends[1], CasesFailed)
    assert list(ends[1].failed) == ["c3"]
    path.write_bytes(whole)
    ends = [last(source, tmp_path / "b", part=Part(number, 2)) for number in range(2) if not (tmp_path / "b").exists()]
    assert isinstance(ends[-1], Restructured)


def test_the_other_way_in_parts(tmp_path: Path) -> None:
    source = nnunet(tmp_path / "a")
    list(nnunet_to_decathlon(source, tmp_path / "whole"))
    for number in range(2):
        list(nnunet_to_decathlon(source, tmp_path / "parts", part=Part(number, 2)))
    assert tree(tmp_path / "parts") == tree(tmp_path / "whole")


def test_what_cannot_be(source: Path, tmp_path: Path) -> None:
    with claimed(tmp_path / ".b.converting", Part(0, 2), "."):
        with pytest.raises(InputError, match="works on part 0/2"):
            last(source, tmp_path / "b", part=Part(0, 2))
        with pytest.raises(InputError, match="works on part 0/2"):
            last(source, tmp_path / "b")
    (source / "labelsTr" / "c1.nii.gz").unlink()
    with pytest.raises(InputError, match="cannot be converted whole"):
        last(source, tmp_path / "c", part=Part(0, 2))
    assert not list(tmp_path.glob(".c*"))


def test_the_command(source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    told = ["convert", str(source), str(tmp_path / "b"), "--to", "nnunet", "--part"]
    assert run_command([*told, "0/2"]) == 0
    assert "part 0/2 is done; the result is written when" in capsys.readouterr().err
    assert run_command([*told, "1/2"]) == 0
    assert "nnunet written: b" in capsys.readouterr().err
    scan = source / "imagesTs" / "t.nii.gz"
    assert run_command(["convert", str(scan), str(tmp_path / "t.mha"), "--part", "0/2"]) == 2
    assert "--part 0/2 is for data sets, and this is one scan; leave it out" in capsys.readouterr().err
    path = source / "imagesTr" / "c3.nii.gz"
    path.write_bytes(path.read_bytes()[:-30])
    assert run_command(["convert", str(source), str(tmp_path / "c"), "--to", "nnunet"]) == 1
    said = capsys.readouterr().err
    assert "1 case(s) failed: c3; the others are done; mend these and run the same command again" in said
