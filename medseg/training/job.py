"""What training one fold is told; and folds in a row, which share the time that there is."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from medseg.planning.plan import Budget, Fold, Plan
from medseg.training.budget import ends_of_next
from medseg.training.checkpoint import Progress
from medseg.training.journal import Draw


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

    asked_to_end: whether training is to save a checkpoint and end.
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
            return f"{self.steps} steps"
        left = self.ends - self.started
        return f"{left:.0f} s" if left < 100 else f"{left / 60:.3g} min" if left < 6000 else f"{left / 3600:.3g} h"

    @property
    def elapsed_s(self) -> float:
        """The time that was spent on it before, as its checkpoint has it."""
        if not self.checkpoint.is_file():
            return 0.0
        try:
            with safe_open(self.checkpoint, framework="pt") as file:
                return Progress.model_validate_json(file.metadata()["progress"]).elapsed_s
        except (SafetensorError, OSError, KeyError, TypeError, ValueError):
            return 0.0  # whoever goes on from it will say what is wrong with it


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
