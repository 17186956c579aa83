from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from medseg.errors import InputError
from medseg.events import Event
from medseg.imaging.inspect import Inspected, Inspection
from medseg.imaging.inspect import inspect as looking
from tests.imaging.build import PATIENT, save_all, some_image, some_label, some_series, write_nifti
from tests.imaging.labelled_build import box, label, series
from tests.imaging.test_dataset import decathlon

KEY = "5ec2e7"


def inspect(path: Path, key: str, headers: bool = False) -> Inspection:
    *events, found = looking(path, key, headers=headers)
    assert all(isinstance(event, Event) for event in events)
    assert isinstance(found, Inspected)
    return found.inspection


def test_a_dataset_and_its_problems(tmp_path: Path) -> None:
    root = decathlon(tmp_path / "Task03", n=8)
    image, its_label = (lambda i: root / f"imagesTr/liver_{i}.nii.gz"), (lambda i: root / f"labelsTr/liver_{i}.nii.gz")
    image(1).write_bytes(image(1).read_bytes()[:200])
    write_nifti(its_label(2), some_label(0))
    write_nifti(its_label(3), some_label(9))
    write_nifti(its_label(4), some_label(), np.diag([1, 1, 3, 1]))
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


def test_labelled_cases_are_given_away_whole_and_judged_elsewhere(tmp_path: Path) -> None:
    root = decathlon(tmp_path / "Task03", n=4)
    (root / "imagesTr/liver_1.nii.gz").write_bytes(b"cut")
    write_nifti(root / "labelsTr/liver_2.nii.gz", some_label(0))
    given = []
    *_, found = looking(root, KEY, examine=lambda *what: given.append(what))
    assert isinstance(found, Inspected)
    assert found.labelled == ("liver_0", "liver_1", "liver_2", "liver_3")
    assert [case.name for case, *_ in given] == ["liver_0", "liver_2", "liver_3"]
    _, dataset, readings, labels, notes = given[0]
    assert dataset.channels == ("CT",)
    assert readings[0].volume.array.shape == labels.array.shape == (6, 5, 4)
    assert labels.present == (1,)
    assert notes == ()
    looks = {look.name: look for look in found.inspection.cases}
    assert [bool(look.problems) for look in looks.values()] == [False, True, False, False]
    assert looks["liver_2"].labels == ()
    assert not found.inspection.is_fine


def test_a_label_that_cannot_be_read_leaves_the_geometry(tmp_path: Path) -> None:
    root = decathlon(tmp_path / "Task03", n=1)
    label = root / "labelsTr/liver_0.nii.gz"
    label.write_bytes(label.read_bytes()[:-9])
    (look,) = inspect(root, KEY).cases
    assert len(look.problems) == 1
    assert "[TRUNCATED]" in look.problems[0]
    assert look.shape == (6, 5, 4)


def test_headers_alone_give_no_case_away(tmp_path: Path) -> None:
    root = decathlon(tmp_path / "Task03", n=2)
    (root / "imagesTr/liver_1.nii.gz").write_bytes(b"cut")
    *_, found = looking(root, KEY, headers=True, examine=lambda *_: pytest.fail("was read"))
    assert isinstance(found, Inspected)
    assert found.inspection.is_fine


def test_labelled_dicom_is_given_away_whole(tmp_path: Path) -> None:
    for i in range(2):
        volume = series(tmp_path / f"{i}", seed=i, patient=f"{PATIENT} {i}")
        label(tmp_path / f"{i}" / "labels.dcm", volume, box())
    series(tmp_path / "unlabelled", seed=7, patient="other")
    given = []
    *_, found = looking(tmp_path, KEY, examine=lambda *what: given.append(what))
    assert isinstance(found, Inspected)
    assert len(found.inspection.cases) == 3
    assert sorted(case.name for case, *_ in given) == sorted(found.labelled)
    assert len(found.labelled) == 2
    assert all(labels.present and case.patient.startswith("patient-") for case, _, _, labels, _ in given)
    assert [bool(look.labels) for look in found.inspection.cases].count(True) == 2
