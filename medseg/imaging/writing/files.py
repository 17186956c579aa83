"""Label maps as NIfTI, read back by another library than wrote them before the file appears."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from medseg.errors import GeometryError, ResourceError
from medseg.files import written_whole
from medseg.imaging import nifti
from medseg.imaging.grid import LPS_TO_RAS, Grid
from medseg.imaging.regrid import map_onto
from medseg.imaging.volume import LabelMap
from medseg.imaging.writing.result import Result, Written

_SLICES = 64  # compared at a time, brought to the file's order before: side by side the orders take four times as long


def write_nifti(path: Path, result: Result) -> Written:
    """Write the labels on `result.own`, the grid of the scan's own file, and read them back by SimpleITK.

    The place of a sheared grid is read back from the header by `nifti.read_grid`: SimpleITK cannot hold it.

    Raises:
        GeometryError: what was read back is not what was written; the file does not appear.
        ResourceError: the disk is full or the folder cannot be written to.
    """
    labels = map_onto(result.labels, result.own)
    with written_whole(path) as beside:
        try:
            nifti.write_labels(beside, labels)
        except ResourceError as error:
            raise ResourceError(error.what, path, error.fix) from error  # of the file that the user knows
        array, grid = read_by_itk(beside)
        if labels.grid.skew > nifti.RIGHT_ANGLES:
            grid = nifti.read_grid(beside, prefer="sform")
        deviation = compared(array, grid, labels)
    return Written(path, deviation)


def read_by_itk(path: Path) -> tuple[npt.NDArray[Any], Grid]:
    """Voxels (X, Y, Z) and grid of a file that was just written, as SimpleITK sees them.

    Raises:
        ResourceError: it cannot be read.
    """
    import SimpleITK

    try:
        image = SimpleITK.ReadImage(str(path))
    except RuntimeError as error:
        what, fix = "[READ_BACK] the file that was just written cannot be read", "check the disk and its free space"
        raise ResourceError(what, fix=fix) from error
    affine = np.eye(4)
    affine[:3, :3] = np.reshape(image.GetDirection(), (3, 3)) * image.GetSpacing()
    affine[:3, 3] = image.GetOrigin()
    x, y, z = image.GetSize()
    return SimpleITK.GetArrayFromImage(image).transpose(2, 1, 0), Grid((x, y, z), LPS_TO_RAS @ affine)


def compared(array: npt.NDArray[Any], grid: Grid, meant: LabelMap) -> float:
    """The largest distance in mm of a corner voxel read back from where it was meant to be.

    Raises:
        GeometryError: a voxel has another value, or a corner lies more than a hundredth of a voxel off.
    """
    if grid.shape != meant.grid.shape or not all(
        np.array_equal(array[:, :, k : k + _SLICES], np.asfortranarray(meant.array[:, :, k : k + _SLICES]))
        for k in range(0, grid.shape[2], _SLICES)
    ):
        raise GeometryError("[READ_BACK] the labels in the file are not those that were to be written")
    deviation = grid.deviation_mm(meant.grid)
    if not grid.agrees(meant.grid):
        raise GeometryError(f"[READ_BACK] the labels in the file lie {deviation:.3g} mm from where they belong")
    return deviation
