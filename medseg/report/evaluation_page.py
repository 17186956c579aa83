"""The report of an evaluation: `report.html`, one file that opens offline, and a page for each case where asked for.

The file holds a viewer for as many of the worst cases as it has room for, slices as a picture for all others.
"""

from __future__ import annotations

import math
import re
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Final

from medseg.errors import MedsegError
from medseg.evaluation.cohort import Scores
from medseg.evaluation.folders import Evaluation
from medseg.evaluation.pairing import Pair
from medseg.events import Advanced, Event, Note, Stage
from medseg.imaging.label_files import read_label_grid
from medseg.imaging.nifti_header import Prefer
from medseg.imaging.scans import Scan
from medseg.parallel import Failed, local_executor, over_cases
from medseg.report.evaluation_cases import Ranked, case_list, case_values, panel, ranked
from medseg.report.evaluation_sections import boundary_section, methods_section, plots_section, summary_section
from medseg.report.page import Page, Panel, Section, write_page
from medseg.report.pictures import Asked, Picture, Task, picture_of

REPORT, CASES = "report.html", "cases"
LIMIT: Final = 60_000_000  # bytes of the report
FIXED: Final = 4_000_000  # of the viewer, the style, the scripts, and what is told of all cases
ROW: Final = 1_200  # of one structure of one case: its row, its points in plots, its values in the list
PANEL: Final = 3_000  # of a case without its rows and pictures
MONTAGE: Final = (30_000, 120_000)  # the smallest and the largest picture
IN_TEXT: Final = 4 / 3  # base64
SECONDS_PER_CASE, SECONDS_PER_VOXEL = 0.1, 300e-9  # of one core, measured on crops and on 245 x 250 x 140 voxels
BYTES_PER_CASE: Final = 600e6


@dataclass(frozen=True, slots=True)
class Written:
    """The report that was written: its size, how many of its cases have a viewer, and in what time."""

    path: Path
    bytes: int
    cases: int
    viewers: int
    seconds: float

    def said(self) -> str:
        """For a person, at the end."""
        some = f"{self.viewers} of {self.cases} cases have a viewer in it"
        return f"{self.path} ({self.bytes / 1e6:.1f} MB, {self.seconds:.0f} s; {some})"


@dataclass(slots=True)
class _Room:
    """What room is left for viewers. Cases are weighed in the order of their rank, in whatever order they finish."""

    left: float
    open: bool = True
    next: int = 0
    waiting: dict[int, Picture | None] = field(default_factory=dict)
    given: set[int] = field(default_factory=set)

    def weigh(self, number: int, picture: Picture | None) -> dict[int, Picture | None]:
        """Take in a case; returns those that are decided now, without their scene where there was no room for it."""
        self.waiting[number] = picture
        decided = {}
        while self.next in self.waiting:
            decided[self.next] = self._decide(self.next, self.waiting.pop(self.next))
            self.next += 1
        return decided

    def _decide(self, number: int, picture: Picture | None) -> Picture | None:
        if picture is None or picture.scene is None:
            return picture
        needs = len(picture.scene.as_json())
        if self.open and needs <= self.left:
            self.left -= needs
            self.given.add(number)
            return picture
        self.open = False
        return replace(picture, scene=None)


def write_evaluation_report(
    evaluation: Evaluation,
    out: Path,
    scans: Mapping[str, Scan] | None = None,
    prefer: Prefer = "",
    all_viewers: bool = False,
    limit: int = LIMIT,
) -> Iterator[Event | Written]:
    """Write `report.html` in `out`, and with `all_viewers` a page for each case in `cases`; yields events.

    scans: the scan of each case by its name; cases without one are drawn on black. limit: bytes of the report. A case
    that cannot be drawn keeps its scores.

    Raises:
        ResourceError: the disk is full or the folder cannot be written to.
    """
    began = time.monotonic()
    scores = evaluation.scores
    cases = ranked(scores)
    pair_of = {pair.case: pair for pair in evaluation.pairs}
    drawn = [one for one in cases if one.case in pair_of and one.rows]
    held, montage_bytes, room = _shares(cases, limit)
    asked = Asked(evaluation.known, _tolerances(scores), prefer, montage_bytes, all_viewers)
    pages = page_names(one.case for one in drawn) if all_viewers else {}
    pictures: dict[str, Picture] = {}
    rooms = _Room(room)
    expected_s = sum(_expected_s(pair_of[one.case], prefer) for one in drawn)
    executor, in_flight = local_executor(len(drawn), expected_s, BYTES_PER_CASE)
    wall_s = max(1.0, expected_s / max(1, in_flight // 2))
    yield Stage("report", len(drawn), f"about {wall_s:.0f} s" if wall_s < 120 else f"about {wall_s / 60:.0f} min")

    number = {one.case: n for n, one in enumerate(drawn)}

    def tasks() -> Iterator[Task]:
        for one in drawn:
            wanted = rooms.open and one.number < held
            yield Task(pair_of[one.case], (scans or {}).get(one.case), wanted)

    for count, result in enumerate(over_cases(partial(picture_of, asked=asked), tasks(), executor, in_flight), 1):
        case = result.case.pair.case
        picture: Picture | None = None
        if isinstance(result, Failed):
            yield Note(f"{case} has no pictures in the report: {result.reason}", warning=True)
        else:
            picture = result.record
            if all_viewers:
                write_page(out / CASES / pages[case], _case_page(drawn[number[case]], picture, scores))
        for n, decided in rooms.weigh(number[case], picture and replace(picture, own=None)).items():
            if decided is not None:
                pictures[drawn[n].case] = decided
        yield Advanced(count, case)

    links = {case: f"{CASES}/{name}" for case, name in pages.items() if case in pictures}
    if all_viewers:
        yield Note(f"{len(links)} pages of single cases are in {out / CASES}")
    size, viewers = _write(out / REPORT, scores, cases[:held], cases, pictures, links, limit)
    yield Written(out / REPORT, size, len(cases), viewers, time.monotonic() - began)


def _expected_s(pair: Pair, prefer: Prefer) -> float:
    """Seconds of one core for the pictures of a case, by the size in the header of its reference."""
    try:
        grid = read_label_grid(pair.reference, prefer)
    except MedsegError:
        grid = None
    return SECONDS_PER_CASE + SECONDS_PER_VOXEL * (math.prod(grid.shape) if grid is not None else 0)


def _tolerances(scores: Scores) -> dict[str, float]:
    return {s.structure: scores.settings.tolerances(s.structure)[0] for s in scores.structures}


def _shares(cases: list[Ranked], limit: int) -> tuple[int, int, float]:
    """How many cases can have a part of the page, how large their pictures may be, and what is left for viewers."""
    n = max(1, len(cases))
    rows = sum(len(one.rows) for one in cases)
    left = limit - FIXED - ROW * rows - 400 * n
    smallest, largest = MONTAGE
    picture = int(min(largest, max(smallest, 0.4 * left / n / IN_TEXT - PANEL)))
    each = picture * IN_TEXT + PANEL
    held = max(1, min(len(cases), int(left / each))) if cases else 0
    return held, picture, max(0.0, left - held * each)


def page_names(cases: Iterator[str] | list[str]) -> dict[str, str]:
    """A file name for the page of each case: safe on every system, and none twice, not even in other capitals."""
    taken: set[str] = set()
    names = {}
    for case in cases:
        safe = re.sub(r"[^A-Za-z0-9._-]+", "_", case).strip("._-")[:80] or "case"
        safe = f"case_{safe}" if re.fullmatch(r"(?i)(con|prn|aux|nul|com\d|lpt\d)(\..*)?", safe) else safe
        name, n = safe, 1
        while name.lower() in taken:
            n += 1
            name = f"{safe}_{n}"
        taken.add(name.lower())
        names[case] = f"{name}.html"
    return names


def _case_page(one: Ranked, picture: Picture, scores: Scores) -> Page:
    shown = panel(one, replace(picture, scene=picture.own), True, "")
    section = Section("case", "The case", panels=(shown,))
    return Page(f"Evaluation of {one.case}", _subtitle(scores), (section, methods_section(scores)), _provenance(scores))


def _write(
    path: Path,
    scores: Scores,
    held: list[Ranked],
    cases: list[Ranked],
    pictures: Mapping[str, Picture],
    links: Mapping[str, str],
    limit: int,
) -> tuple[int, int]:
    """Write the report; where it comes out too large all the same, the last viewers are left out. Its size, viewers."""
    with_viewer = [one.case for one in held if (found := pictures.get(one.case)) and found.scene]
    while True:
        page = _page(scores, held, cases, pictures, links, set(with_viewer))
        size = write_page(path, page)
        if size <= limit or not with_viewer:
            return size, len(with_viewer)
        del with_viewer[-max(1, len(with_viewer) // 5) :]


def _page(
    scores: Scores,
    held: list[Ranked],
    cases: list[Ranked],
    pictures: Mapping[str, Picture],
    links: Mapping[str, str],
    with_viewer: set[str],
) -> Page:
    anchors = {one.case: one.anchor for one in held}
    panels = tuple(
        _panel(one, pictures.get(one.case), one.case in with_viewer, links.get(one.case, "")) for one in held
    )
    remarks = (
        []
        if len(held) == len(cases)
        else [f"There is room for the pictures of the {len(held)} worst cases; the scores of all are in scores.csv."]
    )
    listed = case_list(cases, scores, pictures, set(anchors.values()), links, remarks)
    lead = "The worst cases first. Choose a case to see it; a heading sorts the list."
    sections = (
        summary_section(scores),
        plots_section(scores, anchors),
        boundary_section(scores, pictures, anchors),
        Section("cases", "Cases", listed, lead, panels),
        methods_section(scores),
    )
    data = {"case-values": case_values(cases, scores, pictures)}
    return Page("Evaluation", _subtitle(scores), sections, _provenance(scores), data)


def _panel(one: Ranked, picture: Picture | None, viewer: bool, link: str) -> Panel:
    return panel(one, picture, viewer, link, "" if picture else "There are no pictures of this case.")


def _subtitle(scores: Scores) -> str:
    cases = len({row.case for row in scores.scores} | set(scores.failed))
    many = f"{cases} case{'' if cases == 1 else 's'}, {len(scores.structures)} structure"
    return f"Predicted labels against reference labels: {many}{'' if len(scores.structures) == 1 else 's'}"


def _provenance(scores: Scores) -> tuple[tuple[str, str], ...]:
    settings = scores.settings
    made = [("Measured", f"by medseg {scores.medseg}" if scores.medseg else "by medseg")]
    made.append(
        ("Settings", f"surface {settings.surface}; tolerances {', '.join(f'{t:g}' for t in settings.tolerances_mm)} mm")
    )
    made.append(("All numbers", "in scores.csv and scores.json beside this report"))
    return tuple(made)
