"""Reading a labelled case: its channels, and its label in the values of the dataset on the grid of the image."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from medseg.errors import InputError
from medseg.files import sha256
from medseg.imaging.case import Case, LabelFile
from medseg.imaging.dicom.label_objects import Noted
from medseg.imaging.formats import with_data
from medseg.imaging.grid import Grid
from medseg.imaging.label_files import label_names_in, placed, read_label_file_noted
from medseg.imaging.label_values import read_renamed, unknown_values
from medseg.imaging.overlaps import CODE, Overlap, lost, overlaps, told
from medseg.imaging.reading import read_channels
from medseg.imaging.source import Reading, ReadOptions
from medseg.imaging.structures import IGNORE, LARGEST
from medseg.imaging.volume import LabelMap, check_same_place

if TYPE_CHECKING:
    from medseg.imaging.dataset import Dataset

Labels = npt.NDArray[np.unsignedinteger[Any]]


def read_case(case: Case, dataset: Dataset) -> tuple[tuple[Reading, ...], LabelMap, tuple[str, ...]]:
    """Read a whole case: its channels, its label, all on the grid of the first channel, and what was mended or left.

    Raises:
        InputError: a channel or the label cannot be read.
        GeometryError: they do not lie on each other.
    """
    readings = read_case_images(case, dataset)
    labels, notes = _read_label(case, dataset, readings[0].volume.grid)
    return readings, labels, (*(note for reading in readings for note in reading.notes), *notes)


def read_case_images(case: Case, dataset: Dataset) -> tuple[Reading, ...]:
    """Read all channels of a case: float32 (X, Y, Z), all on the grid of the first.

    A file that does not say where it lies is taken, since its label says the same or is refused.

    Raises:
        InputError: a file is missing, cut or of another kind than it says.
        GeometryError: the channels do not lie on each other.
    """
    return read_channels(case.images, case.name, dataset.options.model_copy(update={"need_place": False}))


def read_case_label(case: Case, dataset: Dataset, onto: Grid) -> LabelMap:
    """Read the label of a case (X, Y, Z) in the values of the dataset, on the grid of its image; it may be empty.

    A file must lie on the voxels of the image; where the image was straightened, so is its label. DICOM objects are
    drawn anew on the grid.

    Raises:
        InputError: the case has none, it cannot be read, or it holds values that the dataset does not name.
        GeometryError: it does not lie on the image.
    """
    return _read_label(case, dataset, onto)[0]


def _read_label(case: Case, dataset: Dataset, onto: Grid) -> Noted:
    if case.label is None:
        raise InputError("has no label", case.name)
    names = dict(dataset.labels) | ({dataset.ignore: IGNORE} if dataset.ignore is not None else {})
    if case.label.kind == "file":
        found, notes = _file(case.label, onto, names, case.name, dataset.options)
        return LabelMap(found.array, onto, names), notes
    first = case.images[0].dicom
    known = first is not None and "NO_FRAME_OF_REFERENCE" not in first.verdict.codes
    frame = first.frame_of_reference if first is not None and known else ""
    parts = [_object(part, onto, case.name, frame) for part in case.label.parts]
    whole = _joined([part.array for part, _ in parts], case.name)
    return LabelMap(whole, onto, names), tuple(note for _, notes in parts for note in notes)


def check_pair(image: Reading, labels: LabelMap, case: Case) -> None:
    """Refuse a label that does not lie on its image.

    Raises:
        GeometryError: the shapes differ, or a corner lies more than a hundredth of a voxel elsewhere.
    """
    check_same_place(image.volume.grid, labels.grid, case.name, "label")


def _file(label: LabelFile, grid: Grid, names: Mapping[int, str], name: str, options: ReadOptions) -> Noted:
    renames = label.renames
    if any(not 0 <= value <= LARGEST for value in renames):
        return placed(read_renamed(label.path, renames, options), grid, name)
    wanted = _wanted(label, name)
    found, notes = read_label_file_noted(label.path, grid, name=name, prefer=options.prefer, wanted=wanted)
    _refuse_unknown(found, renames or names, name)
    if notes:  # an overlap is noted
        shared = overlaps(label.path, None, name, wanted=wanted)
        notes += _told_overlaps(shared, renames or {v: v for v in names}, found.names, name)
    return (LabelMap(_renamed(found.array, renames), grid, {}) if renames else found), notes


def _object(part: LabelFile, onto: Grid, name: str, frame_of_reference: str) -> Noted:
    wanted = _wanted(part, name)
    found, notes = read_label_file_noted(part.path, onto, None, name, frame_of_reference, wanted=wanted)
    _refuse_unknown(found, part.renames, name)
    if notes:  # an overlap is noted
        shared = overlaps(part.path, onto, name, frame_of_reference, wanted)
        notes += _told_overlaps(shared, part.renames, found.names, name)
    return LabelMap(_renamed(found.array, part.renames), onto, {}), notes


def _wanted(label: LabelFile, name: str) -> frozenset[str] | None:
    """The names of the structures that the dataset uses, in a file that names them; None where it uses all."""
    named = None if all(label.renames.values()) else label_names_in(label.path, name)
    return None if named is None else frozenset(said for value, said in named.items() if label.renames.get(value))


def _told_overlaps(
    found: Sequence[Overlap], renames: Mapping[int, int], names: Mapping[int, str], name: str
) -> tuple[str, ...]:
    """What structures lost to others.

    Raises:
        InputError: one lost every voxel.
    """
    apart = [one for one in found if renames.get(one.loser) != renames.get(one.winner)]
    for one in lost(apart):
        loser, winner = names[one.loser], names[one.winner]
        what = f"{CODE} all voxels of its structure {loser} belong to others as well, most to {winner}, which count"
        raise InputError(what, name, f"leave {winner} out: name the structures that are wanted with --labels")
    return told(apart, names)


def _renamed(array: Labels, renames: Mapping[int, int]) -> Labels:
    """Values as `renames` says, which holds all but the background."""
    kind = np.dtype(np.uint8 if max(renames.values(), default=0) <= 255 else np.uint16)
    table: Labels = np.zeros(max(renames, default=0) + 1, kind)
    for value, becomes in renames.items():
        table[value] = becomes
    return table[array]


def _refuse_unknown(found: LabelMap, known: Mapping[int, object], name: str) -> None:
    if unknown := [value for value in found.present if value not in known]:
        raise InputError(unknown_values(unknown), name, "name them in the dataset's labels, or mend the label")


def _joined(parts: Sequence[Labels], name: str) -> Labels:
    """The labels (X, Y, Z) of several objects as one."""
    whole = parts[0]
    for part in parts[1:]:
        if ((whole > 0) & (part > 0) & (whole != part)).any():
            raise InputError(
                "[OVERLAP] structures of two label objects share voxels",
                name,
                "keep one of them, or put both into one object",
            )
        whole = np.maximum(whole, part)
    return whole


def case_digest(case: Case, dataset: Dataset) -> str:
    """Changes whenever reading the case would give something else: bytes of its files, what of them is read, and how.

    Raises:
        InputError: a file of it cannot be read.
    """
    parts = [(s.component, [frame.index for frame in s.dicom.frames] if s.dicom else []) for s in case.images]
    renames = [sorted(part.renames.items()) for part in case.label.parts] if case.label else []
    told = [parts, renames, sorted(dataset.labels), dataset.ignore, dataset.options.model_dump()]
    files = sha256(with_data(case.files), case.name)
    return hashlib.sha256((json.dumps(told, sort_keys=True) + files).encode()).hexdigest()
