"""The pages that verbs write beside their results, and what is said where one cannot be written."""

from __future__ import annotations

import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medseg.errors import MedsegError
from medseg.events import Event, Note
from medseg.imaging.source import ReadOptions
from medseg.planning.plan import Name

if TYPE_CHECKING:
    from medseg.evaluation.folders import Evaluation
    from medseg.imaging.nifti_header import Prefer
    from medseg.inference.folder import Inferred
    from medseg.training.fold import FoldTrained
    from medseg.training.run import Trained


def with_training_reports(
    events: Iterator[Event | FoldTrained | Trained], run: Path, configuration: Name | None
) -> Iterator[Event | Trained]:
    """The events of a training, and at the end of each fold the page of the run, written anew."""
    from medseg.training.fold import FoldTrained

    warnings: list[str] = []
    for event in events:
        if isinstance(event, Note) and event.warning:
            warnings.append(event.text)
        if isinstance(event, FoldTrained):
            yield from _training_report(run, configuration, warnings)
            continue
        if not isinstance(event, Event):
            yield from _training_report(run, configuration, warnings)
        yield event


def _training_report(run: Path, configuration: Name | None, warnings: Sequence[str]) -> Iterator[Event]:
    """Write the page of a run from what stands there by now; its models are saved."""
    from medseg.report.training_page import write_training_report

    yield from _reported(write_training_report(run, configuration, warnings))


def inference_report(inferred: Inferred, options: ReadOptions) -> Iterator[Event]:
    """Write the page of a folder, by whichever part of it ends last."""
    from medseg.report.inference_page import write_inference_report

    if not inferred.is_whole:
        yield Note("report.html is written when all other parts are done")
        return
    scans = {scan.name: scan for scan in inferred.scans}
    yield from _reported(write_inference_report(inferred.out, inferred.predictions, scans, options))


def _reported(report: Iterator[Any]) -> Iterator[Event]:
    """The events of writing a report; where it fails, what it is about is done all the same, and a line says why."""
    try:
        for event in report:
            yield event if isinstance(event, Event) else Note(f"report: {event.said()}")
    except MedsegError as error:
        yield Note(f"report.html was not written: {error}", warning=True)
    except Exception as error:
        at = traceback.extract_tb(error.__traceback__)[-1]
        where = f"{type(error).__name__} in {Path(at.filename).name}, line {at.lineno}"
        yield Note(f"[UNEXPECTED] report.html was not written: {where}: please report it", warning=True)


def evaluation_report(
    evaluation: Evaluation, predictions: Path, out: Path, scans: Path | None, prefer: Prefer, all_viewers: bool
) -> Iterator[Event]:
    """Write the page of an evaluation."""
    from medseg.report.evaluation_page import Written, write_evaluation_report
    from medseg.report.pictures import scans_by_case

    found = scans_by_case(scans, predictions, prefer) if scans is not None else {}
    if scans is not None and not any(pair.case in found for pair in evaluation.pairs):
        yield Note("no scan has the name of a case: the report shows the labels alone", warning=True)
    for event in write_evaluation_report(evaluation, out, found, prefer, all_viewers):
        yield Note(f"report: {event.said()}") if isinstance(event, Written) else event
