from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from medseg.errors import InputError, RunError
from medseg.events import Note
from medseg.imaging.grid import Grid
from medseg.imaging.nifti import read_labels, write_volume
from medseg.imaging.volume import Volume
from medseg.inference.averaging import Answer, averaged
from medseg.inference.case import predict
from medseg.inference.export.model_file import write_model_file
from medseg.inference.folder import Inferred, infer_folder
from medseg.inference.postprocess import cleaned
from medseg.inference.predictor import Folds, load_predictor
from medseg.inference.records import Candidate, Cleaning, Selection
from medseg.inference.window import network_input
from medseg.planning.plan import Name
from medseg.preprocessing.prepare import prepare, prepare_labels
from tests.tiny import CPU, blobs, slid
from tests.training.several import plan_for, run_of, train_fold

FILL = Cleaning(kind="largest", values=(1,), what="1")


def choose(run: Path, members: tuple[Name, ...], cleaning: tuple[Cleaning, ...] = ()) -> None:
    one = Candidate(members=members, dice=0.5, structures={"1": 0.5})
    made = Selection(members=members, cleaning=cleaning, cases=6, models="old", candidates=(one,), cleaned=one)
    (run / "selected.json").write_text(made.model_dump_json())


def scan(seed: int = 9) -> Volume:
    return Volume(blobs(seed)[0], Grid((16, 16, 16), np.eye(4)))


def run_with_folds(root: Path) -> Path:
    run = run_of(root, ["3d", "2d", "3d_lowres", "3d_cascade"])
    for name, folds in (("3d", 2), ("2d", 1), ("3d_lowres", 2), ("3d_cascade", 1)):
        for fold in range(folds):
            train_fold(run, name, fold)  # type: ignore[arg-type]
    return run


def answer(run: Path, name: Name, previous: Answer | None = None) -> Answer:
    """What a configuration says of the scan, step by step."""
    plan, models = plan_for(run, name), load_predictor(run, CPU).models[name]
    prepared = prepare([scan()], plan.configuration.preprocessing)
    before = None
    if previous is not None:
        before = prepare_labels(averaged([previous], plan), prepared.undo, plan.values)
    image = network_input(prepared.image_CXYZ, before, plan.configuration.network.in_channels)
    logits = slid([m.network for m in models], image, plan.configuration)
    return Answer(np.moveaxis(logits, 0, -1), prepared.undo)


def test_without_a_choice_the_planned_configuration_predicts(tmp_path: Path) -> None:
    run = run_with_folds(tmp_path)
    predictor = load_predictor(run, CPU)
    assert (predictor.members, predictor.folds, predictor.told) == (("3d",), ("0", "1"), ())
    found = predict(predictor, [scan()], CPU)
    np.testing.assert_array_equal(found.labels.array, averaged([answer(run, "3d")], predictor.plan).array)


def test_a_chosen_pair_predicts_and_is_cleaned(tmp_path: Path) -> None:
    run = run_with_folds(tmp_path)
    choose(run, ("2d", "3d"), (FILL,))
    predictor = load_predictor(run, CPU)
    assert predictor.folds == ("0", "1")
    expected = averaged([answer(run, "2d"), answer(run, "3d")], predictor.plan)
    assert len(np.unique(expected.array)) > 1
    found = predict(predictor, [scan()], CPU)
    np.testing.assert_array_equal(found.labels.array, cleaned(expected, [FILL]).array)
    assert (found.labels.array != expected.array).any()


def test_a_cascade_reads_what_its_first_stage_found(tmp_path: Path) -> None:
    run = run_with_folds(tmp_path)
    choose(run, ("3d_cascade",))
    predictor = load_predictor(run, CPU)
    assert set(predictor.models) == {"3d_lowres", "3d_cascade"}
    low = answer(run, "3d_lowres")
    found = predict(predictor, [scan()], CPU)
    second = answer(run, "3d_cascade", low)
    np.testing.assert_array_equal(found.labels.array, averaged([second], predictor.plan).array)
    background = np.zeros_like(low.logits_XYZL)
    background[..., 0] = 1
    nothing = Answer(background, low.undo)
    assert (answer(run, "3d_cascade", nothing).logits_XYZL != second.logits_XYZL).any()
    choose(run, ("3d_lowres", "3d_cascade"))
    pair = predict(load_predictor(run, CPU), [scan()], CPU)
    np.testing.assert_array_equal(pair.labels.array, averaged([low, second], predictor.plan).array)


def test_a_folder_is_predicted_by_what_was_chosen_and_says_so(tmp_path: Path) -> None:
    run, out = run_with_folds(tmp_path), tmp_path / "out"
    write_volume(tmp_path / "scans" / "a.nii.gz", scan())

    def infer() -> tuple[Inferred, list[str]]:
        *events, last = infer_folder(run, tmp_path / "scans", out, CPU)
        assert isinstance(last, Inferred)
        return last, [e.text for e in events if isinstance(e, Note)]

    before, notes = infer()
    assert before.skipped == 0
    assert not any("select" in note or "post-processing" in note for note in notes)
    assert (before.predictions.configurations, before.predictions.postprocessing) == (("3d",), ())
    plain = read_labels(out / "a.nii.gz").array

    choose(run, ("2d", "3d"), (FILL,))
    after, notes = infer()
    assert after.skipped == 0
    assert "by medseg select: 2d + 3d" in notes
    assert "post-processing of 1: only the largest component is kept" in notes
    assert "folds were trained or deleted since medseg select chose: run it again" in notes
    said = json.loads((out / "predictions.json").read_text())
    assert said["configurations"] == ["2d", "3d"]
    assert said["postprocessing"] == ["1: only the largest component is kept"]
    assert (read_labels(out / "a.nii.gz").array != plain).any()
    assert infer()[0].skipped == 1
    choose(run, ("2d", "3d"))
    assert infer()[0].skipped == 0


def test_a_choice_whose_folds_are_gone(tmp_path: Path) -> None:
    run = run_of(tmp_path, ["3d", "3d_lowres", "3d_cascade"], n=4)
    train_fold(run, "3d", 0)
    choose(run, ("3d_cascade",))
    with pytest.raises(RunError, match="no fold of 3d_lowres is trained to its end; run medseg train run --conf"):
        load_predictor(run, CPU)
    choose(run, ("2d",))
    with pytest.raises(RunError, match="the plan has no configuration 2d; run medseg select again"):
        load_predictor(run, CPU)


@pytest.mark.parametrize(
    ("folds", "used"), [(None, ("0", "1", "2")), (1, ("0",)), (2, ("0", "1")), (9, ("0", "1", "2")), (["2"], ("2",))]
)
def test_only_some_folds(tmp_path: Path, folds: Folds, used: tuple[str, ...]) -> None:
    run = run_of(tmp_path, ["3d"])
    for fold in range(3):
        train_fold(run, "3d", fold)
    write_model_file(run, tmp_path / "m.medseg")
    weights = [load_predictor(run, CPU).models["3d"][int(fold)].card.weights_sha256 for fold in used]
    for path in (run, tmp_path / "m.medseg"):
        predictor = load_predictor(path, CPU, folds)
        assert predictor.folds == used
        assert [model.card.weights_sha256 for model in predictor.models["3d"]] == weights
    assert (load_predictor(run, CPU, folds).key == load_predictor(run, CPU).key) == (len(used) == 3)


def test_the_fold_of_all_cases_is_the_first(tmp_path: Path) -> None:
    run = run_of(tmp_path, ["3d"])
    train_fold(run, "3d", 0).rename(run / "folds" / "3d" / "all")
    train_fold(run, "3d", 0)
    assert load_predictor(run, CPU, 1).folds == ("all",)


def test_folds_that_are_not_there(tmp_path: Path) -> None:
    run = run_of(tmp_path, ["3d"])
    train_fold(run, "3d", 0)
    with pytest.raises(RunError, match="fold 3 of 3d is not there, or not trained to its end; give some of 0"):
        load_predictor(run, CPU, ["3"])
    with pytest.raises(InputError, match="0 folds predict nothing"):
        load_predictor(run, CPU, 0)
