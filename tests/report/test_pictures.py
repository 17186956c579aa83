from __future__ import annotations

import pytest

from medseg.errors import InputError
from medseg.evaluation.pairing import Pair
from medseg.evaluation.scoring import drawn_pair
from medseg.events import Note
from medseg.imaging.nifti import write_labels, write_volume
from medseg.imaging.structures import Structures
from medseg.imaging.volume import Volume
from medseg.pipeline import steps
from medseg.report.frame import frame_of
from medseg.report.pictures import Asked, Task, picture_of, scans_by_case, window_of
from tests.report.scenes import labels, scan

KNOWN = Structures({1: "liver", 2: "kidney"})


@pytest.fixture
def pair(tmp_path):
    write_labels(tmp_path / "labels" / "a.nii.gz", labels())
    write_labels(tmp_path / "out" / "a.nii.gz", labels(shift=2))
    return Pair("a", tmp_path / "labels" / "a.nii.gz", tmp_path / "out" / "a.nii.gz")


def test_a_prediction_that_cannot_be_used_is_drawn_as_an_empty_one(pair):
    reference, prediction = drawn_pair(pair, KNOWN)
    assert reference.present == prediction.present == (1, 2)
    pair.prediction.write_bytes(b"no labels")
    reference, prediction = drawn_pair(pair, KNOWN)
    assert reference.present == (1, 2)
    assert prediction.present == ()
    pair.reference.write_bytes(b"no labels")
    with pytest.raises(InputError, match="reference"):
        drawn_pair(pair, KNOWN)


def test_a_picture_tells_where_to_look(pair):
    made = picture_of(Task(pair), Asked(KNOWN, {"liver": 1.0, "kidney": 1.0}))
    assert made.places[0].text.startswith(("liver: ", "kidney: "))
    assert "axial slice " in made.places[0].text
    assert made.scene is not None
    assert made.own is None
    assert "no scan was given" in made.note


def test_windows_of_ct_and_of_others():
    like = labels()
    volume = scan(like)
    frame = frame_of([like.array], like.grid)
    assert window_of(volume, frame, like.array).unit == ""
    array = volume.array.copy()
    array[0, 0, 0] = -1000
    ct = window_of(Volume(array, like.grid), frame, like.array)
    assert ct.said() == "\u2212160 to 240 HU"
    assert ct.kept[0] <= -160
    assert ct.kept[1] >= 240
    flat = window_of(Volume(array * 0 + 7, like.grid), frame, like.array)
    assert flat.kept[0] < 7 < flat.kept[1]


def test_scans_by_the_name_of_their_case(pair, tmp_path):
    write_volume(tmp_path / "scans" / "a_0000.nii.gz", scan(labels()))
    assert list(scans_by_case(tmp_path / "scans", tmp_path / "out")) == ["a"]
    with pytest.raises(InputError, match="no such"):
        scans_by_case(tmp_path / "nowhere", tmp_path / "out")


def test_evaluate_writes_the_report_unless_told_otherwise(pair, tmp_path):
    write_volume(tmp_path / "scans" / "b.nii.gz", scan(labels()))
    *events, last = steps.evaluate(tmp_path / "out", tmp_path / "labels", tmp_path / "one", scans=tmp_path / "scans")
    assert (tmp_path / "one" / "report.html").is_file()
    assert any(isinstance(event, Note) and "no scan has the name of a case" in event.text for event in events)
    assert any(isinstance(event, Note) and event.text.startswith("report: ") for event in events)
    assert last.json.is_file()
    list(steps.evaluate(tmp_path / "out", tmp_path / "labels", tmp_path / "two", report=False))
    assert not (tmp_path / "two" / "report.html").exists()
    with pytest.raises(InputError, match="no such"):
        list(steps.evaluate(tmp_path / "out", tmp_path / "labels", tmp_path / "three", scans=tmp_path / "none"))
