"""What training one fold is told; and folds in a row, which share the time that there is."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from medseg.errors import InputError
from medseg.planning.explain import counted, duration
from medseg.planning.plan import Budget, Fold, Plan
from medseg.training.budget import ends_of_next
from medseg.training.journal import Draw
from medseg.training.learning.checkpoint import Progress


@dataclass(frozen=True)
class How:
    """What changes how a fold is trained, beside its plan.

    deterministic: the same run gives the same weights. init: the folder of a model whose weights are the start. draw:
    makes the curves of a fold's folder.
    """

    deterministic: bool = False
    init: Path | None = None
    tensorboard: bool = False
    draw: Draw | None = None


@dataclass(frozen=True)
class FoldJob:
    """What training one fold needs: when by `clock` everything must be done, or the number of steps.

    asked_to_end: whether training is to save a checkpoint and end. processes: that share this machine's memory.
    """

    run: Path
    fold: str
    plan: Plan
    cases: Fold
    ends: float | None
    steps: int | None
    device: torch.device
    clock: Callable[[], float]
    started: float
    how: How = How()
    asked_to_end: Callable[[], bool] = lambda: False
    processes: int = 1

    @property
    def folder(self) -> Path:
        """Where the fold's files are written."""
        return self.run / "folds" / self.plan.chosen / self.fold

    @property
    def checkpoint(self) -> Path:
        """Everything that going on needs."""
        return self.folder / "checkpoint.safetensors"

    @property
    def is_trained(self) -> bool:
        """Whether the fold's model stands."""
        return (self.folder / "model.json").is_file()

    @property
    def seed(self) -> tuple[int, int]:
        """What patches are drawn by, besides the step."""
        return self.plan.request.seed, int(self.fold) if self.fold.isdecimal() else 1_000_003

    @property
    def cache(self) -> Path:
        """The prepared cases of the chosen configuration."""
        return self.run / "cache" / self.plan.configuration.cache

    @property
    def digest(self) -> str:
        """Changes whenever a checkpoint would no longer fit; the learning rate may be changed on the way."""
        told = self.plan.model_dump_json(include={"structures", "regions", "ignore"})
        made = self.plan.configuration.model_dump_json(exclude={"schedule": {"learning_rate"}})
        return hashlib.sha256((made + told).encode()).hexdigest()

    @property
    def amount(self) -> str:
        """The steps or the time, in words."""
        if self.ends is None:
            return counted(self.steps or 0, "step")
        return duration(max(self.ends - self.started, 0.0))

    @property
    def begun(self) -> Progress | None:
        """Where it was left, as its checkpoint has it."""
        if not self.checkpoint.is_file():
            return None
        try:
            with safe_open(self.checkpoint, framework="pt") as file:
                return Progress.model_validate_json(file.metadata()["progress"])
        except (SafetensorError, OSError, KeyError, TypeError, ValueError):
            return None  # whoever goes on from it will say what is wrong with it

    @property
    def elapsed_s(self) -> float:
        """The time that was spent on it before."""
        begun = self.begun
        return begun.elapsed_s if begun else 0.0


def check_amount(job: FoldJob, budget: Budget, rounds: int) -> None:
    """Make sure that a begun fold has steps left: without any, its rate would never come down to its end.

    rounds: folds that share the budget. A fold whose steps are all done is only validated.

    Raises:
        InputError: it was trained for as long already.
    """
    begun = job.begun
    if begun is None or begun.plan != job.digest or begun.share >= 1:
        return
    fix = f"or delete {job.folder} to begin anew"
    if budget.steps is not None and begun.step >= budget.steps:
        stands = f"step {begun.step}" + (f" of {begun.total_steps}" if begun.total_steps else "")
        told = f"fold {job.fold} stands at {stands} already, and {budget.steps} are asked for"
        raise InputError(told, job.run, f"give more --steps, {fix}")
    if budget.seconds is not None and begun.elapsed_s >= budget.seconds / rounds:
        spent, asked = duration(begun.elapsed_s), duration(budget.seconds / rounds)
        told = f"fold {job.fold} was trained for {spent} already, and {asked} are asked for"
        raise InputError(told, job.run, f"give a longer --budget, {fix}")


@dataclass(frozen=True)
class Queue:
    """Folds that are trained one after another: the seconds that each needs, and when all must be done."""

    jobs: tuple[FoldJob, ...]
    needs: tuple[float, ...]
    ends: float | None

    def begun(self, k: int) -> FoldJob:
        """The k-th fold as it begins now; what those before it took too long, or left, is shared by the others."""
        job = self.jobs[k]
        now = job.clock()
        return replace(
            job, started=now, ends=None if self.ends is None else ends_of_next(now, self.ends, self.needs[k:])
        )


def queue_of(jobs: Sequence[FoldJob], budget: Budget, began: float, rounds: int) -> Queue:
    """Folds in a row, each with its share of the budget of a command that `began` and trains `rounds` in a row.

    The share is the same whatever is done already: all folds of a cross-validation are to be trained alike.
    """
    if budget.seconds is None:
        return Queue(tuple(jobs), (), None)
    needs = tuple(max(budget.seconds / rounds - job.elapsed_s, 0.0) for job in jobs)
    return Queue(tuple(jobs), needs, began + sum(needs))
