"""Front door of planning: look at every case, check, decide, say why, prepare the cache.

RUN/plan.json  fingerprint.json  splits.json  cache/fingerprint/<case>.json  cache/<configuration>/<case>.*
    case_map.json    mode 0600: the key of the names of DICOM cases, and where these came from
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path

from medseg.errors import InputError, RunError
from medseg.events import Event, Note
from medseg.files import output_folder, read_record, write_record
from medseg.imaging.dataset import DICOM, Dataset, find_dataset
from medseg.imaging.naming import CaseMap, MappedCase, read_case_map
from medseg.parallel import HERE, Where
from medseg.parts import WHOLE, Part, claimed
from medseg.planning.adopt import decide_like
from medseg.planning.cost import Machine
from medseg.planning.decide import decide, family_named
from medseg.planning.explain import IN_WORDS
from medseg.planning.fingerprint import CaseFingerprint, Fingerprint, merged
from medseg.planning.look import found_in, judged, look_at
from medseg.planning.plan import Plan, Region, Request, Splits, Structure
from medseg.planning.preparation import prepare_cases, to_prepare
from medseg.planning.regions import regions_of
from medseg.planning.shares import WITHIN, begin, is_planned, others_looked, planned, planning_alone, share_of, tell
from medseg.planning.spacing import check_spacing
from medseg.planning.splits import GIVEN, GivenFolds, check_names, given_splits, read_folds, split
from medseg.preprocessing.resample import ON_CPU, Resampler

MOST_BAD = 0.5  # with more bad cases than this share something general is wrong: better to stop


@dataclass(frozen=True)
class Planned:
    """The end of planning: the plan with what it rests on, its run folder, and the cases set aside with the reason."""

    run: Path
    plan: Plan
    fingerprint: Fingerprint
    splits: Splits
    prepared: int
    failed: dict[str, str]


@dataclass(frozen=True)
class _Question:
    """What is asked of planning: the data, the run, what was given, and whose machine and network it is for."""

    dataset: Dataset
    regions: tuple[Region, ...]
    run: Path
    request: Request
    machine: Machine
    model: Plan | None
    given: GivenFolds | None
    shown: Path | str


@dataclass(frozen=True)
class _Answer:
    plan: Plan
    fingerprint: Fingerprint
    splits: Splits


def plan_dataset(
    data: Path,
    run: Path,
    request: Request,
    machine: Machine,
    folds: Path | None = None,
    resampler: Resampler = ON_CPU,
    model: Plan | None = None,
    where: Where = HERE,
    part: Part = WHOLE,
) -> Iterator[Event | Planned]:
    """Plan for the labelled scans in `data` and prepare them in `run`; what is done already is not done again.

    machine: the one that will train. folds: a file of folds as nnU-Net's; else `splits_final.json` in `data`, or own
    ones. resampler: a GPU's, for cases that are prepared one after another in this process. model: the plan of a model
    that training begins with, whose network and view of scans are taken over. where: the work per case is done. part:
    the cases that are looked at and prepared; the plan is one for all parts (see `shares`).

    Raises:
        InputError: no data set there, most of its cases are bad, or an option cannot be used; another run works on it.
        RunError: `run` holds folds that were trained by another plan.
        NotYet: other parts are not looked at yet, and nobody does so.
        ResourceError: `run` cannot be written to, or the machine has too little memory to train.
    """
    check_spacing(request.spacing)
    family_named(request.network)
    case_map = read_case_map(run)
    dataset = find_dataset(data, case_map.secret, request.options, request.series, request.labels)
    given = _given(dataset, folds)
    request = request.model_copy(update={"splits": given.digest if given else ""})
    shown = DICOM if dataset.layout == "dicom" else data
    question = _Question(dataset, regions_of(dataset), run, request, machine, model, given, shown)
    with claimed(output_folder(run), part, WITHIN):
        _remember(run, case_map, dataset)
        failed = {left.where: left.reason for left in dataset.left if left.broken}
        yield from found_in(dataset, question.regions)
        looked: list[CaseFingerprint] = []
        if part == WHOLE:
            yield from look_at(dataset, run, failed, looked, where)
            answer = yield from _answered(question, failed, looked)
        else:
            answer = yield from _answered_once(question, failed, looked, where, part)
        mine = share_of(dataset, part)
        yield from prepare_cases(mine, run, answer.fingerprint, answer.plan, failed, resampler, where)
        answer = yield from _without(answer, question, failed)
    prepared = {case.name for case in mine.cases}.intersection(case.case for case in answer.fingerprint.cases)
    yield Planned(run, answer.plan, answer.fingerprint, answer.splits, len(prepared), failed)


def _answered(
    question: _Question, failed: dict[str, str], looked: list[CaseFingerprint]
) -> Generator[Event, None, _Answer]:
    """The plan for the cases that were looked at, all of them; it and what it rests on are written."""
    run = question.run
    yield from judged(question.dataset, failed, looked)
    fingerprint = merged(*(Fingerprint(cases=(c,)) for c in looked if c.case not in failed))
    _refuse_bad(fingerprint, failed, question.shown)
    before = yield from _standing_plan(run)
    plan = _plan(question, before, fingerprint)
    to_prepare(plan)
    if not _stands(plan, before) and _is_trained(run):
        raise RunError("holds folds that were trained by another plan", run, "plan into a new folder")
    splits = yield from _write_cases(run, fingerprint, question.request.seed, question.given)
    write_record(run / "plan.json", plan)
    yield Note(f"plan {'stands' if before == plan else 'written'}: {IN_WORDS[plan.chosen]}, {run / 'plan.json'}")
    return _Answer(plan, fingerprint, splits)


def _answered_once(
    question: _Question, failed: dict[str, str], looked: list[CaseFingerprint], where: Where, part: Part
) -> Generator[Event, None, _Answer]:
    """The plan for all parts, made by the first of them that finds all cases looked at; `failed` keeps this part's."""
    run, others = question.run, {name for name in failed if not part.holds(name)}
    begin(run, part)
    yield from look_at(share_of(question.dataset, part), run, failed, looked, where)
    seen = tell(run, part, question.dataset, looked, failed)
    yield from others_looked(run, part, question.dataset)
    with planning_alone(run):
        if not is_planned(run, part, seen) or not _is_asked(run, question.request):
            rest = [case for case in question.dataset.cases if not part.holds(case.name)]
            yield from look_at(replace(question.dataset, cases=tuple(rest)), run, failed, looked, where)
            answer = yield from _answered(question, failed, looked)
            planned(run, part)
        else:
            yield Note(f"the plan was made by another part: {run / 'plan.json'}")
            made, fingerprint = read_record(run / "plan.json", Plan), read_record(run / "fingerprint.json", Fingerprint)
            answer = _Answer(made, fingerprint, read_record(run / "splits.json", Splits))
            used = {case.case for case in fingerprint.cases}
            failed |= {c.case: "was set aside by the part that made the plan" for c in looked if c.case not in used}
    for name in others | {name for name in failed if not part.holds(name)}:
        failed.pop(name, None)  # said by their own part
    return answer


def _is_asked(run: Path, request: Request) -> bool:
    """Whether the plan that is there answers this request."""
    try:
        return read_record(run / "plan.json", Plan).request == request
    except InputError:
        return False


def _without(answer: _Answer, question: _Question, failed: Mapping[str, str]) -> Generator[Event, None, _Answer]:
    """The same without the cases that could not be prepared: training must not wait for them."""
    run = question.run
    if not any(case.case in failed for case in answer.fingerprint.cases):
        return answer
    with planning_alone(run):  # other parts may have left out theirs meanwhile
        there = read_record(run / "fingerprint.json", Fingerprint)
        fingerprint = Fingerprint(cases=tuple(c for c in there.cases if c.case not in failed))
        _refuse_bad(fingerprint, dict(failed), question.shown)
        splits = yield from _write_cases(run, fingerprint, question.request.seed, question.given)
    return _Answer(answer.plan, fingerprint, splits)


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


def _plan(question: _Question, stands: Plan | None, fingerprint: Fingerprint) -> Plan:
    """The plan that stands if it answers the same question, else a new one: times measured anew would differ."""
    dataset, request, regions = question.dataset, question.request, question.regions
    structures = tuple(Structure(value=value, name=name) for value, name in sorted(dataset.labels.items()))
    if stands is not None:
        before = stands.request.model_copy(update={"also": request.also})
        asked = (before, stands.fingerprint, stands.channels, stands.structures, stands.medseg)
        wanted = (request, fingerprint.digest, dataset.channels, structures, version("medseg"))
        if asked == wanted and (stands.regions, stands.ignore) == (regions, dataset.ignore):
            return stands.model_copy(update={"request": request})
    told = (fingerprint, structures, dataset.channels, request, question.machine)
    found, model = (regions, dataset.ignore), question.model
    decided = decide(*told, *found) if model is None else decide_like(*told, model, *found)
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
