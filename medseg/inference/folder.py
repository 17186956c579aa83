"""Front door of inference: a folder of scans in, labels on each scan's own grid out.

OUT/<case>.nii.gz             labels; <case>.seg.dcm and others by the formats asked for
    cases/<case>.done.json    manifest of a finished case, written last; <case>.failed.json why one failed
    predictions.json          rebuilt from the manifests; report.html of them is written by `pipeline.steps`
    case_map.json             mode 0600: the only file that knows paths and real series ids

On one device one process works: while a scan is computed the next is read and the one before is written.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from medseg.errors import InputError, by_name
from medseg.events import Advanced, Event, Note, Stage
from medseg.files import output_folder, stray_name
from medseg.imaging.naming import read_case_map
from medseg.imaging.scans import Found, Scan, Wanted, find_scans
from medseg.imaging.writing.codes import code_of
from medseg.imaging.writing.table import FORMATS
from medseg.inference.asked import Asked, checked, cleaning_of
from medseg.inference.case import Look, Segmenter
from medseg.inference.effort import effort_of, told
from medseg.inference.listing import remember, write_predictions
from medseg.inference.manifests import Cases
from medseg.inference.one import by_workers, workers_for
from medseg.inference.overlap import Ended, Job, Stages, overlapped
from medseg.inference.predictor import Predictor, load_predictor
from medseg.inference.preflight import Expected, expect
from medseg.inference.quality import folds_of, quality_told
from medseg.inference.records import Effort, Prediction, Predictions, Unread
from medseg.inference.work import Work, reason_of
from medseg.parallel import HERE, Where, Workers, among
from medseg.parts import WHOLE, Part, claimed
from medseg.planning.plan import Plan

__all__ = ["Asked", "Inferred", "infer_folder"]


@dataclass(frozen=True)
class Inferred:
    """The end of inference: what is written where, and what failed of the scans (or the part of them) given.

    scans: all that were found, in all parts; files that lay in zip files are there until the generator goes on.
    """

    out: Path
    predictions: Predictions
    skipped: int
    failed: dict[str, str]
    scans: tuple[Scan, ...] = ()

    @property
    def is_whole(self) -> bool:
        """Whether no scan is left for another part that still works on the folder."""
        ended = {one.case for one in self.predictions.cases} | {one.case for one in self.predictions.failed}
        return ended >= {scan.name for scan in self.scans}


def infer_folder(
    run: Path,
    scans: Path,
    out: Path,
    device: torch.device,
    asked: Asked | None = None,
    where: Where = HERE,
    on_workers: str = "auto",
) -> Iterator[Event | Inferred]:
    """Predict every scan under `scans`, or one part of them, with the model `run`; finished cases are skipped.

    where: other processes than this one may do the work, each on a device of its own, `on_workers` as it is asked for.

    With what `medseg select` chose where it was run, else with the configuration that was planned. A scan that cannot
    be read is named and set aside; the others go on. Several parts may work on one `out` at the same time.

    Raises:
        RunError: `run` holds no finished fold.
        InputError: nothing to read under `scans`, `out` lies among them or another run works on it, or what was asked
            cannot be done.
        ResourceError: `out` cannot be written to, or its disk is too small.
    """
    asked = asked or Asked()
    _refuse_mixing(scans, out)
    predictor = load_predictor(run, device, folds_of(asked.quality))
    asked = checked(asked, predictor.plan)
    predictor = _as_asked(predictor, asked)
    segmenter = Segmenter(predictor, device, Look(asked.quality, asked.probabilities, asked.uncertainty))
    with ExitStack() as until:
        used = out.is_dir() or not where.here
        if used:  # else nobody works on it, and none is made where the scans are no good
            _take(until, out, asked.part)
        found = _found(scans, out, predictor.plan, asked, _scratch(until, out, where))
        if not used:
            _take(until, out, asked.part)
        yield from (Note(text, warning=bad) for text, bad in predictor.told)
        yield from _told(predictor.plan, found, asked)
        yield from _inferred(found, Work(segmenter, Cases(out), asked), run, where, on_workers)


def _take(until: ExitStack, out: Path, part: Part) -> None:
    """Claim a part of the folder; where that is all of it, what killed runs left half-written can go."""
    until.enter_context(claimed(output_folder(out), part))
    if part == WHOLE:
        for folder in (out, out / "cases"):
            output_folder(folder, stray_after_s=0.0)


def _scratch(until: ExitStack, out: Path, where: Where) -> Path:
    """Where scans from zip files lie meanwhile: on the disk that all machines share, if others are to read them."""
    prefix, folder = ("medseg-", None) if where.here else (stray_name("scans-"), out.resolve() / "cases")
    return Path(until.enter_context(TemporaryDirectory(prefix=prefix, dir=folder)))


def _as_asked(predictor: Predictor, asked: Asked) -> Predictor:
    """The predictor with the post-processing that is asked for, and what there is to say of that and of the quality."""
    steps = cleaning_of(asked, predictor.cleaning, predictor.plan)
    told = list(predictor.told)
    if steps != predictor.cleaning:
        told += [(f"post-processing as asked: {'; '.join(step.words for step in steps) or 'none'}", False)]
    if asked.quality != "standard":
        told += [(quality_told(predictor.plan.configuration, asked.quality, predictor.qualities), False)]
    if predictor.trust is None:
        told += [("no held-out case tells how good predictions are: their Dice cannot be foreseen", False)]
    return replace(predictor, cleaning=steps, told=tuple(told))


def _found(scans: Path, out: Path, plan: Plan, asked: Asked, scratch: Path) -> Found:
    """The scans, under the names that the folder's private map gives them; they are written down there.

    Two parts that begin at once may both begin the map: one is first, and the other names its scans anew.
    """
    wanted = Wanted(plan.channels, asked.series or plan.request.series, asked.options)
    while True:
        case_map = read_case_map(out)
        place = scratch / case_map.key
        place.mkdir()
        found = find_scans(scans, case_map.secret, wanted, place)
        if not any(asked.formats_of(scan) for scan in found.scans):
            said = f"{', '.join(asked.formats)} can be written for DICOM scans only, and there are none"
            raise InputError(said, scans, "add nifti or nrrd to --format")
        if remember(output_folder(out), case_map, found):
            return found


@dataclass(slots=True)
class _Outcome:
    """What came of the scans so far; `skipped` were done already."""

    skipped: int = 0
    done: list[Prediction] = field(default_factory=list)
    failed: list[Unread] = field(default_factory=list)

    @property
    def ended(self) -> int:
        """Scans that need no more work."""
        return self.skipped + len(self.done) + len(self.failed)


def _inferred(found: Found, work: Work, run: Path, where: Where, on_workers: str) -> Iterator[Event | Inferred]:
    """Say what to expect, do what is to be done, and say what came of it."""
    predictor, device, asked, out = work.segmenter.predictor, work.segmenter.device, work.asked, work.cases.out
    mine, now = [scan for scan in found.scans if asked.part.holds(scan.name)], time.time()
    todo = []
    for scan in mine:
        if work.stands(scan, now):
            work.cases.settle(scan.name)
        else:
            todo.append(scan)
    outcome, efforts = _Outcome(len(mine) - len(todo)), dict[str, Effort]()
    expected = expect(todo, work.segmenter, asked, out) if todo else None
    if expected:
        yield Note(expected.words if where == HERE else f"on one worker like this machine {expected.words}")
    part = f", part {asked.part.words} of {len(found.scans)}" if asked.part.of > 1 else ""
    before = f" ({outcome.skipped} done before)" if outcome.skipped else ""
    yield Stage("infer", len(mine), f"{len(mine)} scan(s){part}{before}, {len(predictor.folds)} fold(s)")
    if outcome.skipped:
        yield Advanced(outcome.skipped, "done before")
    if expected:
        began = time.monotonic()
        if where == HERE:
            yield from _worked(todo, work, expected, outcome)
        else:
            yield from _worked_by(
                workers_for(todo, expected, where, on_workers), todo, work, expected, outcome, run, on_workers
            )
        seconds = time.monotonic() - began
        effort = effort_of(expected, outcome.done, len(outcome.failed), outcome.skipped, seconds, device, where == HERE)
        efforts[asked.part.words] = effort
        yield Note(told(effort))
    if outcome.skipped:
        yield Note(f"{outcome.skipped} of {len(mine)} already done")
    left = [Unread(case=one.where, reason=one.reason) for one in found.left if one.broken]
    names = [scan.name for scan in found.scans]
    predictions, others = write_predictions(out, predictor, device.type, left, names, efforts)
    if others:
        yield Note(f"{others} case(s) in {out} were predicted by another model and are not listed", warning=True)
    failed = by_name((one.case, one.reason) for one in (*left, *outcome.failed))
    yield Inferred(out, predictions, outcome.skipped, failed, found.scans)


def _worked(todo: Sequence[Scan], work: Work, expected: Expected, outcome: _Outcome) -> Iterator[Event]:
    """Predict scans; what fails is named with the reason, what cannot fit before anything is begun."""
    refused: list[Ended[Scan, Prediction]] = [
        Ended(scan, reason=expected.refused[scan.name]) for scan in todo if scan.name in expected.refused
    ]
    jobs = [Job(scan, expected.bytes_of(scan.name)) for scan in todo if scan.name not in expected.refused]
    stages = Stages(work.load, work.compute, work.write, reason_of)
    with closing(overlapped(jobs, stages, expected.room_bytes)) as ends:
        for ended in itertools.chain(refused, ends):
            yield from _ended(ended, work, outcome)


def _worked_by(
    workers: Workers,
    todo: Sequence[Scan],
    work: Work,
    expected: Expected,
    outcome: _Outcome,
    run: Path,
    on_workers: str,
) -> Iterator[Event]:
    """The same by other processes, each with the memory of its own machine."""
    yield from map(Note, workers.told)
    for ended in by_workers(todo, work, run, on_workers, expected, workers):
        yield from _ended(ended, work, outcome, workers.status())


def _ended(ended: Ended[Scan, Prediction], work: Work, outcome: _Outcome, status: str = "") -> Iterator[Event]:
    """Keep what came of one scan, and say it."""
    name = ended.what.name
    if ended.reason:
        outcome.failed.append(work.fail(ended.what, ended.reason))
        yield Note(f"{name} failed: {ended.reason}", warning=True)
    elif ended.result is None:
        outcome.skipped += 1
    else:
        outcome.done.append(ended.result)
        yield from (Note(f"{name}: {text}", warning=True) for text in ended.result.warnings)
    yield Advanced(outcome.ended, among(name, status))


def _told(plan: Plan, found: Found, asked: Asked) -> Iterator[Note]:
    """What was chosen, what was left, and which structures have no code."""
    for text in found.notes:
        yield Note(text, warning=True)
    for left in found.left:
        yield Note(f"not used: {left.where}: {left.reason}", warning=left.broken)
    files = [scan.name for scan in found.scans if asked.formats and not scan.is_dicom]
    dicom = [name for name in asked.formats if FORMATS[name].needs_dicom]
    if files and dicom:
        yield Note(f"{len(files)} scan(s) are no DICOM and get no {', '.join(dicom)}", warning=True)
    for text in _code_warnings(plan, found, asked):
        yield Note(text, warning=True)


def _code_warnings(plan: Plan, found: Found, asked: Asked) -> list[str]:
    """Structures that DICOM results can only call a tissue, since no code of theirs is known."""
    if not any(FORMATS[name].needs_dicom for scan in found.scans for name in asked.formats_of(scan)):
        return []
    return [warning for name in plan.names.values() if (warning := code_of(name, asked.codes)[1])]


def _refuse_mixing(scans: Path, out: Path) -> None:
    """Labels have the names of their scans: among them they would replace them, or be taken for scans next time."""
    folder = (scans if scans.is_dir() else scans.parent).resolve()
    if folder in (out.resolve(), *(out.resolve().parents if scans.is_dir() else ())):
        raise InputError("lies within the scans", out, "name a folder outside of them")
