"""One case, file scan or DICOM volume, looked at: small jobs that may be done anywhere, and what they find."""

from __future__ import annotations

import hashlib
import hmac
import math
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from pydantic import Field

from medseg.errors import MedsegError
from medseg.files import Record
from medseg.imaging.case import Case
from medseg.imaging.dataset import Dataset, read_case, read_case_images
from medseg.imaging.dicom.volumes import SubVolume
from medseg.imaging.formats import is_volume_file, with_data
from medseg.imaging.grid import Grid
from medseg.imaging.naming import shown_path
from medseg.imaging.reading import read_channels, shape_of
from medseg.imaging.source import Format, Reading, ReadOptions, Source
from medseg.imaging.studies import NO_VOLUME, told, told_series
from medseg.imaging.volume import LabelMap
from medseg.kept import Kept, Subject

T = TypeVar("T")
NO_ROOM = "is too large for the memory of this machine"

Examine = Callable[[Case, Dataset, tuple[Reading, ...], LabelMap, tuple[str, ...]], Record]


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


class Seen(Record):
    """What came of one job. value: what was found in a labelled case that was read whole; plain values once kept."""

    look: Look
    value: Any = None


@dataclass(frozen=True)
class LookJob:
    """What looking at one thing needs; small, so that it can cross to a worker process.

    id: unlike its name different from all others, and safe to show. paths: those of a file scan. labelled: the case
    that it is, and its data set without any case.
    """

    id: str
    name: str
    options: ReadOptions
    paths: tuple[Path, ...] = ()
    volume: SubVolume | None = None
    labelled: tuple[Case, Dataset] | None = None

    @property
    def sources(self) -> tuple[Source, ...]:
        """A source for each channel."""
        if self.labelled is not None:
            return self.labelled[0].images
        if self.volume is not None:
            return (Source("dicom", self.volume.paths, dicom=self.volume),)
        forms = [(is_volume_file(path), path) for path in self.paths]
        return tuple(Source(form, (path,)) for form, path in forms if form is not None)

    @property
    def files(self) -> tuple[Path, ...]:
        """All files that are read."""
        given = self.labelled[0].files if self.labelled is not None else self.paths
        given = given or (self.volume.paths if self.volume is not None else ())
        try:
            return tuple(with_data(given))
        except (MedsegError, OSError):  # it will fail by name
            return given

    @property
    def subject(self) -> Subject:
        """As its record knows it."""
        said: list[object] = [self.name, [source.component for source in self.sources]]
        if (volume := self.volume) is not None:
            said += [volume.verdict, volume.differs, volume.number, volume.of, sorted(volume.shown.items())]
            said += [[frame.index for frame in volume.frames]]
        if self.labelled is not None:
            case, _ = self.labelled
            renames = [sorted(part.renames.items()) for part in case.label.parts] if case.label else []
            said += [case.patient, renames]
        return Subject(self.id, self.files, repr(said))

    @property
    def bytes(self) -> int:
        """Of its files."""
        with suppress(OSError):
            return sum(path.stat().st_size for path in self.files)
        return 0

    @property
    def voxels(self) -> float:
        """Of all channels, as far as headers tell."""
        sources = self.sources
        try:
            return float(sum(math.prod(shape_of(source)) for source in sources))
        except MedsegError:
            return 0.0  # it will fail by name


def id_of(key: bytes, paths: Sequence[Path], root: Path, scratch: Path, more: object = "") -> str:
    """A keyed hash of where files lie in what is looked at, and of `more`: the same for all who hold the key."""
    places = [str(more)]
    places += [
        next((str(p.relative_to(top)) for top in (root, scratch) if p.is_relative_to(top)), p.name) for p in paths
    ]
    return hmac.new(key, "\n".join(places).encode("utf-8", "surrogateescape"), hashlib.sha256).hexdigest()[:24]


def look_at(job: LookJob, headers: bool, examine: Examine | None = None, kept: Kept[Seen] | None = None) -> Seen:
    """Look at one thing, or take what was found before. `examine` gets a labelled case that was read whole, and judges
    its voxels instead.
    """
    make = partial(_seen, job, headers, examine)
    return make() if kept is None else kept.made(job.subject, make, _no_room)


def _no_room(seen: Seen) -> str:
    """A machine with more memory may do better."""
    return NO_ROOM if NO_ROOM in seen.look.problems else ""


def given_up(job: LookJob, reason: str) -> Seen:
    """What to say of a job that could not be done."""
    look = _seen(job, headers=True).look
    return Seen(look=look.model_copy(update={"problems": (*look.problems, reason)}))


def _seen(job: LookJob, headers: bool, examine: Examine | None = None) -> Seen:
    look = _Looking()
    usable = look.judge_volume(job.volume) if job.volume is not None else True
    if usable and not headers:
        if job.labelled is not None:
            look.see_case(*job.labelled, examine)
        else:
            look.see(look.attempt(lambda: read_channels(job.sources, job.name, job.options)) or ())
    return Seen(look=look.told(job), value=look.value)


class _Looking:
    """Gathers what is seen of one case, problems included."""

    def __init__(self) -> None:
        self.grid: Grid | None = None
        self.present: tuple[str, ...] = ()
        self.problems: list[str] = []
        self.notes: list[str] = []
        self.value: Record | None = None

    def attempt(self, reading: Callable[[], T]) -> T | None:
        try:
            return reading()
        except MedsegError as error:  # without `where`: it may be an absolute path
            self.problems.append(f"{error.what}; {error.fix}" if error.fix else error.what)
        except MemoryError:
            self.problems.append(NO_ROOM)
        return None

    def judge_volume(self, volume: SubVolume) -> bool:
        """What its headers say; False if it cannot be used."""
        verdict = volume.verdict
        if not verdict.usable:
            said = f"[{', '.join(verdict.codes)}] {verdict.said}"
            remark = f"{said}; {verdict.fix}" if verdict.fix else said
            (self.notes if NO_VOLUME.intersection(verdict.codes) else self.problems).append(remark)
        else:
            self.notes += [words for words in (volume.differs, verdict.said) if words]
        self.grid = volume.grid
        return verdict.usable

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
            self.value = self.attempt(lambda: examine(case, dataset, readings, labels, notes))
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

    def told(self, job: LookJob) -> Look:
        grid, first = self.grid, job.sources[0]
        source = shown_path(first.paths[0].name) if first.dicom is None else told(first.dicom)
        return Look(
            name=shown_path(job.name),
            kind=first.format,
            source=source if job.volume is None else told_series(job.volume),
            verdict=str(job.volume.verdict) if job.volume is not None else "",
            shape=grid.shape if grid else (),
            spacing_mm=grid.spacing_mm if grid else (),
            orientation="".join(grid.axcodes) if grid else "",
            labels=self.present,
            shown=dict(job.volume.shown) if job.volume is not None else {},
            problems=tuple(self.problems),
            notes=tuple(self.notes),
        )
