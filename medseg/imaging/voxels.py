"""What every file format asks of the voxels it reads: finite numbers, whole labels, a body's spacing, straight axes."""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path
from typing import Any, BinaryIO, NoReturn, cast

import numpy as np
import numpy.typing as npt

from medseg.errors import GeometryError, InputError
from medseg.imaging.compressed import MOST, Room, inflated_range, new_room
from medseg.imaging.grid import Affine, Grid, Stored
from medseg.imaging.regrid import is_sheared, straight_cover, volume_onto
from medseg.imaging.source import Reading
from medseg.imaging.volume import Volume, distinct

AGAIN = "copy or export it again"
SPACING_MM = (0.05, 20.0)  # outside of it the unit is wrong, or it is no scan of a body
NOT_FINITE_AT_MOST = 1e-3  # of all voxels; more is no accident of one computation but a damaged scan

Where = Path | str


def refuse(code: str, what: str, where: Where, fix: str = "") -> NoReturn:
    """Raise the InputError of a stable code."""
    raise InputError(f"[{code}] {what}", where, fix)


@contextmanager
def opened(path: Path) -> Iterator[BinaryIO]:
    """The file open for reading.

    Raises:
        InputError: it is missing, or the system does not let it be read.
    """
    if not path.is_file():
        refuse("NOT_FOUND", "there is no such file", path)
    try:
        with path.open("rb") as file:
            yield file
    except OSError as error:
        why = os.strerror(error.errno).lower() if error.errno else type(error).__name__
        refuse("UNREADABLE", f"cannot be read ({why})", path, "check the disk and your permissions")


def stored_bytes(
    data: Path, at: int, compressed: bool, start: int, count: int, needed: int, where: Where, room: Room = new_room
) -> npt.NDArray[np.uint8]:
    """`count` bytes from `start` on of the data that begins at byte `at` of a file, in `room`; a stream is checked to
    its end.

    needed: how many bytes the data must have for all that the header claims.

    Raises:
        InputError: the file is cut short or damaged.
    """
    with opened(data) as file:
        length = data.stat().st_size - at
        if length * (MOST if compressed else 1) < needed:
            refuse("TRUNCATED", f"is cut short: {max(length, 0)} bytes cannot hold its voxels", where, AGAIN)
        file.seek(at if compressed else at + start)
        if not compressed:
            out = room(count, count)
            if cast(BufferedReader, file).readinto(out.data) < count:
                refuse("TRUNCATED", "is cut short", where, AGAIN)
            return out
        try:
            return inflated_range(file, start, count, needed, room)
        except EOFError:
            refuse("TRUNCATED", "is cut short", where, AGAIN)
        except zlib.error:
            refuse("DAMAGED", "is damaged: its compressed data or its checksum is wrong", where, AGAIN)


def checked_grid(shape: tuple[int, int, int], affine: Affine, stored: Stored, where: Where) -> Grid:
    """The grid of a file, if it can be one of a scan.

    Raises:
        InputError: the voxels are too small or too far apart for a body.
        GeometryError: the affine cannot be used.
    """
    for size, n in zip(np.linalg.norm(affine[:3, :3], axis=0), shape, strict=True):
        if n > 1 and size > 0 and not SPACING_MM[0] <= round(float(size), 6) <= SPACING_MM[1]:
            what = f"its voxels are {size:g} mm apart, and scans have {SPACING_MM[0]:g} to {SPACING_MM[1]:g} mm"
            refuse("SPACING", what, where, "the header's unit or voxel size is wrong: export it again")
    try:
        return Grid(shape, affine, stored)
    except GeometryError as error:
        raise GeometryError(f"[NO_AFFINE] {error.what}", where, "export it again with a valid header") from error


def finished(array: npt.NDArray[np.float32], grid: Grid, notes: tuple[str, ...], where: Where) -> Reading:
    """A reading from stored voxels: values that are not finite mended (in place), sheared axes straightened.

    Raises:
        InputError: more than a thousandth of the values are not finite.
    """
    if n := _mend(array, where):
        notes = (*notes, f"{n} voxel(s) were not finite numbers and took the smallest value")
    volume = Volume(array, grid)
    if not is_sheared(grid):
        return Reading(volume, grid, notes)
    straight = volume_onto(volume, straight_cover(grid), float(array.min()))
    return Reading(straight, grid, (*notes, "its axes are not at right angles: interpolated onto a straight grid"))


def _mend(array: npt.NDArray[np.float32], where: Where) -> int:
    """Put the smallest finite value where none is; returns for how many voxels."""
    with np.errstate(invalid="ignore", over="ignore"):
        if np.isfinite(array.sum()):  # one pass and no copy; finite values overflow a sum only where they are huge
            return 0
    wrong = ~np.isfinite(array)
    n = int(np.count_nonzero(wrong))
    if n == 0:
        return 0
    if n > NOT_FINITE_AT_MOST * array.size:
        share = f"{n} voxel(s) are not finite numbers, {100 * n / array.size:.2g} % of all"
        refuse("NOT_FINITE", share, where, "export it again, or replace them by the background value")
    array[wrong] = array[~wrong].min()
    return n


def as_labels(raw: npt.NDArray[Any], where: Where) -> tuple[npt.NDArray[np.unsignedinteger[Any]], tuple[int, ...]]:
    """Any whole numbers from 0 to 65535 as uint8 or uint16, and which occur besides 0.

    Raises:
        InputError: other values, of which one is named.
    """
    values = distinct(raw)
    with np.errstate(invalid="ignore"):
        wrong = values[~np.isfinite(values) | (values != np.rint(values)) | (values < 0) | (values > 65535)]
    if len(wrong):
        what = f"is no label map: it holds {wrong[0]:.6g}, and labels are whole numbers from 0 to 65535"
        refuse("NOT_LABELS", what, where, "give the segmentation, not the scan or a probability map")
    array: npt.NDArray[np.unsignedinteger[Any]] = raw.astype(np.uint8 if values[-1] <= 255 else np.uint16, copy=False)
    return array, tuple(int(value) for value in values if value > 0)


def chosen(n_volumes: int, component: int | None, where: Where) -> int:
    """Which of a file's volumes is meant.

    Raises:
        InputError: it holds several and none was named, or not the one that was named.
    """
    fix = f"say which one: 0 to {n_volumes - 1}"
    if component is None and n_volumes > 1:
        refuse("MULTI_VOLUME", f"holds {n_volumes} volumes, not one 3D scan", where, fix)
    if component is not None and not 0 <= component < n_volumes:
        refuse("MULTI_VOLUME", f"holds {n_volumes} volume(s), so there is no volume {component}", where, fix)
    return component or 0
