"""Front door of training: a run's folds, each trained to its budget, validated on whole cases, saved as a model.

RUN/folds/<configuration>/K/
    checkpoint.safetensors   everything that going on needs; removed when the model stands
    events.jsonl             a line now and then: step, seconds, loss, rate, Dice
    curves.png               the same, drawn
    validation/              labels, scores.csv, scores.json of the fold's validation cases
    held_out/                the same labels, for what builds on cross-validation
    model.safetensors, model.json
RUN/folds/<configuration>/crossvalidation/   scores of all folds' validation cases, once all folds are trained
RUN/report.html   all of it on one page, written by `pipeline.steps` at the end of each fold
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch

from medseg.compute import keep_freed_memory
from medseg.errors import InputError, RunError
from medseg.evaluation.records import Scores
from medseg.events import Advanced, Event, Note
from medseg.files import read_record
from medseg.inference.model import ModelCard, run_plan
from medseg.inference.trust.kept import is_learned, write_trust
from medseg.planning.configure import descent
from medseg.planning.cost import within
from medseg.planning.explain import counted
from medseg.planning.plan import Budget, Name, Plan
from medseg.training.crossvalidation import FOLDER, cases_of, cross_validate, uneven, use_folds
from medseg.training.fold import FoldTrained, train_fold
from medseg.training.job import FoldJob, How, Queue, check_amount, queue_of
from medseg.training.launch import on_ranks, side_by_side
from medseg.training.learning.distributed import check_batch
from medseg.training.nodes import Nodes
from medseg.training.stopping import interruptible, terminable
from medseg.training.transfer import starting_model

__all__ = ["FoldTrained", "How", "Trained", "as_it_stands", "plan_for", "train", "use_folds"]

_DEVICES = {"cpu": "a CPU", "cuda": "a GPU"}


@dataclass(frozen=True)
class Trained:
    """The end of training. crossvalidation: what all folds say together, where all are trained."""

    run: Path
    folds: tuple[FoldTrained, ...]
    crossvalidation: Scores | None = None
    failed: dict[str, str] = field(default_factory=dict)  # folds, with the reason


def train(
    run: Path,
    folds: Sequence[str],
    budget: Budget | None,
    device: torch.device,
    clock: Callable[[], float] = time.monotonic,
    started: float | None = None,
    configuration: Name | None = None,
    how: How = How(),  # noqa: B008 - frozen
    gpus: int = 1,
    nodes: Nodes | None = None,
) -> Iterator[Event | FoldTrained | Trained]:
    """Train `folds` (numbers as text, or "all") of `run` one after another; finished ones are kept, begun ones go on.
    The end of each but the last is told as it comes.

    The budget is the wall time of the whole command from `started` on, shared evenly by the folds; without one the
    plan's holds. Finished folds count with their share, begun ones with the time that they had. configuration: another
    prepared one than the plan's choice. gpus: processes, on a GPU each; several folds are trained side by side, one is
    trained by all of them. nodes: of the Slurm job that this runs in, which train one fold together.

    Raises:
        RunError: `run` is not a planned and prepared run, a checkpoint belongs to another plan, or weights are gone.
        InputError: there is no such fold or configuration, or the budget leaves no step to do.
        ResourceError: memory or disk gave out.
    """
    began = clock() if started is None else started
    plan = plan_for(run, configuration)
    budget = budget or plan.budget
    given, how = how.init, replace(how, init=starting_model(run, plan, how.init))
    keep_freed_memory()
    jobs = [FoldJob(run, f, plan, cases_of(f, run), None, budget.steps, device, clock, began, how) for f in folds]
    left = [job for job in jobs if not job.is_trained]
    if nodes is not None and len(jobs) > 1:
        raise InputError("--nodes trains one fold at a time", run, "give --fold; or --on slurm, with a job for each")
    side = max(min(gpus, len(jobs)), 1)
    rounds = -(-len(jobs) // side)
    for job in jobs:
        _check(job, budget, rounds)
    for job in jobs:
        if job.is_trained:
            yield Note(f"fold {job.fold} is trained already; delete {job.folder} to train it anew")
        elif given is not None and job.checkpoint.is_file():
            told = "goes on from its own checkpoint: --init is not read again; delete it to begin anew"
            yield Note(f"fold {job.fold} {told}", warning=True)
    if left and (told := unlike_planned(plan, budget, rounds, device.type)):
        yield Note(told, warning=True)
    failed: dict[str, str] = {}
    if side > 1:
        if gpus > len(jobs):
            yield Note(f"{len(jobs)} of {gpus} GPUs are used, one for each fold")
        queues = [queue_of(some, budget, began, rounds) for k in range(side) if (some := left[k::side])]
        with interruptible():
            yield from _with_ends(side_by_side(queues, failed), left)
    else:
        yield from _in_turn(queue_of(left, budget, began, rounds), gpus, nodes)
    scores = cross_validate(run, plan.chosen) if len(jobs) > 1 and not failed else None
    if scores is not None and (different := uneven(job.folder for job in jobs)):
        yield Note(f"the folds were trained very differently: {different}", warning=True)
    yield from _taught(run, plan.chosen)
    named = {f"fold {fold}": reason for fold, reason in failed.items()}
    yield Trained(run, tuple(_finished(job) for job in jobs if job.is_trained), scores, named)


def as_it_stands(
    run: Path, folds: Sequence[str], configuration: Name, failed: Mapping[str, str] | None = None
) -> Trained:
    """The end of a training that other processes did, from what they left in the run; `failed`: what they did not."""
    folders = [run / "folds" / configuration / fold for fold in folds]
    joint = run / "folds" / configuration / FOLDER / "scores.json"
    trained = tuple(_as_left(folder) for folder in folders if (folder / "model.json").is_file())
    scores = None
    if len(trained) == len(folders) > 1 and joint.is_file():
        models = [(folder / "model.json").stat().st_mtime_ns for folder in folders]
        scores = read_record(joint, Scores) if joint.stat().st_mtime_ns >= max(models) else None  # else of older ones
    return Trained(run, trained, scores, dict(failed or {}))


def _taught(run: Path, configuration: Name) -> Iterator[Note]:
    """Learn from the held-out cases, and say how far predictions of new scans can be told to be good or bad."""
    if is_learned(run, configuration):
        return
    trust = write_trust(run, configuration)
    if trust is None:
        yield Note("no case was held out: how good predictions of new scans are will not be known")
        return
    told = f"trust learned from {counted(trust.cases, 'held-out case')}"
    if trust.dice_error is not None:
        told += f": the Dice of a scan is predicted to {trust.dice_error:.3f} on average"
    if trust.ece_before is not None and trust.ece_after is not None:
        told += f"; calibration error {trust.ece_before:.3f}, {trust.ece_after:.3f} at temperature"
        told += f" {trust.temperature:.2f}"
    yield Note(told)


def check_gpus(gpus: int | None, device: torch.device) -> None:
    """Make sure that this machine has so many.

    Raises:
        InputError: it has not.
    """
    if gpus is not None and gpus < 1:
        raise InputError(f"--gpus {gpus} trains nothing", fix="give at least 1")
    if gpus is not None and device.type == "cuda" and gpus > torch.cuda.device_count():
        raise InputError(f"--gpus {gpus}: torch sees {torch.cuda.device_count()} here", fix="give as many or fewer")


def plan_for(run: Path, configuration: Name | None) -> Plan:
    """The run's plan, with another configuration chosen where one is named.

    Raises:
        RunError: `run` is not a run.
        InputError: the plan holds no such configuration.
    """
    plan = run_plan(run)
    if configuration is None or configuration == plan.chosen:
        return plan
    if configuration not in plan.configurations:
        known = ", ".join(plan.configurations)
        raise InputError(f"the plan has no configuration {configuration}", run, f"give one of {known}")
    return plan.model_copy(update={"chosen": configuration})


def unlike_planned(plan: Plan, budget: Budget, rounds: int, device: str) -> str:
    """That the plan was made for another device, or would have another optimiser for a budget that `rounds` folds
    share; else empty.
    """
    made = plan.configuration
    if plan.request.device != device:
        what = f"the plan was made for {_DEVICES[plan.request.device]}, and this is {_DEVICES[device]}"
        return f"{what}: patch, batch and optimiser suit another; plan with --device {device}"
    share = budget if budget.seconds is None else Budget(seconds=budget.seconds / rounds)
    steps = within(share, made.cost.step_s)[1]
    better, planned = descent(plan.request.device, steps)["optimiser"], made.schedule.optimiser
    if steps is None or better == planned:
        return ""
    told = f"the budget holds about {counted(steps, 'step')} of a fold, and the plan's optimiser, {planned},"
    return f"{told} was chosen for another number; plan with a --budget of one fold to let it choose {better}"


def _check(job: FoldJob, budget: Budget, rounds: int) -> None:
    """Make sure, before anything changes, that a trained fold is whole and that a begun one has something left."""
    if not job.is_trained:
        check_amount(job, budget, rounds)
    elif not (job.folder / "model.safetensors").is_file():
        what = f"fold {job.fold} is trained, but its model.safetensors is missing"
        raise RunError(what, job.folder, "put it back, or delete the folder to train it anew")


def _in_turn(queue: Queue, gpus: int, nodes: Nodes | None) -> Iterator[Event | FoldTrained]:
    """Train folds one after another, and tell the end of each but the last."""
    for k, job in enumerate(queue.jobs, 1):
        yield from _one(queue.begun(k - 1), gpus, nodes)
        if k < len(queue.jobs):
            yield _finished(job)


def _one(job: FoldJob, gpus: int, nodes: Nodes | None) -> Iterator[Event]:
    """Train one fold, here, on several GPUs, or on several nodes."""
    ranks = gpus * (nodes.number if nodes else 1)
    if ranks > 1:
        check_batch(job.plan.configuration.schedule.batch, ranks)
        with interruptible():
            yield from on_ranks(job, ranks, nodes.start, gpus) if nodes else on_ranks(job, ranks)
        return
    with terminable() as asked:
        for event in train_fold(replace(job, asked_to_end=asked)):
            if not isinstance(event, FoldTrained):
                yield event


def _with_ends(events: Iterator[Event], jobs: Sequence[FoldJob]) -> Iterator[Event | FoldTrained]:
    """What is told of folds side by side, and the end of each but the last."""
    left = list(jobs)
    for event in events:
        yield event
        for job in [job for job in left if isinstance(event, Advanced) and job.is_trained]:
            left.remove(job)
            if left:
                yield _finished(job)


def _finished(job: FoldJob) -> FoldTrained:
    return _as_left(job.folder)


def _as_left(folder: Path) -> FoldTrained:
    """The end of a fold's training, from its folder."""
    card = read_record(folder / "model.json", ModelCard)
    path = folder / "validation" / "scores.json"
    scores = read_record(path, Scores) if path.is_file() else None
    return FoldTrained(folder.name, folder, card.steps, card.seconds, scores, card.origin.known)
