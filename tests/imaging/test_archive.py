from __future__ import annotations

import os
import stat
import struct
import zipfile
from pathlib import Path

import pytest

from medseg.errors import InputError, ResourceError
from medseg.imaging import archive
from medseg.imaging.archive import extract_zip, is_zip
from tests.imaging.build import PATIENT, save_all, some_series


def packed(path: Path, members: dict[str, bytes], how: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", how) as made:
        for name, content in members.items():
            made.writestr(name, content)
    return path


def unpacked(path: Path, into: Path) -> dict[str, bytes]:
    extract_zip(path, into)
    return {file.relative_to(into).as_posix(): file.read_bytes() for file in into.rglob("*") if file.is_file()}


def refusal(path: Path) -> str:
    """The refusal of an archive; it leaves nothing behind and names nothing."""
    into = path.parent / "work" / "zip"
    with pytest.raises(InputError) as caught:
        extract_zip(path, into)
    line = str(caught.value)
    assert line.startswith("archive: [ARCHIVE] ")
    assert "\n" not in line
    assert str(path.parent) not in line
    assert not any(part in line for part in (*PATIENT.split("^"), "secret"))
    assert not into.exists()
    assert sorted(file.name for file in path.parent.rglob("*") if file.is_file()) == [path.name]
    return line


def test_files_keep_their_names_and_folders_get_numbers(tmp_path: Path) -> None:
    members = {
        f"{PATIENT}/b/x_0000.nii.gz": b"1",
        f"{PATIENT}/b/x_0001.nii.gz": b"2",
        "c/x_0000.nii.gz": b"3",
        "r": b"",
    }
    assert unpacked(packed(tmp_path / "a.zip", members), tmp_path / "into") == {
        "0001/x_0000.nii.gz": b"1",
        "0001/x_0001.nii.gz": b"2",
        "0002/x_0000.nii.gz": b"3",
        "0003/r": b"",
    }


def test_names_are_cleaned_and_told_apart(tmp_path: Path) -> None:
    long = "n" * 300 + ".nii.gz"
    members = {
        "a/M\u00fcller J\u00f6rg?.dcm": b"1",
        "a/m\u00fcller_j\u00f6rg_.DCM": b"2",
        "a/nul": b"3",
        "a/CON.nii": b"4",
    }
    members |= {f"a/{long}": b"5", "a/.hidden": b"6", "a/...": b"7", "a\\x\\y.dcm": b"8", "folder\\": b"", "f/": b""}
    found = unpacked(packed(tmp_path / "a.zip", members), tmp_path / "into")
    assert found == {
        "0001/M\u00fcller_J\u00f6rg_.dcm": b"1",
        "0001/2-m\u00fcller_j\u00f6rg_.DCM": b"2",
        "0001/_nul": b"3",
        "0001/_CON.nii": b"4",
        f"0001/{'n' * 76}{'n' * 17}.nii.gz": b"5",
        "0001/.hidden": b"6",
        "0001/_": b"7",
        "0002/y.dcm": b"8",
    }


def test_content_tells_archives_from_other_files(tmp_path: Path) -> None:
    assert is_zip(packed(tmp_path / "no.suffix", {"a": b"1"}))
    assert is_zip(packed(tmp_path / "empty.zip", {}))
    (dicom,) = save_all(some_series(1).datasets(), tmp_path / "dicom")
    dicom.write_bytes(b"PK\x03\x04" + dicom.read_bytes()[4:])
    assert not is_zip(dicom)
    (tmp_path / "text.zip").write_text("text")
    assert not is_zip(tmp_path / "text.zip")
    assert not is_zip(tmp_path / "absent")


def test_an_empty_archive_gives_nothing(tmp_path: Path) -> None:
    assert unpacked(packed(tmp_path / "a.zip", {}), tmp_path / "into") == {}


@pytest.mark.parametrize(
    "name",
    [
        "../secret",
        "a/../../secret",
        "/etc/secret",
        "C:secret",
        "c:\\secret",
        "..\\secret",
        "\\\\host\\secret",
        "a/../b",
    ],
)
def test_paths_that_lead_out_are_refused(tmp_path: Path, name: str) -> None:
    assert "leads out" in refusal(packed(tmp_path / "a.zip", {"fine": b"1", name: b"2"}))


@pytest.mark.parametrize("kind", [stat.S_IFLNK, stat.S_IFIFO, stat.S_IFCHR, stat.S_IFSOCK])
def test_links_and_special_files_are_refused(tmp_path: Path, kind: int) -> None:
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as made:
        made.writestr("fine", b"1")
        member = zipfile.ZipInfo("secret")
        member.external_attr = (kind | 0o777) << 16
        made.writestr(member, "/etc/passwd")
    assert ("a link" if kind == stat.S_IFLNK else "a special file") in refusal(path)


def test_encrypted_members_are_refused(tmp_path: Path) -> None:
    path = packed(tmp_path / "a.zip", {"secret": b"1" * 50}, zipfile.ZIP_STORED)
    raw = path.read_bytes()
    path.write_bytes(raw.replace(b"PK\x01\x02\x14\x03\x14\x00\x00\x00", b"PK\x01\x02\x14\x03\x14\x00\x01\x00"))
    assert path.read_bytes() != raw
    assert "encrypted" in refusal(path)


@pytest.mark.parametrize("how", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_other_ways_of_packing_are_refused(tmp_path: Path, how: int) -> None:
    assert "packed in a way" in refusal(packed(tmp_path / "a.zip", {"x": b"1" * 99}, how))


def test_a_bomb_is_stopped_by_its_real_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive, "FREE_OF_RATIO", 1 << 20)
    path = packed(tmp_path / "a.zip", {"fine": os.urandom(5000), "secret": bytes(6 << 20)})
    assert path.stat().st_size < 20_000
    assert "200 times its size" in refusal(path)


def test_a_bomb_beside_honest_files_is_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive, "FREE_OF_RATIO", 1 << 20)
    path = packed(tmp_path / "a.zip", {"fine": os.urandom(100_000), "secret": bytes(3 << 20)})
    assert archive.MOST_RATIO * path.stat().st_size > 3 << 20
    assert "200 times its size" in refusal(path)


def test_many_small_bombs_are_stopped_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive, "FREE_OF_RATIO", 1 << 20)
    path = packed(tmp_path / "a.zip", {f"{k}": bytes(1 << 20) for k in range(6)})
    assert "200 times its size" in refusal(path)


def test_empty_slices_are_no_bombs(tmp_path: Path) -> None:
    path = packed(tmp_path / "a.zip", {f"{k}": bytes(1 << 19) for k in range(3)})
    assert len(unpacked(path, tmp_path / "into")) == 3


def test_a_header_that_lies_about_its_size_is_not_believed(tmp_path: Path) -> None:
    path = packed(tmp_path / "a.zip", {"secret": bytes(1 << 19)})
    raw = bytearray(path.read_bytes())
    entry = raw.index(b"PK\x01\x02")
    raw[entry + 24 : entry + 28] = struct.pack("<I", 10)  # the uncompressed size
    path.write_bytes(bytes(raw))
    assert "damaged" in refusal(path)


def test_more_than_the_disk_or_the_cap_holds_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = packed(tmp_path / "a.zip", {"x": os.urandom(2000)})
    monkeypatch.setattr(archive, "MOST_BYTES", 1000)
    assert "more than 1e-06 GB" in refusal(path)
    monkeypatch.undo()
    monkeypatch.setattr(archive.shutil, "disk_usage", lambda _: type("Usage", (), {"free": 1500})())
    assert "GB" in refusal(path)


def test_too_many_files_are_refused_before_they_are_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = packed(tmp_path / "a.zip", {f"{k}": b"" for k in range(30)})
    monkeypatch.setattr(archive, "MOST_FILES", 29)
    monkeypatch.setattr(archive.zipfile, "ZipFile", lambda _: pytest.fail("the list was read"))
    assert "more than 29 files" in refusal(path)


def test_a_list_longer_than_it_says_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = packed(tmp_path / "a.zip", {f"{k}": b"" for k in range(30)})
    raw = bytearray(path.read_bytes())
    end = raw.rindex(b"PK\x05\x06")
    raw[end + 8 : end + 12] = struct.pack("<HH", 3, 3)
    path.write_bytes(bytes(raw))
    monkeypatch.setattr(archive, "MOST_FILES", 29)
    assert "more than 29 files" in refusal(path)


@pytest.mark.parametrize("share", [0.2, 0.6, 0.95])
def test_a_cut_archive_is_refused(tmp_path: Path, share: float) -> None:
    path = packed(tmp_path / "a.zip", {"a": os.urandom(3000), "b": os.urandom(3000)})
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    assert "damaged" in refusal(path)


def test_a_spoilt_member_is_refused(tmp_path: Path) -> None:
    path = packed(tmp_path / "a.zip", {"a": b"x" * 3000}, zipfile.ZIP_STORED)
    path.write_bytes(path.read_bytes().replace(b"xxx", b"xyx", 1))
    assert "damaged (BadZipFile)" in refusal(path).replace("or packed in an unknown way ", "")


def test_an_existing_folder_is_left_alone(tmp_path: Path) -> None:
    path = packed(tmp_path / "a.zip", {"a": b"1"})
    (tmp_path / "into").mkdir()
    (tmp_path / "into" / "kept").touch()
    with pytest.raises(ResourceError):
        extract_zip(path, tmp_path / "into")
    assert (tmp_path / "into" / "kept").exists()
