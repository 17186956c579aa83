from __future__ import annotations

import csv
import json
import math
import re

import numpy as np
import pytest

from medseg.errors import InputError
from medseg.evaluation import folders
from medseg.evaluation.folders import Evaluation, evaluate_folders
from medseg.evaluation.records import Scores
from medseg.evaluation.settings import Settings
from medseg.events import Advanced, Note, Stage
from medseg.files import read_record
from medseg.imaging.grid import Grid
from medseg.imaging.nifti import read_labels, write_labels, write_shares
from medseg.imaging.volume import LabelMap
from tests.imaging.build import some_series
from tests.imaging.dicom.test_seg import made_seg, saved
from tests.imaging.test_itk import seg_nrrd


def write(path, begin=2, shape=(10, 9, 8), offset=0.0):
    affine = np.diag([1.0, 1.0, 2.0, 1.0])
    affine[0, 3] = offset
    array = np.zeros(shape, np.uint8)
    array[begin : begin + 3, 2:6, 2:6] = 1
    array[7:9, 2:6, 2:4] = 2
    write_labels(path, LabelMap(array, Grid(shape, affine), {}))


@pytest.fixture
def places(tmp_path):
    predictions, references = tmp_path / "out", tmp_path / "labels"
    for case, begin in (("a", 2), ("b", 3), ("c", 2)):
        write(references / f"{case}.nii.gz")
        write(predictions / f"{case}.nii.gz", begin)
    return predictions, references, tmp_path / "scores"


def run(*arguments, **options):
    *events, last = evaluate_folders(*arguments, **options)
    assert isinstance(last, Evaluation)
    return events, last


def test_a_cohort(places):
    events, evaluation = run(*places, names={1: "liver", 2: "spleen"})
    assert events[0] == Stage("evaluate", 3, "about 1 s")
    assert [event.done for event in events[1:]] == [1, 2, 3]
    assert all(isinstance(event, Advanced) for event in events[1:])
    assert events[1].what == "a Dice 1.000"

    with evaluation.csv.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["case"], row["structure"]) for row in rows] == [
        (case, structure) for case in "abc" for structure in ("liver", "spleen")
    ]
    assert float(rows[2]["dice"]) == pytest.approx(2 / 3)
    assert float(rows[2]["hd_mm"]) == 1
    json.loads(evaluation.json.read_text(), parse_constant=pytest.fail)
    assert read_record(evaluation.json, Scores) == evaluation.scores
    assert evaluation.failed == {}


def nested_labels(predictions, references, **said):
    (references / "dataset.json").write_text(json.dumps({"labels": {"background": 0, "whole": [1, 2], "core": 2}}))
    labels = {"1": "rest of whole", "2": "core"}
    (predictions / "predictions.json").write_text(json.dumps({"labels": labels, **said}))


@pytest.mark.parametrize("told_by", ["predictions", "references", "predictions alone"])
def test_the_mean_is_over_the_regions_that_were_trained(places, told_by):
    """Plain labels have rows too; the mean of a cohort and of a case are over regions."""
    regions = {"regions": {"whole": [1, 2], "core": [2]}} if told_by != "references" else {}
    nested_labels(places[0], places[1], **regions)
    path = places[1] / "dataset.json"
    if told_by == "references":
        path.write_text(json.dumps(json.loads(path.read_text()) | {"regions_class_order": [1, 2]}))
    elif told_by == "predictions alone":
        path.unlink()
    events, evaluation = run(*places)
    scores = evaluation.scores
    dice = {s.structure: s.metrics["dice"].mean for s in scores.structures}
    assert set(dice) == {"rest of whole", "core", "whole"}
    assert set(scores.mean_over) == {"whole", "core"}
    assert dice["rest of whole"] < dice["whole"] < 1
    assert scores.mean_over_structures["dice"].n == 2
    assert scores.mean_over_structures["dice"].mean == pytest.approx((dice["whole"] + dice["core"]) / 2)
    of_b = [row.dice for row in scores.scores if row.case == "b" and row.structure in ("whole", "core")]
    assert scores.worst_cases[0].dice == pytest.approx(sum(of_b) / 2)
    assert events[2].what == f"b Dice {sum(of_b) / 2:.3f}"


def test_where_plain_labels_were_trained_the_mean_is_over_all(places):
    nested_labels(places[0], places[1], regions={})
    _, evaluation = run(*places)
    assert evaluation.scores.mean_over == ()
    assert evaluation.scores.mean_over_structures["dice"].n == 3


def test_missing_and_unpaired_predictions(places):
    predictions, references, out = places
    (predictions / "a.nii.gz").rename(predictions / "z.nii.gz")
    events, evaluation = run(predictions, references, out)
    assert evaluation.missing_predictions == ("a",)
    assert evaluation.unpaired_predictions == ("z",)
    warnings = [event.text for event in events if isinstance(event, Note) and event.warning]
    assert len(warnings) == 2
    assert "missed: a" in warnings[0]
    assert "not scored: z" in warnings[1]
    of_a = [row for row in evaluation.scores.scores if row.case == "a"]
    assert [(row.structure, row.status, row.hd_mm) for row in of_a] == [
        ("1", "missed", math.inf),
        ("2", "missed", math.inf),
    ]
    assert {row.case for row in evaluation.scores.scores} == {"a", "b", "c"}
    hd = evaluation.scores.structures[0].metrics["hd_mm"]
    assert hd.mean_penalised == pytest.approx((math.hypot(10, 9, 16) + 1 + 0) / 3)


def test_bad_cases_are_named_and_the_others_go_on(places):
    predictions, references, out = places
    (predictions / "a.nii.gz").write_bytes(b"nothing")
    write(predictions / "b.nii.gz", offset=5.0)
    events, evaluation = run(predictions, references, out)
    assert sorted(evaluation.failed) == ["a", "b"]
    assert evaluation.failed["a"].startswith("prediction: [NOT_NIFTI] is not a NIfTI file")
    assert "lie 5 mm apart" in evaluation.failed["b"]
    assert str(predictions) not in evaluation.json.read_text()
    status = {(row.case, row.status) for row in evaluation.scores.scores}
    assert {("a", "missed"), ("b", "missed"), ("c", "scored")} <= status  # a failure counts, it is never dropped
    assert len([event for event in events if isinstance(event, Note) and event.warning]) == 2
    assert evaluation.scores.failed == evaluation.failed


def test_in_other_processes_the_scores_are_the_same(places, monkeypatch):
    _, here = run(*places)
    monkeypatch.setattr(folders, "SECONDS_PER_CASE", 100.0)
    _, there = run(*places)
    assert there.scores == here.scores


def test_single_files_and_names_of_the_dataset(places):
    predictions, references, out = places
    (references.parent / "dataset.json").write_text(
        '{"labels": {"background": 0, "liver": 1, "spleen": 2, "stent": 3}}'
    )
    _, evaluation = run(predictions / "b.nii.gz", references / "b.nii.gz", out)
    assert [(row.structure, row.status) for row in evaluation.scores.scores] == [
        ("liver", "scored"),
        ("spleen", "scored"),
        ("stent", "both_empty"),
    ]


def test_wrong_use(places, tmp_path):
    predictions, references, out = places
    with pytest.raises(InputError, match="tolerance"):
        run(predictions, references, out, settings=Settings(tolerances_mm=(-1,)))
    with pytest.raises(InputError, match="no such file or folder"):
        run(tmp_path / "nowhere", references, out)
    with pytest.raises(InputError, match="several label values"):
        run(predictions, references, out, names={1: "a", 2: "a"})
    assert not out.exists()


def test_structures_that_the_predictions_do_not_know_are_told(tmp_path):
    predictions, references = tmp_path / "out", tmp_path / "labels"
    write(predictions / "a.nii.gz")
    (predictions / "predictions.json").write_text('{"labels": {"1": "liver", "2": "spleen"}}')
    references.mkdir()
    array = np.zeros((6, 5, 4), np.uint8)
    array[1], array[2] = 1, 2
    said = [{"Name": name, "LabelValue": value, "Layer": "0"} for name, value in (("hepar", "1"), ("Spleen", "2"))]
    seg_nrrd(references / "a.seg.nrrd", array, *said)
    seg_nrrd(references / "b.seg.nrrd", array, *said)
    events, evaluation = run(predictions, references, tmp_path / "scores")
    told = [event.text for event in events if isinstance(event, Note) and event.warning and "hepar" in event.text]
    assert told == ["reference structure 'hepar' is not in the predictions: not scored"]
    assert {row.structure for row in evaluation.scores.scores} == {"liver", "spleen"}


def test_names_of_dicom_references_are_nowhere(tmp_path):
    predictions, references = tmp_path / "out", tmp_path / "labels"
    write(predictions / "a.nii.gz")
    write(references / "a.nii.gz")
    (references / "Mueller_Joerg").mkdir()
    built = some_series(4)
    array = np.zeros(built.stored.shape, np.uint8)
    array[1, 1:3, 1:3] = 1
    saved(references / "Mueller_Joerg" / "Mueller 1950.dcm", made_seg(built, array, names=["liver"]))
    (references / "dataset.json").write_text('{"labels": {"background": 0, "liver": 1, "spleen": 2}}')
    events, evaluation = run(predictions, references, tmp_path / "scores")
    (lone,) = evaluation.missing_predictions
    assert re.fullmatch("seg-[0-9a-f]{8}", lone)
    assert next((r.status, r.dice) for r in evaluation.scores.scores if r.case == lone) == ("missed", 0)
    written = evaluation.csv.read_text() + evaluation.json.read_text() + "".join(map(str, events))
    assert "Mueller" not in written


def test_a_prediction_on_other_voxels_is_refused_or_resampled_and_told(places):
    predictions, references, out = places
    write(predictions / "a.nii.gz", offset=0.4)
    array = np.zeros((20, 18, 16), np.uint8)
    array[4:10, 4:12, 4:12] = 1
    array[14:18, 4:12, 4:8] = 2
    affine = np.diag([0.5, 0.5, 1.0, 1.0])
    affine[:3, 3] = (-0.25, -0.25, -0.5)
    write_labels(predictions / "b.nii.gz", LabelMap(array, Grid(array.shape, affine), {}))
    _, refused = run(predictions, references, out)
    assert set(refused.failed) == {"a", "b"}
    assert "lie 0.4 mm apart; predict on the reference's grid, or give --resample" in refused.failed["a"]
    events, evaluation = run(predictions, references, out, Settings(resample=True))
    assert not evaluation.failed
    told = [event.text for event in events if isinstance(event, Note)]
    near = "prediction: brought onto the reference's grid by the nearest voxel"
    assert told == [f"a: {near} (its corners lay 0.4 mm away)", f"b: {near} (it had the shape (20, 18, 16))"]
    rows = {(row.case, row.structure): row.dice for row in evaluation.scores.scores}
    assert rows["a", "1"] == rows["b", "1"] == rows["b", "2"] == 1


def test_probabilities_beside_a_prediction_are_judged(places):
    predictions, references, _ = places
    shape, affine = (10, 9, 8), np.diag([1.0, 1.0, 2.0, 1.0])
    said = {"labels": {"1": "liver", "2": "spleen"}, "cases": [{"case": c} for c in "abc"]}
    said["cases"][0]["probabilities_of"] = said["cases"][1]["probabilities_of"] = ["background", "liver", "spleen"]
    (predictions / "predictions.json").write_text(json.dumps(said))
    right = np.zeros((*shape, 3), np.uint16)
    labels = read_labels(references / "a.nii.gz").array
    for value in range(3):
        right[..., value][labels == value] = 65535
    write_shares(predictions / "a.probabilities.nii.gz", right, Grid(shape, affine))
    (predictions / "b.probabilities.nii.gz").write_bytes(b"nothing")
    events, evaluation = run(*places)
    rows = {(row.case, row.structure): row for row in evaluation.scores.scores}
    assert (rows["a", "liver"].value("ece"), rows["a", "spleen"].value("brier")) == (0, 0)
    assert rows["b", "liver"].value("ece") is None
    assert rows["b", "liver"].status == "scored"
    assert any("calibration is not measured" in event.text for event in events if isinstance(event, Note))
    assert evaluation.scores.structures[0].metrics["ece"].n == 1
    assert evaluation.unpaired_predictions == ()
    assert read_record(evaluation.json, Scores) == evaluation.scores


def test_lesions_and_centrelines_where_they_are_asked_for(places):
    _, evaluation = run(*places, Settings(instances=("1",), tubular=("2",), min_lesion_mm3=2.0))
    first, second = (row for row in evaluation.scores.scores if row.case == "b")
    assert (first.value("lesions_ref"), first.value("lesion_f1"), first.value("rq")) == (1, 1, 0)
    assert first.value("pq") == 0
    assert (second.value("centreline_dice"), second.value("lesions_ref")) == (1, None)
    assert set(evaluation.scores.metrics) >= {"lesion_f1", "centreline_dice", "nsd_2mm"}


def test_groups_and_patients_of_a_metadata_file(places, tmp_path):
    table = tmp_path / "cases.csv"
    table.write_text("case,patient,site\na,Mueller,north\nb,Mueller,south\nc,Huber,south\nz,Maier,south\n")
    events, evaluation = run(*places, metadata=table, by=["site"])
    assert {(s.column, s.value, s.n) for s in evaluation.scores.strata} == {("site", "north", 1), ("site", "south", 2)}
    assert evaluation.scores.patients == {"a": 1, "b": 1, "c": 2}
    assert any("1 case" in event.text for event in events if isinstance(event, Note))
    written = "".join(path.read_text() for path in places[2].rglob("*") if path.is_file())
    assert "Mueller" not in written
    with pytest.raises(InputError, match="scanner"):
        run(*places, metadata=table, by=["scanner"])
    with pytest.raises(InputError, match="needs --metadata"):
        run(*places, by=["site"])


@pytest.mark.parametrize(("tolerances_mm", "warned"), [((1.0, 2.0), False), ((2.0, 0.9), True)])
def test_a_tolerance_finer_than_the_voxels_is_told(places, tolerances_mm, warned):
    events, _ = run(*places, Settings(tolerances_mm=tolerances_mm))
    told = [event.text for event in events if isinstance(event, Note) and event.warning]
    begins = "a tolerance of 0.9 mm is less than half of the distance between voxels in 3 case(s) (up to 2 mm)"
    assert [text.split(":")[0] for text in told] == ([begins] if warned else [])
