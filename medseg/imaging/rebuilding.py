"""The scans of a data set rewritten into a new one, by all who share the work; it appears when all of them are done.

Beside TARGET, until then:
.TARGET.converting/whole/    what becomes TARGET in one step
    records/<scan>.json      what was written of a finished scan, with a digest of all that it was made from
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from medseg.errors import CasesFailed, InputError, MedsegError, by_name, explained
from medseg.events import Advanced, Event, Note, Stage
from medseg.files import Record, stray_name, sync, write_json
from medseg.imaging.description import FILE
from medseg.imaging.formats import with_data
from medseg.imaging.rewriting import Scan, join, split
from medseg.kept import Kept, PartDone, Share, Subject, digest_of, joining
from medseg.parallel import Failed, InPlace, Where, Workers, among, over_cases
from medseg.parts import WHOLE, Part, claimed, put_away

SECONDS = {"copied": 3e-9, "byte": 7e-8}  # of files: read, written, and read back, most of it packed anew
BYTES_A_BYTE = 12.0  # of a packed file: unpacked, stacked, packed, and read back
_RECORDS, _WHOLE = "records", "whole"


@dataclass(frozen=True, slots=True)
class Restructured:
    """The end: the largest distance, in mm, between a place in a source file and in what was written."""

    deviation_mm: float


class Rewritten(Record):
    """What was written of one scan: the largest distance, in mm, and its files with their sizes in bytes."""

    deviation_mm: float
    files: dict[str, int]


@dataclass(frozen=True)
class ScanJob:
    """What rewriting one scan needs; small, so that it can cross to a worker process.

    images, labels: folders of the new data set. joined: its channels become one file.
    """

    scan: Scan
    images: str
    labels: str
    ending: str
    joined: bool

    @property
    def id(self) -> str:
        """A name that no other scan has."""
        return f"{self.images}.{self.scan.name}"

    @property
    def subject(self) -> Subject:
        """As its record knows it."""
        try:
            files = tuple(with_data(self.scan.files))
        except MedsegError:  # it will fail by name
            files = self.scan.files
        said = [[source.format, source.component] for source in self.scan.images]
        return Subject(self.id, files, repr([said, self.scan.label is not None]))

    @property
    def bytes(self) -> int:
        """Of its files."""
        return sum(path.stat().st_size for path in self.scan.files if path.is_file())


def made_of(
    source: Path, target: Path, jobs: Sequence[ScanJob], described: Mapping[str, Any], where: Where, part: Part
) -> Iterator[Event | Restructured | PartDone]:
    """Rewrite the scans of this part; whoever finds all of them done writes the description, and lets all appear.

    Raises:
        InputError: `target` is not empty or lies in `source`, or another run works on that part.
        CasesFailed: some cannot be read, or what was read back is not what was written; the others are kept.
        ResourceError: `target` cannot be written to.
    """
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise InputError("is not empty", target, "name a new folder")
    if source.resolve() in (target.resolve(), *target.resolve().parents):
        raise InputError("lies within what is converted", target, "name another place")
    place = target.with_name(f".{target.name}.converting")
    records, whole = place / _RECORDS, place / _WHOLE
    try:
        with claimed(place, part, "."):
            with explained(target):
                for folder in (records, whole):
                    folder.mkdir(exist_ok=True)
            asked = digest_of(jobs[0].ending, jobs[0].joined)
            kept = Kept(records, Rewritten, asked, partial(_stands, whole))
            share = Share(kept, part, [job.subject for job in jobs])
            yield from _worked(jobs, share, partial(rewrite, whole=whole, kept=kept), where)
            with joining(place):
                end = _joined(jobs, share, place, target, described)
            yield end
    finally:
        if not records.is_dir() or not any(records.iterdir()):  # nothing was done yet, or all is
            put_away(place)


def _worked(
    jobs: Sequence[ScanJob], share: Share[Rewritten], work: Callable[[ScanJob], Rewritten], where: Where
) -> Iterator[Event]:
    """Rewrite what is to be done of this part; into `share` what came of it."""
    share.look()
    subjects = {one.name: one for one in share.mine}
    todo = [job for job in jobs if share.is_todo(job.id)]
    workers = _where_to_work(todo, where)
    for text in workers.told:
        yield Note(text)
    part = f", part {share.part.words} of {len(jobs)}" if share.part != WHOLE else ""
    yield Stage("convert", len(subjects), f"{len(subjects)} scan(s){part}")
    if share.before:
        yield Note(share.told)
        yield Advanced(share.before, "done before")
    for count, result in enumerate(over_cases(work, todo, workers.executor, workers.in_flight), share.before + 1):
        job = result.case
        if isinstance(result, Failed):
            share.fail(subjects[job.id], result.reason)
            yield Note(f"{job.scan.name} failed: {result.reason}", warning=True)
        else:
            share.done[job.id] = result.record
        yield Advanced(count, among(job.scan.name, workers.status()))


def _where_to_work(jobs: Sequence[ScanJob], where: Where) -> Workers:
    if not jobs:
        return Workers(InPlace(), 1)
    sizes = [(job.bytes, job.scan.is_copied(job.ending)) for job in jobs]
    seconds = sum(size * SECONDS["copied" if copied else "byte"] for size, copied in sizes)
    return where.workers(len(jobs), seconds, max(BYTES_A_BYTE * size * (not copied) for size, copied in sizes))


def _joined(
    jobs: Sequence[ScanJob], share: Share[Rewritten], place: Path, target: Path, described: Mapping[str, Any]
) -> Restructured | PartDone:
    if not (place / _RECORDS).is_dir():
        return PartDone(share.part, 0)
    others = share.join()
    called = {job.id: job.scan.name for job in jobs}
    if others is not None:
        return PartDone(others.part, others.left, by_name((called[id_], why) for id_, why in others.failed.items()))
    if share.failed:
        raise CasesFailed(by_name((called[id_], why) for id_, why in sorted(share.failed.items())))
    whole = place / _WHOLE
    named = {name for one in share.done.values() for name in one.files}
    with explained(target):
        for path in [path for path in whole.rglob("*") if path.is_file()]:
            if path.relative_to(whole).as_posix() not in named:  # of an earlier conversion that was ended
                path.unlink()
        write_json(whole / FILE, described)
        if target.exists():
            target.rmdir()
        whole.rename(target)
    shutil.rmtree(place / _RECORDS, ignore_errors=True)
    return Restructured(max((one.deviation_mm for one in share.done.values()), default=0.0))


def rewrite(job: ScanJob, whole: Path, kept: Kept[Rewritten]) -> Rewritten:
    """Write one scan into the new data set `whole`, unless it stands there.

    Raises:
        InputError: a file of it cannot be read.
        GeometryError: what was read back is not what was written.
        ResourceError: the disk is full.
    """
    return kept.made(job.subject, partial(_rewritten, job, whole))


def _rewritten(job: ScanJob, whole: Path) -> Rewritten:
    """Beside, and file by file to its place: two that do the same scan at once write the same."""
    beside = whole.parent / stray_name(job.images)
    files: dict[str, int] = {}
    with explained(whole.parent):
        try:
            images, labels = beside / job.images, beside / job.labels
            away_mm = join(job.scan, images, labels) if job.joined else split(job.scan, images, labels, job.ending)
            for path in sorted(path for path in beside.rglob("*") if path.is_file()):
                sync(path)  # its record says that it stands, and only its size is looked at again
                there = whole / path.relative_to(beside)
                there.parent.mkdir(parents=True, exist_ok=True)
                files[there.relative_to(whole).as_posix()] = path.stat().st_size
                path.replace(there)
        finally:
            shutil.rmtree(beside, ignore_errors=True)
    return Rewritten(deviation_mm=away_mm, files=files)


def _stands(whole: Path, record: Rewritten) -> bool:
    places = {whole / name: size for name, size in record.files.items()}
    return all(path.is_file() and path.stat().st_size == size for path, size in places.items())
