"""NIfTI files in and out (nibabel). The array stays as stored; the affine tells where it lies."""

from __future__ import annotations

import logging
import zlib
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import numpy.typing as npt

from medseg.errors import GeometryError, InputError
from medseg.files import written_whole
from medseg.imaging.grid import Grid, Stored
from medseg.imaging.volume import LabelMap, Volume, distinct

SUFFIXES = (".nii.gz", ".nii")
_MM_PER_UNIT = {1: 1000.0, 2: 1.0, 3: 0.001}  # by the header's code: metre, millimetre, micrometre
_UNREADABLE = (
    OSError,
    EOFError,
    ValueError,
    OverflowError,
    zlib.error,
    nib.filebasedimages.ImageFileError,
    nib.spatialimages.HeaderDataError,
    nib.wrapstruct.WrapStructError,
)

logging.getLogger("nibabel.global").setLevel(logging.CRITICAL + 1)  # its remarks on odd headers are ours to make


def is_nifti(path: Path) -> bool:
    """True by the name alone."""
    return path.name.lower().endswith(SUFFIXES)


def stem(path: Path) -> str:
    """The file's name without `.nii` or `.nii.gz`."""
    return next((path.name[: -len(s)] for s in SUFFIXES if path.name.lower().endswith(s)), path.name)


def read_grid(path: Path) -> Grid:
    """Read the grid alone, from the header.

    Raises:
        InputError: missing, cut or not NIfTI; not 3D.
        GeometryError: the header's affine cannot be used.
    """
    return _grid(_open(path), path)


def read_volume(path: Path) -> Volume:
    """Read a scan as float32 (X, Y, Z), scaled by the header's slope and intercept.

    Raises:
        InputError: missing, cut or not NIfTI; not 3D; voxels that are not finite.
        GeometryError: the header's affine cannot be used.
    """
    image = _open(path)
    grid = _grid(image, path)
    array = _data(image, path, grid).astype(np.float32, copy=False)
    if not np.isfinite(array).all():
        n = int(np.count_nonzero(~np.isfinite(array)))
        raise InputError(f"{n} voxel(s) are not finite numbers", path, "replace them by the background value")
    return Volume(array, grid)


def read_labels(path: Path, names: dict[int, str] | None = None) -> LabelMap:
    """Read a segmentation as uint8 or uint16; without `names` every value found is named by its number.

    Raises:
        InputError: as `read_volume`, and where values are not whole numbers from 0 to 65535.
        GeometryError: the header's affine cannot be used.
    """
    image = _open(path)
    grid = _grid(image, path)
    raw = _data(image, path, grid)
    values = distinct(raw)
    if not np.isfinite(values).all() or (values != np.rint(values)).any() or values[0] < 0 or values[-1] > 65535:
        raise InputError("is no label map: its values are not whole numbers from 0 to 65535", path)
    array: npt.NDArray[np.unsignedinteger[Any]] = raw.astype(np.uint8 if values[-1] <= 255 else np.uint16)
    return LabelMap(array, grid, names if names is not None else {int(v): str(int(v)) for v in values if v > 0})


def write_labels(path: Path, labels: LabelMap) -> None:
    """Write a segmentation on its own grid, whole or not at all; no free text enters the header.

    Raises:
        ResourceError: the disk is full or the folder cannot be written to.
    """
    _write(path, labels.array, labels.grid)


def write_volume(path: Path, volume: Volume) -> None:
    """Write a scan in its array's own type, as `write_labels` does."""
    _write(path, volume.array, volume.grid)


def _write(path: Path, array: npt.NDArray[Any], grid: Grid) -> None:
    image = nib.Nifti1Image(np.asarray(array), grid.affine)
    image.header.set_xyzt_units("mm")
    # a zero code means "unknown place": readers then fall back on other rules, so the place that was used is stated
    image.set_sform(grid.affine, code=max(grid.stored.sform_code, 1))
    image.set_qform(grid.affine, code=max(grid.stored.qform_code, 1), strip_shears=True)
    with written_whole(path) as beside:
        nib.save(image, beside)


def _open(path: Path) -> nib.Nifti1Image:
    if not path.is_file():
        raise InputError("there is no such file", path)
    try:
        image = nib.load(path)
    except _UNREADABLE as error:
        raise InputError(f"cannot be read as NIfTI ({_short(error)})", path, "copy or export it again") from error
    if not isinstance(image, nib.Nifti1Image):
        raise InputError("is not a NIfTI file", path)
    return image


def _grid(image: nib.Nifti1Image, path: Path) -> Grid:
    shape = tuple(int(n) for n in image.shape)
    while len(shape) > 3 and shape[-1] == 1:
        shape = shape[:-1]
    if len(shape) == 2:
        shape = (*shape, 1)
    if len(shape) != 3:
        raise InputError(f"holds {len(shape)} dimensions {shape}, not one 3D scan", path, "split it into 3D files")
    affine = np.array(image.affine, dtype=np.float64)
    affine[:3] *= _MM_PER_UNIT.get(int(image.header["xyzt_units"]) % 8, 1.0)
    codes = int(image.header["qform_code"]), int(image.header["sform_code"])
    try:
        return Grid((shape[0], shape[1], shape[2]), affine, Stored("nifti", *codes))
    except GeometryError as error:
        raise GeometryError(error.what, path, "export it again with a valid header") from error


def _data(image: nib.Nifti1Image, path: Path, grid: Grid) -> npt.NDArray[Any]:
    try:
        array = np.asarray(image.dataobj).reshape(grid.shape)
    except _UNREADABLE as error:
        raise InputError(f"is cut short or damaged ({_short(error)})", path, "copy or export it again") from error
    if array.dtype.kind not in "biuf":
        raise InputError("holds colours or complex numbers, not one value a voxel", path, "export the grey values")
    return array


def _short(error: Exception) -> str:
    """The library's reason without the path, which may name a patient."""
    text = str(error).splitlines()[0] if str(error) else ""
    return type(error).__name__ if not text or "/" in text or "\\" in text else text[:80]
