"""What lies at a path: `medseg inspect`. Every file is read whole, so that damage is found before the work begins."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal, TypeVar

from pydantic import Field

from medseg.errors import InputError, MedsegError
from medseg.events import Advanced, Event, Stage
from medseg.files import Record
from medseg.imaging.case import Case, Left
from medseg.imaging.dataset import Dataset, Layout, find_dataset, is_file_dataset, read_case, read_case_images
from medseg.imaging.dicom.volumes import SubVolume
from medseg.imaging.finding import Finding
from medseg.imaging.formats import is_volume_file
from medseg.imaging.grid import Grid
from medseg.imaging.naming import CaseMap, MappedCase, shown_path
from medseg.imaging.reading import read_channels
from medseg.imaging.scans import UNDERSTOOD, origin, sift
from medseg.imaging.source import Format, Reading, ReadOptions, Source
from medseg.imaging.studies import NO_VOLUME, told, told_series, volume_name
from medseg.imaging.volume import LabelMap

T = TypeVar("T")

Examine = Callable[[Case, Dataset, tuple[Reading, ...], LabelMap, tuple[str, ...]], None]


class Look(Record):
    """One case, file scan or DICOM volume as it was found; shape and the like are empty where it could not be read.

    `verdict` is that of a DICOM volume; `problems` keep it from being used, `notes` say what is odd about it.
    """

    name: str
    kind: Format
    source: str
    verdict: str = ""
    shape: tuple[int, ...] = ()
    spacing_mm: tuple[float, ...] = ()
    orientation: str = ""
    labels: tuple[str, ...] = ()
    shown: dict[str, str] = Field(default_factory=dict)
    problems: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


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
    """What was found, the private map that says where each DICOM volume lies, and which of the cases are labelled."""

    inspection: Inspection
    case_map: CaseMap
    labelled: tuple[str, ...] = ()


def inspect(
    path: Path, key: str, options: ReadOptions | None = None, headers: bool = False, examine: Examine | None = None
) -> Iterator[Event | Inspected]:
    """Look at everything at `path`; `key` (hex) names DICOM volumes; `headers` alone are read where that is asked.

    What is wrong with one case stands in its `problems` and stops no other. No path enters the inspection. `examine`
    gets every labelled case that was read whole, and judges its voxels instead.

    Raises:
        InputError: there is nothing at `path`, or nothing that is understood.
    """
    options, secret = options or ReadOptions(), bytes.fromhex(key)
    if is_file_dataset(path):
        dataset = find_dataset(path, secret, options)
        for event in _dataset(dataset, headers, examine):
            if isinstance(event, Inspection):
                yield Inspected(event, CaseMap(key=key, cases={}), tuple(case.name for case in dataset.cases))
            else:
                yield event
        return
    with TemporaryDirectory(prefix="medseg-") as scratch:
        sifted = sift(path, options=options, scratch=Path(scratch))
        volumes = sifted.dicom.volumes
        labelled = _labelled(path, secret, options) if sifted.dicom.labels else None
        jobs: list[Callable[[], Look]] = []
        jobs += [partial(_look_at_files, name, paths, options, headers) for name, paths in sifted.files]
        for volume in volumes:
            name = volume_name(volume, secret)
            reading = None if headers else _reader(volume, name, options, labelled, examine)
            jobs.append(partial(_look_at_volume, volume, name, reading))
        if not jobs:
            said = "holds labels alone, no scan" if sifted.dicom.labels else "holds no scan and no data set"
            raise InputError(said, "" if sifted.dicom.labels else path, UNDERSTOOD)
        looks: list[Look] = []
        yield Stage("inspect", len(jobs), f"{len(jobs)} volume(s)")
        for job in jobs:
            looks.append(job())
            yield Advanced(len(looks), looks[-1].name)
    # the folder of DICOM files may be named after the patient
    name = "scans" if volumes or sifted.dicom.labels else path.resolve().name
    labels = dict(labelled.labels) if isinstance(labelled, Dataset) else {}
    left = [*sifted.left, *sifted.dicom.left]
    if labelled is not None:
        more = labelled.left if isinstance(labelled, Dataset) else (Left("its labels", labelled),)
        left += [one for one in more if one not in left]
    found = Inspection(name=name, labels=labels, cases=tuple(looks), left=tuple(left))
    where = {volume_name(v, secret): tuple(origin(p, sifted.archives) for p in v.paths) for v in volumes}
    mapped = {name: MappedCase(paths=paths, names=()) for name, paths in where.items()}
    cases = tuple(case.name for case in labelled.cases) if isinstance(labelled, Dataset) else ()
    yield Inspected(found, CaseMap(key=key, cases=mapped), cases)


def _labelled(path: Path, key: bytes, options: ReadOptions) -> Dataset | str:
    """What the labels beside DICOM images label, or in a line why nothing."""
    try:
        return find_dataset(path, key, options)
    except InputError as error:
        return f"{error.what}; {error.fix}" if error.fix else error.what


def _dataset(dataset: Dataset, headers: bool, examine: Examine | None) -> Iterator[Event | Inspection]:
    looks: list[Look] = []
    yield Stage("inspect", len(dataset.cases), f"{len(dataset.cases)} case(s)")
    for case in dataset.cases:
        looks.append(_look_at_case(case, dataset, headers, examine))
        yield Advanced(len(looks), case.name)
    yield Inspection(
        name=dataset.name,
        layout=dataset.layout,
        channels=dataset.channels,
        labels=dict(dataset.labels),
        regions=dict(dataset.regions),
        ignore=dataset.ignore,
        cases=tuple(looks),
        left=dataset.left,
    )


def _look_at_files(name: str, paths: tuple[Path, ...], options: ReadOptions, headers: bool) -> Look:
    look = _Looking()
    forms = [is_volume_file(path) for path in paths]
    sources = [Source(form, (path,)) for form, path in zip(forms, paths, strict=True) if form is not None]
    if not headers:
        look.see(look.attempt(lambda: read_channels(sources, name, options)) or ())
    return look.told(shown_path(name), sources[0].format, shown_path(paths[0].name))


def _reader(
    volume: SubVolume, name: str, options: ReadOptions, labelled: Dataset | str | None, examine: Examine | None
) -> Callable[[_Looking], None]:
    """How the voxels of a DICOM volume are looked at: with its label, if it is a labelled case."""
    cases = labelled.cases if isinstance(labelled, Dataset) else ()
    case = next((case for case in cases if case.name == name), None)
    if case is not None and isinstance(labelled, Dataset):
        return lambda look: look.see_case(case, labelled, examine)
    source = Source("dicom", volume.paths, dicom=volume)
    return lambda look: look.see(look.attempt(lambda: read_channels([source], name, options)) or ())


def _look_at_volume(volume: SubVolume, name: str, read: Callable[[_Looking], None] | None) -> Look:
    look = _Looking()
    verdict = volume.verdict
    if not verdict.usable:
        said = f"[{', '.join(verdict.codes)}] {verdict.said}"
        remark = f"{said}; {verdict.fix}" if verdict.fix else said
        (look.notes if NO_VOLUME.intersection(verdict.codes) else look.problems).append(remark)
    else:
        look.notes += [words for words in (volume.differs, verdict.said) if words]
    look.grid = volume.grid
    if verdict.usable and read is not None:
        read(look)
    told_as = look.told(name, "dicom", told_series(volume))
    return told_as.model_copy(update={"verdict": str(verdict), "shown": dict(volume.shown)})


def _look_at_case(case: Case, dataset: Dataset, headers: bool, examine: Examine | None) -> Look:
    look = _Looking()
    source = case.images[0]
    shown = told(source.dicom) if source.dicom is not None else source.paths[0].name
    if not headers:
        look.see_case(case, dataset, examine)
    return look.told(case.name, source.format, shown)


class _Looking:
    """Gathers what is seen of one case, problems included."""

    def __init__(self) -> None:
        self.grid: Grid | None = None
        self.present: tuple[str, ...] = ()
        self.problems: list[str] = []
        self.notes: list[str] = []

    def attempt(self, reading: Callable[[], T]) -> T | None:
        try:
            return reading()
        except MedsegError as error:  # without `where`: it may be an absolute path
            self.problems.append(f"{error.what}; {error.fix}" if error.fix else error.what)
        except MemoryError:
            self.problems.append("is too large for the memory of this machine")
        return None

    def see_case(self, case: Case, dataset: Dataset, examine: Examine | None) -> None:
        """A labelled case, read once; where that fails, its images again for their geometry."""
        whole = self.attempt(lambda: read_case(case, dataset))
        if whole is None:
            with suppress(MedsegError, MemoryError):  # told already
                self.see(read_case_images(case, dataset), judge=examine is None)
            return
        readings, labels, notes = whole
        self.see(readings, judge=examine is None)
        self.notes += [note for note in notes if note not in self.notes]
        self.present = tuple(labels.names[value] for value in labels.present if value in labels.names)
        if examine is not None:
            self.attempt(lambda: examine(case, dataset, readings, labels, notes))
        elif not self.present:
            self.problems.append("its label is empty")

    def see(self, readings: tuple[Reading, ...], judge: bool = True) -> None:
        for reading in readings:
            self.grid = self.grid or reading.volume.grid
            self.notes += [note for note in reading.notes if note not in self.notes]
            if judge and reading.volume.array.min() == reading.volume.array.max():
                self.problems.append("all its voxels have the same value")
        if judge and self.grid and min(self.grid.shape) == 1:
            self.problems.append("is a single slice")

    def told(self, name: str, kind: Format, source: str) -> Look:
        grid = self.grid
        return Look(
            name=name,
            kind=kind,
            source=source,
            shape=grid.shape if grid else (),
            spacing_mm=grid.spacing_mm if grid else (),
            orientation="".join(grid.axcodes) if grid else "",
            labels=self.present,
            problems=tuple(self.problems),
            notes=tuple(self.notes),
        )
