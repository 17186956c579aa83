"""Label files of every format, on the grid that is wanted: NIfTI, NRRD, MetaImage, DICOM SEG and RTSTRUCT."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from medseg.errors import GeometryError, InputError
from medseg.imaging import itk, nifti
from medseg.imaging.dicom import rtstruct, seg
from medseg.imaging.dicom.label_objects import RTSTRUCT, SEG, Noted, is_label_object
from medseg.imaging.grid import SAME_PLACE, Grid
from medseg.imaging.nifti_header import Prefer
from medseg.imaging.regrid import index_map, is_sheared, map_onto, straight_cover
from medseg.imaging.volume import LabelMap

LabelKind = Literal["nifti", "itk", "seg", "rtstruct"]
Index = npt.NDArray[np.int64]
_LARGEST = 1 << 28  # voxels of a grid that holds two others, or ...
_GROWS = 4  # ... how many times the larger: grids that need more lie too far apart to be of one scan


@dataclass(frozen=True, slots=True)
class Asked:
    """How labels are wanted: see `read_label_file_noted`."""

    onto: Grid | None
    name: str
    frame_of_reference: str
    prefer: Prefer
    wanted: Collection[str] | None = None


class LabelReader(NamedTuple):
    """How one format is read, and how the names in it are told without its voxels (None where it holds none)."""

    read: Callable[[Path, Asked], Noted]
    names: Callable[[Path, str], dict[int, str]] | None
    needs_grid: bool


def label_kind(path: Path) -> LabelKind | None:
    """The format of a label file: files that hold volumes by their names, DICOM by its content; None for others."""
    if nifti.is_nifti(path):
        return "nifti"
    if itk.is_itk(path):
        return "itk"
    return "seg" if is_label_object(path, SEG) else "rtstruct" if is_label_object(path, RTSTRUCT) else None


def read_label_file(
    path: Path,
    onto: Grid | None = None,
    names: Mapping[int, str] | None = None,
    name: str = "",
    prefer: Prefer = "",
) -> LabelMap:
    """The labels of a file of any format; as `read_label_file_noted`."""
    return read_label_file_noted(path, onto, names, name, prefer=prefer)[0]


def read_label_file_noted(
    path: Path,
    onto: Grid | None = None,
    names: Mapping[int, str] | None = None,
    name: str = "",
    frame_of_reference: str = "",
    prefer: Prefer = "",
    wanted: Collection[str] | None = None,
) -> Noted:
    """The labels of a file on the grid `onto`, or on its own, and one line for each thing that was left or mended.

    Labels of NIfTI and ITK files must lie on the voxels of `onto`, in whatever direction they are stored; those of ITK
    files may hold a part of them (see `placed`). Those of DICOM objects are drawn anew on it. `names` replaces the
    names in the file; `name` is the case in what is said; `frame_of_reference` is that of `onto`, where it is known;
    `prefer` decides between contradicting affines of a NIfTI file; `wanted` names the structures to draw, where they
    have names and may overlap.

    Raises:
        InputError: the file cannot be read, is of no known format, or needs a grid (RTSTRUCT) and none is given.
        GeometryError: its labels do not lie on `onto`.
    """
    kind = label_kind(path)
    if kind is None:
        code, state = ("FORMAT", "of no known format") if path.exists() else ("NOT_FOUND", "gone")
        fix = "give NIfTI, NRRD, MetaImage, DICOM SEG or RTSTRUCT"
        raise InputError(f"[{code}] its label file is {state}", name, fix)
    labels, notes = LABEL_READERS[kind].read(path, Asked(onto, name, frame_of_reference, prefer, wanted))
    return LabelMap(labels.array, labels.grid, labels.names if names is None else names), notes


def label_names_in(path: Path, name: str = "") -> dict[int, str] | None:
    """The names that a label file states, by value, without reading its voxels; None if it states none.

    Raises:
        InputError: it cannot be read.
    """
    kind = label_kind(path)
    told = LABEL_READERS[kind].names if kind else None
    return (told(path, name) or None) if told else None


def label_references(path: Path) -> tuple[str, ...]:
    """The series that a DICOM label object says it was drawn on, then its frame of reference; empty for other files.

    Raises:
        InputError: it is damaged.
    """
    kind = label_kind(path)
    if kind not in ("seg", "rtstruct"):
        return ()
    found = seg.seg_references(path) if kind == "seg" else rtstruct.rtstruct_references(path)
    return (*found.series_uids, *([found.frame_of_reference] if found.frame_of_reference else []))


def read_label_grid(path: Path, prefer: Prefer = "") -> Grid | None:
    """The grid of a label file from its header; None for SEG, which holds some slices, and RTSTRUCT, which holds none.

    Raises:
        InputError, GeometryError: as `nifti.read_grid` and `itk.read_itk_grid`.
    """
    kind = label_kind(path)
    return nifti.read_grid(path, prefer) if kind == "nifti" else itk.read_itk_grid(path) if kind == "itk" else None


def placed(labels: LabelMap, onto: Grid, name: str = "", may_be_cropped: bool = False) -> Noted:
    """Labels of a file on the grid of its scan: voxel by voxel, without any interpolation between them.

    They may be stored in another direction, and (`may_be_cropped`) on a part of the scan's voxels.

    Raises:
        GeometryError: they lie elsewhere, or between its voxels.
    """
    if labels.grid.agrees(onto):
        return LabelMap(labels.array, onto, labels.names), ()
    if is_sheared(labels.grid) and straight_cover(labels.grid).agrees(onto):
        return map_onto(labels, onto), ()
    ends = _ends(labels.grid, onto)
    same_voxels = ends is not None and (ends[0] == 0).all() and (ends[1] == np.array(onto.shape) - 1).all()
    if not same_voxels and (ends is None or not may_be_cropped or labels.grid.shape == onto.shape):
        _refuse(labels.grid, onto, name)
    moved = map_onto(labels, onto)
    before, after = (int(np.count_nonzero(one.array)) for one in (labels, moved))
    if before and not after:
        raise GeometryError("[OFF_GRID] its labels lie nowhere on its scan", name, "give the labels of this scan")
    beyond = f"{before - after} labelled voxel(s) lie outside the scan: they are left"
    return moved, (beyond,) if before > after else ()


def common_voxels(one: Grid, other: Grid, may_be_cropped: bool) -> Grid | None:
    """A grid of voxels of `one` that holds all voxels of both; None if theirs are not the same ones.

    They may be stored in another direction, and (`may_be_cropped`) each hold a part of the voxels.
    """
    if one.agrees(other):
        return one
    ends = _ends(other, one)
    if ends is None:
        return None
    low, high = np.minimum(ends[0], 0), np.maximum(ends[1], np.array(one.shape) - 1)
    same = (ends[0] == 0).all() and (ends[1] == np.array(one.shape) - 1).all()
    if same:
        return one
    sizes = [int(n) for n in high - low + 1]
    most = max(_LARGEST, *(_GROWS * math.prod(grid.shape) for grid in (one, other)))
    if not may_be_cropped or one.shape == other.shape or math.prod(sizes) > most:
        return None
    affine = np.array(one.affine)
    affine[:3, 3] += affine[:3, :3] @ low
    return Grid((sizes[0], sizes[1], sizes[2]), affine, one.stored)


def _ends(given: Grid, wanted: Grid) -> tuple[Index, Index] | None:
    """The lowest and highest index that voxels of one grid have in the other; None if they lie between its voxels."""
    matrix, offset = index_map(given, wanted)
    exact = np.rint(matrix)
    if (np.abs(exact).sum(axis=0) != 1).any() or (np.abs(exact).sum(axis=1) != 1).any():
        return None
    ends = np.array(np.meshgrid(*[(0, n - 1) for n in given.shape], indexing="ij")).reshape(3, -1)
    there = matrix @ ends + offset[:, None]
    if np.abs(there - np.rint(there)).max() > SAME_PLACE:
        return None
    whole = np.rint(there).astype(np.int64)
    return whole.min(axis=1), whole.max(axis=1)


def _refuse(given: Grid, wanted: Grid, name: str) -> None:
    if given.shape != wanted.shape:
        code = "OTHER_SHAPE"
        what = f"its labels have the shape {given.shape}, its scan {wanted.shape}, and their voxels do not match"
    else:
        code = "OTHER_GRID"
        what = f"its labels lie up to {given.deviation_mm(wanted):.3g} mm away from their places on its scan"
    raise GeometryError(f"[{code}] {what}", name, "export scan and labels from the same program again")


def _read_nifti(path: Path, asked: Asked) -> Noted:
    labels = nifti.read_labels(path, prefer=asked.prefer)
    return (labels, ()) if asked.onto is None else placed(labels, asked.onto, asked.name)


def _read_itk(path: Path, asked: Asked) -> Noted:
    labels, notes = itk.read_itk_segments(path, wanted=asked.wanted)
    if asked.onto is None:
        return labels, notes
    if labels.grid.shape == (1, 1, 1) and not labels.array.any():  # how 3D Slicer writes an empty segmentation
        return LabelMap(np.zeros(asked.onto.shape, labels.array.dtype), asked.onto, labels.names), notes
    there, more = placed(labels, asked.onto, asked.name, may_be_cropped=True)  # 3D Slicer crops to what is drawn
    return there, notes + more


def _read_seg(path: Path, asked: Asked) -> Noted:
    return seg.read_seg_noted(path, asked.onto, asked.name, asked.frame_of_reference, asked.wanted)


def _read_rtstruct(path: Path, asked: Asked) -> Noted:
    if asked.onto is None:
        what = "[NEEDS_SCAN] contours alone do not say which voxels they hold"
        raise InputError(what, asked.name, "give the scan that they were drawn on as well")
    return rtstruct.read_rtstruct_noted(path, asked.onto, asked.name, asked.frame_of_reference, asked.wanted)


LABEL_READERS: Mapping[LabelKind, LabelReader] = {
    "nifti": LabelReader(_read_nifti, None, needs_grid=False),
    "itk": LabelReader(_read_itk, lambda path, _: itk.segment_names_in(path), needs_grid=False),
    "seg": LabelReader(_read_seg, seg.segment_names, needs_grid=False),
    "rtstruct": LabelReader(_read_rtstruct, rtstruct.roi_names, needs_grid=True),
}
