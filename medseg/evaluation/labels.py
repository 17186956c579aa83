"""The two sides of a pair: read, brought onto one grid that cuts neither, and into the values of the evaluation.

A NIfTI, NRRD or MetaImage file has a grid; voxels of two such files must be the same, in whatever order they are
stored. A SEG has slices where labels are, an RTSTRUCT contours alone: both are drawn on the other's grid, which is made
larger where they reach beyond it. Nothing is interpolated between voxels of files that have a grid.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from medseg.errors import MedsegError
from medseg.imaging.dicom.extent import contour_points, contours_grid, extended, labelled_points, segments_grid
from medseg.imaging.dicom.rtstruct import Structure, filled, of_one_frame, read_structures
from medseg.imaging.dicom.seg import Segments, read_segments
from medseg.imaging.grid import Grid
from medseg.imaging.itk import read_itk_layers
from medseg.imaging.label_files import common_voxels, label_kind, label_names_in, placed, read_label_file
from medseg.imaging.label_values import read_renamed
from medseg.imaging.nifti_header import Prefer
from medseg.imaging.regrid import map_onto
from medseg.imaging.source import ReadOptions
from medseg.imaging.structures import Structures, alike, asked_for
from medseg.imaging.volume import LabelMap, distinct

LEFT_FRAME = "structure(s) belong to another frame of reference: they are left"


@dataclass(frozen=True, eq=False)
class Contours:
    """The structures of an RTSTRUCT."""

    structures: tuple[Structure, ...]


@dataclass(frozen=True, eq=False)
class Side:
    """What a file holds, before it is drawn on a grid.

    named: whether it says itself what its values are called. may_be_cropped: whether its format may hold a part of the
    voxels. overlapping: voxels of several structures, as far as that is known before they are drawn.
    """

    path: Path
    held: LabelMap | Segments | Contours
    named: bool
    may_be_cropped: bool = False
    overlapping: int = 0
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class Drawn:
    """A side on the common grid in the values of the evaluation, and how many voxels belong to several structures."""

    labels: LabelMap
    overlapping: int
    notes: tuple[str, ...]


def opened(path: Path, what: str, known: Structures | None, wanted: Collection[str] | None, prefer: Prefer) -> Side:
    """Read one side; of a file that names its structures only the `wanted` ones, if any are given.

    Raises:
        InputError, GeometryError: it cannot be read; said of `what`, without its path, which may name a patient.
    """
    try:
        kind = label_kind(path)
        if kind == "seg":
            segments = read_segments(path, "", wanted)
            return Side(path, segments, True, overlapping=segments.overlapping)
        if kind == "rtstruct":
            return Side(path, Contours(read_structures(path, "", wanted)), True)
        named = label_names_in(path) is not None
        if kind == "itk" and (named or not (known and known.stored)):
            layered = read_itk_layers(path, wanted)
            return Side(path, layered.labels, named, may_be_cropped=True, overlapping=layered.overlapping)
        return Side(path, _unnamed(path, what, known, prefer), named, may_be_cropped=kind == "itk")
    except MedsegError as error:
        raise type(error)(error.what, what, error.fix) from None


def _unnamed(path: Path, what: str, known: Structures | None, prefer: Prefer) -> LabelMap:
    """Labels by their values. Those that no label map can hold have others, which predictions hold already."""
    options = ReadOptions(prefer=prefer)
    if not (known and known.stored):
        return read_label_file(path, prefer=prefer)
    if what == "reference":
        return read_renamed(path, known.renames, options)
    try:
        return read_label_file(path, prefer=prefer)
    except MedsegError:
        return read_renamed(path, known.renames, options)


def narrowed(side: Side, names: Collection[str]) -> Side:
    """A side with the structures of these names alone, read anew; as it is where its structures cannot overlap."""
    if isinstance(side.held, Contours):
        structures = tuple(s for s in side.held.structures if asked_for(s.name, names))
        return replace(side, held=Contours(structures))
    if isinstance(side.held, Segments):
        return replace(side, held=read_segments(side.path, "", names))
    if side.overlapping:
        return replace(side, held=read_itk_layers(side.path, names).labels)
    return side


def in_one_frame(sides: Sequence[Side]) -> list[Side]:
    """The same sides with structures of one frame of reference alone: that of a SEG, else of the first structure.

    Raises:
        GeometryError: the sides belong to different ones.
    """
    segments = [side.held for side in sides if isinstance(side.held, Segments)]
    frame = next((s.references.frame_of_reference for s in segments), "")
    for one in segments:
        one.references.check(frame, "")
    kept = []
    for side in sides:
        if isinstance(side.held, Contours):
            structures = side.held.structures
            used = tuple(of_one_frame(structures, frame, ""))
            frame = frame or next((s.frame_of_reference for s in used if s.contours), "")
            n = len(structures) - len(used)
            kept.append(replace(side, held=Contours(used), notes=(f"{n} {LEFT_FRAME}",) if n else ()))
        else:
            kept.append(side)
    return kept


def common_grid(sides: Sequence[Side]) -> Grid | None:
    """A grid that holds every label of both sides (or of one alone); None if they have voxels that are not the same.

    Raises:
        GeometryError: it would be larger than any scan.
    """
    maps = [side for side in sides if isinstance(side.held, LabelMap)]
    segments = [side.held for side in sides if isinstance(side.held, Segments)]
    structures = [s for side in sides if isinstance(side.held, Contours) for s in side.held.structures]
    drawn_on = [side for side in maps if not _is_empty_part(side)] or maps[:1]
    grids = [side.held.grid for side in drawn_on if isinstance(side.held, LabelMap)]
    if len(grids) == 2:
        return common_voxels(grids[0], grids[1], any(side.may_be_cropped for side in maps))
    base = grids[0] if grids else segments_grid(segments) if segments else contours_grid(structures)
    points = [*(labelled_points(one) for one in segments), contour_points(structures)]
    return extended(base, np.concatenate(points))


def on_one_grid(sides: Sequence[Side]) -> tuple[list[Side], tuple[str, ...]]:
    """The same sides with a prediction on other voxels brought onto the reference's grid, by the nearest voxel.

    Second, in one line, how far it lay off; nothing where the voxels are the same already.
    """
    if len(sides) < 2 or not all(isinstance(side.held, LabelMap) for side in sides) or common_grid(sides) is not None:
        return list(sides), ()
    reference, prediction = sides
    if not isinstance(reference.held, LabelMap) or not isinstance(prediction.held, LabelMap):
        raise TypeError("only voxels are resampled")
    theirs, ours = prediction.held.grid, reference.held.grid
    away = theirs.deviation_mm(ours)
    how = f"its corners lay {away:.3g} mm away" if math.isfinite(away) else f"it had the shape {theirs.shape}"
    moved = map_onto(prediction.held, ours)
    note = f"prediction: brought onto the reference's grid by the nearest voxel ({how})"
    return [reference, replace(prediction, held=moved)], (note,)


def drawn(side: Side, grid: Grid | None, known: Structures | None) -> Drawn:
    """A side on the grid; as it is stored where there is none.

    Raises:
        GeometryError: its contours are not parallel to the grid's slices.
    """
    notes: tuple[str, ...] = ()
    overlapping = side.overlapping
    if isinstance(side.held, LabelMap):
        labels = side.held
        if grid is not None and _is_empty_part(side):
            labels = LabelMap(np.zeros(grid.shape, np.uint8), grid, labels.names)
        elif grid is not None:
            labels, notes = placed(labels, grid, may_be_cropped=True)
    elif grid is None:
        raise TypeError("labels without a grid of their own need one")
    elif isinstance(side.held, Segments):
        labels, notes = side.held.onto(grid)
    else:
        made = filled(side.held.structures, grid)
        labels, notes, overlapping = made.labels, made.notes, made.overlapping
    return Drawn(_in_values(labels, side.named, known), overlapping, side.notes + notes)


def _is_empty_part(side: Side) -> bool:
    """True if nothing is drawn in a file that holds no more than what is drawn: 3D Slicer writes one voxel anywhere."""
    return isinstance(side.held, LabelMap) and side.held.grid.shape == (1, 1, 1) and not side.held.present


def nothing(like: LabelMap) -> LabelMap:
    """An empty label map on the same grid."""
    return LabelMap(np.zeros(like.grid.shape, np.uint8), like.grid, like.names)


def _in_values(labels: LabelMap, named: bool, known: Structures | None) -> LabelMap:
    """Labels in the values that their names have in `known`, others left out; unnamed ones keep their values."""
    if known is None:
        return labels
    if not named:
        return LabelMap(labels.array, labels.grid, known.labels)
    values = {alike(name): value for value, name in known.labels.items()}
    present = distinct(labels.array)
    table = np.zeros(int(present.max(initial=0)) + 1, np.uint16)
    for value in present:
        table[value] = values.get(alike(labels.names.get(int(value), str(value))), 0)
    table[0] = 0
    return LabelMap(table[labels.array], labels.grid, known.labels)


def masked(reference: Drawn, prediction: Drawn, ignore: int | None) -> tuple[Drawn, Drawn]:
    """Both without the voxels that have the value to ignore in the reference."""
    same = reference.labels.grid.agrees(prediction.labels.grid)
    if ignore is None or not same or ignore not in reference.labels.present:
        return reference, prediction
    left = reference.labels.array == ignore
    both = (replace(one, labels=_outside(one.labels, left)) for one in (reference, prediction))
    return next(both), next(both)


def _outside(labels: LabelMap, left: npt.NDArray[np.bool_]) -> LabelMap:
    return LabelMap(np.where(left, 0, labels.array).astype(labels.array.dtype), labels.grid, labels.names)


def only(labels: LabelMap, values: Collection[int], name: str) -> LabelMap:
    """All of these values as one structure, of value 1."""
    return LabelMap(np.isin(labels.array, list(values)).astype(np.uint8), labels.grid, {1: name})


def without(labels: LabelMap, values: Collection[int]) -> LabelMap:
    """Everything but these values, and what they are called."""
    array = np.where(np.isin(labels.array, list(values)), 0, labels.array).astype(labels.array.dtype)
    return LabelMap(array, labels.grid, {v: name for v, name in labels.names.items() if v not in values})
