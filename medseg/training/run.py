"""Front door of training: a run's folds, each trained to its budget, validated on whole cases, saved as a model.

RUN/folds/<configuration>/K/
    checkpoint.safetensors   everything that going on needs; removed when the model stands
    events.jsonl             a line now and then: step, seconds, loss, rate, Dice
    validation/              labels, scores.csv, scores.json of the fold's validation cases
    model.safetensors, model.json
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from medseg.compute import keep_freed_memory
from medseg.errors import InputError, ResourceError, RunError
from medseg.evaluation.cohort import Scores
from medseg.events import Event, Note
from medseg.files import read_record, write_record
from medseg.inference.model import ModelCard
from medseg.planning.fingerprint import Fingerprint
from medseg.planning.plan import Budget, Fold, Plan, Splits
from medseg.planning.splits import split
from medseg.training.fold import FoldJob, FoldTrained, train_fold


@dataclass(frozen=True)
class Trained:
    """The end of training."""

    run: Path
    folds: tuple[FoldTrained, ...]

    @property
    def failed(self) -> dict[str, str]:
        """Cases that failed: none, since planning sets bad ones aside."""
        return {}


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
    left = [f for f in folds if not (run / "folds" / plan.chosen / f / "model.json").is_file()]
    done: list[FoldTrained] = []
    for fold in folds:
        seconds, now = budget.seconds, clock()
        if seconds is not None and fold in left:
            seconds = (seconds - (now - began)) / len(left[left.index(fold) :])
        job = FoldJob(run, fold, plan, _fold_cases(parts, fold, run), seconds, budget.steps, device, clock, now)
        if fold not in left:
            yield Note(f"fold {fold} is trained already; delete {job.folder} to train it anew")
            done.append(_finished(job))
            continue
        try:
            for event in train_fold(job):
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
        RunError: folds of another split are trained or begun, or the user gave the folds.
        InputError: there are fewer cases than folds.
    """
    plan, parts = _read(run)
    if len(parts.folds) == n:
        return
    if parts.given:
        raise RunError(f"has {len(parts.folds)} folds that were given", run, "leave --folds out, or plan without them")
    if any((run / "folds").glob("*/*/*.safetensors")):
        raise RunError(f"holds folds of a split into {len(parts.folds)}", run, "plan into a new folder")
    fingerprint = read_record(run / "fingerprint.json", Fingerprint)
    most = len({case.patient or case.case for case in fingerprint.cases})
    if not 2 <= n <= most:
        cases = f"{plan.cases} cases" + (f" of {most} patients" if most < plan.cases else "")
        raise InputError(f"{cases} cannot be split into {n} folds", run, f"give 2 to {most}")
    write_record(run / "splits.json", split(fingerprint, parts.seed, n))


def _fold_cases(parts: Splits, fold: str, run: Path) -> Fold:
    if fold == "all":
        names = {n for f in parts.folds for n in (*f.train, *f.validation)}
        if not names:
            names = {c.case for c in read_record(run / "fingerprint.json", Fingerprint).cases}
        return Fold(train=tuple(sorted(names)), validation=())
    if fold not in map(str, range(len(parts.folds))):
        known = f"0 to {len(parts.folds) - 1}, or all" if parts.folds else "all"
        raise InputError(f"there is no fold {fold}", run, f"give {known}")
    found = parts.folds[int(fold)]
    if not found.train:
        raise InputError(f"fold {fold} has no case to train on", run, "train another, or plan with other --splits")
    return found


def _finished(job: FoldJob) -> FoldTrained:
    card = read_record(job.folder / "model.json", ModelCard)
    path = job.folder / "validation" / "scores.json"
    scores = read_record(path, Scores) if path.is_file() else None
    return FoldTrained(job.fold, job.folder, card.steps, card.seconds, scores)
