"""One fold from its prepared cases to a saved model: steps within the budget, looks, checkpoints, validation."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import torch

from medseg.compute import describe, memory_gave_out
from medseg.errors import InputError, ResourceError
from medseg.evaluation.cohort import mean_dice
from medseg.evaluation.records import Scores
from medseg.events import Advanced, Event, Note, Stage
from medseg.files import output_folder
from medseg.inference.model import ModelCard, save_model
from medseg.planning.cost import GB
from medseg.planning.explain import counted
from medseg.preprocessing.cache import LoadedCase, load_cases
from medseg.training.budget import Pace, SharedPace
from medseg.training.cascade import with_previous
from medseg.training.course import Course
from medseg.training.data.patches import batches
from medseg.training.data.sources import Placed, place
from medseg.training.job import FoldJob
from medseg.training.journal import Journal
from medseg.training.learning.checkpoint import Progress, load_checkpoint, save_checkpoint
from medseg.training.learning.distributed import Ranks, from_first_rank, sum_over_ranks
from medseg.training.learning.loop import Learner, StepDone, build_learner, fit
from medseg.training.looks import Looks
from medseg.training.losses.table import build_loss
from medseg.training.transfer import adapt, origin_of

SEEN_S = 120.0  # a file that was replaced is seen on every node of a shared file system within it
SMALLEST_SHARE = 0.3  # of the budget that must be left for steps


@dataclass(frozen=True)
class FoldTrained:
    """One fold's end. `scores` is None where there were no validation cases.

    known: validation cases that the model was trained on with which this training began: their scores are too good.
    """

    fold: str
    folder: Path
    steps: int
    seconds: float
    scores: Scores | None
    known: int = 0


def train_fold(job: FoldJob, ranks: Ranks | None = None) -> Iterator[Event | FoldTrained]:
    """Train until the job's time or steps are used up, validate, save; go on from a checkpoint where one stands.

    ranks: which of several processes this is; the first one alone validates, writes, and ends in a `FoldTrained`.

    Raises:
        RunError: a case is not prepared, or the checkpoint belongs to another plan.
        InputError: the budget ends before a step is done.
        ResourceError: the memory or the disk gave out.
        KeyboardInterrupt: it was asked to end; the checkpoint is saved.
    """
    try:
        yield from _train_fold(job, ranks or Ranks(0, 1, job.device))
    except RuntimeError as error:
        if not memory_gave_out(error):
            raise
        where = "GPU" if job.device.type == "cuda" else "machine"
        what = f"the memory of the {where} ran out ({str(error).strip().splitlines()[0]})"
        raise ResourceError(what, job.run, "plan again with a smaller --memory") from None


def _train_fold(job: FoldJob, ranks: Ranks) -> Iterator[Event | FoldTrained]:
    training, validation = (_loaded(names, job) for names in (job.cases.train, job.cases.validation))
    output_folder(job.folder)
    seconds = None if job.ends is None else job.ends - job.clock()
    learner = build_learner(job.plan, ranks.device, ranks.ranks, job.how.deterministic, seconds)
    before = _left_off(learner, job, ranks)
    progress = before or Progress(plan=job.digest, origin=origin_of(job.run, job.cases, job.how.init))
    training_bytes = GB * job.plan.configuration.cost.training_gb
    placed = place(training, ranks.device, ranks=job.processes, training_bytes=training_bytes)
    yield Note(placed.told)
    yield from _start(learner, before, progress.origin.known, job)
    if not ranks.writes:
        for _ in _steps(learner, placed, _share(None, job, ranks), progress.step, job, ranks):
            pass
        return
    looks = Looks(validation, job.plan, job.cache, job.folder / "validation", ranks.device, job.clock)
    pace = yield from _pace(looks, learner, progress, job)
    if job.asked_to_end():
        raise KeyboardInterrupt
    expect = (
        f"{counted(len(training), 'case')}, {len(validation)} to validate on, {describe(ranks.device)}, {job.amount}"
    )
    yield Stage(f"train fold {job.fold}", 100, expect)
    share = _share(pace, job, ranks)
    journal = Journal(job.folder, progress.step, job.how.draw, job.how.tensorboard)
    course = Course(learner, progress, share, pace, looks, journal, job)
    for done in _steps(learner, placed, share, progress.step, job, ranks):
        if isinstance(done, Note):
            yield done
        else:
            yield from course.after(done)
    if course.last.step == progress.step and progress.share < 1:
        which = "another" if progress.step else "the first"
        raise InputError(f"the budget was used up before {which} step", job.run, "give a longer --budget")
    save_checkpoint(job.checkpoint, learner, course.last.model_copy(update={"share": 1.0}))
    yield Advanced(100, f"{counted(course.last.step, 'step')}, loss {course.last.loss or 0:.3f}")
    yield from _finish(learner, looks, journal, course.last, progress.elapsed_s, job)


def _finish(
    learner: Learner, looks: Looks, journal: Journal, last: Progress, earlier: float, job: FoldJob
) -> Iterator[Event | FoldTrained]:
    """Validate, and save the model."""

    def elapsed() -> float:
        return earlier + job.clock() - job.started

    scores: Scores | None = None
    for event in looks.validate(learner.evaluated(), job.fold):
        if isinstance(event, Scores):
            scores = event
        else:
            yield event
        if job.asked_to_end():
            raise KeyboardInterrupt
    dice = mean_dice(scores.scores if scores else ())
    journal.line(last.model_copy(update={"elapsed_s": elapsed()}), 0.0, None, dice)
    journal.draw()
    journal.close()
    card = ModelCard(
        plan=job.plan,
        fold=job.fold,
        trained_on=len(job.cases.train),
        steps=last.step,
        seconds=round(elapsed(), 1),
        dice=dice,
        weights_sha256="",
        origin=last.origin,
        medseg=version("medseg"),
        torch=torch.__version__,
    )
    save_model(job.folder, learner.evaluated(), card)
    job.checkpoint.unlink(missing_ok=True)
    yield FoldTrained(job.fold, job.folder, last.step, card.seconds, scores, last.origin.known)


def _loaded(names: tuple[str, ...], job: FoldJob) -> tuple[LoadedCase, ...]:
    return with_previous(load_cases(job.cache, names, job.plan.configuration.preprocessing), job.run, job.plan)


def _left_off(learner: Learner, job: FoldJob, ranks: Ranks) -> Progress | None:
    """Load the checkpoint, where one stands: that of the first rank. The folder that several nodes share may show a
    node an older one for a while.

    Raises:
        RunError: it belongs to another plan.
        ResourceError: another node goes on from another checkpoint.
    """
    before = load_checkpoint(job.checkpoint, learner, job.digest)
    first = from_first_rank(before.step if before else -1, ranks.device)
    until = job.clock() + SEEN_S
    while (before.step if before else -1) != first:
        if job.clock() > until:
            what = f"rank {ranks.rank} does not see the checkpoint of step {first:.0f} that the first rank goes on from"
            raise ResourceError(what, job.checkpoint, "every node must see the same run folder")
        time.sleep(1.0)
        before = load_checkpoint(job.checkpoint, learner, job.digest)
    return before


def _start(learner: Learner, before: Progress | None, known: int, job: FoldJob) -> Iterator[Note]:
    """Say where training goes on from, or take over the weights of another model."""
    if before is not None:
        yield Note(f"fold {job.fold} goes on from step {before.step}")
        return
    if job.how.init is not None:
        found = adapt(learner.network, job.how.init, job.plan, known)
        yield from (Note(line) for line in found.told)
        yield from (Note(line, warning=True) for line in found.warnings)


def _pace(looks: Looks, learner: Learner, progress: Progress, job: FoldJob) -> Generator[Event, None, Pace | None]:
    """What fits the schedule to the time that there is; None where the number of steps is given.

    All is done later than asked, with a warning, where validation would leave too little time for steps.
    """
    if job.ends is None:
        return None
    if len(looks):
        yield Stage(f"time fold {job.fold}", 1, "predicting two validation cases, to know what the end will take")
        looks.trial(learner.evaluated(), job.ends - job.started)
    ends, now, validation_s = job.ends, job.clock(), looks.foreseen(1.0)
    budget_s = progress.elapsed_s + ends - job.started
    least_s = SMALLEST_SHARE * budget_s * (1 - progress.share)  # for steps: the rate must come down to its end
    if len(looks) and budget_s > 0 and ends - now < least_s + validation_s:
        whole = least_s + validation_s
        told = f"validation alone needs {validation_s / 60:.1f} min: this will take {whole / 60:.1f} min"
        yield Note(told, warning=True)
        ends = now + whole
    return Pace(job.clock, ends, looks.foreseen, progress.step, progress.share, progress.total_steps)


def _steps(
    learner: Learner, placed: Placed, share: Callable[[int], float], first_step: int, job: FoldJob, ranks: Ranks
) -> Iterator[StepDone | Note]:
    """All steps that are left."""
    drawn = batches(placed, job.plan.configuration, job.seed, first_step, ranks.part)
    loss = build_loss(job.plan, sum_over_ranks if ranks.ranks > 1 else None)
    return fit(learner, drawn, loss, share, first_step)


def _share(pace: Pace | None, job: FoldJob, ranks: Ranks) -> Callable[[int], float]:
    """The share of the schedule that is used up after a step: of steps, or of time, which the first rank tells."""
    if job.steps is not None:
        total = job.steps
        return lambda step: step / total
    if ranks.ranks > 1:
        return SharedPace(pace, lambda value: from_first_rank(value, ranks.device))
    return pace.share if pace is not None else lambda _: 1.0
