"""NIfTI files in and out. The array stays as stored; the affine tells where it lies.

Voxels are read here rather than by nibabel, which does not check the end of a compressed file, and would hold all
volumes of a 4D file in memory for one of them.
"""

from __future__ import annotations

import gzip
import math
import zlib
from collections.abc import Collection, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import numpy.typing as npt

from medseg.files import written_whole
from medseg.imaging.compressed import inflate, new_room
from medseg.imaging.grid import Grid
from medseg.imaging.nifti_header import Header, Prefer, read_bytes, read_header
from medseg.imaging.source import Reading
from medseg.imaging.volume import LabelMap, Volume
from medseg.imaging.voxels import AGAIN, as_labels, chosen, finished, opened, refuse

SUFFIXES = (".nii.gz", ".nii")
RIGHT_ANGLES = 1e-4  # cosine of the angle of two axes; SimpleITK reads NIfTI that lies farther off as its nearest box
_FLOAT = 4  # bytes
_PIECE = 1 << 20  # voxels worked on at a time
_LABELS_LEVEL, _VOLUME_LEVEL = 3, 1  # of gzip: labels become a third smaller in no more time, volumes hardly smaller


def is_nifti(path: Path) -> bool:
    """True by the name alone."""
    return path.name.lower().endswith(SUFFIXES)


def stem(path: Path) -> str:
    """The file's name without `.nii` or `.nii.gz`."""
    return next((path.name[: -len(s)] for s in SUFFIXES if path.name.lower().endswith(s)), path.name)


def read_grid(path: Path, prefer: Prefer = "") -> Grid:
    """Read the grid alone, from the header; all volumes of a 4D file share it.

    Raises:
        InputError: missing, cut or not NIfTI; neither 3D nor 4D.
        GeometryError: the header's affine cannot be used, or its two affines contradict each other.
    """
    return read_header(path, prefer, need_place=False).grid


def n_volumes(path: Path) -> int:
    """How many volumes the file holds: 1 unless it is 4D.

    Raises:
        InputError, GeometryError: as `read_grid`, but two affines may contradict each other.
    """
    return read_header(path, "sform", need_place=False).n_volumes


def read_volume(path: Path, need_place: bool = True) -> Volume:
    """Read a scan as float32 (X, Y, Z), scaled by the header's slope and intercept; as `read_nifti`."""
    return read_nifti(path, need_place=need_place).volume


def read_nifti(path: Path, component: int | None = None, prefer: Prefer = "", need_place: bool = True) -> Reading:
    """Read a scan, or one volume of a 4D file (`component`, from 0), as float32 (X, Y, Z) on an orthogonal grid.

    A sheared grid is straightened (linear interpolation); voxels that are not finite take the smallest finite value,
    up to a thousandth of them. `need_place` refuses a file that does not say where it lies.

    Raises:
        InputError: missing, cut, damaged or not NIfTI; several volumes and no `component`; colours; not finite.
        GeometryError: the header's affine cannot be used, or its two affines contradict each other.
    """
    header = read_header(path, prefer, need_place)
    array = _float32(path, header, chosen(header.n_volumes, component, path))
    return finished(array, header.grid, (header.note,) if header.note else (), path)


def read_labels(path: Path, names: dict[int, str] | None = None, prefer: Prefer = "") -> LabelMap:
    """Read a segmentation as uint8 or uint16, as it is stored; without `names` every value is named by its number.

    Raises:
        InputError: as `read_nifti`, and where values are not whole numbers from 0 to 65535, or are scaled.
        GeometryError: as `read_nifti`; whether the place is known at all is for the caller to compare.
    """
    header = read_header(path, prefer, need_place=False)
    if header.scaling:
        slope, intercept = header.scaling
        what = f"its header scales its labels (slope {slope:g}, intercept {intercept:g})"
        refuse("NOT_LABELS", f"is no label map: {what}", path, "save it with whole numbers and without scaling")
    raw = _stored(path, header, chosen(header.n_volumes, None, path))
    array, values = as_labels(raw, path)
    return LabelMap(array, header.grid, names if names is not None else {v: str(v) for v in values})


def stored_slices(path: Path, header: Header) -> Iterator[npt.NDArray[Any]]:
    """The voxels of a file of one volume as they are stored, (X, Y, n) some slices at a time, in their order.

    Raises:
        EOFError, zlib.error: the file is cut short or damaged.
    """
    x, y, z = header.shape
    slice_bytes = x * y * header.dtype.itemsize
    n = max(1, _PIECE // slice_bytes)
    skip, done, held = header.offset, 0, bytearray()
    with path.open("rb") as file:
        for block in inflate(file) if header.compressed else iter(partial(file.read, _PIECE), b""):
            held += block[skip:]
            skip = max(0, skip - len(block))
            while len(held) >= (whole := min(n, z - done)) * slice_bytes > 0:
                part = np.frombuffer(bytes(held[: whole * slice_bytes]), header.dtype)
                yield part.reshape((x, y, whole), order="F")
                del held[: whole * slice_bytes]
                done += whole
    if done != z or held:
        raise EOFError("the voxels are not as many as the header says")


def read_volumes(path: Path, header: Header, wanted: Collection[int]) -> Iterator[tuple[int, npt.NDArray[np.float32]]]:
    """These volumes of a 4D file: the number of each, from 0, and its voxels (X, Y, Z) as float32, scaled.

    They come in the order of the file, which is gone through once, and one at a time is in memory.

    Raises:
        InputError: the file is cut short or damaged; what came before that is found is given all the same.
    """
    size = math.prod(header.shape) * header.dtype.itemsize
    stored = np.empty(size, np.uint8)
    at = -header.offset  # the next byte, counted from the first voxel
    with opened(path) as file:
        blocks = inflate(file) if header.compressed else iter(partial(file.read, _PIECE), b"")
        try:
            for block in blocks:
                rest = np.frombuffer(block, np.uint8)
                while len(rest):
                    number, begin = divmod(at, size)
                    part, rest = rest[: size - begin], rest[size - begin :]
                    at += len(part)
                    if number in wanted:
                        stored[begin : begin + len(part)] = part
                        if begin + len(part) == size:
                            out = np.empty(math.prod(header.shape), np.float32)
                            _scale(stored.view(header.dtype), header, out)
                            yield number, out.reshape(header.shape, order="F")
        except (EOFError, zlib.error):
            refuse("DAMAGED", "is cut short, or its compressed data or checksum is wrong", path, AGAIN)
    if at < header.n_volumes * size:
        refuse("TRUNCATED", "is cut short", path, AGAIN)


def write_labels(path: Path, labels: LabelMap) -> None:
    """Write a segmentation on its own grid, whole or not at all; no free text enters the header.

    Raises:
        ResourceError: the disk is full or the folder cannot be written to.
    """
    _write(path, labels.array, labels.grid, _LABELS_LEVEL)


def write_volume(path: Path, volume: Volume) -> None:
    """Write a scan in its array's own type, as `write_labels` does."""
    _write(path, volume.array, volume.grid, _VOLUME_LEVEL)


def write_shares(path: Path, shares: npt.NDArray[np.uint16], grid: Grid) -> None:
    """Write shares of one, (X, Y, Z) or with a fourth axis, as 16-bit numbers that the header scales to 0 to 1.

    Raises:
        ResourceError: the disk is full or the folder cannot be written to.
    """
    _write(path, shares, grid, _VOLUME_LEVEL, 1 / np.iinfo(np.uint16).max)


def _write(path: Path, array: npt.NDArray[Any], grid: Grid, level: int, slope: float | None = None) -> None:
    image = nib.Nifti1Image(np.asarray(array), grid.affine, dtype=array.dtype)
    image.header.set_xyzt_units("mm")
    # a zero code means "unknown place": readers then fall back on other rules, so the place that was used is stated
    image.set_sform(grid.affine, code=max(grid.stored.sform_code, 1))
    image.set_qform(grid.affine, code=max(grid.stored.qform_code, 1), strip_shears=True)
    # float32 cannot hold a rotation by nearly half a turn exactly: then the sform stands alone
    if grid.skew <= RIGHT_ANGLES and not grid.agrees(Grid(grid.shape, image.get_qform())):
        image.header["qform_code"] = 0
    if slope is not None:
        image.header.set_slope_inter(slope, 0)
    with written_whole(path) as beside, beside.open("wb") as file:
        if path.name.lower().endswith(".gz"):
            with gzip.GzipFile(
                "", "wb", level, file, mtime=0
            ) as packed:  # neither name nor time: same input, same bytes
                image.to_stream(packed)
        else:
            image.to_stream(file)


def _stored(path: Path, header: Header, volume: int) -> npt.NDArray[Any]:
    return read_bytes(path, header, volume).view(header.dtype).reshape(header.shape, order="F")


def _float32(path: Path, header: Header, volume: int) -> npt.NDArray[np.float32]:
    """The voxels as float32, scaled in float64.

    The stored ones are read into the end of the memory that the final ones take, and are widened from its beginning on,
    so that both never stand beside each other; those of 8 bytes are copied.
    """
    n, size = math.prod(header.shape), header.dtype.itemsize
    whole: list[npt.NDArray[np.uint8]] = []

    def room(count: int, end: int) -> npt.NDArray[np.uint8]:
        total = max(count, _FLOAT * n + count - end)
        total += -(total - count + end) % 8  # so that the wanted bytes are aligned
        whole.append(np.empty(total, np.uint8))
        return whole[-1][total - count :]

    stored = read_bytes(path, header, volume, room if size <= _FLOAT else new_room).view(header.dtype)
    out = whole[-1][: _FLOAT * n].view(np.float32) if whole else np.empty(n, np.float32)
    if header.scaling is None and header.dtype == np.float32:
        out = stored
    else:
        _scale(stored, header, out)
    return out.reshape(header.shape, order="F")


def _scale(stored: npt.NDArray[Any], header: Header, out: npt.NDArray[np.float32]) -> None:
    """Scale voxels in float64, some at a time, from the first on."""
    slope, intercept = header.scaling or (1.0, 0.0)
    with np.errstate(over="ignore", invalid="ignore"):
        for start in range(0, len(out), _PIECE):
            piece = stored[start : start + _PIECE]
            scaled = piece if header.scaling is None else piece.astype(np.float64) * slope + intercept
            out[start : start + _PIECE] = scaled.astype(np.float32)
