"""Label files as whole numbers of any size: which values one holds, and reading those that no label map can hold."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from medseg.errors import InputError
from medseg.imaging.grid import Grid
from medseg.imaging.itk import read_itk_stored
from medseg.imaging.label_files import read_label_file_noted
from medseg.imaging.nifti import is_nifti
from medseg.imaging.nifti_header import read_bytes, read_header
from medseg.imaging.source import ReadOptions
from medseg.imaging.volume import LabelMap, distinct


def values_in(path: Path, options: ReadOptions) -> tuple[int, ...]:
    """The values of a label file, without the background 0, sorted.

    Raises:
        InputError: it cannot be read, or a value is not a whole number.
        GeometryError: its place cannot be used.
    """
    try:
        return read_label_file_noted(path, prefer=options.prefer)[0].present
    except InputError:  # perhaps for its values alone; if not, the same is found once more
        array, _ = _whole_numbers(path, options)
        return tuple(int(value) for value in distinct(array) if value != 0)


def read_renamed(path: Path, renames: Mapping[int, int], options: ReadOptions) -> LabelMap:
    """A label file of any whole numbers in the values (0 to 65535) that `renames` gives them, without names.

    Raises:
        InputError: as `values_in`, and where it holds a value that `renames` does not.
        GeometryError: as `values_in`.
    """
    array, grid = _whole_numbers(path, options)
    table = {0: 0, **renames}
    values = distinct(array)
    if unknown := [int(value) for value in values if int(value) not in table]:
        raise InputError(unknown_values(unknown), path, "name them in the dataset's labels, or mend the label")
    becomes = np.array([table[int(value)] for value in values])
    out = np.empty(grid.shape, np.uint8 if becomes.max() <= 255 else np.uint16, order="F")
    for z in range(grid.shape[2]):
        out[:, :, z] = becomes[np.searchsorted(values, array[:, :, z])]
    return LabelMap(out, grid, {})


def unknown_values(values: list[int]) -> str:
    """What is wrong with a label that holds values without a name."""
    shown = ", ".join(map(str, values[:5])) + (", ..." if len(values) > 5 else "")
    return f"[UNKNOWN_VALUE] its label holds value(s) {shown}, which the dataset does not name"


def _whole_numbers(path: Path, options: ReadOptions) -> tuple[npt.NDArray[Any], Grid]:
    array, grid = _nifti(path, options) if is_nifti(path) else read_itk_stored(path)
    values = distinct(array)
    with np.errstate(invalid="ignore"):
        wrong = values[~np.isfinite(values) | (values != np.rint(values)) | (np.abs(values) >= 2**31)]
    if len(wrong):
        what = f"[NOT_LABELS] is no label map: it holds {wrong[0]:.6g}, and labels are whole numbers"
        raise InputError(what, path, "give the segmentation, not the scan or a probability map")
    return array, grid


def _nifti(path: Path, options: ReadOptions) -> tuple[npt.NDArray[Any], Grid]:
    header = read_header(path, options.prefer, need_place=False)
    if header.scaling or header.n_volumes > 1:
        raise InputError("[NOT_LABELS] is no label map: its values are scaled, or it holds several volumes", path)
    array = read_bytes(path, header, 0).view(header.dtype).reshape(header.shape, order="F")
    return array, header.grid
