"""What lies at a path: `medseg inspect`. Every file is read whole, so that damage is found before the work begins.

Where parts share the work, or other machines do it, a folder holds for as long as that takes:
records/<id>.json    what was seen of one case, with a digest of all that it was read from
scratch-*/           zip files unpacked, where other machines read them
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from shutil import rmtree
from tempfile import TemporaryDirectory
from typing import Any, Literal

from pydantic import Field

from medseg.errors import InputError, explained
from medseg.events import Advanced, Event, Note, Stage
from medseg.files import Record
from medseg.imaging.case import Case, Left
from medseg.imaging.dataset import Dataset, Layout, find_dataset, is_file_dataset
from medseg.imaging.finding import Finding
from medseg.imaging.looking import Examine, Look, LookJob, Seen, given_up, id_of, look_at
from medseg.imaging.naming import CaseMap, MappedCase
from medseg.imaging.scans import UNDERSTOOD, Sifted, origin, sift
from medseg.imaging.source import ReadOptions
from medseg.imaging.studies import volume_name
from medseg.kept import Kept, PartDone, Share, Subject, digest_of, joining
from medseg.parallel import HERE, Failed, InPlace, Where, Workers, among, over_cases
from medseg.parts import WHOLE, Part

__all__ = ["Inspected", "Inspection", "Look", "Shared", "inspect"]

RECORDS = "records"
SECONDS = {"case": 0.006, "byte": 2e-8}  # of files, one core; measured on hippocampi, and CT of 12 MB a file
BYTES_A_VOXEL = 16.0  # a channel: as read, as float32, stacked, and the label


class Inspection(Record):
    """All that was found at a path: a dataset (`layout` is not empty) or scans; and what was left, with the reason.

    `findings` are those of the check of its labelled cases, if it was made (`checked`).
    """

    version: Literal[3] = 3
    name: str
    layout: Layout | Literal[""] = ""
    channels: tuple[str, ...] = ()
    labels: dict[int, str] = Field(default_factory=dict)
    regions: dict[str, tuple[int, ...]] = Field(default_factory=dict)
    ignore: int | None = None
    cases: tuple[Look, ...]
    left: tuple[Left, ...]
    checked: bool = False
    findings: tuple[Finding, ...] = ()

    @property
    def is_fine(self) -> bool:
        """True if nothing keeps a case from being used and no finding is more than a note."""
        bad = any(look.problems for look in self.cases) or any(left.broken for left in self.left)
        return not bad and all(finding.how_bad == "note" for finding in self.findings)


@dataclass(frozen=True, slots=True)
class Inspected:
    """What was found, the private map that says where each DICOM volume lies, and which of the cases are labelled.

    values: what `examine` found of each labelled case that was read whole; plain values where it was kept.
    """

    inspection: Inspection
    case_map: CaseMap
    labelled: tuple[str, ...] = ()
    values: tuple[Any, ...] = ()


@dataclass(frozen=True, slots=True)
class Shared:
    """The folder that parts share, which stands and is claimed, and the part that is done here."""

    folder: Path
    part: Part = WHOLE


@dataclass(frozen=True)
class _Work:
    """All there is to look at, and what is found already: the inspection without its cases."""

    jobs: tuple[LookJob, ...]
    said: str
    found: Inspection
    where: CaseMap
    labelled: tuple[str, ...] = ()
    of: Dataset | None = None


def inspect(
    path: Path,
    key: str,
    options: ReadOptions | None = None,
    headers: bool = False,
    examine: Examine | None = None,
    where: Where = HERE,
    shared: Shared | None = None,
) -> Iterator[Event | Inspected | PartDone]:
    """Look at everything at `path`; `key` (hex) names DICOM volumes; `headers` alone are read where that is asked.

    What is wrong with one case stands in its `problems` and stops no other. No path enters the inspection. `examine`
    gets every labelled case that was read whole, and judges its voxels instead; it is a function that processes can be
    told of. where: who looks. shared: where parts, or other machines, keep what they saw; the part that finds all cases
    done yields `Inspected`, and when it is taken up nothing is kept any more; the others end in a `PartDone`.

    Raises:
        InputError: there is nothing at `path`, or nothing that is understood.
    """
    options, secret = options or ReadOptions(), bytes.fromhex(key)
    with ExitStack() as until:
        if is_file_dataset(path):
            work = _of_dataset(find_dataset(path, secret, options), key)
        else:
            place = shared.folder if shared is not None and not where.here else None
            scratch = until.enter_context(TemporaryDirectory(prefix="scratch-" if place else "medseg-", dir=place))
            work = _of_scans(path, key, options, Path(scratch))
        records = shared.folder / RECORDS if shared is not None else None
        kept = Kept(records, Seen, _asked(work, headers, key)) if records is not None else None
        if records is not None:
            with explained(records):
                records.mkdir(exist_ok=True)
        subjects = [job.subject if kept is not None else Subject(job.id, ()) for job in work.jobs]
        share = Share(kept, shared.part if shared is not None else WHOLE, subjects)
        yield from _looked(work, share, partial(look_at, headers=headers, examine=examine, kept=kept), headers, where)
        if shared is None or records is None:
            yield _joined(work, share)
            return
        with joining(shared.folder):
            if not records.is_dir():
                yield PartDone(shared.part, 0)
            elif (others := share.join()) is not None:
                yield others
            else:
                yield _joined(work, share)
                rmtree(records, ignore_errors=True)


def _of_dataset(dataset: Dataset, key: str) -> _Work:
    bare = replace(dataset, cases=(), left=())  # jobs stay small however many cases there are
    jobs = [LookJob(case.name, case.name, dataset.options, labelled=(case, bare)) for case in dataset.cases]
    found = Inspection(
        name=dataset.name,
        layout=dataset.layout,
        channels=dataset.channels,
        labels=dict(dataset.labels),
        regions=dict(dataset.regions),
        ignore=dataset.ignore,
        cases=(),
        left=dataset.left,
    )
    names = tuple(case.name for case in dataset.cases)
    return _Work(tuple(jobs), f"{len(jobs)} case(s)", found, CaseMap(key=key, cases={}), names, bare)


def _of_scans(path: Path, key: str, options: ReadOptions, scratch: Path) -> _Work:
    secret = bytes.fromhex(key)
    sifted = sift(path, options=options, scratch=scratch)
    volumes = sifted.dicom.volumes
    labelled = _labelled(path, secret, options) if sifted.dicom.labels else None
    jobs = _jobs(path, sifted, secret, options, labelled if isinstance(labelled, Dataset) else None, scratch)
    if not jobs:
        said = "holds labels alone, no scan" if sifted.dicom.labels else "holds no scan and no data set"
        raise InputError(said, "" if sifted.dicom.labels else path, UNDERSTOOD)
    # the folder of DICOM files may be named after the patient
    name = "scans" if volumes or sifted.dicom.labels else path.resolve().name
    left = [*sifted.left, *sifted.dicom.left]
    if labelled is not None:
        more = labelled.left if isinstance(labelled, Dataset) else (Left("its labels", labelled),)
        left += [one for one in more if one not in left]
    at = {volume_name(v, secret): tuple(origin(p, sifted.archives) for p in v.paths) for v in volumes}
    mapped = CaseMap(key=key, cases={name: MappedCase(paths=paths, names=()) for name, paths in at.items()})
    said, of = f"{len(jobs)} volume(s)", labelled if isinstance(labelled, Dataset) else None
    if of is None:
        return _Work(tuple(jobs), said, Inspection(name=name, cases=(), left=tuple(left)), mapped)
    found = Inspection(name=name, labels=dict(of.labels), cases=(), left=tuple(left))
    return _Work(tuple(jobs), said, found, mapped, tuple(case.name for case in of.cases), of)


def _jobs(
    path: Path, sifted: Sifted, key: bytes, options: ReadOptions, labelled: Dataset | None, scratch: Path
) -> list[LookJob]:
    def named(paths: Sequence[Path], more: object = "") -> str:
        return id_of(key, paths, path, scratch, more)

    cases: dict[str, Case] = {case.name: case for case in labelled.cases} if labelled is not None else {}
    bare = replace(labelled, cases=(), left=()) if labelled is not None else None
    jobs = [LookJob(named(paths), name, options, paths) for name, paths in sifted.files]
    for volume in sifted.dicom.volumes:
        name = volume_name(volume, key)
        own = (cases[name], bare) if name in cases and bare is not None else None
        jobs.append(LookJob(named(volume.paths, volume.number), name, options, volume=volume, labelled=own))
    return jobs


def _labelled(path: Path, key: bytes, options: ReadOptions) -> Dataset | str:
    """What the labels beside DICOM images label, or in a line why nothing."""
    try:
        return find_dataset(path, key, options)
    except InputError as error:
        return f"{error.what}; {error.fix}" if error.fix else error.what


def _asked(work: _Work, headers: bool, key: str) -> str:
    """A digest of all that looks depend on besides the files."""
    found, of = work.found, work.of
    told: list[object] = [
        found.name,
        found.layout,
        found.channels,
        sorted(found.labels.items()),
        sorted(found.regions.items()),
    ]
    told += [found.ignore, sorted(of.stored_values.items()), of.options.model_dump()] if of is not None else []
    return digest_of(told, headers, key)


def _looked(work: _Work, share: Share[Seen], look: partial[Seen], headers: bool, where: Where) -> Iterator[Event]:
    """Look at what is to be looked at in this part; into `share` what was seen."""
    share.look()
    subjects = {one.name: one for one in share.mine}
    todo = [job for job in work.jobs if share.is_todo(job.id)]
    workers = _where_to_work(todo, headers, where)
    for text in workers.told:
        yield Note(text)
    part = f", part {share.part.words} of {len(work.jobs)}" if share.part != WHOLE else ""
    yield Stage("inspect", len(subjects), f"{work.said}{part}")
    if share.before:
        yield Note(share.told)
        yield Advanced(share.before, "done before")
    for count, result in enumerate(over_cases(look, todo, workers.executor, workers.in_flight), share.before + 1):
        job = result.case
        if isinstance(result, Failed):
            share.fail(subjects[job.id], result.reason)
        else:
            share.done[job.id] = result.record
        yield Advanced(count, among(job.name, workers.status()))


def _where_to_work(jobs: Sequence[LookJob], headers: bool, where: Where) -> Workers:
    if headers or not jobs:  # that is done while they are found
        return Workers(InPlace(), 1)
    sizes = [job.bytes for job in jobs]
    seconds = len(jobs) * SECONDS["case"] + sum(sizes) * SECONDS["byte"]
    largest = jobs[max(range(len(jobs)), key=sizes.__getitem__)]
    return where.workers(len(jobs), seconds, BYTES_A_VOXEL * largest.voxels)


def _joined(work: _Work, share: Share[Seen]) -> Inspected:
    """All that was seen, in the order in which it was found, whoever saw it first."""
    seen = [share.done[job.id] if job.id in share.done else given_up(job, share.failed[job.id]) for job in work.jobs]
    found = work.found.model_copy(update={"cases": tuple(one.look for one in seen)})
    return Inspected(found, work.where, work.labelled, tuple(one.value for one in seen if one.value is not None))
