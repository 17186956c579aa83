"""What lies at a path: `medseg inspect`. Every file is read whole, so that damage is found before the work begins."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Literal, TypeVar

from pydantic import Field

from medseg.errors import MedsegError
from medseg.files import Record
from medseg.imaging.case import Case, Left
from medseg.imaging.dataset import (
    Dataset,
    Layout,
    check_channels,
    check_pair,
    find_dataset,
    is_dataset,
    read_case_image,
    read_case_label,
)
from medseg.imaging.grid import Grid
from medseg.imaging.scans import Kind, Scan, find_scans, read_scan
from medseg.imaging.volume import LabelMap, Volume

T = TypeVar("T")


class Look(Record):
    """One case or scan as it was found; shape and the like are empty where it could not be read."""

    name: str
    kind: Kind
    source: str
    shape: tuple[int, ...] = ()
    spacing_mm: tuple[float, ...] = ()
    orientation: str = ""
    labels: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()


class Inspection(Record):
    """All that was found at a path: a dataset (`layout` is not empty) or scans; and what was left, with the reason."""

    version: Literal[1] = 1
    name: str
    layout: Layout | Literal[""] = ""
    channels: tuple[str, ...] = ()
    labels: dict[int, str] = Field(default_factory=dict)
    cases: tuple[Look, ...]
    left: tuple[Left, ...]


def inspect(path: Path, key: bytes) -> Inspection:
    """Look at everything at `path`; `key` names DICOM series (see `find_scans`).

    What is wrong with one case stands in its `problems` and stops no other. No absolute path enters the record.

    Raises:
        InputError: there is nothing at `path`, or nothing that is understood.
    """
    if is_dataset(path):
        dataset = find_dataset(path)
        looks = tuple(_look_at_case(case, dataset) for case in dataset.cases)
        return Inspection(
            name=dataset.name,
            layout=dataset.layout,
            channels=dataset.channels,
            labels=dict(dataset.labels),
            cases=looks,
            left=dataset.left,
        )
    found = find_scans(path, key)
    # the folder of DICOM files may be named after the patient
    name = "scans" if any(scan.kind == "dicom" for scan in found.scans) else path.resolve().name
    return Inspection(name=name, cases=tuple(map(_look_at_scan, found.scans)), left=found.left)


def _look_at_scan(scan: Scan) -> Look:
    look = _Looking()
    volumes = look.attempt(lambda: read_scan(scan)) or ()
    look.see(volumes)
    return look.told(scan.name, scan.kind, scan.source)


def _look_at_case(case: Case, dataset: Dataset) -> Look:
    look = _Looking()
    read = [look.attempt(partial(read_case_image, case, channel)) for channel in range(len(case.images))]
    volumes = tuple(volume for volume in read if volume is not None)
    look.attempt(lambda: check_channels(volumes, case.name))
    look.see(volumes)
    labels = look.attempt(lambda: read_case_label(case, dataset))
    if labels is not None:
        look.see_labels(labels)
        if volumes:
            look.attempt(lambda: check_pair(volumes[0], labels, case))
    return look.told(case.name, "nifti", case.images[0].name)


class _Looking:
    """Gathers what is seen of one case, problems included."""

    def __init__(self) -> None:
        self.grid: Grid | None = None
        self.present: tuple[str, ...] = ()
        self.problems: list[str] = []

    def attempt(self, reading: Callable[[], T]) -> T | None:
        try:
            return reading()
        except MedsegError as error:  # without `where`: it may be an absolute path
            self.problems.append(f"{error.what}; {error.fix}" if error.fix else error.what)
        except MemoryError:
            self.problems.append("is too large for the memory of this machine")
        return None

    def see(self, volumes: tuple[Volume, ...]) -> None:
        for volume in volumes:
            self.grid = self.grid or volume.grid
            if volume.array.min() == volume.array.max():
                self.problems.append("all its voxels have the same value")
        if self.grid and min(self.grid.shape) == 1:
            self.problems.append("is a single slice")

    def see_labels(self, labels: LabelMap) -> None:
        self.present = tuple(labels.names[value] for value in labels.present)
        if not self.present:
            self.problems.append("its label is empty")

    def told(self, name: str, kind: Kind, source: str) -> Look:
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
        )
