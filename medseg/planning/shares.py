"""One plan for parts that several machines look at: each looks at its own cases, and the first that finds all of them
looked at makes the plan for all.

RUN/.shared/looked-<k>-of-<n>.json   part k is looked at, and a digest of what was seen
RUN/.shared/planned.json             of which such digests the plan was made
"""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from medseg.errors import SOME_FAILED, InputError, MedsegError, explained
from medseg.events import Event, Note
from medseg.files import Record, read_record, stamp, write_record
from medseg.locks import lock
from medseg.parts import Part, is_claimed
from medseg.planning.fingerprint import CaseFingerprint

if TYPE_CHECKING:
    from medseg.imaging.dataset import Dataset

WITHIN = ".shared"  # the folder of a run where its parts are claimed
LOOK_EVERY_S = 0.5
PATIENCE_S = 60.0  # for parts that are started together: some begin to work sooner than others
PLANNING_S = 3600.0  # one plans, with trial steps of training, while the others wait


class NotYet(MedsegError):
    """This part cannot go on before others are further."""

    exit_code = SOME_FAILED


class Looked(Record):
    """What one part saw: a digest of it, and a stamp of the files that it was seen in."""

    digest: str
    stamp: str


class PlannedFrom(Record):
    """What the parts saw that the plan was made for, by the number of the part."""

    of: int
    digests: dict[int, str]


def begin(run: Path, part: Part) -> None:
    """From here on the part is not looked at."""
    with explained(run):
        _marker(run, part.number, part.of).unlink(missing_ok=True)


def share_of(dataset: Dataset, part: Part) -> Dataset:
    """The data set with the cases of a part."""
    return replace(dataset, cases=tuple(case for case in dataset.cases if part.holds(case.name)))


def tell(
    run: Path, part: Part, dataset: Dataset, looked: Sequence[CaseFingerprint], failed: Mapping[str, str]
) -> Looked:
    """The part is looked at."""
    said = [sorted((case.case, case.key) for case in looked), sorted(name for name in failed if part.holds(name))]
    record = Looked(digest=hashlib.sha256(repr(said).encode()).hexdigest(), stamp=_stamp(dataset, part))
    write_record(_marker(run, part.number, part.of), record)
    return record


def others_looked(run: Path, part: Part, dataset: Dataset) -> Iterator[Event]:
    """Wait for the other parts as long as they are at work, and a minute for them to begin.

    Raises:
        NotYet: one is neither looked at nor at work.
    """
    seen_s, told = time.monotonic(), False
    stamps = {k: _stamp(dataset, Part(k, part.of)) for k in range(part.of)}
    while missing := [k for k, stamp in stamps.items() if _of(_read(_marker(run, k, part.of))) != stamp]:
        if not told:
            yield Note(f"part {part.words} is looked at; waiting for {len(missing)} other(s) of {part.of}")
            told = True
        idle = [k for k in missing if not is_claimed(run, Part(k, part.of), WITHIN)]
        if not idle:
            seen_s = time.monotonic()
        elif time.monotonic() - seen_s > PATIENCE_S:
            which = ", ".join(f"{k}/{part.of}" for k in idle[:3]) + (f" and {len(idle) - 3} more" if idle[3:] else "")
            what = f"part {part.words} is looked at, and nobody works on {which}"
            raise NotYet(what, run, "start the other parts, then run the same command again")
        time.sleep(LOOK_EVERY_S)


@contextmanager
def planning_alone(run: Path) -> Iterator[None]:
    """Make the plan, or find it made, while no other part does."""
    with lock(_folder(run) / ".plan.lock", PLANNING_S):
        yield


def is_planned(run: Path, part: Part, mine: Looked) -> bool:
    """Whether the plan was made for what this part saw."""
    try:
        made = read_record(_folder(run) / "planned.json", PlannedFrom)
    except InputError:
        return False
    return made.of == part.of and made.digests.get(part.number) == mine.digest


def planned(run: Path, part: Part) -> None:
    """The plan is made, for what all parts saw."""
    seen = {k: found.digest for k in range(part.of) if (found := _read(_marker(run, k, part.of))) is not None}
    write_record(_folder(run) / "planned.json", PlannedFrom(of=part.of, digests=seen))


def _folder(run: Path) -> Path:
    folder = run / WITHIN
    with explained(run):
        folder.mkdir(parents=True, exist_ok=True)
    return folder


def _marker(run: Path, number: int, of: int) -> Path:
    return _folder(run) / f"looked-{number}-of-{of}.json"


def _of(looked: Looked | None) -> str | None:
    return looked.stamp if looked is not None else None


def _stamp(dataset: Dataset, part: Part) -> str:
    """Changes with any file of the part's cases; empty where one went away."""
    try:
        return stamp((path for case in share_of(dataset, part).cases for path in case.files), math.inf)
    except OSError:
        return ""


def _read(path: Path) -> Looked | None:
    try:
        return read_record(path, Looked)
    except InputError:
        return None
