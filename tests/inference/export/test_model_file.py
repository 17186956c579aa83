from __future__ import annotations

import hashlib
import io
import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medseg.errors import InputError, RunError
from medseg.evaluation.cohort import summarise
from medseg.evaluation.score import StructureScore
from medseg.evaluation.writing import write_scores
from medseg.events import Note
from medseg.files import RESEARCH_USE
from medseg.imaging.grid import Grid
from medseg.imaging.volume import Volume
from medseg.inference.case import predict
from medseg.inference.export.archive import unpacked
from medseg.inference.export.exporting import Wish, export
from medseg.inference.export.model_file import write_model_file
from medseg.inference.export.record import ModelFile
from medseg.inference.predictor import load_predictor, weights_digest
from medseg.inference.records import Candidate, Cleaning, Selection
from tests.tiny import CPU, blobs, untrained_run
from tests.training.several import run_of, train_fold

CLEANING = Cleaning(kind="largest", values=(1,), what="blob1")


def record_of(path: Path) -> ModelFile:
    with unpacked(path) as archive:
        return archive.record


def scored(fold: Path, cases: tuple[str, ...], dice: float) -> None:
    rows = [
        StructureScore(
            case=case, structure="1", status="scored", dice=dice, iou=dice, hd_mm=1.0, hd95_mm=1.0, assd_mm=1.0,
            nsd=1.0, boundary_f1=1.0, volume_ref_ml=1.0, volume_pred_ml=1.0,
        )
        for case in cases
    ]  # fmt: skip
    write_scores(fold / "validation", summarise(rows, dict.fromkeys(cases, 20.0)))


def chosen_run(root: Path) -> Path:
    """Two folds of a pair and of the first stage of a cascade, scored, with a choice."""
    run = run_of(root, ["3d", "3d_lowres", "3d_cascade"])
    for name in ("3d", "3d_lowres", "3d_cascade"):
        for fold in range(2):
            scored(train_fold(run, name, fold), (f"case{fold}",), 0.5 + 0.1 * fold)  # type: ignore[arg-type]
    one = Candidate(members=("3d", "3d_cascade"), dice=0.5, structures={"1": 0.5})
    made = Selection(members=one.members, cleaning=(CLEANING,), cases=6, models="", candidates=(one,), cleaned=one)
    (run / "selected.json").write_text(made.model_dump_json())
    return run


def test_a_file_predicts_as_its_run_does(tmp_path: Path) -> None:
    run, path = chosen_run(tmp_path), tmp_path / "m.medseg"
    write_model_file(run, path)
    ours, theirs = load_predictor(run, CPU), load_predictor(path, CPU)
    assert (theirs.key, theirs.members, theirs.folds) == (ours.key, ours.members, ours.folds)
    assert theirs.cleaning == (CLEANING,)
    assert list(theirs.models) == list(ours.models) == ["3d", "3d_lowres", "3d_cascade"]
    scan = [Volume(blobs(3)[0], Grid((16, 16, 16), np.eye(4)))]
    found, expected = (predict(one, scan, CPU).labels.array for one in (theirs, ours))
    assert len(np.unique(expected)) > 1
    np.testing.assert_array_equal(found, expected)


def test_what_the_record_says(tmp_path: Path) -> None:
    run, path = chosen_run(tmp_path), tmp_path / "m.medseg"
    written = write_model_file(run, path, folds=["1"], licence="CC-BY-4.0", notes="of blobs")
    record = record_of(path)
    assert record == written
    assert (record.licence, record.notes, record.notice) == ("CC-BY-4.0", "of blobs", RESEARCH_USE)
    assert [one.member for one in record.models] == [f"{n}/1.safetensors" for n in ("3d", "3d_lowres", "3d_cascade")]
    assert [s.name for s in record.structures] == list(record.plan.names.values())
    assert record.data is not None
    assert (record.data.cases, record.data.patients, sum(record.data.orientations.values())) == (6, 6, 6)
    assert record.data.spacing_mm[0].median == 1.0
    assert [s.cases for s in record.data.structures] == [6, 6]
    (of_3d, *_) = record.scores
    assert (of_3d.configuration, of_3d.folds, of_3d.cases) == ("3d", ("1",), 1)
    assert of_3d.structures[0].metrics["dice"].mean == pytest.approx(0.6)
    assert set(record.environment) >= {"medseg", "torch", "python"}


def test_scores_are_those_of_all_its_folds(tmp_path: Path) -> None:
    run, path = chosen_run(tmp_path), tmp_path / "m.medseg"
    scores = write_model_file(run, path).scores[0]
    assert (scores.folds, scores.cases) == (("0", "1"), 2)
    assert scores.structures[0].metrics["dice"].mean == pytest.approx(0.55)


def test_nothing_in_it_tells_of_a_case_or_a_place(tmp_path: Path) -> None:
    run, path = chosen_run(tmp_path), tmp_path / "m.medseg"
    write_model_file(run, path)
    whole = path.read_bytes()
    fingerprint = json.loads((run / "fingerprint.json").read_text())
    private = [str(tmp_path)]
    for case in fingerprint["cases"]:
        private += [case["case"], case["patient"], case["key"], case["whole"][0]["thumbnail"], case["labels"]]
    assert len(private) > 20
    assert not [word for word in private if word.encode() in whole]


def test_a_choice_among_other_folds_is_warned_of(tmp_path: Path) -> None:
    run = chosen_run(tmp_path)
    told = "folds were trained or deleted since medseg select chose: run it again"
    warned = [e.text for e in export(run, Wish(out=tmp_path / "m.medseg")) if isinstance(e, Note) and e.warning]
    assert warned == [told]
    made = Selection.model_validate_json((run / "selected.json").read_text())
    fresh = made.model_copy(update={"models": weights_digest(run, ("3d", "3d_cascade"))})
    (run / "selected.json").write_text(fresh.model_dump_json())
    assert not [e for e in export(run, Wish(out=tmp_path / "n.medseg")) if isinstance(e, Note) and e.warning]
    (run / "selected.json").unlink()
    assert not [e for e in export(run, Wish(out=tmp_path / "n.medseg")) if isinstance(e, Note) and e.warning]


def test_equal_content_gives_equal_bytes(tmp_path: Path) -> None:
    run = chosen_run(tmp_path)
    for name in ("a", "b"):
        write_model_file(run, tmp_path / f"{name}.medseg")
    assert (tmp_path / "a.medseg").read_bytes() == (tmp_path / "b.medseg").read_bytes()


def test_it_is_a_plain_zip_that_anyone_can_open(tmp_path: Path) -> None:
    path = tmp_path / "m.medseg"
    write_model_file(untrained_run(tmp_path), path)
    with zipfile.ZipFile(path) as whole:
        assert whole.testzip() is None
        assert whole.namelist() == ["model.json", "3d/0.safetensors"]
        assert {one.date_time for one in whole.infolist()} == {(1980, 1, 1, 0, 0, 0)}
        assert whole.comment.decode() == hashlib.sha256(path.read_bytes()[:-64]).hexdigest()


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    folder = tmp_path_factory.mktemp("whole")
    write_model_file(untrained_run(folder), folder / "m.medseg")
    return (folder / "m.medseg").read_bytes()


@given(data=st.data())
@settings(max_examples=150, deadline=None)
def test_any_flipped_bit_is_seen(data: Any, whole: bytes, tmp_path_factory: pytest.TempPathFactory) -> None:
    at = data.draw(st.integers(0, len(whole) - 1) | st.integers(len(whole) - 400, len(whole) - 1))
    damaged = bytearray(whole)
    damaged[at] ^= 1 << data.draw(st.integers(0, 7))
    refused(tmp_path_factory.getbasetemp() / "flipped.medseg", bytes(damaged))


@pytest.mark.parametrize("cut", [0, 1, 63, 64, 100, 1000])
def test_a_cut_file_is_refused(tmp_path: Path, whole: bytes, cut: int) -> None:
    refused(tmp_path / "m.medseg", whole[: len(whole) - cut] if cut else b"")
    refused(tmp_path / "m.medseg", whole + b"0" * max(cut, 1))


def refused(path: Path, content: bytes, match: str = "is no model file of medseg") -> None:
    path.write_bytes(content)
    with pytest.raises(InputError, match=match) as caught:
        load_predictor(path, CPU)
    assert "\n" not in str(caught.value)


def forged(whole: bytes, change: Callable[[dict[str, bytes]], None], how: int = zipfile.ZIP_STORED) -> bytes:
    """The same with other members, sealed as ours are."""
    with zipfile.ZipFile(io.BytesIO(whole)) as before:
        members = {name: before.read(name) for name in before.namelist()}
    change(members)
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", how) as after:
        after.comment = b"0" * 64
        for name, content in members.items():
            after.writestr(zipfile.ZipInfo(name), content, how)
    content = made.getvalue()[:-64]
    return content + hashlib.sha256(content).hexdigest().encode()


def said(**changes: object) -> Callable[[dict[str, bytes]], None]:
    def change(members: dict[str, bytes]) -> None:
        members["model.json"] = json.dumps(json.loads(members["model.json"]) | changes).encode()

    return change


def test_a_file_forged_alike_is_read(tmp_path: Path, whole: bytes) -> None:
    (tmp_path / "m.medseg").write_bytes(forged(whole, lambda _: None))
    assert load_predictor(tmp_path / "m.medseg", CPU).folds == ("0",)


def test_forged_members_are_refused(tmp_path: Path, whole: bytes) -> None:
    path, weights = tmp_path / "m.medseg", "3d/0.safetensors"
    other = "holds other files than its record names"
    refused(path, forged(whole, lambda m: m.update({"../../evil.sh": b""})), other)
    refused(path, forged(whole, lambda m: m.pop(weights)), other)
    refused(path, forged(whole, lambda m: m.update({"3d/1.safetensors": m.pop(weights)})), other)
    refused(path, forged(whole, lambda m: m.update({weights: m[weights][:-4] + b"\1\2\3\4"})), "are not those that it")
    refused(path, forged(whole, lambda m: m.clear()), "is no model file")
    refused(path, forged(whole, lambda _: None, zipfile.ZIP_DEFLATED), "holds compressed or encrypted files")


def test_forged_records_are_refused(tmp_path: Path, whole: bytes) -> None:
    path = tmp_path / "m.medseg"
    refused(path, forged(whole, said(version=2)), "it is of version 2, this medseg reads version 1")
    refused(path, forged(whole, said(more=1)), r"its model\.json is not valid \(more: Extra inputs")
    refused(path, forged(whole, said(models=[])), "models: Tuple should have at least 1 item")
    models = record_models(whole)
    models[0]["fold"] = "../0"
    refused(path, forged(whole, said(models=models)), r"'\.\./0' is no fold")


def record_models(whole: bytes) -> Any:
    with zipfile.ZipFile(io.BytesIO(whole)) as before:
        return json.loads(before.read("model.json"))["models"]


def test_other_files_are_no_models(tmp_path: Path) -> None:
    refused(tmp_path / "m.medseg", b"medseg")
    with zipfile.ZipFile(tmp_path / "m.zip", "w") as other:
        other.writestr("a", "b")
    refused(tmp_path / "n.medseg", (tmp_path / "m.zip").read_bytes())


def test_what_cannot_be_written(tmp_path: Path) -> None:
    run = untrained_run(tmp_path)
    with pytest.raises(InputError, match=r"a model file is called NAME\.medseg; give -o m\.medseg"):
        write_model_file(run, tmp_path / "m.zip")
    with pytest.raises(InputError, match=r"is a folder; a model file is called NAME\.medseg; give -o model\.medseg"):
        write_model_file(run, Path())
    with pytest.raises(InputError, match=r"is a folder; a model file is called NAME\.medseg; give -o .model\.medseg"):
        write_model_file(run, Path("/"))
    with pytest.raises(RunError, match="fold 4 of 3d is not there"):
        write_model_file(run, tmp_path / "m.medseg", ["4"])
    weights = run / "folds" / "3d" / "0" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    with pytest.raises(InputError, match="the weights are not those"):
        write_model_file(run, tmp_path / "m.medseg")
    with pytest.raises(RunError, match="is not a run of medseg"):
        write_model_file(tmp_path / "none", tmp_path / "m.medseg")
    assert not list(tmp_path.glob("*.medseg"))
    assert not list(tmp_path.glob(".part*"))
