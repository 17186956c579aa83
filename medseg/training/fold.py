"""One fold from its prepared cases to a saved model: steps within the budget, checkpoints, validation."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import torch

from medseg.compute import describe
from medseg.errors import InputError, explained
from medseg.evaluation.case import StructureScore, diagonal_mm
from medseg.evaluation.cohort import Scores, summarise
from medseg.evaluation.folders import write_scores
from medseg.events import Advanced, Event, Note, Stage
from medseg.files import output_folder
from medseg.inference.model import ModelCard, save_model
from medseg.networks.table import build_network
from medseg.planning.plan import EPOCH_STEPS, Fold, Plan
from medseg.preprocessing.cache import LoadedCase, load_cases
from medseg.training.checkpoint import Progress, load_checkpoint, save_checkpoint
from medseg.training.loop import StepDone, build_optimiser, fit
from medseg.training.validate import predict_prepared, quick_dice, validate_case

SAVE_EVERY_S = 120.0
LOOKS = 8  # quick looks at validation Dice over a training
LOOK_CASES = 4
LOOKING = 0.05  # all looks together may take this share of a time budget
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
class FoldJob:
    """What training one fold needs: `seconds` of wall time from `started` on by `clock`, or `steps`."""

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
        """Where the fold's files are written."""
        return self.run / "folds" / self.plan.chosen / self.fold

    @property
    def checkpoint(self) -> Path:
        """Everything that going on needs."""
        return self.folder / "checkpoint.safetensors"

    @property
    def seed(self) -> tuple[int, int]:
        """What patches are drawn by, besides the step."""
        return self.plan.request.seed, int(self.fold) if self.fold.isdecimal() else 1_000_003

    @property
    def cache(self) -> Path:
        """The prepared cases of the chosen configuration."""
        return self.run / "cache" / self.plan.configuration.cache


def train_fold(job: FoldJob) -> Iterator[Event | FoldTrained]:
    """Train until the job's seconds or steps are used up, validate, save; go on from a checkpoint where one stands.

    Raises:
        RunError: a case is not prepared, or the checkpoint belongs to another plan.
        InputError: the budget ends before the first step.
        ResourceError: the disk is full.
    """
    output_folder(job.folder)
    training = load_cases(job.cache, job.cases.train, job.plan.configuration.preprocessing)
    validation = load_cases(job.cache, job.cases.validation, job.plan.configuration.preprocessing)
    configuration = job.plan.configuration
    digest = hashlib.sha256(configuration.model_dump_json().encode()).hexdigest()
    network = build_network(configuration.network, job.plan.request.seed).to(job.device)
    optimiser = build_optimiser(network, configuration.schedule)
    before = load_checkpoint(job.checkpoint, network, optimiser, digest)
    progress = before or Progress(plan=digest)
    if before:
        yield Note(f"fold {job.fold} goes on from step {before.step}")

    earlier = progress.elapsed_s
    reserve = MARGIN_S
    looked_at: Sequence[LoadedCase] = validation[:LOOK_CASES]
    if job.seconds is not None and validation:
        yield Stage(f"time fold {job.fold}", 1, "predicting two validation cases, to know what the end will take")
        reserve, looked_at, warning = _end_costs(network, validation, job.seconds, job)
        if warning:
            yield Note(warning, warning=True)
    share_done = _schedule(job, earlier, reserve)
    expect = f"{len(training)} cases, {len(validation)} to validate on, {describe(job.device)}, {_amount(job)}"
    yield Stage(f"train fold {job.fold}", 100, expect)
    last = yield from _steps(network, optimiser, training, looked_at, share_done, progress, job)
    if last.step == 0:
        raise _too_short(job)
    save_checkpoint(job.checkpoint, network, optimiser, last)
    yield Advanced(100, f"{last.step} steps, loss {last.loss or 0:.3f}")

    scores: Scores | None = None
    for event in _validate(network, validation, job):
        if isinstance(event, Scores):
            scores = event
        else:
            yield event
    seconds = earlier + job.clock() - job.started
    save_model(job.folder, network, _card(job, last.step, seconds, scores))
    job.checkpoint.unlink(missing_ok=True)
    yield FoldTrained(job.fold, job.folder, last.step, seconds, scores)


def _steps(
    network: torch.nn.Module,
    optimiser: torch.optim.Optimizer,
    training: Sequence[LoadedCase],
    looked_at: Sequence[LoadedCase],
    share_done: Callable[[int], float],
    progress: Progress,
    job: FoldJob,
) -> Generator[Event, None, Progress]:
    """All steps that are left, with a look at validation Dice and a checkpoint now and then; returns where it ended."""
    saved, shown, dice = job.clock(), 0.0, ""
    losses: list[float] = []
    next_look = (int(share_done(progress.step) * LOOKS) + 1) / LOOKS
    last, earlier = progress, progress.elapsed_s

    def now(step: StepDone) -> Progress:
        return progress.model_copy(
            update={
                "step": step.step,
                "elapsed_s": earlier + job.clock() - job.started,
                "loss": sum(losses) / len(losses),
            }
        )

    steps = fit(network, optimiser, training, job.plan.configuration, share_done, job.seed, progress.step, job.device)
    for step in steps:
        losses = [*losses[-49:], step.loss]
        last = now(step)
        if step.share >= next_look and looked_at:
            looked = quick_dice(network, looked_at, job.plan, job.device)
            dice = _dice_text(looked)
            _log(
                job.folder / "events.jsonl",
                {**last.model_dump(exclude={"plan", "version"}), "rate": step.learning_rate, "dice": looked},
            )
            next_look = (int(share_done(step.step) * LOOKS) + 1) / LOOKS
        if job.clock() - saved > SAVE_EVERY_S:
            save_checkpoint(job.checkpoint, network, optimiser, last)
            saved = job.clock()
        if job.clock() - shown > 0.5:
            shown = job.clock()
            yield Advanced(
                100 * step.share, f"step {step.step}, epoch {step.step / EPOCH_STEPS:.1f}, loss {last.loss:.3f}{dice}"
            )
    return last


def _too_short(job: FoldJob) -> InputError:
    """An untrained network must not pass for a model."""
    return InputError("the budget was used up before the first step", job.run, "give a longer --budget")


def _schedule(job: FoldJob, earlier: float, reserve: float) -> Callable[[int], float]:
    """The share of the schedule that is used up after a step: of the steps, or of the seconds left for them."""
    if job.steps is not None:
        total = job.steps
        return lambda step: step / total
    seconds = job.seconds or 0.0
    if seconds <= 0:
        raise _too_short(job)
    for_steps = max(seconds - reserve, SMALLEST_SHARE * seconds)
    return lambda _step: (earlier + job.clock() - job.started) / for_steps


def _end_costs(
    network: torch.nn.Module, validation: Sequence[LoadedCase], seconds: float, job: FoldJob
) -> tuple[float, Sequence[LoadedCase], str]:
    """From predicting the median and the largest validation case: seconds to keep for the end, the cases that quick
    looks can afford, and a warning where validation alone takes more than the budget of `seconds` leaves.
    """
    by_size = sorted(validation, key=lambda c: c.classes_XYZ.size)
    trial = [by_size[len(by_size) // 2], by_size[-1]]
    began = job.clock()
    for case in trial:
        predict_prepared(network, case, job.plan, job.device)
    network.train()
    case_s = max((job.clock() - began) / len(trial), 1e-3)
    reserve = MARGIN_S + SCORING * case_s * len(validation)
    affordable = validation[: min(LOOK_CASES, int(LOOKING * seconds / (LOOKS * case_s)))]
    if reserve <= (1 - SMALLEST_SHARE) * seconds:
        return reserve, affordable, ""
    whole = (SMALLEST_SHARE * seconds + reserve) / 60
    return reserve, affordable, f"validation alone needs {reserve / 60:.1f} min: this will take {whole:.1f} min"


def _validate(network: torch.nn.Module, cases: Sequence[LoadedCase], job: FoldJob) -> Iterator[Event | Scores]:
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


def _card(job: FoldJob, steps: int, seconds: float, scores: Scores | None) -> ModelCard:
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


def _amount(job: FoldJob) -> str:
    return f"{job.steps} steps" if job.steps is not None else f"{(job.seconds or 0) / 60:.3g} min"


def _dice_text(dice: dict[str, float]) -> str:
    return "".join(f", {name} {value:.2f}" for name, value in dice.items())


def _log(path: Path, line: dict[str, object]) -> None:
    with explained(path), path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")
