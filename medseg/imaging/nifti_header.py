"""What the header of a NIfTI file says (shape, type, scaling, place), and whether it can be believed.

Two affines may stand in it: the sform (any affine) and the qform (a rotation with the voxel sizes). Tools disagree on
which counts, so a file in which they contradict each other is refused unless the user names one.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import nibabel as nib
import numpy as np
import numpy.typing as npt

from medseg.errors import GeometryError
from medseg.imaging.compressed import Room, inflate, new_room
from medseg.imaging.grid import SAME_PLACE, Affine, Grid, Stored
from medseg.imaging.voxels import AGAIN, checked_grid, opened, refuse, stored_bytes

Prefer = Literal["", "sform", "qform"]

AFFINES_AGREE_MM = 1e-3
_QFORM_ROUNDING = 5e-7  # of a squared quaternion in float32: what is lost of its first, not stored, component
_LARGEST = 540  # bytes of a NIfTI-2 header
_MM_PER_UNIT = {1: 1000.0, 2: 1.0, 3: 0.001}  # by the header's code: metre, millimetre, micrometre
_KINDS = {348: (nib.Nifti1Header, b"n+1\0", b"ni1\0", 344), 540: (nib.Nifti2Header, b"n+2\0", b"ni2\0", 4)}
_GZIP = b"\x1f\x8b"


@dataclass(frozen=True, eq=False)
class Header:
    """Shape (X, Y, Z) and number of volumes, how voxels are stored, and the grid.

    dtype: as stored, with byte order. offset: of the first voxel, in bytes. scaling: slope and intercept, or None.
    note: what had to be decided about the place, or empty.
    """

    shape: tuple[int, int, int]
    n_volumes: int
    dtype: np.dtype[Any]
    offset: int
    scaling: tuple[float, float] | None
    compressed: bool
    grid: Grid
    note: str = ""


def read_header(path: Path, prefer: Prefer = "", need_place: bool = True) -> Header:
    """Read and judge the header.

    `need_place` refuses a file that does not say where it lies; else its place is made up, as nibabel does.

    Raises:
        InputError: missing, cut, or not NIfTI; values that cannot be read; dimensions or a spacing that no scan has.
        GeometryError: the affine cannot be used, or sform and qform contradict each other.
    """
    raw, compressed = _raw(path)
    try:
        shape = tuple(int(n) for n in raw.get_data_shape())
        dtype = raw.get_data_dtype()
        slope, inter = raw.get_slope_inter()
        offset = int(raw["vox_offset"]) or raw.single_vox_offset
    except Exception:  # a parser on arbitrary bytes can fail in any way
        refuse("DAMAGED", "its header is damaged", path, AGAIN)
    if not shape or min(shape) < 1 or offset < raw.single_vox_offset:
        refuse("DAMAGED", f"its header is damaged: it states the shape {shape} from byte {offset} on", path, AGAIN)
    if dtype.kind not in "biuf":
        refuse("COLOURS", "holds colours or complex numbers, not one value a voxel", path, "export the grey values")
    more = [n for n in shape[3:] if n > 1]
    if len(more) > 1:
        refuse("DIMENSIONS", f"holds {len(shape)} dimensions {shape}, not one 3D scan", path, "split it into 3D files")
    x, y, z = (*shape, 1, 1)[:3]
    affine, note = _place(raw, (x, y, z), path, prefer, need_place)
    codes = (int(raw["qform_code"]), int(raw["sform_code"]))
    scaling = None if slope is None or (slope, inter) == (1.0, 0.0) else (float(slope), float(inter))
    grid = checked_grid((x, y, z), affine, Stored("nifti", *codes), path)
    return Header((x, y, z), math.prod(more), dtype, offset, scaling, compressed, grid, note)


def _raw(path: Path) -> tuple[Any, bool]:
    """nibabel's header, as it is stored, and whether the file is compressed."""
    with opened(path) as file:
        compressed = file.read(2) == _GZIP
        named = path.name.lower().endswith(".gz")
        if compressed and not named:
            refuse("NAME", "is compressed although its name does not end in .gz", path, "rename it to end in .nii.gz")
        file.seek(0)
        try:
            start = _start(inflate(file, _LARGEST)) if compressed else file.read(_LARGEST)
        except (EOFError, ValueError):
            refuse("TRUNCATED", "is cut short within its header", path, AGAIN)
        except Exception:  # zlib's error and others of its kind: it was no end of the file, so the bytes are wrong
            refuse("DAMAGED", "is damaged: it cannot be decompressed", path, AGAIN)
    kind = _kind(start)
    if kind and named and not compressed:
        refuse("NOT_COMPRESSED", "is not compressed although its name ends in .gz", path, "rename it to end in .nii")
    if kind is None:
        empty, other = ("TRUNCATED", "is an empty file", path, AGAIN), ("NOT_NIFTI", "is not a NIfTI file", path)
        refuse(*(other if start else empty))
    size, (header, single, pair, at) = kind
    if len(start) < size:
        refuse("TRUNCATED", "is cut short within its header", path, AGAIN)
    magic = start[at : at + 4]
    if magic == pair:
        refuse("PAIR", "is the header of a pair of files (.hdr and .img)", path, "save it as one .nii file")
    if magic != single:
        refuse("NOT_NIFTI", "is not a NIfTI file (perhaps Analyze, which does not say where left is)", path)
    try:
        return header(start[:size], check=False), compressed
    except Exception:  # a parser on arbitrary bytes can fail in any way
        refuse("DAMAGED", "its header is damaged", path, AGAIN)


def _start(blocks: Iterator[bytes]) -> bytes:
    start = b""
    for block in blocks:
        start += block
        if len(start) >= _LARGEST:
            break
    return start


def _kind(start: bytes) -> tuple[int, tuple[Any, bytes, bytes, int]] | None:
    sizes = int.from_bytes(start[:4], "little"), int.from_bytes(start[:4], "big")
    return next(((size, _KINDS[size]) for size in sizes if size in _KINDS), None)


def _place(raw: Any, shape: tuple[int, int, int], path: Path, prefer: Prefer, need_place: bool) -> tuple[Affine, str]:
    """The affine that counts, in millimetres, and a note where there was something to decide."""
    sizes = np.array(raw["pixdim"][1:4], np.float64)
    wrong = [float(size) for size, n in zip(sizes, shape, strict=True) if n > 1 and not 0 < size < math.inf]
    if wrong:
        refuse(
            "SPACING", f"its header states a voxel size of {wrong[0]:g}", path, "export it again with a valid header"
        )
    to_mm = np.diag([*[_MM_PER_UNIT.get(int(raw["xyzt_units"]) % 8, 1.0)] * 3, 1.0])
    sform = to_mm @ raw.get_sform() if raw["sform_code"] > 0 else None
    qform = to_mm @ _qform(raw) if raw["qform_code"] > 0 else None
    if sform is None and qform is None:
        if need_place:
            what = "[NO_AFFINE] does not say where it lies (the codes of sform and qform are 0)"
            raise GeometryError(what, path, "export it again from its source, with the place in the header")
        return to_mm @ raw.get_base_affine(), "its header does not say where it lies: left and right are a guess"
    if sform is None or qform is None:
        return np.asarray(qform if sform is None else sform, np.float64), ""
    away = _contradiction_mm(sform, qform, shape)
    if away is None:
        return sform, ""
    said = f"sform and qform differ by up to {away:.3g} mm" if math.isfinite(away) else "one is not usable"
    if not prefer:
        what = f"[AFFINE_CONFLICT] states its place twice, and {said}"
        raise GeometryError(what, path, "say which is true: --prefer sform or --prefer qform")
    return (sform if prefer == "sform" else qform), f"its {said}; the {prefer} was used, as asked"


def _qform(raw: Any) -> Affine:
    mended = raw.copy()
    if mended["pixdim"][0] not in (-1, 1):
        mended["pixdim"][0] = 1  # the standard: anything else counts as 1
    mended["pixdim"][1:4] = np.where(mended["pixdim"][1:4] > 0, mended["pixdim"][1:4], 1)  # of axes with one voxel
    try:
        return np.array(mended.get_qform(), np.float64)
    except ValueError:  # its three numbers belong to no rotation
        return np.full((4, 4), np.nan)


def _contradiction_mm(sform: Affine, qform: Affine, shape: tuple[int, int, int]) -> float | None:
    """By how much the affines differ, if by more than rounding; a shear, which no qform can hold, does not count.

    Near half turns, which are common, three float32 of a unit quaternion leave its rotation open by up to a thousandth
    (tested against nibabel); the first voxel is told exactly all the same.
    """
    if np.array_equal(sform, qform):
        return None
    sizes = np.linalg.norm(sform[:3, :3], axis=0)
    if not sizes.all() or not np.isfinite(sform).all() or not np.isfinite(qform).all():
        return math.inf
    u, _, v = np.linalg.svd(sform[:3, :3] / sizes)
    straight = np.array(sform)
    straight[:3, :3] = (u @ v) * sizes
    last = np.array(shape) - 1
    ends = np.stack(np.meshgrid(*[(0, n) for n in last], indexing="ij")).reshape(3, -1)
    moved = (qform - straight)[:3, 3]
    away = np.linalg.norm(((qform - straight)[:3, :3] @ ends).T + moved, axis=1).max()
    allowed = max(AFFINES_AGREE_MM, SAME_PLACE * sizes.min())
    rotation = u @ v
    squared = max((1 + np.trace(rotation if np.linalg.det(rotation) > 0 else rotation * [1, 1, -1])) / 4, 0.0)
    open_angle = 2 * (math.sqrt(squared + _QFORM_ROUNDING) - math.sqrt(max(squared - _QFORM_ROUNDING, 0)))
    rounding = open_angle * float(np.linalg.norm(last * sizes))
    if np.linalg.norm(moved) <= allowed and away <= allowed + rounding:
        return None
    return float(away)


def read_bytes(path: Path, header: Header, volume: int, room: Room = new_room) -> npt.NDArray[np.uint8]:
    """The stored bytes of one volume, in `room`; a compressed file is checked to its end.

    Raises:
        InputError: the file is cut short or damaged.
    """
    count = math.prod(header.shape) * header.dtype.itemsize
    needed = header.offset + header.n_volumes * count
    return stored_bytes(path, 0, header.compressed, header.offset + volume * count, count, needed, path, room)
