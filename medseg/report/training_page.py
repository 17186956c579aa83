"""The page of a training: `report.html` of a run, one file that opens offline, made from the run's folder alone."""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from markupsafe import Markup

from medseg.errors import MedsegError
from medseg.evaluation.cohort import summarise
from medseg.evaluation.records import Scores
from medseg.events import Advanced, Event, Note, Stage
from medseg.planning.explain import IN_WORDS, counted
from medseg.planning.plan import Name
from medseg.report.page import EMPTY, Page, Panel, Section, write_page
from medseg.report.trained import RunSeen, joined, run_seen
from medseg.report.training_sections import curves_section, plan_section, scores_section, summary_section

REPORT: Final = "report.html"
LIMIT: Final = 60_000_000  # bytes of the page
FIXED: Final = 4_000_000  # of the viewer, the style, the scripts, the curves
MOST_CASES: Final = 8  # held-out cases that are drawn: the worst
READERS: Final = ("nibabel", "pydicom", "SimpleITK", "highdicom")  # what training itself does without


@dataclass(frozen=True, slots=True)
class Written:
    """The page that was written: its size, how many cases it shows, and in what time."""

    path: Path
    bytes: int
    cases: int
    seconds: float

    def said(self) -> str:
        """For a person, at the end."""
        some = counted(self.cases, "held-out case")
        return f"{self.path} ({self.bytes / 1e6:.1f} MB, {self.seconds:.0f} s; {some} shown)"


def write_training_report(
    run: Path, configuration: Name | None = None, warnings: Sequence[str] = (), limit: int = LIMIT
) -> Iterator[Event | Written]:
    """Write `report.html` into `run` from what stands there; yields events.

    configuration: the one that was trained, the planned one by default. warnings: what was said while it was trained.

    Raises:
        InputError: `run` holds no plan, or a record of it is damaged.
        ResourceError: the disk is full or the folder cannot be written to.
    """
    began = time.monotonic()
    seen = run_seen(run, configuration)
    panels: tuple[Panel, ...] = ()
    listed, remark = EMPTY, ""
    try:
        listed, panels = yield from _worst(run, seen, limit)
    except ModuleNotFoundError as error:
        if error.name not in READERS:
            raise
        remark = f"There are no pictures: {error.name} is not installed."
        yield Note(f"report.html has no pictures: {error.name} is not installed")
    size = write_page(run / REPORT, _page(seen, listed, panels, warnings, remark))
    while size > limit and any(panel.scene for panel in panels):
        last = max(n for n, panel in enumerate(panels) if panel.scene)
        panels = (*panels[:last], replace(panels[last], scene=""), *panels[last + 1 :])
        size = write_page(run / REPORT, _page(seen, listed, panels, warnings, remark))
    yield Written(run / REPORT, size, len(panels), time.monotonic() - began)


def _worst(run: Path, seen: RunSeen, limit: int) -> Generator[Event, None, tuple[Markup, tuple[Panel, ...]]]:
    """Draw the held-out cases of the lowest Dice; what cannot be drawn is told and left out."""
    from medseg.report.evaluation_cases import ranked
    from medseg.report.training_pictures import case_list, held_out_panel

    scores = seen.crossvalidation or _together(seen)
    if scores is None:
        return EMPTY, ()
    fold_of = joined(seen.finished)
    worst = ranked(scores)[:MOST_CASES]
    tolerances = {s.structure: scores.settings.tolerances(s.structure)[0] for s in scores.structures}
    room, panels = limit - FIXED, list[Panel]()
    yield Stage("report", len(worst), counted(len(worst), "held-out case"))
    for count, one in enumerate(worst, 1):
        try:
            made = held_out_panel(one, run, fold_of[one.case], seen.plan, tolerances)
        except MedsegError as error:
            yield Note(f"{one.case} is not shown in the report: {error.what}", warning=True)
        else:
            needs = len(made.scene) + 2 * len(made.montage)
            panels.append(made if needs <= room else replace(made, scene=""))
            room -= needs if needs <= room else 2 * len(made.montage)
        yield Advanced(count, one.case)
    return case_list(worst, fold_of, {panel.anchor for panel in panels}), tuple(panels)


def _together(seen: RunSeen) -> Scores | None:
    """The scores of all finished folds, where they are no whole cross-validation; a case counts once."""
    rows, diagonals = [], dict[str, float]()
    settings = None
    for fold in seen.finished:
        if fold.scores:
            rows += [row for row in fold.scores.scores if row.case not in diagonals]
            diagonals = {**fold.scores.diagonals_mm, **diagonals}
            settings = settings or fold.scores.settings
    return summarise(rows, diagonals, settings) if settings else None


def _page(seen: RunSeen, listed: Markup, panels: Sequence[Panel], warnings: Sequence[str], remark: str) -> Page:
    plan = seen.plan
    lead = "The held-out cases of the lowest Dice, as the fold that had not seen them found them."
    cases = Section("cases", "Worst cases", listed, remark or lead, tuple(panels))
    sections = (
        summary_section(seen, warnings),
        *scores_section(seen),
        *curves_section(seen),
        *([cases] if panels or remark else []),
        plan_section(seen),
    )
    card = next((fold.card for fold in seen.finished if fold.card), None)
    provenance = [("Planned", f"by medseg {plan.medseg}"), ("Data", f"{plan.dataset}, {counted(plan.cases, 'case')}")]
    if card is not None:
        provenance.append(("Trained", f"by medseg {card.medseg} with torch {card.torch}"))
    provenance.append(("All numbers", "in plan.json and beside each fold's model"))
    subtitle = f"{plan.dataset}: {IN_WORDS[plan.chosen]}, {counted(len(plan.regions or plan.structures), 'structure')}"
    return Page("Training", subtitle, sections, tuple(provenance))
