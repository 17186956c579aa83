"""Front door of planning: look at every case, check, decide, say why, prepare the cache.

RUN/plan.json  fingerprint.json  splits.json  cache/fingerprint/<case>.json  cache/<configuration>/<case>.*
    case_map.json    mode 0600: the key of the names of DICOM cases, and where these came from
"""

from __future__ import annotations

import math
from collections.abc import Generator, Iterator, Sequence
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
from medseg.planning.adopt import decide_like
from medseg.planning.checks.check import check_cases, told
from medseg.planning.cost import GB, Machine
from medseg.planning.decide import decide, family_named
from medseg.planning.explain import IN_WORDS, counted, duration, size
from medseg.planning.fingerprint import CaseFingerprint, Fingerprint, FingerprintJob, fingerprint_case, merged
from medseg.planning.plan import Plan, Region, Request, Splits, Structure
from medseg.planning.preparation import prepare_cases, set_aside, to_prepare
from medseg.planning.regions import left_out, regions_of
from medseg.planning.spacing import check_spacing
from medseg.planning.splits import GIVEN, GivenFolds, check_names, given_splits, read_folds, split
from medseg.preprocessing.resample import ON_CPU, Resampler

MOST_BAD = 0.5  # with more bad cases than this share something general is wrong: better to stop
LOOK_SECONDS = {"case": 0.01, "byte": 6e-8}  # of image files, one core
LOOK_BYTES_A_VOXEL = 16.0  # a channel: as read, as float32, stacked, and the label


@dataclass(frozen=True)
class Planned:
    """The end of planning: the plan with what it rests on, its run folder, and the cases set aside with the reason."""

    run: Path
    plan: Plan
    fingerprint: Fingerprint
    splits: Splits
    prepared: int
    failed: dict[str, str]


def plan_dataset(
    data: Path,
    run: Path,
    request: Request,
    machine: Machine,
    folds: Path | None = None,
    resampler: Resampler = ON_CPU,
    model: Plan | None = None,
) -> Iterator[Event | Planned]:
    """Plan for the labelled scans in `data` and prepare them in `run`; what is done already is not done again.

    machine: the one that will train. folds: a file of folds as nnU-Net's; else `splits_final.json` in `data`, or own
    ones. resampler: a GPU's, for cases that are prepared one after another in this process. model: the plan of a model
    that training begins with, whose network and view of scans are taken over.

    Raises:
        InputError: no data set there, most of its cases are bad, or an option cannot be used.
        RunError: `run` holds folds that were trained by another plan.
        ResourceError: `run` cannot be written to, or the machine has too little memory to train.
    """
    check_spacing(request.spacing)
    family_named(request.network)
    case_map = read_case_map(run)
    dataset = find_dataset(data, case_map.secret, request.options, request.series, request.labels)
    where = DICOM if dataset.layout == "dicom" else data
    regions = regions_of(dataset)
    given = _given(dataset, folds)
    request = request.model_copy(update={"splits": given.digest if given else ""})
    output_folder(run)
    _remember(run, case_map, dataset)
    failed = {left.where: left.reason for left in dataset.left if left.broken}
    looked: list[CaseFingerprint] = []
    yield from _look(dataset, regions, run, failed, looked)
    fingerprint = merged(*(Fingerprint(cases=(c,)) for c in looked if c.case not in failed))
    _refuse_bad(fingerprint, failed, where)

    before = yield from _standing_plan(run)
    plan = _plan(dataset, regions, before, fingerprint, request, machine, model)
    to_prepare(plan)
    if not _stands(plan, before) and _is_trained(run):
        raise RunError("holds folds that were trained by another plan", run, "plan into a new folder")
    splits = yield from _write_cases(run, fingerprint, request.seed, given)
    write_record(run / "plan.json", plan)
    yield Note(f"plan {'stands' if before == plan else 'written'}: {IN_WORDS[plan.chosen]}, {run / 'plan.json'}")

    yield from prepare_cases(dataset, run, fingerprint, plan, failed, resampler)
    prepared = Fingerprint(cases=tuple(c for c in fingerprint.cases if c.case not in failed))
    if prepared != fingerprint:
        _refuse_bad(prepared, failed, where)
        splits = yield from _write_cases(run, prepared, request.seed, given)  # training must not wait for the others
    yield Planned(run, plan, prepared, splits, len(prepared.cases), failed)


def _given(dataset: Dataset, folds: Path | None) -> GivenFolds | None:
    """The folds that the user gives, by name or beside the data."""
    beside = dataset.root / GIVEN
    path = folds or (beside if beside.is_file() else None)
    if path is None:
        return None
    given = read_folds(path)
    check_names(given, [*(case.name for case in dataset.cases), *(left.where for left in dataset.left)])
    return given


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


def _found(dataset: Dataset, regions: Sequence[Region]) -> Iterator[Event]:
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


def _look(
    dataset: Dataset, regions: Sequence[Region], run: Path, failed: dict[str, str], looked: list[CaseFingerprint]
) -> Iterator[Event]:
    """Look at every case; into `looked` what was seen, and into `failed` those that cannot be used."""
    yield from _found(dataset, regions)
    bare = replace(dataset, cases=(), left=())  # all that a worker needs: jobs stay small however many cases there are
    jobs = [FingerprintJob(case, bare, run / "cache" / "fingerprint") for case in dataset.cases]
    bytes_ = _bytes(dataset.cases)
    seconds = len(jobs) * LOOK_SECONDS["case"] + bytes_ * LOOK_SECONDS["byte"]
    expect = f"reading {counted(len(jobs), 'case')}, {size(bytes_ / GB)}, about {duration(max(seconds, 1))} on one core"
    yield Stage("look", len(jobs), expect)
    executor, in_flight = local_executor(len(jobs), seconds, LOOK_BYTES_A_VOXEL * _largest(dataset.cases))
    for n, result in enumerate(over_cases(fingerprint_case, jobs, executor, in_flight), 1):
        if isinstance(result, Done):
            looked.append(result.record)
        else:
            failed[result.case.case.name] = result.reason
            yield set_aside(result.case.case.name, result.reason)
        yield Advanced(n, result.case.case.name)
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


def _refuse_bad(fingerprint: Fingerprint, failed: dict[str, str], data: Path | str) -> None:
    total = len(fingerprint.cases) + len(failed)
    if len(failed) > MOST_BAD * total:
        first = next(iter(failed.values()))
        raise InputError(f"{len(failed)} of {total} cases cannot be used, the first because: {first}", data)
    if not any(c.structures for c in fingerprint.cases):
        raise InputError("every label map is empty", data, "check that the labels are those of these scans")


def _standing_plan(run: Path) -> Generator[Event, None, Plan | None]:
    """The plan that is there; one that cannot be read, such as another medseg's, is made anew."""
    path = run / "plan.json"
    if not path.is_file():
        return None
    try:
        return read_record(path, Plan)
    except InputError as error:
        yield Note(f"the plan that is there is made anew: {error.what}")
        return None


def _plan(
    dataset: Dataset,
    regions: tuple[Region, ...],
    stands: Plan | None,
    fingerprint: Fingerprint,
    request: Request,
    machine: Machine,
    model: Plan | None,
) -> Plan:
    """The plan that stands if it answers the same question, else a new one: times measured anew would differ."""
    structures = tuple(Structure(value=value, name=name) for value, name in sorted(dataset.labels.items()))
    if stands is not None:
        before = stands.request.model_copy(update={"also": request.also})
        asked = (before, stands.fingerprint, stands.channels, stands.structures, stands.medseg)
        wanted = (request, fingerprint.digest, dataset.channels, structures, version("medseg"))
        if asked == wanted and (stands.regions, stands.ignore) == (regions, dataset.ignore):
            return stands.model_copy(update={"request": request})
    question = (fingerprint, structures, dataset.channels, request, machine)
    found = (regions, dataset.ignore)
    decided = decide(*question, *found) if model is None else decide_like(*question, model, *found)
    return Plan(
        medseg=version("medseg"),
        dataset=dataset.name,
        channels=dataset.channels,
        structures=structures,
        regions=regions,
        ignore=dataset.ignore,
        cases=len(fingerprint.cases),
        fingerprint=fingerprint.digest,
        request=request,
        budget=decided.budget,
        configurations=decided.configurations,
        chosen=decided.chosen,
        reasons=decided.reasons,
        alternatives=decided.alternatives,
    )


def _stands(plan: Plan, before: Plan | None) -> bool:
    """True if what was trained by the plan before is of this plan too: it may prepare other configurations besides."""
    if before is None:
        return False
    asked = before.request.model_copy(update={"also": plan.request.also})
    return plan == before.model_copy(update={"request": asked})


def _is_trained(run: Path) -> bool:
    return any((run / "folds").glob("*/*/*.safetensors"))


def _write_cases(
    run: Path, fingerprint: Fingerprint, seed: int, given: GivenFolds | None
) -> Generator[Event, None, Splits]:
    """Fingerprint and folds; own folds of the same cases stay, since `medseg train --folds` may have cut them so."""
    write_record(run / "fingerprint.json", fingerprint)
    stands = _standing_splits(run / "splits.json")
    if stands is not None and _is_trained(run):
        return stands
    if given is not None:
        splits, warnings = given_splits(given, fingerprint, seed)
        yield Note(f"folds: the {len(splits.folds)} of {given.path.name}")
        for warning in warnings:
            yield Note(warning, warning=True)
    else:
        splits = split(fingerprint, seed)
        if stands is not None and not stands.given and (stands.seed, _named(stands)) == (seed, _named(splits)):
            return stands
    write_record(run / "splits.json", splits)
    return splits


def _standing_splits(path: Path) -> Splits | None:
    try:
        return read_record(path, Splits) if path.is_file() else None
    except InputError:  # cut, or another medseg's: without trained folds nothing rests on it
        return None


def _named(splits: Splits) -> set[str]:
    return {name for fold in splits.folds for name in (*fold.train, *fold.validation)}


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
