"""Labelled scans in BIDS: `sub-*/[ses-*/]anat/*_T1w.nii.gz`, labels in `derivatives/*/sub-*/.../*_dseg.nii.gz`.

A label belongs to the images of its subject and session that share its other entities (run, acq, ...) and lie on its
grid; the channels are the suffixes that every labelled session has. Names come from `*_dseg.tsv` (index, name).
Source: BIDS 1.10, derivatives, imaging data types: segmentations.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from medseg.errors import InputError, MedsegError
from medseg.imaging.case import LabelFile, Left
from medseg.imaging.formats import volumes_in
from medseg.imaging.label_values import values_in
from medseg.imaging.layouts import Listing
from medseg.imaging.nifti import SUFFIXES, read_grid
from medseg.imaging.source import ReadOptions, Source
from medseg.imaging.structures import Structures, storable

ROOT = "dataset_description.json"
LABELS = "dseg"
OF_A_SCAN = ("sub", "ses", "acq", "ce", "trc", "rec", "run", "part")  # entities that an image and its label share
NATIVE = ("", "orig")  # spaces of labels that lie on the scan as it was acquired
FIRST = ("T1w", "T2w", "FLAIR")


@dataclass(frozen=True, slots=True)
class Named:
    """A file by the parts of its name: `sub-01_run-2_T1w` has the entities sub and run, and the suffix T1w."""

    path: Path
    entities: Mapping[str, str]
    suffix: str

    def only(self, keys: Iterable[str]) -> str:
        """Its entities among `keys`, as they are written."""
        return "_".join(f"{key}-{self.entities[key]}" for key in keys if key in self.entities)


@dataclass(frozen=True, slots=True)
class Session:
    """A labelled session: its label, and the images that lie on the label's grid, by channel."""

    label: Named
    images: Mapping[str, Path]

    @property
    def name(self) -> str:
        """Subject and session, and run or the like where the label names it."""
        return self.label.only(OF_A_SCAN)


def is_bids(root: Path) -> bool:
    """True if `root` is the top of a BIDS dataset with label maps among its derivatives."""
    return (root / ROOT).is_file() and next(_label_files(root), None) is not None


def bids(root: Path, options: ReadOptions) -> Listing:
    """The labelled sessions of a BIDS dataset.

    Raises:
        InputError: labels of several kinds compete, no suffix is common to all labelled sessions, or names contradict
            each other.
    """
    left: list[Left] = []
    labels = _native(map(_parsed, sorted(_label_files(root))), left)
    _refuse_several_kinds(root, labels)
    sessions: list[Session] = []
    values: dict[Path, set[int]] = {}
    for label in labels:
        try:
            sessions.append(_session(root, label, options))
            values[label.path] = set(values_in(label.path, options))
        except MedsegError as error:
            left.append(Left(label.only(OF_A_SCAN), error.what, broken=True))
    sessions = [session for session in sessions if session.label.path in values]
    channels = _common(root, sessions, left)
    structures = _structures(root, [session.label for session in sessions], set().union(*values.values()))
    found = Listing(channels, structures, left=left)
    for session in sessions:
        images = tuple(Source("nifti", (session.images[channel],)) for channel in channels)
        file = LabelFile(session.label.path, renames=structures.renames)
        found.add(session.name, images, file, patient=session.label.only(("sub",)))
    return found


def _label_files(root: Path) -> Iterator[Path]:
    derived = (root / "derivatives").glob(f"*/sub-*/**/*_{LABELS}.nii*")
    return (path for path in derived if path.name.endswith(SUFFIXES) and path.name[0] != ".")


def _parsed(path: Path) -> Named:
    *pairs, suffix = path.name.split(".")[0].split("_")
    return Named(path, dict(pair.split("-", 1) for pair in pairs if "-" in pair), suffix)


def _native(labels: Iterable[Named], left: list[Left]) -> list[Named]:
    kept = []
    for label in labels:
        space = label.entities.get("space", "")
        if space in NATIVE:
            kept.append(label)
        else:
            left.append(Left(label.path.name, f"lies in the space {space}, not in that of its scan"))
    return kept


def _refuse_several_kinds(root: Path, labels: Sequence[Named]) -> None:
    kinds: dict[str, None] = {}
    for label in labels:
        others = [key for key in label.entities if key not in (*OF_A_SCAN, "space")]
        pipeline = label.path.relative_to(root / "derivatives").parts[0]
        kinds[f"{pipeline} {label.only(others)}".strip()] = None
    if len(kinds) > 1:
        listed = ", ".join(list(kinds)[:5])
        raise InputError(
            f"[CHOOSE] its derivatives hold labels of {len(kinds)} kinds: {listed}",
            root,
            "keep one kind there, or list the cases in a manifest.csv",
        )


def _session(root: Path, label: Named, options: ReadOptions) -> Session:
    folder = root / label.only(("sub",)) / label.only(("ses",)) / "anat"
    files = sorted(folder.iterdir()) if folder.is_dir() else []
    images = [_parsed(path) for path in files if path.name.endswith(SUFFIXES) and path.name.startswith("sub-")]
    shared = [image for image in images if image.suffix != LABELS and _same_scan(image, label)]
    if not shared:
        raise InputError("[NOT_FOUND] there is no image of it in anat")
    grid = read_grid(label.path, prefer=options.prefer)
    single = [image for image in shared if volumes_in(image.path) == 1]
    lying = [image for image in single if grid.agrees(read_grid(image.path, prefer=options.prefer))]
    if not lying:
        raise InputError("[OTHER_GRID] no image of it in anat lies on the grid of its label")
    channels: dict[str, Path] = {}
    for image in lying:
        alone = [other.suffix for other in lying].count(image.suffix) == 1
        extra = image.only([key for key in image.entities if key not in ("sub", "ses", "run")])
        channel = image.suffix if alone or not extra else f"{extra}_{image.suffix}"
        if channel in channels:
            raise InputError(f"several images of it are {channel}", fix="name the run in the name of its label")
        channels[channel] = image.path
    return Session(label, channels)


def _same_scan(image: Named, label: Named) -> bool:
    """True if no entity that both have says otherwise."""
    return all(image.entities.get(key, value) == value for key, value in label.entities.items() if key in OF_A_SCAN)


def _common(root: Path, sessions: Sequence[Session], left: list[Left]) -> tuple[str, ...]:
    """The channels that every session has."""
    every = dict.fromkeys(channel for session in sessions for channel in session.images)
    common = [channel for channel in every if all(channel in session.images for session in sessions)]
    if sessions and not common:
        listed = ", ".join(every)
        what = f"[CHOOSE] no image type is common to all labelled sessions; there are {listed}"
        raise InputError(what, root, "list the cases in a manifest.csv")
    for channel in every:
        if channel not in common:
            n = sum(channel in session.images for session in sessions)
            left.append(Left(channel, f"{n} of {len(sessions)} labelled sessions have it; a channel must be in all"))
    return tuple(sorted(common, key=lambda channel: (channel not in FIRST, [*FIRST, channel].index(channel), channel)))


def _structures(root: Path, labels: Sequence[Named], values: set[int]) -> Structures:
    """The values that occur, named by the tables that belong to the labels, or by their number."""
    named: dict[int, str] = {}
    for label in labels:
        for value, name in _table(root, label).items():
            if named.setdefault(value, name) != name:
                said = f"its tables call the value {value} both {named[value]} and {name}"
                raise InputError(said, label.path.name, "give each value one name in all *_dseg.tsv")
    names = {value: named.get(value, str(value)) for value in sorted(values - {0})}
    twice = next((name for name in names.values() if list(names.values()).count(name) > 1), "")
    if twice:
        raise InputError(f"its tables call two values {twice}", root, "give each its own name")
    return storable(Structures(names))


def _table(root: Path, label: Named) -> dict[int, str]:
    """The nearest `*_dseg.tsv` whose entities the label has too: beside it, or in a folder above (inheritance)."""
    top = root / "derivatives"
    for folder in label.path.parents:
        if folder == top:
            return {}
        tables = [_parsed(path) for path in sorted(folder.glob(f"*{LABELS}.tsv")) if path.name[0] != "."]
        fitting = [t for t in tables if t.suffix == LABELS and t.entities.items() <= label.entities.items()]
        if fitting:
            return _read_table(max(fitting, key=lambda table: len(table.entities)).path)
    return {}


def _read_table(path: Path) -> dict[int, str]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = list(csv.DictReader(file, delimiter="\t"))
        return {int(row["index"]): row["name"].strip() for row in rows}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, csv.Error) as error:
        raise InputError("is no table of index and name", path.name, "mend it, or take it away") from error
