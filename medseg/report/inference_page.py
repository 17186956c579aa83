"""The page of a folder of predictions: `report.html`, one file that opens offline, with those to look at first.

It stands on the records of the folder. For pictures the scans themselves are read again, of a few cases only, so that
a night's work takes hardly longer.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from medseg.errors import MedsegError
from medseg.events import Advanced, Event, Note, Stage
from medseg.imaging.scans import Scan
from medseg.imaging.source import ReadOptions
from medseg.inference.manifests import Cases
from medseg.inference.records import Prediction, Predictions
from medseg.planning.explain import counted
from medseg.report.inference_cases import Seen, case_list, case_values, panel
from medseg.report.inference_pictures import Drawn, drawn
from medseg.report.inference_sections import failed_section, methods_section, plots_section, summary_section
from medseg.report.page import Page, Section, write_page
from medseg.report.unusual import robust_z

REPORT: Final = "report.html"
LIMIT: Final = 60_000_000  # bytes of the page
FIXED: Final = 4_000_000  # of the viewer, the style, the scripts
MOST_PICTURES: Final = 24  # cases that are drawn, those to look at first
MOST_SECONDS: Final = 90.0  # after which no more are drawn: a scan of 512 x 512 x 300 voxels takes about 4
MONTAGE: Final = 120_000  # bytes of a picture
ROW: Final = 900  # of a structure of a case
PANEL: Final = 3_500  # of a case without its rows and pictures
IN_TEXT: Final = 4 / 3  # base64
NO_SCAN: Final = "its scan is not among those that were given last, so that there is no picture"
NOT_DRAWN: Final = "there are pictures only of the cases to look at first"


@dataclass(frozen=True, slots=True)
class Written:
    """The page that was written: its size, how many of its cases have pictures, and in what time."""

    path: Path
    bytes: int
    cases: int
    pictures: int
    seconds: float

    def said(self) -> str:
        """For a person, at the end."""
        some = f"pictures of {self.pictures} of {counted(self.cases, 'case')}"
        return f"{self.path} ({self.bytes / 1e6:.1f} MB, {self.seconds:.0f} s; {some})"


def write_inference_report(
    out: Path,
    predictions: Predictions,
    scans: Mapping[str, Scan],
    options: ReadOptions | None = None,
    limit: int = LIMIT,
    most_pictures: int = MOST_PICTURES,
    clock: Callable[[], float] = time.monotonic,
) -> Iterator[Event | Written]:
    """Write `report.html` into the folder `out` of these predictions; yields events.

    scans: those that can be read again, by case. limit: bytes of the page. A case that cannot be drawn keeps all else.

    Raises:
        ResourceError: the disk is full or the folder cannot be written to.
    """
    began = clock()
    structures = _structures(predictions)
    cases = in_order(predictions.cases, structures, _parts(out, predictions))
    panels = _panels(cases, limit)
    wanted = cases[: min(most_pictures, panels)]
    names = {int(value): name for value, name in predictions.labels.items()}
    room: float = limit - FIXED - sum(map(_bytes_of, cases[:panels])) - 400 * len(cases)
    pictures: dict[str, Drawn] = {}
    yield Stage("report", len(wanted), f"pictures of {counted(len(wanted), 'case')} of {len(cases)}")
    for count, one in enumerate(wanted, 1):
        if clock() - began > MOST_SECONDS:
            yield Note(f"{count - 1} cases have pictures in the report: more would take too long")
            break
        picture = _drawn(one.of, out, scans.get(one.of.case), names, options or ReadOptions())
        if isinstance(picture, str):
            yield Note(f"{one.of.case} has no pictures in the report: {picture}", warning=True)
            picture = Drawn(note=f"there are no pictures: {picture}")
        room, pictures[one.of.case] = _fitted(picture, room)
        yield Advanced(count, one.of.case)
    size = _write(out / REPORT, predictions, structures, cases, panels, pictures, limit)
    many = sum(bool(picture.montage) for picture in pictures.values())
    yield Written(out / REPORT, size, len(cases), many, clock() - began)


def _structures(predictions: Predictions) -> tuple[str, ...]:
    """In the order of the model, those that results hold."""
    held = {name for case in predictions.cases for name in case.volumes_ml}
    known = dict.fromkeys((*predictions.labels.values(), *predictions.regions))
    return (*(name for name in known if name in held), *sorted(held - set(known)))


def _parts(out: Path, predictions: Predictions) -> dict[str, dict[str, int]]:
    """The number of separate parts of structures, by case, where they were numbered: manifests alone know."""
    if not any(output.name.endswith(".instances.nii.gz") for case in predictions.cases for output in case.outputs):
        return {}
    done = Cases(out)
    found = {}
    for case in predictions.cases:
        record = done.done(case.case)
        rows = record.statistics if record else ()
        found[case.case] = dict(Counter(row.structure for row in rows if row.instance is not None))
    return found


def in_order(
    cases: Sequence[Prediction], structures: Sequence[str], parts: Mapping[str, Mapping[str, int]]
) -> list[Seen]:
    """The cases, those to look at first before the others, each with its volumes beside those of the others."""
    z: dict[str, dict[str, float]] = {case.case: {} for case in cases}
    for name in structures:
        held = {case.case: ml for case in cases if (ml := case.volumes_ml.get(name))}
        for case_name, value in robust_z(held).items():
            z[case_name][name] = value
    seen = [Seen(case, 0, z[case.case], parts.get(case.case, {})) for case in cases]
    seen.sort(key=lambda one: (-one.concern, one.of.case))
    return [replace(one, number=n) for n, one in enumerate(seen)]


def _bytes_of(one: Seen) -> int:
    return PANEL + ROW * len(one.of.volumes_ml)


def _panels(cases: Sequence[Seen], limit: int) -> int:
    """How many cases can have a part of the page: half of it is for pictures."""
    left, n = limit / 2 - FIXED / 2 - 400 * len(cases), 0
    for one in cases:
        left -= _bytes_of(one)
        if left < 0 and n:
            break
        n += 1
    return n


def _drawn(case: Prediction, out: Path, scan: Scan | None, names: dict[int, str], options: ReadOptions) -> Drawn | str:
    """The pictures of a case, or why there are none; no reason names a path."""
    if scan is None:
        return Drawn(note=NO_SCAN)
    try:
        return drawn(case, out, scan, names, options, MONTAGE)
    except MedsegError as error:
        return error.what
    except MemoryError:
        return "it is too large for the memory of this machine"


def _fitted(picture: Drawn, room: float) -> tuple[float, Drawn]:
    """What is left of the room, and the picture without its viewer, or without anything, where there is too little."""
    flat = len(picture.montage) * IN_TEXT
    viewer = len(picture.scene.as_json()) if picture.scene else 0
    if flat + viewer <= room:
        return room - flat - viewer, picture
    if flat <= room:
        return room - flat, replace(picture, scene=None, note="this page has no more room for viewers")
    return room, Drawn(note="this page has no more room for pictures")


def _write(
    path: Path,
    predictions: Predictions,
    structures: Sequence[str],
    cases: Sequence[Seen],
    panels: int,
    pictures: Mapping[str, Drawn],
    limit: int,
) -> int:
    """Write the page; where it comes out too large all the same, the last viewers are left out. Its size."""
    pictures = dict(pictures)
    while True:
        size = write_page(path, _page(predictions, structures, cases, panels, pictures))
        with_viewer = [case for case, picture in pictures.items() if picture.scene]
        if size <= limit or not with_viewer:
            return size
        for case in with_viewer[-max(1, len(with_viewer) // 5) :]:
            pictures[case] = replace(pictures[case], scene=None)


def _page(
    predictions: Predictions,
    structures: Sequence[str],
    cases: Sequence[Seen],
    panels: int,
    pictures: Mapping[str, Drawn],
) -> Page:
    remarks = [] if panels >= len(cases) else [f"There is room for the figures of the first {panels} cases alone."]
    if len(cases) > len(pictures):
        remarks.append(f"{NOT_DRAWN[0].upper()}{NOT_DRAWN[1:]}.")
    parts = tuple(panel(one, pictures.get(one.of.case, Drawn(note=NOT_DRAWN))) for one in cases[:panels])
    lead = "Those to look at first stand first. Choose a case to see it and to rate it; a heading sorts the list."
    listed = case_list(cases, structures, panels, remarks)
    sections = (
        summary_section(cases, predictions, structures, panels),
        *failed_section(predictions),
        *([Section("cases", "Cases", listed, lead, parts)] if cases else []),
        *plots_section(cases, structures, panels),
        methods_section(predictions),
    )
    many = f"{counted(len(cases), 'case')}, {counted(len(structures), 'structure')}"
    provenance = (
        ("Model", f"weights {predictions.cases[0].model[:12]}" if predictions.cases else "-"),
        ("All numbers", "in predictions.json and statistics.csv beside this page"),
    )
    return Page(
        "Predictions",
        f"Found by a model, not compared with any reference: {many}",
        sections,
        provenance,
        {"case-values": case_values(cases, structures)},
        ("rating.js",),
    )
