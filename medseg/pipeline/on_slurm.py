"""`medseg train --on slurm`: the batch scripts of a training, submitted and, where it is wished, waited for.

Several folds are an array of jobs, a fold each, and a small job scores them together when all are trained. Each job is
`medseg train RUN --fold K` and goes on from its checkpoint where it is put back into the queue.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from medseg.cluster.batch import ELEMENT, JOB, Batch, Needs, check_options, script
from medseg.cluster.options import SbatchOptions, sbatch_options
from medseg.cluster.slurm import check_sbatch, submit
from medseg.errors import InputError, explained
from medseg.events import Event, Note
from medseg.files import write_text
from medseg.pipeline.waiting import Queued, follow, keep, keeping, queued
from medseg.planning.explain import counted
from medseg.planning.plan import Budget, Fold, Plan

if TYPE_CHECKING:
    from medseg.training.job import FoldJob
    from medseg.training.run import Trained

LOGS = "logs"
MARGIN_SHARE, LEAST_MARGIN_S = 0.25, 600.0  # beside the budget: start, and validation that takes longer than foreseen
STEPS_MARGIN = 1.5  # times what the steps alone take: looks and validation
GPU_PROCESS_GB = 4.0  # of memory of the node, for torch with its libraries for GPUs
SPARE_GB = 2.0
CPUS = {"cpu": 8, "cuda": 4}  # for a job; for each GPU
SCORING_S = 1800.0


@dataclass(frozen=True)
class Asked:
    """What a training was asked to do, in the words of the command; see `steps.train`."""

    fold: str | None = None
    folds: int | None = None
    budget: str | None = None
    steps: int | None = None
    device: str = "auto"
    configuration: str | None = None
    init: Path | None = None
    deterministic: bool = False
    gpus: int | None = None
    tensorboard: bool = False
    nodes: int = 1
    interface: str | None = None


@dataclass(frozen=True)
class Scripts:
    """What would be submitted."""

    texts: tuple[str, ...]


@dataclass(frozen=True)
class Submitted:
    """Jobs that wait in the queue: that of the folds, then the one that scores them together."""

    run: Path
    jobs: tuple[str, ...]
    folds: tuple[str, ...]
    logs: Path


def train_on_slurm(
    run: Path, asked: Asked, options: str = "", wait: bool = False, dry_run: bool = False
) -> Iterator[Event | Scripts | Submitted | Trained]:
    """Submit what trains the folds that are not trained yet. options: sbatch's own. dry_run: nothing is changed.

    Raises:
        InputError: sbatch is not here or refuses, or the options do not fit; the folds are in the queue already.
        RunError: as `training.train`.
        LeftRunning: waiting was interrupted.
    """
    from medseg.pipeline.steps import amount, configuration_named
    from medseg.training.crossvalidation import use_folds
    from medseg.training.run import as_it_stands, plan_for

    own = sbatch_options(options)
    check_options(own)
    _check(asked)
    budget = amount(asked.fold, asked.folds, asked.budget, asked.steps)
    plan = plan_for(run, configuration_named(asked.configuration))
    if not dry_run:
        check_sbatch()
    wanted = ["0" if asked.fold is None else asked.fold] if asked.folds is None else list(map(str, range(asked.folds)))
    before = [] if dry_run else queued(run, plan.chosen, wanted)
    if before and not wait:
        what = f"fold {', '.join(before[0].folds)} is in the queue already, as job {before[0].jobs[0]}"
        raise InputError(what, run, f"add --wait to wait for it, or end it with scancel {' '.join(before[0].jobs)}")
    if before:
        yield Note(f"job {before[0].jobs[0]} is in the queue already")
        yield from follow(run, before[0])
        return
    if asked.folds is not None and not dry_run and (told := use_folds(run, asked.folds)):
        yield Note(told)
    jobs = _jobs(run, wanted, asked, budget or plan.budget, plan)
    left = tuple(job.fold for job in jobs if not job.is_trained)
    batches = _batches(run.absolute(), plan, asked, budget or plan.budget, left, own)
    if not batches:
        yield Note(f"fold {wanted[0]} is trained already; delete {jobs[0].folder} to train it anew")
        yield as_it_stands(run, wanted, plan.chosen)
        return
    yield from _told(left, len(wanted), batches[0])
    if dry_run:
        yield Scripts(tuple(map(script, batches)))
        return
    job = Queued(jobs=(), folds=left, of=tuple(wanted), configuration=plan.chosen, array=bool(batches[0].array))
    job = _submitted(run, batches, job)
    if wait:
        yield from follow(run, job)
    else:
        yield Submitted(run, job.jobs, left, run / LOGS)


def _check(asked: Asked) -> None:
    """Make sure of what does not depend on the machine that trains.

    Raises:
        InputError: an option says what no machine can do.
    """
    for option, value in {"--nodes": asked.nodes, "--gpus": asked.gpus}.items():
        if value is not None and value < 1:
            raise InputError(f"{option} {value} trains nothing", fix="give at least 1")
    if asked.device not in ("auto", "cpu", "cuda"):
        raise InputError(f"--device {asked.device} is no device", fix="give auto, cpu or cuda")


def _jobs(run: Path, folds: list[str], asked: Asked, budget: Budget, plan: Plan) -> list[FoldJob]:
    """The folds, after everything that can be wrong with them was looked at: here, not in a job that waited for hours.
    A split that is to be made later has folds without cases yet.
    """
    import torch

    from medseg.inference.model import run_splits
    from medseg.training.crossvalidation import cases_of
    from medseg.training.job import FoldJob, check_amount
    from medseg.training.learning.distributed import check_batch
    from medseg.training.transfer import starting_model

    starting_model(run, plan, asked.init)
    check_batch(plan.configuration.schedule.batch, asked.nodes * (asked.gpus or 1))
    is_split = asked.folds is None or asked.folds == len(run_splits(run).folds)
    found = []
    for fold in folds:
        cases = cases_of(fold, run) if is_split else Fold(train=(), validation=())
        job = FoldJob(run, fold, plan, cases, None, budget.steps, torch.device("cpu"), time.monotonic, 0.0)
        if not job.is_trained:
            check_amount(job, budget, 1)
        found.append(job)
    return found


def _batches(
    run: Path, plan: Plan, asked: Asked, budget: Budget, left: tuple[str, ...], own: SbatchOptions
) -> list[Batch]:
    """The job of the folds that are left, and the one that scores all of them together."""
    name, logs = f"medseg-train-{plan.chosen}", run / LOGS
    program = (sys.executable, "-m", "medseg", "train", str(run))
    found = []
    if left:
        device = device_of(plan, asked)
        which = ("--fold", ELEMENT if len(left) > 1 else left[0])
        command = (*program, *which, *_same(asked), "--device", device, *_side(asked))
        array = tuple(map(int, left)) if len(left) > 1 else ()
        found.append(Batch(name, command, logs, needs(plan, asked, budget, device), own, array))
    if asked.folds is not None and asked.folds > 1:
        command = (*program, "--folds", str(asked.folds), *_same(asked), "--device", "cpu")
        plain = own.without("gres", "gpus", "gpus-per-node", "time", "mem", "cpus-per-task")
        after = "JOB" if left else ""  # its number is known once it is submitted
        room = SPARE_GB + plan.configuration.cost.preparing_gb  # a case at a time is drawn, and learned from
        little = Needs(cpus=1, memory_gb=room, time_s=SCORING_S)
        found.append(Batch(f"medseg-score-{plan.chosen}", command, logs, little, plain, after=after))
    return found


def _same(asked: Asked) -> list[str]:
    """The options that a job is given as they are."""
    words = {
        "--budget": asked.budget,
        "--steps": None if asked.steps is None else str(asked.steps),
        "--configuration": asked.configuration,
        "--init": None if asked.init is None else str(asked.init.absolute()),
    }
    given = [word for option, value in words.items() if value is not None for word in (option, value)]
    flags = {"--deterministic": asked.deterministic, "--tensorboard": asked.tensorboard}
    return given + [flag for flag, is_given in flags.items() if is_given]


def _side(asked: Asked) -> list[str]:
    """On how much one fold is trained."""
    words = [] if asked.gpus is None else ["--gpus", str(asked.gpus)]
    if asked.nodes > 1:
        words += ["--nodes", str(asked.nodes), "--job", JOB]
        words += [] if asked.interface is None else ["--interface", asked.interface]
    return words


def device_of(plan: Plan, asked: Asked) -> str:
    """What a job computes on. Where nothing was said it is what the plan was made for: on a node without a GPU the job
    then ends with a word, and does not compute on the CPU for days.
    """
    if asked.device != "auto":
        return asked.device
    return "cuda" if asked.gpus is not None else plan.request.device


def needs(plan: Plan, asked: Asked, budget: Budget, device: str) -> Needs:
    """What a fold's job takes on each node, by the plan's own figures: each process holds all prepared cases."""
    cost, each = plan.configuration.cost, asked.gpus or 1
    process = (GPU_PROCESS_GB if device == "cuda" else cost.training_gb) + cost.cache_gb
    return Needs(
        cpus=CPUS["cuda"] * each if device == "cuda" else CPUS["cpu"],
        memory_gb=SPARE_GB + cost.preparing_gb + each * process,
        time_s=_time_s(plan, budget, device),
        gpus=each if device == "cuda" else 0,
        nodes=asked.nodes,
    )


def _time_s(plan: Plan, budget: Budget, device: str) -> float | None:
    """The budget and a margin; of steps, what the plan measured on such a device."""
    if budget.seconds is not None:
        return budget.seconds + max(MARGIN_SHARE * budget.seconds, LEAST_MARGIN_S)
    step_s = plan.configuration.cost.step_s
    if step_s is None or budget.steps is None or plan.request.device != device:
        return None
    return STEPS_MARGIN * budget.steps * step_s + LEAST_MARGIN_S


def _told(left: tuple[str, ...], of: int, batch: Batch) -> Iterator[Note]:
    """What is not to be guessed from the command."""
    if len(left) > 1:
        yield Note(f"{counted(len(left), 'fold')}, each in a job of its own with the whole of the budget")
    if len(left) < of:
        yield Note(f"{of - len(left)} of {of} folds are trained already")
    if left and batch.needs.time_s is None and not batch.options.has("time"):
        yield Note("nothing tells how long so many steps take: the time limit is the partition's; --slurm sets one")


def _submitted(run: Path, batches: list[Batch], job: Queued) -> Queued:
    """Write the scripts into the run and submit them; what was submitted is remembered, also where the next one is
    refused.
    """
    logs = run.absolute() / LOGS
    with explained(logs):
        logs.mkdir(exist_ok=True)
    before = keeping(run)
    for batch in batches:
        path = logs / f"{batch.name}.sbatch"
        write_text(path, script(replace(batch, after=job.jobs[0]) if batch.after else batch))
        job = job.model_copy(update={"jobs": (*job.jobs, submit(path))})
        keep(run, (*before, job))
    return job
