"""The first stage of planning: look at every case, and check what was seen."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from medseg.errors import MedsegError
from medseg.events import Advanced, Event, Note, Stage
from medseg.imaging.dataset import Case, Dataset
from medseg.imaging.overlaps import CODE as OVERLAP
from medseg.imaging.reading import shape_of
from medseg.imaging.structures import IGNORE
from medseg.parallel import HERE, Done, Where, among, over_cases
from medseg.planning.checks.check import check_cases, told
from medseg.planning.cost import GB
from medseg.planning.explain import counted, duration, size
from medseg.planning.fingerprint import CaseFingerprint, FingerprintJob, fingerprint_case
from medseg.planning.plan import Region
from medseg.planning.preparation import set_aside
from medseg.planning.regions import left_out

LOOK_SECONDS = {"case": 0.01, "byte": 6e-8}  # of image files, one core
LOOK_BYTES_A_VOXEL = 16.0  # a channel: as read, as float32, stacked, and the label


def found_in(dataset: Dataset, regions: Sequence[Region]) -> Iterator[Event]:
    """What is not as one may expect before any case is read."""
    for left in dataset.left:
        yield Note(f"not used: {left.where}: {left.reason}", warning=True)
    if dataset.not_wanted:
        yield Note(f"left out, since --labels does not name them: {', '.join(dataset.not_wanted)}")
    if dataset.stored_values:
        renumbered = (
            f"{old} ({dataset.labels.get(new, IGNORE)}) is {new}" for new, old in dataset.stored_values.items()
        )
        yield Note(f"values that no label map can hold have others here: {', '.join(renumbered)}")
    if dataset.regions and not regions:
        named = ", ".join(dataset.regions)
        why = "since no regions_class_order says how they are painted: the plain labels below them are"
        yield Note(f"regions ({named}) are not trained as such, {why}")
    if lone := left_out(dataset, regions):
        yield Note(f"not trained, since no region holds them: {', '.join(lone)}", warning=True)


def look_at(
    dataset: Dataset, run: Path, failed: dict[str, str], looked: list[CaseFingerprint], where: Where = HERE
) -> Iterator[Event]:
    """Look at every case; into `looked` what was seen, and into `failed` those that cannot be used."""
    bare = replace(dataset, cases=(), left=())  # all that a worker needs: jobs stay small however many cases there are
    jobs = [FingerprintJob(case, bare, run / "cache" / "fingerprint") for case in dataset.cases]
    bytes_ = _bytes(dataset.cases)
    seconds = len(jobs) * LOOK_SECONDS["case"] + bytes_ * LOOK_SECONDS["byte"]
    expect = f"reading {counted(len(jobs), 'case')}, {size(bytes_ / GB)}, about {duration(max(seconds, 1))} on one core"
    yield Stage("look", len(jobs), expect)
    workers = where.workers(len(jobs), seconds, LOOK_BYTES_A_VOXEL * _largest(dataset.cases))
    yield from map(Note, workers.told)
    for n, result in enumerate(over_cases(fingerprint_case, jobs, workers.executor, workers.in_flight), 1):
        name = result.case.case.name
        if isinstance(result, Done):
            looked.append(result.record)
        else:
            failed[name] = result.reason
            yield set_aside(name, result.reason)
        yield Advanced(n, among(name, workers.status()))


def judged(dataset: Dataset, failed: dict[str, str], looked: Sequence[CaseFingerprint]) -> Iterator[Event]:
    """What is odd about the cases that were looked at; into `failed` those that cannot be used."""
    for case in sorted(looked, key=lambda c: c.case):
        for note in case.notes:
            yield Note(f"{case.case}: {note}", warning=note.startswith(OVERLAP))
    for finding in check_cases(looked, dataset.labels):
        if finding.how_bad == "unusable":
            failed[finding.case] = finding.what
            yield Note(f"set aside: {told(finding)}", warning=True)
        elif finding.how_bad == "suspect":
            yield Note(f"look at: {told(finding)}", warning=True)
        else:
            yield Note(told(finding))


def _largest(cases: Sequence[Case]) -> float:
    """Voxels, times channels, of the case with the largest file: what looking at one case needs memory for."""
    if not cases:
        return 0.0
    case = max(cases, key=lambda c: _size(c.images[0].paths))
    try:
        return float(math.prod(shape_of(case.images[0])) * len(case.images))
    except MedsegError:
        return 0.0  # it will fail by name when its turn comes


def _bytes(cases: Sequence[Case]) -> float:
    return float(sum(_size(source.paths) for case in cases for source in case.images))


def _size(paths: Sequence[Path]) -> int:
    return sum(path.stat().st_size for path in paths)
