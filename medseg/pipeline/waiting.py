"""Jobs of Slurm that train a run's folds: which there are, how far they have come, and how they ended.

RUN/logs/jobs.json   the jobs that were submitted and may still be in the queue
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from medseg.cluster.slurm import LeftRunning, Standing, standings
from medseg.errors import InputError, ResourceError
from medseg.events import Advanced, Event, Note, Stage
from medseg.files import Record, read_record, write_record
from medseg.planning.plan import Name

if TYPE_CHECKING:
    from medseg.training.run import Trained

JOBS = Path("logs") / "jobs.json"
LOOK_EVERY_S = 5.0
PATIENCE_S = 900.0  # with a Slurm that does not answer
FORGOTTEN = Standing("UNKNOWN")  # by Slurm, some minutes after its end


class Queued(Record):
    """What was submitted for `folds`, of which the others of `of` are trained: the job of these, then the one that
    scores all together. array: each fold is an element of the job.
    """

    jobs: tuple[str, ...]
    folds: tuple[str, ...]
    of: tuple[str, ...]
    configuration: Name
    array: bool

    def of_fold(self, fold: str) -> str:
        """The id of a fold's job."""
        return f"{self.jobs[0]}_{fold}" if self.array else self.jobs[0]

    @property
    def scoring(self) -> str | None:
        """The id of the job that scores all folds."""
        return self.jobs[-1] if self.jobs and (len(self.jobs) > 1 or not self.folds) else None


class _Book(Record):
    """The jobs of a run."""

    jobs: tuple[Queued, ...] = ()


def queued(run: Path, configuration: Name, folds: Sequence[str]) -> list[Queued]:
    """The submissions for some of these folds that are still in the queue."""
    same = [one for one in _book(run) if one.configuration == configuration and set(one.of) & set(folds)]
    return [one for one in same if _lives(one)]


def keeping(run: Path) -> tuple[Queued, ...]:
    """The submissions that are still in the queue."""
    return tuple(filter(_lives, _book(run)))


def keep(run: Path, jobs: tuple[Queued, ...]) -> None:
    """Remember these submissions, and no others."""
    write_record(run / JOBS, _Book(jobs=jobs))


def _book(run: Path) -> tuple[Queued, ...]:
    return read_record(run / JOBS, _Book).jobs if (run / JOBS).is_file() else ()


def _lives(job: Queued) -> bool:
    return any(not one.is_over for one in standings(job.jobs).values())


def follow(run: Path, job: Queued, pause: Callable[[float], None] = time.sleep) -> Iterator[Event | Trained]:
    """Tell how the folds get on until all their jobs have ended, then what stands in the run.

    Raises:
        ResourceError: Slurm does not answer for a quarter of an hour.
        LeftRunning: waiting was interrupted; the jobs go on.
    """
    from medseg.training.run import as_it_stands

    ends: dict[str, Standing] = {}
    try:
        yield from _until_ended(run, job, ends, pause)
    except KeyboardInterrupt:
        fix = f"end them with scancel {' '.join(job.jobs)}; the same command waits for them again"
        raise LeftRunning(f"interrupted: the jobs {' and '.join(job.jobs)} go on", fix=fix) from None
    failed = {f"fold {fold}": _reason(run, job, ends, fold) for fold in job.folds if not _is_trained(run, job, fold)}
    found = as_it_stands(run, job.of, job.configuration, failed)
    if job.scoring is not None and not failed and found.crossvalidation is None:
        found.failed["cross-validation"] = f"job {job.scoring} ended as {ends.get(job.scoring, FORGOTTEN).state}"
    yield found


def _until_ended(run: Path, job: Queued, ends: dict[str, Standing], pause: Callable[[float], None]) -> Iterator[Event]:
    """Look at the jobs now and then; `ends` keeps how each stood last."""
    name = f"train fold{'s' if len(job.folds) > 1 else ''} {', '.join(job.folds)}" if job.folds else "score the folds"
    yield Stage(name, 100 * max(len(job.folds), 1), f"job {' and '.join(job.jobs)} of Slurm")
    parts = {job.of_fold(fold): f"fold {fold}" for fold in job.folds}
    parts |= {job.scoring: "the scores of all folds"} if job.scoring else {}
    answered, over_before = time.monotonic(), False
    while True:
        try:
            stands = standings(job.jobs)
            answered = time.monotonic()
        except (ResourceError, InputError):
            if time.monotonic() - answered > PATIENCE_S:
                raise
            pause(LOOK_EVERY_S)
            continue
        for number, part in parts.items():
            now = stands.get(number, FORGOTTEN)
            if number not in ends or (now != FORGOTTEN and _words(now) != _words(ends[number])):
                ends[number] = now
                yield Note(f"{part}, job {number}: {_words(now)}")
        yield Advanced(*_progress(run, job, stands))
        over = all(stands.get(number, FORGOTTEN).is_over for number in parts)
        if over and over_before:  # a job that is put back into the queue is neither for a moment
            return
        over_before = over
        pause(LOOK_EVERY_S)


def _words(stands: Standing) -> str:
    if stands.state in ("RUNNING", "COMPLETING"):
        return f"running on {stands.node}"
    told = stands.state.lower().replace("_", " ")
    return f"{told} ({stands.reason})" if stands.reason and not stands.is_over else told


def _progress(run: Path, job: Queued, stands: dict[str, Standing]) -> tuple[float, str]:
    """The hundredths of all folds together, and where each stands."""
    done, told = 0.0, []
    for fold in job.folds:
        now = stands.get(job.of_fold(fold), FORGOTTEN)
        if _is_trained(run, job, fold):
            done += 100
        else:
            share, words = _last_line(_folder(run, job, fold) / "events.jsonl")
            done += 100 * share
            told.append(f"fold {fold}: {words if now.state == 'RUNNING' and words else _words(now)}")
    if job.folds:
        return done, ", ".join(told) or "all folds are trained"
    now = stands.get(job.jobs[-1], FORGOTTEN)
    return 100.0 * now.is_over, _words(now)


def _last_line(path: Path) -> tuple[float, str]:
    """The share of the schedule that is used up, and the step, as a fold's journal has them last."""
    with suppress(OSError, ValueError, KeyError, TypeError, IndexError):  # it is not there yet, or is being written
        said = json.loads(path.read_text(encoding="utf-8").splitlines()[-1])
        return float(said["share"]), f"step {said['step']} of {said['total_steps'] or '?'}"
    return 0.0, ""


def _folder(run: Path, job: Queued, fold: str) -> Path:
    return run / "folds" / job.configuration / fold


def _is_trained(run: Path, job: Queued, fold: str) -> bool:
    return (_folder(run, job, fold) / "model.json").is_file()


def _reason(run: Path, job: Queued, ends: dict[str, Standing], fold: str) -> str:
    """How the job of a fold ended, and its last words."""
    number = job.of_fold(fold)
    logs = sorted((run / JOBS).parent.glob(f"*-{number}.log"))
    said = [line for log in logs for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line]
    told = f"job {number} ended as {ends.get(number, FORGOTTEN).state}"
    return f"{told}: {said[-1].removeprefix('medseg: ')}" if said else told
