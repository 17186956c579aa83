"""A case is known again without being read, and only where that is certain."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from medseg.errors import InputError
from medseg.files import SETTLED_S, output_of
from medseg.imaging.scans import Scan
from medseg.imaging.source import Source
from medseg.inference.manifests import Cases, stamp_of
from medseg.inference.records import Prediction, Unread, in_order_of_concern

LATER = SETTLED_S + 1


def scan(*paths: Path) -> Scan:
    return Scan("a", (Source("nifti", paths),), "a.nii")


def record(case: str, *warnings: str, **more: object) -> Prediction:
    return Prediction.model_validate(
        {
            "case": case,
            "input": "",
            "seconds": 1.0,
            "volumes_ml": {},
            "warnings": warnings,
            "deviation_mm": 0.0,
            "key": "k",
            "model": "m",
            "outputs": (),
            **more,
        }
    )


def test_a_stamp_is_of_sizes_and_times(tmp_path: Path) -> None:
    path = tmp_path / "a.nii"
    path.write_bytes(b"one")
    now = time.time() + LATER
    first = stamp_of(scan(path), now)
    assert first
    assert stamp_of(scan(path), now + 100) == first
    before = path.stat()
    path.write_bytes(b"two")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))  # as a copy with kept times would have it
    assert stamp_of(scan(path), now + 100) != first
    path.unlink()
    with pytest.raises(InputError, match="is there no more"):
        stamp_of(scan(path), now)


def test_a_file_that_was_changed_just_now_has_none(tmp_path: Path) -> None:
    path = tmp_path / "a.nii"
    path.write_bytes(b"one")
    assert stamp_of(scan(path), time.time()) == ""


def test_done_failed_and_forgotten(tmp_path: Path) -> None:
    cases = Cases(tmp_path)
    output = tmp_path / "a.liver.nii.gz"
    output.write_bytes(b"labels")
    (tmp_path / "other.nii.gz").write_bytes(b"labels")
    done = record("a", outputs=(output_of(output),))
    cases.fail(Unread(case="a", reason="was cut", model="m"))
    output.write_bytes(b"labels")
    cases.finish(done)
    assert cases.every() == ([done], [])
    assert cases.stands(done, "k")
    assert not cases.stands(done, "another")
    output.write_bytes(b"longer than it was")
    assert not cases.stands(done, "k")
    failure = Unread(case="a", reason="could not be read", model="m")
    cases.fail(failure)
    assert cases.every() == ([done], [failure])  # nothing says that what was found before is wrong
    cases.settle("a")
    assert cases.every() == ([done], [])
    cases.forget("a")
    assert cases.every() == ([], [])
    assert sorted(p.name for p in tmp_path.iterdir()) == ["cases", "other.nii.gz"]


def test_a_manifest_cannot_reach_out_of_the_folder(tmp_path: Path) -> None:
    out, outside = tmp_path / "out", tmp_path / "outside.nii.gz"
    outside.write_bytes(b"of somebody else")
    cases = Cases(out)
    cases.finish(record("a", outputs=({"name": "../outside.nii.gz", "bytes": 3, "sha256": ""},)))
    cases.forget("a")
    assert outside.exists()


def test_manifests_of_another_version_do_not_count(tmp_path: Path) -> None:
    cases = Cases(tmp_path)
    cases.finish(record("a", version=1))
    cases.fail(Unread(version=1, case="b", reason="old"))
    assert cases.done("a") is None
    assert cases.every() == ([], [])


def test_what_to_look_at_first_comes_first() -> None:
    ordered = in_order_of_concern([record("a"), record("c", "odd", "small"), record("b", "odd"), record("d", "odd")])
    assert [one.case for one in ordered] == ["c", "b", "d", "a"]
