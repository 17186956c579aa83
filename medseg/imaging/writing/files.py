"""Label maps as NIfTI, read back by other code than wrote them before the file appears."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from medseg.errors import GeometryError, InputError, ResourceError
from medseg.files import written_whole
from medseg.imaging import nifti
from medseg.imaging.grid import LPS_TO_RAS, Grid
from medseg.imaging.nifti_header import read_header
from medseg.imaging.regrid import map_onto
from medseg.imaging.volume import LabelMap
from medseg.imaging.writing.result import Result, Written

_OTHERS = "[READ_BACK] the labels in the file are not those that were to be written"
_SLICES = 64  # compared at a time, brought to the file's order before: side by side the orders take four times as long


def write_nifti(path: Path, result: Result) -> Written:
    """Write the labels on `result.own`, the grid of the scan's own file, by nibabel, and read them back: the place by
    SimpleITK, the voxels some slices at a time, so that no copy of the label map is held.

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
        sheared = labels.grid.skew > nifti.RIGHT_ANGLES
        grid = nifti.read_grid(beside, prefer="sform") if sheared else place_by_itk(beside)
        deviation = compared(_slices(beside), grid, labels)
    return Written(path, deviation)


def _slices(path: Path) -> Iterator[npt.NDArray[Any]]:
    """The voxels of a file that was just written.

    Raises:
        GeometryError: it cannot be read to its end.
    """
    try:
        header = read_header(path, prefer="sform")
        if header.scaling is not None:
            raise GeometryError(_OTHERS)
        yield from nifti.stored_slices(path, header)
    except (EOFError, zlib.error, InputError) as error:
        raise GeometryError(_OTHERS) from error


def place_by_itk(path: Path) -> Grid:
    """The grid of a file that was just written, as SimpleITK sees it; its voxels are not read.

    Raises:
        ResourceError: it cannot be read.
    """
    import SimpleITK

    reader = SimpleITK.ImageFileReader()
    reader.SetFileName(str(path))
    try:
        reader.ReadImageInformation()
    except RuntimeError as error:
        raise _unreadable() from error
    return _grid(reader)


def read_by_itk(path: Path) -> tuple[npt.NDArray[Any], Grid]:
    """Voxels (X, Y, Z) and grid of a file that was just written, as SimpleITK sees them.

    Raises:
        ResourceError: it cannot be read.
    """
    import SimpleITK

    try:
        image = SimpleITK.ReadImage(str(path))
    except RuntimeError as error:
        raise _unreadable() from error
    return SimpleITK.GetArrayFromImage(image).transpose(2, 1, 0), _grid(image)


def _unreadable() -> ResourceError:
    what, fix = "[READ_BACK] the file that was just written cannot be read", "check the disk and its free space"
    return ResourceError(what, fix=fix)


def _grid(image: Any) -> Grid:
    """Of SimpleITK's image, or of its reader of one."""
    affine = np.eye(4)
    affine[:3, :3] = np.reshape(image.GetDirection(), (3, 3)) * image.GetSpacing()
    affine[:3, 3] = image.GetOrigin()
    x, y, z = image.GetSize()
    return Grid((x, y, z), LPS_TO_RAS @ affine)


def compared(slices: Iterable[npt.NDArray[Any]], grid: Grid, meant: LabelMap) -> float:
    """The largest distance in mm of a corner voxel read back from where it was meant to be.

    slices: the voxels read back, (X, Y, n) each, one after the other along the last axis.

    Raises:
        GeometryError: a voxel has another value, or a corner lies more than a hundredth of a voxel off.
    """
    if grid.shape != meant.grid.shape:
        raise GeometryError(_OTHERS)
    done = 0
    for part in slices:
        for k in range(0, part.shape[2], _SLICES):
            piece = part[:, :, k : k + _SLICES]
            if not np.array_equal(piece, np.asfortranarray(meant.array[:, :, done : done + piece.shape[2]])):
                raise GeometryError(_OTHERS)
            done += piece.shape[2]
    if done != grid.shape[2]:
        raise GeometryError(_OTHERS)
    deviation = grid.deviation_mm(meant.grid)
    if not grid.agrees(meant.grid):
        raise GeometryError(f"[READ_BACK] the labels in the file lie {deviation:.3g} mm from where they belong")
    return deviation
