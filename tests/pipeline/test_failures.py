"""What failed stands beside what was done, until it is done."""

from __future__ import annotations

from pathlib import Path

from medseg.files import read_record
from medseg.parts import Part
from medseg.pipeline import steps
from medseg.pipeline.failures import Failures, note_failures
from tests.tiny import untrained_run, write_dataset


def test_it_stands_until_none_is_left(tmp_path: Path) -> None:
    note_failures(tmp_path, "infer", {"b": "is cut short", "a": "its process was killed 3 times"})
    found = read_record(tmp_path / "failed.json", Failures)
    assert list(found.cases) == ["a", "b"]
    assert found.verb == "infer"
    note_failures(tmp_path, "infer", {"c": "is cut short"}, Part(1, 2))
    assert read_record(tmp_path / "failed-1-of-2.json", Failures).cases == {"c": "is cut short"}
    note_failures(tmp_path, "infer", {})
    assert not (tmp_path / "failed.json").exists()
    assert (tmp_path / "failed-1-of-2.json").exists()


def test_every_verb_that_maps_over_cases_writes_it(tmp_path: Path) -> None:
    data, model = write_dataset(tmp_path / "data", 4), untrained_run(tmp_path)
    whole = (data / "images" / "case1.nii.gz").read_bytes()
    label = (data / "labels" / "case2.nii.gz").read_bytes()
    run, out, scores = tmp_path / "r", tmp_path / "out", tmp_path / "scores"
    sides = (out, data / "labels", scores)

    def all_three() -> None:
        list(steps.plan(data, run, budget="2steps", device="cpu"))
        list(steps.infer(model, data / "images", out, "cpu", report=False))
        list(steps.evaluate(*sides, report=False))

    (data / "images" / "case1.nii.gz").write_bytes(whole[:100])
    (data / "labels" / "case2.nii.gz").write_bytes(label[:100])
    all_three()
    assert set(read_record(run / "failed.json", Failures).cases) == {"case1", "case2"}
    assert set(read_record(out / "failed.json", Failures).cases) == {"case1"}
    assert set(read_record(scores / "failed.json", Failures).cases) == {"case2"}
    (data / "images" / "case1.nii.gz").write_bytes(whole)
    (data / "labels" / "case2.nii.gz").write_bytes(label)
    all_three()
    assert not [path for folder in (run, out, scores) for path in folder.glob("failed*.json")]
