from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from medseg.errors import InputError
from medseg.events import Event
from medseg.imaging.inspect import Inspected, Inspection
from medseg.imaging.inspect import inspect as looking
from tests.imaging.build import PATIENT, save_all, some_image, some_label, some_series, write_nifti
from tests.imaging.test_dataset import decathlon

KEY = "5ec2e7"


def inspect(path: Path, key: str, headers: bool = False) -> Inspection:
    *events, found = looking(path, key, headers=headers)
    assert all(isinstance(event, Event) for event in events)
    assert isinstance(found, Inspected)
    return found.inspection


def test_a_dataset_and_its_problems(tmp_path: Path) -> None:
    root = decathlon(tmp_path / "Task03", n=8)
    image, label = (lambda i: root / f"imagesTr/liver_{i}.nii.gz"), (lambda i: root / f"labelsTr/liver_{i}.nii.gz")
    image(1).write_bytes(image(1).read_bytes()[:200])
    write_nifti(label(2), some_label(0))
    write_nifti(label(3), some_label(9))
    write_nifti(label(4), some_label(), np.diag([1, 1, 3, 1]))
    write_nifti(image(5), some_image()[:, :, :1])
    write_nifti(image(6), np.zeros((6, 5, 4), np.int16))
    image(7).unlink()
    seen = inspect(root, KEY)
    assert (seen.name, seen.layout, seen.channels) == ("Task03", "decathlon", ("CT",))
    problems = {case.name: " | ".join(case.problems) for case in seen.cases}
    assert problems["liver_0"] == ""
    assert "[TRUNCATED]" in problems["liver_1"]
    assert "its label is empty" in problems["liver_2"]
    assert "value(s) 9" in problems["liver_3"]
    assert "mm away from their places" in problems["liver_4"]
    assert "single slice" in problems["liver_5"]
    assert "have the shape" in problems["liver_5"]
    assert "same value" in problems["liver_6"]
    assert [remark.where for remark in seen.left] == ["liver_7"]
    first = seen.cases[0]
    assert (first.shape, first.spacing_mm, first.orientation, first.labels) == ((6, 5, 4), (1, 1, 1), "RAS", ("liver",))
    text = seen.model_dump_json()
    assert str(tmp_path) not in text
    assert Inspection.model_validate_json(text) == seen


def test_scans_and_their_problems(tmp_path: Path) -> None:
    save_all(some_series(series="1").datasets(), tmp_path / PATIENT / "good")
    gap = some_series(6, series="2").datasets()
    del gap[2]
    save_all(gap, tmp_path / PATIENT / "gap")
    seen = inspect(tmp_path / PATIENT, KEY)
    assert seen.layout == ""
    by_source = {case.source: case for case in seen.cases}
    good, bad = by_source["DICOM CT series, 4 images"], by_source["DICOM CT series, 5 images"]
    assert (good.verdict, good.orientation, good.problems) == ("OK", "LPS", ())
    assert bad.verdict == "REFUSED(GAP)"
    assert bad.problems[0].startswith("[GAP]")
    assert [case.verdict for case in inspect(tmp_path / PATIENT, KEY, headers=True).cases] == [
        case.verdict for case in seen.cases
    ]
    assert not [part for part in (*PATIENT.split("^"), str(tmp_path)) if part in seen.model_dump_json()]


def test_nothing_there(tmp_path: Path) -> None:
    with pytest.raises(InputError):
        inspect(tmp_path, KEY)
