from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from medseg.errors import InputError, RunError
from medseg.events import Note
from medseg.files import read_record
from medseg.imaging.volume import LabelMap
from medseg.inference import predictor as inference
from medseg.inference.averaging import spooled
from medseg.inference.held_out import read_held_out
from medseg.inference.model import ModelCard, load_model
from medseg.inference.predictor import load_predictor
from medseg.inference.records import Selection
from medseg.inference.window import network_input
from medseg.planning.plan import Name, Splits
from medseg.preprocessing.cache import load_cases
from medseg.preprocessing.resample import LINEAR, resampled
from medseg.training import select as selecting
from medseg.training.cascade import with_previous
from medseg.training.cleaning import dice_of
from medseg.training.select import Selected, select
from tests.tiny import CPU, slid, untrained_run
from tests.training.several import plan_for, references, run_of, train_fold, worse


def selected(run: Path) -> tuple[Selection, list[str]]:
    events = list(select(run, CPU))
    assert isinstance(events[-1], Selected)
    assert read_record(run / "selected.json", Selection) == events[-1].selection
    return events[-1].selection, [e.text for e in events if isinstance(e, Note)]


def all_folds(run: Path, name: Name, predictions: dict[str, LabelMap], folds: int = 5) -> None:
    for fold in range(folds):
        train_fold(run, name, fold, predictions)


def spoilt(labels: LabelMap) -> LabelMap:
    """With a stray voxel of the first structure far from it."""
    array = labels.array.copy()
    array[0, 0, 0] = 1
    return LabelMap(array, labels.grid, labels.names)


def test_the_better_configuration_is_chosen_and_cleaned(tmp_path: Path) -> None:
    run = run_of(tmp_path, ["3d", "2d"])
    true = references(run)
    all_folds(run, "3d", {name: worse(labels, 0.4) for name, labels in true.items()})
    all_folds(run, "2d", {name: spoilt(worse(labels, 0.05)) for name, labels in true.items()})
    found, notes = selected(run)
    assert notes == []
    assert found.members == ("2d",)
    assert [one.members for one in found.candidates] == [("2d",), ("3d",), ("2d", "3d")]
    assert found.cases == 6
    by_hand = [dice_of(t.array, spoilt(worse(t, 0.05)).array, {"1": (1,), "2": (2,)}) for t in true.values()]
    means = {name: float(np.mean([dice[name] for dice in by_hand])) for name in ("1", "2")}
    assert found.candidates[0].structures == {name: pytest.approx(mean) for name, mean in means.items()}
    assert found.candidates[0].dice == pytest.approx(np.mean(list(means.values())))
    assert set(found.qualities) == {"fast", "standard"}
    assert found.qualities["standard"] == pytest.approx(found.candidates[0].dice, abs=1e-4)
    assert found.qualities["fast"] < found.qualities["standard"]  # the network itself is untrained
    assert [step.what for step in found.cleaning]
    assert found.cleaned.structures["1"] > found.candidates[0].structures["1"]
    assert found.cleaned.structures["2"] >= found.candidates[0].structures["2"]


def softmax(logits: Any) -> Any:
    return torch.softmax(torch.from_numpy(np.asarray(logits)).double(), 0).numpy()


def test_a_pair_averages_probabilities_of_networks_that_did_not_see_the_case(tmp_path: Path) -> None:
    """Checked for every case of a fold against plain arithmetic; a choice begun goes on without predicting again."""
    run = run_of(tmp_path, ["3d", "3d_lowres", "3d_cascade"])
    true = references(run)
    for name in ("3d_lowres", "3d", "3d_cascade"):
        all_folds(run, name, true)  # type: ignore[arg-type]
    found, _ = selected(run)
    pairs = [("3d_lowres", "3d"), ("3d_lowres", "3d_cascade"), ("3d", "3d_cascade")]
    assert [one.members for one in found.candidates] == [("3d_lowres",), ("3d",), ("3d_cascade",), *pairs]
    assert found.members == ("3d_lowres",)  # all singles are perfect here: of equally good ones the first

    fold = 2
    for case in read_record(run / "splits.json", Splits).folds[fold].validation:
        probabilities = {}
        for name in ("3d_lowres", "3d", "3d_cascade"):
            plan = plan_for(run, name)  # type: ignore[arg-type]
            configuration = plan.configuration
            loaded = load_cases(run / "cache" / configuration.cache, [case], configuration.preprocessing)
            (one,) = with_previous(loaded, run, plan)
            image = network_input(one.image_CXYZ, one.previous_XYZ, configuration.network.in_channels)
            network = load_model(run / "folds" / name / str(fold), CPU).network
            logits = slid([network], image, configuration)
            probabilities[name] = softmax([resampled(one_, (16, 16, 16), LINEAR) for one_ in logits])
        for a, b in pairs:
            mean = (probabilities[a] + probabilities[b]) / 2
            kept = read_held_out(run / "folds" / f"{a}+{b}" / str(fold), case, true[case].grid, {}).array
            top = np.sort(mean, 0)
            clear = top[-1] - top[-2] > 1e-5
            assert clear.mean() > 0.99
            np.testing.assert_array_equal(kept[clear], mean.argmax(0)[clear])


def test_a_choice_that_was_begun_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = run_of(tmp_path, ["3d", "2d"])
    for name in ("3d", "2d"):
        all_folds(run, name, references(run))  # type: ignore[arg-type]
    first, _ = selected(run)
    spools = []
    monkeypatch.setattr(selecting, "spooled", lambda *given: spools.append(given) or spooled(*given))
    assert selected(run)[0] == first
    assert spools == []
    other = run / "folds" / "2d" / "1"
    for path in sorted(other.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    other.rmdir()
    train_fold(run, "2d", 1, references(run))
    card = other / "model.json"  # weights that are new
    network = load_model(run / "folds" / "2d" / "3", CPU)
    (other / "model.safetensors").write_bytes((run / "folds/2d/3/model.safetensors").read_bytes())
    card.write_text(network.card.model_copy(update={"fold": "1"}).model_dump_json())
    assert load_predictor(run, CPU).told[-1] == (
        "folds were trained or deleted since medseg select chose: run it again",
        True,
    )
    selected(run)
    held = len(read_record(run / "splits.json", Splits).folds[1].validation)
    assert len(spools) == 2 * held
    assert not any(warning for _, warning in load_predictor(run, CPU).told)


def test_only_cases_that_all_hold_out_count(tmp_path: Path) -> None:
    run = run_of(tmp_path, ["3d", "2d"])
    true = references(run)
    all_folds(run, "3d", true)
    train_fold(run, "2d", 0, true)
    found, notes = selected(run)
    held = read_record(run / "splits.json", Splits).folds[0].validation
    assert found.cases == len(held)
    assert notes == [f"2d: fold 1, 2, 3, 4 is not trained; the {len(held)} cases that all have count"]


def test_one_configuration_alone_is_cleaned(tmp_path: Path) -> None:
    run = run_of(tmp_path, ["3d"])
    true = references(run)
    all_folds(run, "3d", {name: spoilt(labels) for name, labels in true.items()})
    found, _ = selected(run)
    assert [one.members for one in found.candidates] == [("3d",)]
    assert found.cleaned.structures == {"1": 1.0, "2": 1.0}
    assert not (run / "folds" / "3d+2d").exists()


def test_folds_that_were_trained_to_very_different_amounts_are_named(tmp_path: Path) -> None:
    run = run_of(tmp_path, ["3d", "2d"])
    true = references(run)
    for name in ("3d", "2d"):
        for fold in (0, 1):
            path = train_fold(run, name, fold, true) / "model.json"
            steps = {("3d", 0): 100, ("3d", 1): 201}.get((name, fold), 50 + 50 * fold)
            path.write_text(read_record(path, ModelCard).model_copy(update={"steps": steps}).model_dump_json())
    _, notes = selected(run)
    uneven = [note for note in notes if "very different" in note]
    assert uneven == ["folds were trained to very different amounts, 3d: fold 0 for 100 steps, fold 1 for 201"]


def test_all_kept_predictions_are_looked_for_before_anything_is_predicted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = run_of(tmp_path, ["3d", "2d"])
    for name in ("3d", "2d"):
        all_folds(run, name, references(run), folds=2)
    spools: list[object] = []
    monkeypatch.setattr(selecting, "spooled", lambda *given: spools.append(given))
    case = read_record(run / "splits.json", Splits).folds[1].validation[-1]
    (run / "folds" / "3d" / "1" / "held_out" / f"{case}.safetensors").unlink()
    what = rf"predictions of validation cases are missing or damaged \(3d/1: {case}\); delete these folds and train"
    with pytest.raises(RunError, match=what):
        selected(run)
    assert spools == []


def test_one_patient_gives_nothing_to_choose_by(tmp_path: Path) -> None:
    run = untrained_run(tmp_path)
    with pytest.raises(RunError, match=r"there are no folds with validation cases .*; plan with labelled cases of"):
        selected(run)


def test_what_cannot_be_chosen_from(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="is not a run of medseg"):
        selected(tmp_path)
    run = run_of(tmp_path, ["3d", "2d"])
    with pytest.raises(RunError, match="no fold with validation cases is trained to its end; run medseg train run"):
        selected(run)
    true = references(run)
    train_fold(run, "3d", 0, true)
    train_fold(run, "2d", 1, true)
    with pytest.raises(RunError, match="no case is held out in all of 2d, 3d: they were trained on different folds"):
        selected(run)
    (run / "selected.json").write_text("{")
    with pytest.raises(InputError, match=r"is not a valid selection file .*run medseg select again, or delete it"):
        inference.load_predictor(run, CPU)
