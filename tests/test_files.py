from __future__ import annotations

import errno
import os
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest
from pydantic import ValidationError

from medseg.errors import InputError, ResourceError
from medseg.files import (
    STRAY_AFTER_S,
    Record,
    output_folder,
    output_of,
    outputs_stand,
    read_record,
    sha256,
    write_json,
    write_record,
    write_text,
    written_together,
    written_whole,
)


class Thing(Record):
    version: int = 1
    name: str
    score: float = 0.0


def test_what_is_checked_on_reading_is_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda _: pytest.fail("waited"))
    write_text(tmp_path / "record", "whole", synced=False)
    assert [path.name for path in tmp_path.iterdir()] == ["record"]


def test_a_file_appears_whole(tmp_path: Path) -> None:
    target = tmp_path / "new" / "x.nii.gz"
    with written_whole(target) as beside:
        assert beside.parent == target.parent
        assert beside.name.endswith("x.nii.gz")
        beside.write_text("whole")
        assert not target.exists()
    assert target.read_text() == "whole"
    assert [p.name for p in target.parent.iterdir()] == ["x.nii.gz"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_an_error_leaves_the_old_file_and_nothing_beside_it(tmp_path: Path, error: type[BaseException]) -> None:
    target = tmp_path / "x.txt"
    write_text(target, "old")
    with pytest.raises(error), written_whole(target) as beside:  # noqa: PT012
        beside.write_text("half")
        raise error
    assert target.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["x.txt"]


def test_a_full_disk_is_explained_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ResourceError, match=r"x\.txt: no space left on device; free some space"):
        write_text(tmp_path / "x.txt", "text")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_a_device_that_is_full(tmp_path: Path) -> None:
    full = Path("/dev/full")
    with pytest.raises(ResourceError, match="no space left"), written_whole(tmp_path / "x.txt"), full.open("w") as file:
        file.write("text")
    assert list(tmp_path.iterdir()) == []


KILLED = """
import sys, time
from pathlib import Path
from medseg.files import written_whole
with written_whole(Path(sys.argv[1])) as beside:
    beside.write_text("half")
    print("writing", flush=True)
    time.sleep(60)
"""


def test_a_killed_writer_leaves_the_target_as_it_was(tmp_path: Path) -> None:
    target = tmp_path / "x.txt"
    write_text(target, "old")
    with subprocess.Popen([sys.executable, "-c", KILLED, str(target)], stdout=subprocess.PIPE) as writer:
        assert writer.stdout is not None
        assert writer.stdout.readline() == b"writing\n"
        writer.send_signal(signal.SIGKILL)
    assert target.read_text() == "old"
    (stray,) = (p for p in tmp_path.iterdir() if p != target)
    output_folder(tmp_path)
    assert stray.exists()  # it may be another's, at work now
    day_ago = time.time() - STRAY_AFTER_S - 60
    os.utime(stray, (day_ago, day_ago))
    output_folder(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["x.txt"]


def test_private_files_are_for_their_owner_alone(tmp_path: Path) -> None:
    write_text(tmp_path / "map.json", "{}", private=True)
    assert stat.S_IMODE((tmp_path / "map.json").stat().st_mode) == 0o600


def test_records_come_back_and_are_strict(tmp_path: Path) -> None:
    path = tmp_path / "thing.json"
    thing = Thing(name="a", score=float("inf"))
    write_record(path, thing)
    assert read_record(path, Thing) == thing
    with pytest.raises(ValidationError):
        thing.name = "b"  # type: ignore[misc]
    for text in ('{"name": "a", "other": 1}', '{"name": ', "{}", '{"name": "a", "score": "x"}'):
        path.write_text(text)
        with pytest.raises(InputError, match="is not a valid thing file") as caught:
            read_record(path, Thing)
        assert "\n" not in str(caught.value)
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(InputError, match="UTF-8"):
        read_record(path, Thing)
    with pytest.raises(InputError, match="no such file"):
        read_record(tmp_path / "none.json", Thing)
    with pytest.raises(InputError, match="cannot be read"):
        read_record(tmp_path, Thing)


def test_json_holds_no_nan(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "x.json", {"a": float("nan")})
    assert list(tmp_path.iterdir()) == []


def test_outputs_stand_while_their_files_do(tmp_path: Path) -> None:
    write_text(tmp_path / "a.txt", "abc")
    output = output_of(tmp_path / "a.txt")
    assert (output.name, output.bytes) == ("a.txt", 3)
    assert output.sha256 == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert sha256([tmp_path / "a.txt"]) == output.sha256
    assert outputs_stand(tmp_path, [output])
    write_text(tmp_path / "a.txt", "abcd")
    assert not outputs_stand(tmp_path, [output])
    (tmp_path / "a.txt").unlink()
    assert not outputs_stand(tmp_path, [output])


def test_an_output_folder_that_cannot_be_is_refused(tmp_path: Path) -> None:
    write_text(tmp_path / "file", "x")
    with pytest.raises(ResourceError, match="not a file"):
        output_folder(tmp_path / "file")
    with pytest.raises(ResourceError, match="not a file"):
        output_folder(tmp_path / "file" / "below")
    assert output_folder(tmp_path / "a" / "b").is_dir()


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_without_permission_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(ResourceError, match="permission denied"):
        output_folder(tmp_path)


def test_who_writes_alone_sweeps_at_once(tmp_path: Path) -> None:
    mine, others = tmp_path / ".part-12-0123abcd-a.nii.gz", tmp_path / ".part-of-somebody-else"
    for path in (mine, others):
        path.touch()
    output_folder(tmp_path)
    assert mine.exists()
    output_folder(tmp_path, stray_after_s=0.0)
    assert [path.name for path in tmp_path.iterdir()] == [others.name]


def test_files_that_belong_together_appear_together(tmp_path: Path) -> None:
    out, within = tmp_path / "out", tmp_path / "out" / "cases"
    within.mkdir(parents=True)
    with written_together(out, within) as place:
        write_text(place / "a.txt", "a")
        write_text(place / "b.txt", "b")
        assert sorted(path.name for path in out.iterdir()) == ["cases"]
    assert sorted(path.name for path in out.iterdir()) == ["a.txt", "b.txt", "cases"]

    def interrupted() -> None:
        with written_together(out, within) as place:
            write_text(place / "c.txt", "c")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert sorted(path.name for path in out.iterdir()) == ["a.txt", "b.txt", "cases"]
    assert not list(within.iterdir())


def test_a_folder_that_a_killed_writer_left_is_swept(tmp_path: Path) -> None:
    left = tmp_path / ".part-12-0123abcd-folder"
    left.mkdir()
    (left / "a.nii.gz").touch()
    output_folder(tmp_path, stray_after_s=0.0)
    assert not list(tmp_path.iterdir())
