"""One fold: looks, lines, checkpoints at an end that is asked for, and the weights of another model as a start."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from medseg.errors import InputError, ResourceError
from medseg.events import Advanced, Note, Stage
from medseg.inference.model import load_model
from medseg.planning.plan import Budget, Fold
from medseg.training import course, fold, journal, looks
from medseg.training.job import FoldJob
from medseg.training.journal import Journal, check_tensorboard
from medseg.training.learning.checkpoint import Progress
from medseg.training.looks import Looks, spread
from medseg.training.run import How, train
from medseg.training.stopping import terminable
from tests.tiny import CPU, configuration, last, loaded_blobs, plan_of, planned_run

pytestmark = pytest.mark.usefixtures("one_thread")


def lines(run: Path, fold: str = "0") -> list[dict[str, Any]]:
    return [json.loads(text) for text in (run / "folds/3d" / fold / "events.jsonl").read_text().splitlines()]


def test_lines_tell_of_looks_and_of_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(looks, "LOOKS", 3)
    monkeypatch.setattr(course, "SHOW_EVERY_S", 0.0)
    run = planned_run(tmp_path)
    drawn: list[Path] = []
    events = list(train(run, ["0"], Budget(steps=6), CPU, how=How(draw=drawn.append)))
    said = lines(run)
    assert [one["step"] for one in said] == [2, 4, 6]
    assert all(set(one["dice"]) == {"1", "2"} and 0 <= one["dice"]["1"] <= 1 for one in said)
    assert [one["share"] for one in said] == pytest.approx([1 / 3, 2 / 3, 1])
    assert said[0]["total_steps"] == 6
    assert said[0]["steps_per_s"] > 0
    scores = events[-1].folds[0].scores  # type: ignore[union-attr]
    assert said[-1]["dice"]["1"] == pytest.approx(scores.structures[0].metrics["dice"].mean)  # type: ignore[union-attr]
    assert drawn[-1] == run / "folds/3d/0"
    live = [e.what for e in events if isinstance(e, Advanced)]
    assert any("step 2 of 6, loss" in what and "steps/s" in what for what in live)


def test_the_fitted_number_of_steps_is_kept_and_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept: list[Progress] = []
    save = course.save_checkpoint
    monkeypatch.setattr(
        course, "save_checkpoint", lambda path, learner, told: kept.append(told) or save(path, learner, told)
    )
    monkeypatch.setattr(course, "SAVE_EVERY_S", -1.0)

    class Clock:
        now = 0.0

        def __call__(self) -> float:
            self.now += 0.02
            return self.now

    run = planned_run(tmp_path)
    last(train(run, ["0"], Budget(seconds=20.0), CPU, clock=Clock(), started=0.0))
    fitted = [one for one in kept if one.total_steps is not None]
    assert len(fitted) > 5
    assert [one.share for one in kept] == sorted(one.share for one in kept)
    assert fitted[-1].total_steps == pytest.approx(fitted[-1].step, rel=0.05)
    assert any("steps fit into the budget" in one.get("note", "") for one in lines(run))


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
def test_an_end_that_is_asked_for_saves_first(tmp_path: Path, how: signal.Signals) -> None:
    whole, broken = planned_run(tmp_path / "a"), planned_run(tmp_path / "b")
    last(train(whole, ["0"], Budget(steps=5), CPU))
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell may have us ignore it
    before = [signal.getsignal(one) for one in (signal.SIGTERM, signal.SIGINT)]
    events = train(broken, ["0"], Budget(steps=5), CPU)
    while not isinstance(next(events), Advanced):
        pass
    os.kill(os.getpid(), how)
    with pytest.raises(KeyboardInterrupt):
        list(events)
    assert [signal.getsignal(one) for one in (signal.SIGTERM, signal.SIGINT)] == before
    assert (broken / "folds/3d/0/checkpoint.safetensors").is_file()
    went_on = [e.text for e in train(broken, ["0"], Budget(steps=5), CPU) if isinstance(e, Note)]
    assert "fold 0 goes on from step 2" in went_on
    ours, theirs = (load_model(r / "folds/3d/0", CPU).network.state_dict() for r in (whole, broken))
    assert all(torch.equal(a, b) for a, b in zip(ours.values(), theirs.values(), strict=True))


def test_a_second_ctrl_c_ends_at_once() -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)
    with terminable() as asked:
        assert not asked()
        signal.raise_signal(signal.SIGINT)
        assert asked()
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) == signal.default_int_handler


def test_a_ctrl_c_that_a_shell_has_us_ignore_stays_ignored() -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with terminable() as asked:
            signal.raise_signal(signal.SIGINT)
            assert not asked()
    finally:
        signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize(
    ("left", "steps", "words"),
    [(-15.0, None, "0 s"), (40.0, None, "40 s"), (900.0, None, "15 min"), (None, 1, "1 step"), (None, 3, "3 steps")],
)
def test_the_amount_in_words(tmp_path: Path, left: float | None, steps: int | None, words: str) -> None:
    cases = Fold(train=(), validation=())
    assert FoldJob(tmp_path, "0", plan_of(configuration()), cases, left, steps, CPU, lambda: 0.0, 0.0).amount == words


def test_a_model_as_a_start(tmp_path: Path) -> None:
    first, second = planned_run(tmp_path / "a"), planned_run(tmp_path / "b")
    last(train(first, ["0"], Budget(steps=20), CPU))
    model = load_model(first / "folds/3d/0", CPU).network.state_dict()
    events = list(train(second, ["0"], Budget(steps=1), CPU, how=How(init=first / "folds/3d/0")))
    assert any(isinstance(e, Note) and "weights" in e.text for e in events)
    found = load_model(second / "folds/3d/0", CPU).network.state_dict()
    fresh = planned_run(tmp_path / "c")
    last(train(fresh, ["0"], Budget(steps=1), CPU))
    other = load_model(fresh / "folds/3d/0", CPU).network.state_dict()
    apart = {n: (float((found[n] - model[n]).norm()), float((other[n] - model[n]).norm())) for n in model}
    assert sum(near for near, _ in apart.values()) < 0.5 * sum(far for _, far in apart.values())


def test_what_a_killed_run_wrote_after_its_checkpoint_is_dropped(tmp_path: Path) -> None:
    (tmp_path / "events.jsonl").write_text('{"step": 3}\n{"step": 7}\n{"step": 8}\n{"st')
    written = Journal(tmp_path, 7)
    assert (tmp_path / "events.jsonl").read_text() == '{"step": 3}\n{"step": 7}\n'
    written.line(Progress(plan="", step=9), 0.1, 2.0, note="more")
    assert [json.loads(text)["step"] for text in (tmp_path / "events.jsonl").read_text().splitlines()] == [3, 7, 9]
    Journal(tmp_path, 0)
    assert not (tmp_path / "events.jsonl").exists()


def test_tensorboard_is_asked_for_where_it_is_missing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(journal, "find_spec", lambda _: None)
    with pytest.raises(InputError, match=r'needs the package tensorboard; run pip install "medseg\[tensorboard\]"'):
        check_tensorboard()
    with pytest.raises(InputError, match="needs the package tensorboard"):
        Journal(tmp_path, 0, tensorboard=True)


def test_tensorboard_gets_every_figure(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    written = Journal(tmp_path, 0, tensorboard=True)
    written.line(Progress(plan="", step=3, loss=0.5), 0.1, 2.0, {"liver": 0.75})
    written.close()
    found = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert {tag: found.Scalars(tag)[0].value for tag in found.Tags()["scalars"]} == pytest.approx(
        {"loss": 0.5, "learning rate": 0.1, "steps per second": 2.0, "Dice/liver": 0.75}
    )
    assert found.Scalars("loss")[0].step == 3


def test_cases_that_are_looked_at_are_spread_over_the_sizes() -> None:
    cases = loaded_blobs(1) + loaded_blobs(1, (8, 8, 8)) + loaded_blobs(1, (20, 8, 8)) + loaded_blobs(1, (12, 12, 12))
    sizes = [case.classes_XYZ.size for case in spread(cases, 2)]
    assert sizes == sorted([20 * 64, 16**3])
    assert len(spread(cases, 9)) == 4
    assert spread([], 4) == ()


class Ticking:
    """A clock that predicting moves."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.mark.parametrize(("seconds", "taken"), [(1000.0, 4), (1e5, 4), (60.0, 1), (1.0, 0)])
def test_looks_are_what_a_budget_affords(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seconds: float, taken: int
) -> None:
    clock, predicted = Ticking(), []

    def predict(_: Any, case: Any, *__: Any) -> Any:
        clock.now += 0.5
        predicted.append(case.name)
        return ()

    monkeypatch.setattr(looks, "predict_prepared", predict)
    monkeypatch.setattr(looks, "validate_case", predict)
    made = Looks(loaded_blobs(8), plan_of(configuration()), tmp_path, tmp_path, CPU, clock)
    made.trial(torch.nn.Identity(), seconds)
    assert made.case_s == pytest.approx(0.75)
    due = sum(made.due(k / 100, (k + 1) / 100) for k in range(100))
    predicted.clear()
    if due:
        made.look(torch.nn.Identity())
        assert made.case_s == pytest.approx(0.5)
    assert len(predicted) == taken
    assert due * taken * 0.75 <= 0.04 * seconds
    if due:
        made.looked(7.0)
        assert made.foreseen(0.0) == pytest.approx(looks.MARGIN_S + 8 * 0.5 + 7.0 * due)
    assert made.foreseen(1.0) == pytest.approx(looks.MARGIN_S + 8 * made.case_s)


def test_after_an_interruption_there_is_still_time_for_the_rate_to_come_down() -> None:
    """Of a budget of 60 s validation takes 100: half the schedule is done, and 55 s are left by the clock."""
    cases: Any = type("Looks", (list,), {"trial": lambda *_: None, "foreseen": lambda *_: 100.0})([None])
    before = Progress(plan="", step=50, share=0.5, elapsed_s=5.0)
    job: Any = SimpleNamespace(ends=55.0, started=0.0, clock=lambda: 0.0, fold="0")
    told = fold._pace(cases, SimpleNamespace(evaluated=lambda: None), before, job)  # type: ignore[arg-type]
    notes, pace = [], None
    while pace is None:
        try:
            notes.append(next(told))
        except StopIteration as end:
            pace = end.value
    assert "this will take 1.8 min" in notes[-1].text
    assert pace._ends == pytest.approx(100 + 0.3 * 60 * 0.5)
    assert pace.share(50) == 0.5


def test_a_budget_that_validation_would_use_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = planned_run(tmp_path)
    monkeypatch.setattr(looks, "SCORING", 1e4)
    clock = Ticking()
    tick = type("Tick", (), {"__call__": lambda _: setattr(clock, "now", clock.now + 0.01) or clock.now})()
    events = list(train(run, ["0"], Budget(seconds=5.0), CPU, clock=tick, started=0.0))
    warned = [e.text for e in events if isinstance(e, Note) and e.warning]
    assert len(warned) == 1
    assert warned[0].startswith("validation alone needs ")
    assert any(isinstance(e, Stage) and e.name == "validate fold 0" for e in events)


def test_memory_that_gives_out_beside_the_steps_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = planned_run(tmp_path)
    errors = [torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB\nmore"), RuntimeError("a bug")]

    def broken(*_: Any, **__: Any) -> Any:
        raise errors.pop(0)

    monkeypatch.setattr(fold, "place", broken)
    with pytest.raises(
        ResourceError, match=r"the memory of the machine ran out \(CUDA out of memory\. Tried to .*GiB\)"
    ):
        last(train(run, ["0"], Budget(steps=2), CPU))
    with pytest.raises(RuntimeError, match="a bug"):
        last(train(run, ["0"], Budget(steps=2), CPU))
