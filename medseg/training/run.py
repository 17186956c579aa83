"""Front door of training: a run's folds, each trained to its budget, validated on whole cases, saved as a model.

RUN/folds/K/checkpoint.safetensors   everything that going on needs; removed when the model stands
            events.jsonl             a line now and then: step, seconds, loss, rate, Dice
            validation/              labels, scores.csv, scores.json of the fold's validation cases
            model.safetensors, model.json
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import torch

from medseg.compute import describe, keep_freed_memory
from medseg.errors import InputError, ResourceError, RunError, explained
from medseg.evaluation.case import StructureScore, diagonal_mm
from medseg.evaluation.cohort import Scores, summarise
from medseg.evaluation.folders import write_scores
from medseg.events import Advanced, Event, Note, Stage
from medseg.files import output_folder, read_record, write_record
from medseg.inference.model import ModelCard, save_model
from medseg.networks.table import build_network
from medseg.planning.dataset import splits
from medseg.planning.fingerprint import Fingerprint
from medseg.planning.plan import EPOCH_STEPS, Budget, Fold, Plan, Splits
from medseg.preprocessing.cache import LoadedCase, load_cases
from medseg.training.checkpoint import Progress, load_checkpoint, save_checkpoint
from medseg.training.loop import StepDone, build_optimiser, fit
from medseg.training.validate import predict_prepared, quick_dice, validate_case

SAVE_EVERY_S = 120.0
LOOKS = 8  # quick looks at validation Dice over a training
LOOK_CASES = 4
SCORING = 1.5  # validating a case costs this many times its prediction
MARGIN_S = 3.0  # saving the model and ending
SMALLEST_SHARE = 0.3  # of the budget that must be left for steps


@dataclass(frozen=True)
class FoldTrained:
    """One fold's end. `scores` is None where there were no validation cases."""

    fold: str
    folder: Path
    steps: int
    seconds: float
    scores: Scores | None


@dataclass(frozen=True)
class Trained:
    """The end of training."""

    run: Path
    folds: tuple[FoldTrained, ...]


@dataclass(frozen=True)
class _Job:
    """What training one fold needs, besides its network."""

    run: Path
    fold: str
    plan: Plan
    cases: Fold
    seconds: float | None
    steps: int | None
    device: torch.device
    clock: Callable[[], float]
    started: float

    @property
    def folder(self) -> Path:
        return self.run / "folds" / self.fold

    @property
    def cache(self) -> Path:
        return self.run / "cache" / self.plan.chosen


def train(
    run: Path,
    folds: Sequence[str],
    budget: Budget | None,
    device: torch.device,
    clock: Callable[[], float] = time.monotonic,
    started: float | None = None,
) -> Iterator[Event | Trained]:
    """Train `folds` (numbers as text, or "all") of `run` one after another; finished ones are kept, begun ones go on.

    The budget is the wall time of the whole command from `started` on, shared evenly by the folds still to train;
    without one the plan's holds. The rate decays to zero as the budget is used up, so that training ends with it.

    Raises:
        RunError: `run` is not a planned and prepared run, or a checkpoint belongs to another plan.
        InputError: there is no such fold, or the budget ends before the first step.
        ResourceError: memory or disk gave out.
    """
    began = clock() if started is None else started
    plan, parts = _read(run)
    budget = budget or plan.budget
    keep_freed_memory()
    left = [f for f in folds if not (run / "folds" / f / "model.json").is_file()]
    done: list[FoldTrained] = []
    for fold in folds:
        seconds, now = budget.seconds, clock()
        if seconds is not None and fold in left:
            seconds = (seconds - (now - began)) / len(left[left.index(fold) :])
        job = _Job(run, fold, plan, _fold_cases(parts, fold, run), seconds, budget.steps, device, clock, now)
        if fold not in left:
            yield Note(f"fold {fold} is trained already; delete {job.folder} to train it anew")
            done.append(_finished(job))
            continue
        try:
            for event in _train_fold(job):
                if isinstance(event, FoldTrained):
                    done.append(event)
                else:
                    yield event
        except torch.OutOfMemoryError:
            raise ResourceError("the GPU's memory ran out", run, "plan again with a smaller --memory") from None
    yield Trained(run, tuple(done))


def _read(run: Path) -> tuple[Plan, Splits]:
    if not (run / "plan.json").is_file() or not (run / "splits.json").is_file():
        raise RunError("is not a run of medseg: it holds no plan.json", run, "make one with medseg plan DATA -o RUN")
    return read_record(run / "plan.json", Plan), read_record(run / "splits.json", Splits)


def use_folds(run: Path, n: int) -> None:
    """Split the run's cases into `n` folds instead, if no fold is trained yet.

    Raises:
        RunError: folds of another split are trained or begun.
        InputError: there are fewer cases than folds.
    """
    plan, parts = _read(run)
    if len(parts.folds) == n:
        return
    if any((run / "folds").glob("*/*.safetensors")):
        raise RunError(f"holds folds of a split into {len(parts.folds)}", run, "plan into a new folder")
    if not 2 <= n <= plan.cases:
        raise InputError(f"{plan.cases} cases cannot be split into {n} folds", run, f"give 2 to {plan.cases}")
    fingerprint = read_record(run / "fingerprint.json", Fingerprint)
    write_record(run / "splits.json", splits(fingerprint, parts.seed, n))


def _fold_cases(parts: Splits, fold: str, run: Path) -> Fold:
    if fold == "all":
        names = {n for f in parts.folds for n in (*f.train, *f.validation)}
        if not names:
            names = {c.case for c in read_record(run / "fingerprint.json", Fingerprint).cases}
        return Fold(train=tuple(sorted(names)), validation=())
    if fold not in map(str, range(len(parts.folds))):
        known = f"0 to {len(parts.folds) - 1}, or all" if parts.folds else "all"
        raise InputError(f"there is no fold {fold}", run, f"give {known}")
    return parts.folds[int(fold)]


def _train_fold(job: _Job) -> Iterator[Event | FoldTrained]:
    output_folder(job.folder)
    training = load_cases(job.cache, job.cases.train)
    validation = load_cases(job.cache, job.cases.validation)
    configuration = job.plan.configuration
    digest = hashlib.sha256(configuration.model_dump_json().encode()).hexdigest()
    seed = (job.plan.request.seed, int(job.fold) if job.fold.isdecimal() else 1_000_003)
    network = build_network(configuration.network, job.plan.request.seed).to(job.device)
    optimiser = build_optimiser(network, configuration.schedule)
    checkpoint = job.folder / "checkpoint.safetensors"
    before = load_checkpoint(checkpoint, network, optimiser, digest)
    progress = before or Progress(plan=digest)
    if before:
        yield Note(f"fold {job.fold} goes on from step {before.step}")

    earlier = progress.elapsed_s
    reserve = _final_cost(network, validation, job) if job.seconds is not None else 0.0
    share_done = _schedule(job, earlier, reserve)
    expect = f"{len(training)} cases, {len(validation)} to validate on, {describe(job.device)}, {_amount(job)}"
    yield Stage(f"train fold {job.fold}", 100, expect)

    saved, shown, dice = job.clock(), 0.0, ""
    losses: list[float] = []
    next_look = (int(share_done(progress.step) * LOOKS) + 1) / LOOKS
    last = progress

    def now(step: StepDone) -> Progress:
        return progress.model_copy(
            update={
                "step": step.step,
                "elapsed_s": earlier + job.clock() - job.started,
                "loss": sum(losses) / len(losses),
            }
        )

    steps = fit(network, optimiser, training, configuration, share_done, seed, progress.step, job.device)
    for step in steps:
        losses = [*losses[-49:], step.loss]
        last = now(step)
        if step.share >= next_look and validation:
            looked = quick_dice(network, validation[:LOOK_CASES], job.plan, job.device)
            dice = _dice_text(looked)
            _log(
                job.folder / "events.jsonl",
                {**last.model_dump(exclude={"plan", "version"}), "rate": step.learning_rate, "dice": looked},
            )
            next_look += 1 / LOOKS
        if job.clock() - saved > SAVE_EVERY_S:
            save_checkpoint(checkpoint, network, optimiser, last)
            saved = job.clock()
        if job.clock() - shown > 0.5:
            shown = job.clock()
            yield Advanced(
                100 * step.share, f"step {step.step}, epoch {step.step / EPOCH_STEPS:.1f}, loss {last.loss:.3f}{dice}"
            )
    if last.step == 0:
        raise _too_short(job)
    save_checkpoint(checkpoint, network, optimiser, last)
    yield Advanced(100, f"{last.step} steps, loss {last.loss or 0:.3f}")

    scores: Scores | None = None
    for event in _validate(network, validation, job):
        if isinstance(event, Scores):
            scores = event
        else:
            yield event
    seconds = earlier + job.clock() - job.started
    save_model(job.folder, network, _card(job, last.step, seconds, scores))
    checkpoint.unlink(missing_ok=True)
    yield FoldTrained(job.fold, job.folder, last.step, seconds, scores)


def _too_short(job: _Job) -> InputError:
    """An untrained network must not pass for a model."""
    return InputError("the budget was used up before the first step", job.run, "give a longer --budget")


def _schedule(job: _Job, earlier: float, reserve: float) -> Callable[[int], float]:
    """The share of the schedule that is used up after a step: of the steps, or of the seconds left for them."""
    if job.steps is not None:
        total = job.steps
        return lambda step: step / total
    seconds = job.seconds or 0.0
    if seconds <= 0:
        raise _too_short(job)
    for_steps = max(seconds - reserve, SMALLEST_SHARE * seconds)
    return lambda _step: (earlier + job.clock() - job.started) / for_steps


def _final_cost(network: torch.nn.Module, validation: Sequence[LoadedCase], job: _Job) -> float:
    """Seconds that the final validation will take, from predicting two of its cases now."""
    if not validation:
        return MARGIN_S
    by_size = sorted(validation, key=lambda c: c.classes_XYZ.size)
    trial = [by_size[len(by_size) // 2], by_size[-1]]
    began = job.clock()
    for case in trial:
        predict_prepared(network, case, job.plan, job.device)
    network.train()
    return MARGIN_S + SCORING * len(validation) * (job.clock() - began) / len(trial)


def _validate(network: torch.nn.Module, cases: Sequence[LoadedCase], job: _Job) -> Iterator[Event | Scores]:
    if not cases:
        return
    out = output_folder(job.folder / "validation")
    yield Stage(f"validate fold {job.fold}", len(cases), "whole cases, on each scan's own grid")
    rows: list[StructureScore] = []
    diagonals: dict[str, float] = {}
    for n, case in enumerate(cases, 1):
        rows += validate_case(network, case, job.plan, job.cache, out, job.device)
        diagonals[case.name] = diagonal_mm(case.undo.grid)
        yield Advanced(n, case.name)
    scores = summarise(rows, diagonals, tolerance_mm=1.0)
    write_scores(out, scores)
    yield scores


def _card(job: _Job, steps: int, seconds: float, scores: Scores | None) -> ModelCard:
    return ModelCard(
        plan=job.plan,
        fold=job.fold,
        trained_on=len(job.cases.train),
        steps=steps,
        seconds=round(seconds, 1),
        dice=_mean_dice(scores),
        weights_sha256="",
        medseg=version("medseg"),
        torch=torch.__version__,
    )


def _mean_dice(scores: Scores | None) -> dict[str, float]:
    if scores is None:
        return {}
    return {s.structure: mean for s in scores.structures if (mean := s.metrics["dice"].mean) is not None}


def _finished(job: _Job) -> FoldTrained:
    card = read_record(job.folder / "model.json", ModelCard)
    path = job.folder / "validation" / "scores.json"
    scores = read_record(path, Scores) if path.is_file() else None
    return FoldTrained(job.fold, job.folder, card.steps, card.seconds, scores)


def _amount(job: _Job) -> str:
    return f"{job.steps} steps" if job.steps is not None else f"{(job.seconds or 0) / 60:.3g} min"


def _dice_text(dice: dict[str, float]) -> str:
    return "".join(f", {name} {value:.2f}" for name, value in dice.items())


def _log(path: Path, line: dict[str, object]) -> None:
    with explained(path), path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")
