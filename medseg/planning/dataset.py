"""Front door of planning: look at every case, decide, say why, prepare the cache.

RUN/plan.json  fingerprint.json  splits.json  cache/fingerprint/<case>.json  cache/<configuration>/<case>.*
    case_map.json    mode 0600: the key of the names of DICOM cases, and where these came from
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path

from medseg.errors import InputError, MedsegError, RunError
from medseg.events import Advanced, Event, Note, Stage
from medseg.files import output_folder, read_record, write_record
from medseg.imaging.dataset import DICOM, Case, Dataset, find_dataset
from medseg.imaging.naming import CaseMap, MappedCase, read_case_map
from medseg.imaging.overlaps import CODE as OVERLAP
from medseg.imaging.reading import shape_of
from medseg.imaging.structures import IGNORE
from medseg.parallel import Done, local_executor, over_cases
from medseg.planning import rules
from medseg.planning.check import odd_cases
from medseg.planning.decide import Measure, decide
from medseg.planning.fingerprint import CaseFingerprint, Fingerprint, FingerprintJob, fingerprint_case, merged
from medseg.planning.plan import Fold, Plan, Request, Splits, Structure
from medseg.preprocessing.cache import CacheJob, prepare_case, standing
from medseg.preprocessing.prepare import resampled_shape

FOLDS = 5
MOST_BAD = 0.5  # with more bad cases than this share something general is wrong: better to stop
SECONDS_A_VOXEL = {"look": 6e-8, "prepare": 3e-7}  # one core, for choosing between a pool and none
LOOK_BYTES_A_VOXEL = 16.0  # a channel: as read, as float32, stacked, and the label
BYTES_A_VOXEL = 40.0  # peak of one channel's preparation, float32 image and its resampled copies


@dataclass(frozen=True)
class Planned:
    """The end of planning: the plan, its run folder, and the cases set aside with the reason."""

    run: Path
    plan: Plan
    prepared: int
    failed: dict[str, str]


def plan_dataset(data: Path, run: Path, request: Request, measure: Measure) -> Iterator[Event | Planned]:
    """Plan for the labelled scans in `data` and prepare them in `run`; what is done already is not done again.

    Raises:
        InputError: no data set there, most of its cases are bad, or an option cannot be used.
        RunError: `run` holds folds that were trained by another plan.
        ResourceError: `run` cannot be written to.
    """
    rules.check_spacing(request.spacing)
    case_map = read_case_map(run)
    dataset = find_dataset(data, case_map.secret, request.options, request.series, request.labels)
    where = DICOM if dataset.layout == "dicom" else data
    if dataset.ignore is not None:
        what = "has an ignore label, which training does not support yet"
        raise InputError(what, where, "leave these cases out, or give its voxels a structure")
    output_folder(run)
    _remember(run, case_map, dataset)
    failed = {left.where: left.reason for left in dataset.left if left.broken}
    looked: list[CaseFingerprint] = []
    yield from _look(dataset, run, failed, looked)
    fingerprint = merged(*(Fingerprint(cases=(c,)) for c in looked if c.case not in failed))
    _refuse_bad(fingerprint, failed, where)

    before = read_record(run / "plan.json", Plan) if (run / "plan.json").is_file() else None
    plan = _plan(dataset, before, fingerprint, request, measure)
    if before not in (None, plan) and _is_trained(run):
        raise RunError("holds folds that were trained by another plan", run, "plan into a new folder")
    _write_cases(run, fingerprint, request.seed)
    write_record(run / "plan.json", plan)
    yield Note(f"plan {'stands' if before == plan else 'written'}: {plan.chosen.upper()}, {run / 'plan.json'}")

    yield from _prepare(dataset, run, fingerprint, plan, failed)
    prepared = Fingerprint(cases=tuple(c for c in fingerprint.cases if c.case not in failed))
    if prepared != fingerprint:
        _refuse_bad(prepared, failed, where)
        _write_cases(run, prepared, request.seed)  # training must not wait for what is not there
    yield Planned(run, plan, len(prepared.cases), failed)


def _remember(run: Path, case_map: CaseMap, dataset: Dataset) -> None:
    """Keep, in private, the key of the names of DICOM cases, and where they came from."""
    mapped = {
        case.name: MappedCase(paths=tuple(str(path.resolve()) for path in case.files), names=(folder.name,))
        for case in dataset.cases
        if case.images[0].format == "dicom"
        for folder in [case.images[0].paths[0].parent]
    }
    path, cases = run / "case_map.json", {**case_map.cases, **mapped}
    keyed = mapped or dataset.layout == "manifest"  # the names of its patients are keyed as well
    if keyed and not (path.is_file() and case_map.cases == cases):
        write_record(path, CaseMap(key=case_map.key, cases=cases), private=True)


def _found(dataset: Dataset) -> Iterator[Event]:
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
    if dataset.regions:
        yield Note(f"regions ({', '.join(dataset.regions)}) are not trained as such: the plain labels below them are")


def _look(dataset: Dataset, run: Path, failed: dict[str, str], looked: list[CaseFingerprint]) -> Iterator[Event]:
    """Look at every case; into `looked` what was seen, and into `failed` those that cannot be used."""
    yield from _found(dataset)
    told = replace(dataset, cases=(), left=())  # all that a worker needs: jobs stay small however many cases there are
    jobs = [FingerprintJob(case, told, run / "cache" / "fingerprint") for case in dataset.cases]
    yield Stage("look", len(jobs), f"reading {len(jobs)} cases")
    executor, in_flight = local_executor(
        len(jobs), _bytes(dataset.cases) * 3 * SECONDS_A_VOXEL["look"], LOOK_BYTES_A_VOXEL * _largest(dataset.cases)
    )
    for n, result in enumerate(over_cases(fingerprint_case, jobs, executor, in_flight), 1):
        if isinstance(result, Done):
            looked.append(result.record)
        else:
            failed[result.case.case.name] = result.reason
            yield _set_aside(result.case.case.name, result.reason)
        yield Advanced(n, result.case.case.name)
    for case in sorted(looked, key=lambda c: c.case):
        for note in case.notes:
            yield Note(f"{case.case}: {note}", warning=note.startswith(OVERLAP))
    for finding in odd_cases(looked):
        yield Note(f"{'set aside' if finding.bad else 'look at'}: {finding.case}: {finding.what}", warning=True)
        if finding.bad:
            failed[finding.case] = finding.what


def _set_aside(case: str, reason: str) -> Note:
    return Note(f"set aside: {reason if case in reason else f'{case}: {reason}'}", warning=True)


def _refuse_bad(fingerprint: Fingerprint, failed: dict[str, str], data: Path | str) -> None:
    total = len(fingerprint.cases) + len(failed)
    if len(failed) > MOST_BAD * total:
        first = next(iter(failed.values()))
        raise InputError(f"{len(failed)} of {total} cases cannot be used, the first because: {first}", data)
    if not any(c.structures for c in fingerprint.cases):
        raise InputError("every label map is empty", data, "check that the labels are those of these scans")


def _plan(dataset: Dataset, stands: Plan | None, fingerprint: Fingerprint, request: Request, measure: Measure) -> Plan:
    """The plan that stands if it answers the same question, else a new one: times measured anew would differ."""
    structures = tuple(Structure(value=value, name=name) for value, name in sorted(dataset.labels.items()))
    if stands is not None:
        asked = (stands.request, stands.fingerprint, stands.channels, stands.structures, stands.medseg)
        if asked == (request, fingerprint.digest, dataset.channels, structures, version("medseg")):
            return stands
    decided = decide(fingerprint, structures, dataset.channels, request, measure)
    return Plan(
        medseg=version("medseg"),
        dataset=dataset.name,
        channels=dataset.channels,
        structures=structures,
        cases=len(fingerprint.cases),
        fingerprint=fingerprint.digest,
        request=request,
        budget=decided.budget,
        configurations=decided.configurations,
        chosen=decided.chosen,
        reasons=decided.reasons,
    )


def _is_trained(run: Path) -> bool:
    return any((run / "folds").glob("*/*.safetensors"))


def _write_cases(run: Path, fingerprint: Fingerprint, seed: int) -> None:
    """Fingerprint and folds; folds of the same cases stay, since `medseg train --folds` may have cut them otherwise."""
    write_record(run / "fingerprint.json", fingerprint)
    path = run / "splits.json"
    if path.is_file():
        stand = read_record(path, Splits)
        named = {name for fold in stand.folds for name in (*fold.train, *fold.validation)}
        if _is_trained(run) or (stand.seed == seed and named == {c.case for c in fingerprint.cases}):
            return
    write_record(path, splits(fingerprint, seed))


def splits(fingerprint: Fingerprint, seed: int, folds: int = FOLDS) -> Splits:
    """The folds of the cross-validation; all cases of a patient are in the same part."""
    cases: dict[str, list[str]] = {}
    for case in fingerprint.cases:
        cases.setdefault(case.patient or case.case, []).append(case.case)

    def of(patients: Sequence[str]) -> tuple[str, ...]:
        return tuple(sorted(name for patient in patients for name in cases[patient]))

    parts = rules.split_folds(list(cases), folds, seed)
    return Splits(seed=seed, folds=tuple(Fold(train=of(train), validation=of(rest)) for train, rest in parts))


def _prepare(
    dataset: Dataset, run: Path, fingerprint: Fingerprint, plan: Plan, failed: dict[str, str]
) -> Iterator[Event]:
    configuration = plan.configuration
    folder = run / "cache" / configuration.name
    kept = {c.case: c for c in fingerprint.cases}
    told = replace(dataset, cases=(), left=())
    jobs = [CacheJob(c, told, configuration.preprocessing, folder) for c in dataset.cases if c.name in kept]
    jobs.sort(key=lambda job: -math.prod(kept[job.case.name].shape))
    target = configuration.preprocessing.spacing_mm
    voxels = {
        name: max(math.prod(c.shape), math.prod(resampled_shape(c.cropped, c.spacing_mm, target)))
        for name, c in kept.items()
    }
    standing_now = sum(standing(folder, job.case.name) is not None for job in jobs)
    todo = sum(voxels.values()) * (1 - standing_now / max(len(jobs), 1))
    seconds = todo * SECONDS_A_VOXEL["prepare"]
    gb = sum(voxels.values()) * (4 * len(plan.channels) + 1) / 1e9
    yield Stage("prepare", len(jobs), f"about {max(seconds, 1):.0f} s on one core, {gb:.2g} GB on disk")
    executor, in_flight = local_executor(
        len(jobs), seconds, BYTES_A_VOXEL * len(plan.channels) * max(voxels.values(), default=0)
    )
    if standing_now:
        yield Note(f"{standing_now} of {len(jobs)} already prepared; unchanged ones are kept")
    for done, result in enumerate(over_cases(prepare_case, jobs, executor, in_flight), 1):
        if not isinstance(result, Done):
            failed[result.case.case.name] = result.reason
            yield _set_aside(result.case.case.name, result.reason)
        yield Advanced(done, result.case.case.name)


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
