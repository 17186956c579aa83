from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch

from medseg.errors import InputError, ResourceError, RunError
from medseg.evaluation.records import Scores
from medseg.events import Note, Stage
from medseg.files import read_record, write_record
from medseg.inference.model import ModelCard, load_model
from medseg.planning.plan import Budget, Plan, Splits
from medseg.training import course, fold, looks
from medseg.training.run import FoldTrained, How, Trained, check_gpus, train, unlike_planned, use_folds
from tests.tiny import CPU, configuration, last, plan_of, planned_run


class Clock:
    """A clock that a second of work moves by `tick` at each look."""

    def __init__(self, tick: float) -> None:
        self.now, self.tick = 1000.0, tick

    def __call__(self) -> float:
        self.now += self.tick
        return self.now


def trained(run: Path, folds: Sequence[str] = ("0",), budget: Budget | None = None, **what: Any) -> Trained:
    summary = last(train(run, folds, budget, CPU, **what))
    assert isinstance(summary, Trained)
    return summary


def weights(run: Path, fold: str = "0") -> dict[str, torch.Tensor]:
    return load_model(run / "folds" / "3d" / fold, CPU).network.state_dict()


def killed_after(monkeypatch: pytest.MonkeyPatch, n: int) -> Callable[[], None]:
    """Let training die after `n` steps, each of which is saved; the function that is returned undoes it."""
    fit = fold.fit

    def dying(*given: Any) -> Any:
        for done, step in enumerate(fit(*given)):
            yield step
            if done == n - 1:
                raise KeyboardInterrupt

    monkeypatch.setattr(fold, "fit", dying)
    monkeypatch.setattr(course, "SAVE_EVERY_S", -1.0)
    return monkeypatch.undo


def test_a_fold_is_trained_validated_and_saved(tmp_path: Path) -> None:
    run = planned_run(tmp_path)
    (fold,) = trained(run, budget=Budget(steps=3)).folds
    assert (fold.fold, fold.steps) == ("0", 3)
    assert fold.scores is not None
    card = read_record(run / "folds/3d/0/model.json", ModelCard)
    assert (card.fold, card.steps, card.trained_on) == ("0", 3, 4)
    assert set(card.dice) == {"1", "2"}
    assert {p.name for p in (run / "folds/3d/0").iterdir()} == {
        "events.jsonl",
        "held_out",
        "model.json",
        "model.safetensors",
        "validation",
    }
    validation = read_record(run / "splits.json", Splits).folds[0].validation
    assert {p.name for p in (run / "folds/3d/0/validation").iterdir()} == {
        *(f"{name}.nii.gz" for name in validation),
        "methods.txt",
        "scores.csv",
        "scores.json",
    }
    for line in (run / "folds/3d/0/events.jsonl").read_text().splitlines():
        assert {"step", "elapsed_s", "loss", "rate", "dice"} <= set(json.loads(line))


def test_the_plans_budget_holds_unless_another_is_given(tmp_path: Path) -> None:
    run = planned_run(tmp_path, Budget(steps=2))
    assert trained(run).folds[0].steps == 2


@pytest.mark.parametrize("tick", [0.03, 0.1])
def test_a_time_budget_ends_where_it_should(tmp_path: Path, tick: float) -> None:
    run = planned_run(tmp_path)
    clock = Clock(tick)
    (fold,) = trained(run, budget=Budget(seconds=20.0), clock=clock, started=1000.0).folds
    assert fold.steps > 10
    assert 10 < clock.now - 1000 < 20.0


def test_what_was_spent_before_counts_once(tmp_path: Path) -> None:
    run = planned_run(tmp_path)
    clock = Clock(0.05)
    (fold,) = trained(run, budget=Budget(seconds=40.0), clock=clock, started=980.0).folds
    assert 12 < clock.now - 1000 < 20.0
    assert fold.seconds == pytest.approx(clock.now - 1000, abs=2)


def test_a_budget_that_is_over_before_the_first_step_is_an_error(tmp_path: Path) -> None:
    run = planned_run(tmp_path)
    for started in (900.0, 1000.0 - 9.999):
        with pytest.raises(InputError, match="the budget was used up before the first step; give a longer --budget"):
            trained(run, budget=Budget(seconds=10.0), clock=Clock(0.5), started=started)
    assert not (run / "folds/3d/0/model.json").exists()
    assert not list((run / "folds").rglob("*.safetensors"))


def test_a_time_budget_is_shared_by_the_folds(tmp_path: Path) -> None:
    run = planned_run(tmp_path)
    clock = Clock(0.05)
    folds = trained(run, ["0", "1", "2"], Budget(seconds=45.0), clock=clock, started=1000.0).folds
    assert 35 < clock.now - 1000 < 46
    assert max(f.seconds for f in folds) - min(f.seconds for f in folds) < 5


def test_folds_that_were_begun_share_the_budget_as_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = planned_run(tmp_path)
    undo = killed_after(monkeypatch, 10)
    with pytest.raises(KeyboardInterrupt):
        trained(run, ["0", "1"], Budget(seconds=120.0), clock=Clock(0.3), started=1000.0)
    undo()
    clock = Clock(0.3)
    folds = trained(run, ["0", "1"], Budget(seconds=120.0), clock=clock, started=1000.0).folds
    assert [f.seconds for f in folds] == pytest.approx([60, 60], abs=6)
    again = Clock(0.3)
    three = trained(run, ["0", "1", "2"], Budget(seconds=180.0), clock=again, started=1000.0).folds
    assert three[2].seconds == pytest.approx(60, abs=6)
    assert again.now - 1000 < 63


@pytest.mark.parametrize("share", [0.3, 0.7])
def test_a_machine_that_slows_down_still_ends_on_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, share: float
) -> None:
    run, clock = planned_run(tmp_path), Clock(0.0)
    fit, predict = fold.fit, looks.predict_prepared

    def slower(*given: Any) -> Any:
        for done in fit(*given):
            clock.now += 0.25 if clock.now < 1000 + share * 60 else 0.75
            yield done

    def longer(*given: Any) -> Any:
        clock.now += 0.25 if clock.now < 1002 else 1.0  # four times as long as it did on trial
        return predict(*given)

    monkeypatch.setattr(fold, "fit", slower)
    monkeypatch.setattr(looks, "predict_prepared", longer)
    monkeypatch.setattr("medseg.training.validate.predict_prepared", longer)
    monkeypatch.setattr(looks, "MARGIN_S", 0.5)
    (one,) = trained(run, budget=Budget(seconds=60.0), clock=clock, started=1000.0).folds
    assert clock.now - 1000 == pytest.approx(60, abs=3)
    lines = [json.loads(line) for line in (run / "folds/3d/0/events.jsonl").read_text().splitlines()]
    fitted = [line["total_steps"] for line in lines if "steps fit" in line.get("note", "")]
    assert 2 <= len(fitted) < 8
    assert all(abs(b - a) > 0.2 * a for a, b in pairwise(fitted))
    assert fitted[0] > 1.2 * fitted[-1]
    assert lines[-1]["total_steps"] == pytest.approx(one.steps, rel=0.05)
    rates = [line["rate"] for line in lines]
    assert rates[-2] < 0.3 * max(rates)


def test_another_configuration_than_the_chosen_one(tmp_path: Path) -> None:
    run = planned_run(tmp_path)
    plan = read_record(run / "plan.json", Plan)
    flat = configuration(dims=2).model_copy(update={"preprocessing": plan.configuration.preprocessing})
    write_record(run / "plan.json", plan.model_copy(update={"configurations": {**plan.configurations, "2d": flat}}))
    shutil.copytree(run / "cache/3d", run / "cache/2d")
    (one,) = trained(run, budget=Budget(steps=1), configuration="2d").folds
    assert one.folder == run / "folds/2d/0"
    assert read_record(one.folder / "model.json", ModelCard).plan.chosen == "2d"
    assert read_record(run / "plan.json", Plan).chosen == "3d"
    with pytest.raises(InputError, match="the plan has no configuration 3d_lowres; give one of 3d, 2d"):
        trained(run, configuration="3d_lowres")


def test_all_folds_are_scored_together(tmp_path: Path) -> None:
    run = planned_run(tmp_path)
    use_folds(run, 2)
    assert trained(run, ["0"], Budget(steps=1)).crossvalidation is None
    assert not (run / "folds/3d/crossvalidation").exists()
    done = trained(run, ["0", "1"], Budget(steps=1))
    assert done.crossvalidation is not None
    assert read_record(run / "folds/3d/crossvalidation/scores.json", Scores) == done.crossvalidation
    assert [row.case for row in done.crossvalidation.scores if row.structure == "1"] == [f"case{k}" for k in range(6)]
    by_fold = [row for one in done.folds if one.scores for row in one.scores.scores]
    assert sorted(by_fold, key=str) == sorted(done.crossvalidation.scores, key=str)
    assert trained(run, ["0", "1"]).crossvalidation == done.crossvalidation


@pytest.mark.parametrize(("gpus", "words"), [(0, "--gpus 0 trains nothing"), (-1, "--gpus -1 trains nothing")])
def test_gpus_that_are_none(gpus: int, words: str) -> None:
    with pytest.raises(InputError, match=words):
        check_gpus(gpus, CPU)
    check_gpus(3, CPU)
    with pytest.raises(InputError, match="torch sees 0 here; give as many or fewer"):
        check_gpus(99, torch.device("cuda"))


def test_a_batch_that_ranks_cannot_share(tmp_path: Path) -> None:
    run = planned_run(tmp_path)
    with pytest.raises(InputError, match="a batch of 2 cannot be split over 3 GPUs"):
        trained(run, budget=Budget(steps=1), gpus=3)


@pytest.mark.slow
def test_three_minutes_end_within_nine_seconds(tmp_path: Path) -> None:
    run = planned_run(tmp_path, n=20)
    began = time.monotonic()
    command = [sys.executable, "-m", "medseg", "train", str(run), "--budget", "3min", "--device", "cpu"]
    subprocess.run(command, check=True, capture_output=True)
    assert time.monotonic() - began == pytest.approx(180, abs=9)


def test_a_budget_of_steps_holds_for_each_fold(tmp_path: Path) -> None:
    run = planned_run(tmp_path)
    assert [f.steps for f in trained(run, ["0", "1"], Budget(steps=2)).folds] == [2, 2]


def test_fold_all_trains_on_every_case_and_validates_on_none(tmp_path: Path) -> None:
    run = planned_run(tmp_path)
    (fold,) = trained(run, ["all"], Budget(steps=1)).folds
    assert fold.scores is None
    assert read_record(run / "folds/3d/all/model.json", ModelCard).trained_on == 6
    assert not (run / "folds/3d/all/validation").exists()


def test_one_case_can_only_be_trained_on_as_all(tmp_path: Path) -> None:
    run = planned_run(tmp_path, n=1)
    with pytest.raises(InputError, match="there is no fold 0; give all"):
        trained(run)
    assert trained(run, ["all"], Budget(steps=1)).folds[0].steps == 1


@pytest.mark.parametrize("fold", ["5", "-1", "x", "00", "٣", "1.0"])
def test_a_fold_that_is_none(tmp_path: Path, fold: str) -> None:
    run = planned_run(tmp_path)
    with pytest.raises(InputError, match=f"there is no fold {fold}; give 0 to 4, or all"):
        trained(run, [fold])
    assert not (run / "folds").exists()


def test_a_fold_without_cases_to_train_on(tmp_path: Path) -> None:
    run = planned_run(tmp_path)
    parts = read_record(run / "splits.json", Splits)
    empty = parts.folds[0].model_copy(update={"train": ()})
    write_record(run / "splits.json", parts.model_copy(update={"folds": (empty, *parts.folds[1:])}))
    with pytest.raises(InputError, match="fold 0 has no case to train on"):
        trained(run)


def test_a_finished_fold_is_kept(tmp_path: Path) -> None:
    run = planned_run(tmp_path)
    trained(run, budget=Budget(steps=1))
    before = (run / "folds/3d/0/model.safetensors").stat().st_mtime_ns
    events = list(train(run, ["0"], Budget(steps=5), CPU))
    assert any(isinstance(e, Note) and "is trained already" in e.text for e in events)
    assert not any(isinstance(e, Stage) for e in events)
    (fold,) = events[-1].folds  # type: ignore[union-attr]
    assert isinstance(fold, FoldTrained)
    assert fold.steps == 1
    assert fold.scores is not None
    assert (run / "folds/3d/0/model.safetensors").stat().st_mtime_ns == before


def test_trust_that_an_interruption_left_out_is_learned_the_next_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = planned_run(tmp_path)

    def killed(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("medseg.training.run.write_trust", killed)
    with pytest.raises(KeyboardInterrupt):
        trained(run, budget=Budget(steps=1))
    monkeypatch.undo()
    assert (run / "folds/3d/0/model.json").is_file()
    for learned in (True, False):
        events = list(train(run, ["0"], Budget(steps=1), CPU))
        assert any(isinstance(e, Note) and e.text.startswith("trust learned from") for e in events) == learned
        assert (run / "folds/3d/trust.json").is_file()
        assert (run / "folds/3d/familiar.json").is_file()


def test_interrupted_and_resumed_is_as_never_interrupted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.set_num_threads(1)
    whole, broken = planned_run(tmp_path / "a"), planned_run(tmp_path / "b")
    trained(whole, budget=Budget(steps=6))
    undo = killed_after(monkeypatch, 4)
    with pytest.raises(KeyboardInterrupt):
        trained(broken, budget=Budget(steps=6))
    undo()
    assert not (broken / "folds/3d/0/model.json").exists()
    events = list(train(broken, ["0"], Budget(steps=6), CPU))
    assert any(isinstance(e, Note) and "goes on from step" in e.text for e in events)
    for a, b in zip(weights(whole).values(), weights(broken).values(), strict=True):
        assert torch.equal(a, b)
    assert not (broken / "folds/3d/0/checkpoint.safetensors").exists()


def test_the_learning_rate_may_be_lowered_on_the_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = planned_run(tmp_path)
    undo = killed_after(monkeypatch, 2)
    with pytest.raises(KeyboardInterrupt):
        trained(run, budget=Budget(steps=4))
    undo()
    said = json.loads((run / "plan.json").read_text())
    said["configurations"]["3d"]["schedule"]["learning_rate"] = 1e-4
    (run / "plan.json").write_text(json.dumps(said))
    notes = [e.text for e in train(run, ["0"], Budget(steps=4), CPU) if isinstance(e, Note)]
    assert "fold 0 goes on from step 2" in notes
    assert (run / "folds/3d/0/model.json").is_file()


def test_time_that_was_trained_before_an_interruption_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = planned_run(tmp_path)
    undo = killed_after(monkeypatch, 60)
    with pytest.raises(KeyboardInterrupt):
        trained(run, budget=Budget(seconds=40.0), clock=Clock(0.05), started=1000.0)
    undo()
    clock = Clock(0.05)
    (fold,) = trained(run, budget=Budget(seconds=40.0), clock=clock, started=1000.0).folds
    assert clock.now - 1000 < 35
    assert 25 < fold.seconds < 40.5


def test_killed_between_training_and_validation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = planned_run(tmp_path)

    def killed(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(looks, "LOOKS", 1)
    monkeypatch.setattr(looks, "validate_case", killed)
    with pytest.raises(KeyboardInterrupt):
        trained(run, budget=Budget(steps=2))
    monkeypatch.undo()
    assert (run / "folds/3d/0/checkpoint.safetensors").is_file()
    (fold,) = trained(run, budget=Budget(steps=2)).folds
    assert fold.steps == 2
    assert fold.scores is not None


def begun(run: Path, monkeypatch: pytest.MonkeyPatch, n: int, **what: Any) -> Path:
    """A run whose fold 0 was interrupted after `n` steps; its checkpoint."""
    undo = killed_after(monkeypatch, n)
    with pytest.raises(KeyboardInterrupt):
        trained(run, **what)
    undo()
    return run / "folds/3d/0/checkpoint.safetensors"


@pytest.mark.parametrize("steps", [3, 6])
def test_fewer_steps_than_a_begun_fold_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, steps: int) -> None:
    run = planned_run(tmp_path)
    checkpoint = begun(run, monkeypatch, 6, budget=Budget(steps=9))
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    with pytest.raises(InputError, match=f"fold 0 stands at step 6 of 9 already, and {steps} are asked for; give more"):
        trained(run, budget=Budget(steps=steps))
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before
    assert trained(run, budget=Budget(steps=9)).folds[0].steps == 9
    assert not checkpoint.exists()


def test_less_time_than_a_begun_fold_had(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = planned_run(tmp_path)
    checkpoint = begun(run, monkeypatch, 60, budget=Budget(seconds=40.0), clock=Clock(0.05), started=1000.0)
    with pytest.raises(InputError, match=r"fold 0 was trained for \d+ s already, and 5 s are asked for; give a longer"):
        trained(run, budget=Budget(seconds=5.0), clock=Clock(0.05), started=1000.0)
    with pytest.raises(InputError, match="the budget was used up before another step"):
        trained(run, budget=Budget(seconds=40.0), clock=Clock(0.05), started=900.0)
    assert checkpoint.is_file()
    assert not (run / "folds/3d/0/model.json").exists()


def test_a_start_that_comes_too_late_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, run = planned_run(tmp_path / "a"), planned_run(tmp_path / "b")
    trained(model, budget=Budget(steps=1))
    begun(run, monkeypatch, 2, budget=Budget(steps=4))
    events = list(train(run, ["0"], Budget(steps=4), CPU, how=How(init=model / "folds/3d/0")))
    warned = [e.text for e in events if isinstance(e, Note) and e.warning]
    assert warned == ["fold 0 goes on from its own checkpoint: --init is not read again; delete it to begin anew"]


def test_what_training_began_with_is_kept_on_the_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, run = planned_run(tmp_path / "a"), planned_run(tmp_path / "b")
    trained(model, budget=Budget(steps=1))
    first = model / "folds/3d/0"
    begun(run, monkeypatch, 2, budget=Budget(steps=4), how=How(init=first))
    trained(run, budget=Budget(steps=4))
    ours, theirs = (read_record(of / "folds/3d/0/model.json", ModelCard) for of in (run, model))
    assert ours.origin.init_sha256 == theirs.weights_sha256
    assert set(theirs.origin.scans) <= set(ours.origin.scans)


def test_folds_that_were_trained_very_differently(tmp_path: Path) -> None:
    run = planned_run(tmp_path)
    use_folds(run, 2)
    trained(run, ["0"], Budget(steps=7))
    events = list(train(run, ["0", "1"], Budget(steps=3), CPU))
    warned = [e.text for e in events if isinstance(e, Note) and e.warning]
    assert warned == ["the folds were trained very differently: fold 0 for 7 steps, fold 1 for 3"]
    even = planned_run(tmp_path / "even")
    use_folds(even, 2)
    trained(even, ["0"], Budget(steps=2))
    assert not any(isinstance(e, Note) and e.warning for e in train(even, ["0", "1"], Budget(steps=1), CPU))


def test_a_trained_fold_whose_weights_are_gone(tmp_path: Path) -> None:
    run = planned_run(tmp_path)
    trained(run, budget=Budget(steps=1))
    (run / "folds/3d/0/model.safetensors").unlink()
    with pytest.raises(
        RunError, match=r"fold 0 is trained, but its model.safetensors is missing; .* delete the folder"
    ):
        trained(run)


def test_a_configuration_that_is_not_prepared_leaves_no_folder(tmp_path: Path) -> None:
    run = planned_run(tmp_path)
    shutil.rmtree(run / "cache/3d")
    with pytest.raises(RunError, match="no case is prepared for 3d"):
        trained(run)
    assert not (run / "folds").exists()


def test_folds_that_one_case_cannot_be_split_into(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there is one case only: it cannot be split; train it with --fold all"):
        use_folds(planned_run(tmp_path, n=1), 2)


def test_folds_of_another_number(tmp_path: Path) -> None:
    run = planned_run(tmp_path)
    assert use_folds(run, 3) == "the cases are split anew: into 3 folds, not 5"
    parts = read_record(run / "splits.json", Splits)
    assert len(parts.folds) == 3
    assert sorted(n for f in parts.folds for n in f.validation) == [f"case{k}" for k in range(6)]
    trained(run, ["2"], Budget(steps=1))
    assert use_folds(run, 3) is None
    with pytest.raises(RunError, match="holds folds of a split into 3; plan into a new folder"):
        use_folds(run, 2)
    for n in (0, 1, 7):
        other = planned_run(tmp_path / str(n))
        with pytest.raises(InputError, match=f"6 cases cannot be split into {n} folds; give 2 to 6"):
            use_folds(other, n)


def test_what_is_no_run_or_not_prepared(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="is not a run of medseg"):
        trained(tmp_path)
    with pytest.raises(RunError, match="is not a run of medseg"):
        use_folds(tmp_path / "none", 3)
    run = planned_run(tmp_path)
    case = read_record(run / "splits.json", Splits).folds[0].train[0]
    (run / "cache/3d" / f"{case}.safetensors").unlink()
    with pytest.raises(RunError, match=f"case {case} is not prepared; run medseg plan again"):
        trained(run)


def test_a_full_disk_while_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = planned_run(tmp_path)

    def full(self: Path, data: bytes) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(ResourceError, match="no space left"):
        trained(run)
    monkeypatch.undo()
    assert not list((run / "folds").glob("*/*/*.safetensors"))
    assert trained(run).folds[0].steps == 2


def test_a_budget_for_which_another_optimiser_was_planned_is_told() -> None:
    made = configuration()
    made = made.model_copy(update={"cost": made.cost.model_copy(update={"step_s": 0.1})})
    plan = plan_of(made)
    for_gpu = plan.model_copy(update={"request": plan.request.model_copy(update={"device": "cuda"})})
    assert unlike_planned(plan, Budget(steps=10), 1, "cpu") == unlike_planned(plan, Budget(steps=10**6), 1, "cpu") == ""
    assert unlike_planned(for_gpu, Budget(steps=10), 1, "cuda") == ""
    told = unlike_planned(for_gpu, Budget(steps=10**6), 1, "cuda")
    assert told.startswith("the budget holds about 1000000 steps of a fold, and the plan's optimiser, adamw,")
    assert told.endswith("to let it choose sgd")
    hour = Budget(seconds=3600.0)
    assert "adamw, was chosen" in unlike_planned(for_gpu, hour, 1, "cuda")
    assert unlike_planned(for_gpu, hour, 10, "cuda") == ""
    told = unlike_planned(for_gpu, hour, 10, "cpu")
    assert told.startswith("the plan was made for a GPU, and this is a CPU")
