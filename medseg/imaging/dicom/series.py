"""DICOM series of single-frame CT, MR and PET images in, as volumes in the units that their headers state.

Values: each slice is rescaled by its own slope and intercept; MONOCHROME1 says how to show values, not what they are,
so nothing is inverted. Places: `slices.py`. What makes no regular volume is refused with a reason code, never mended.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pydicom
from pydicom.pixels.decoders.base import get_decoder
from pydicom.pixels.processing import apply_modality_lut
from pydicom.uid import UID

from medseg.imaging.dicom.headers import MULTI_FRAME, Series, find_series, is_dicom, quiet
from medseg.imaging.grid import Grid, Stored
from medseg.imaging.slices import Plane, refused, stack
from medseg.imaging.volume import Volume

__all__ = ["Series", "find_series", "is_dicom", "read_series"]

_PLACE = ["SOPClassUID", "SOPInstanceUID", "NumberOfFrames", "SamplesPerPixel", "Rows", "Columns"]
_PLACE += ["ImageOrientationPatient", "ImagePositionPatient", "PixelSpacing"]
_AGAIN = "copy or export the series again"


def read_series(series: Series, name: str = "DICOM series") -> Volume:
    """Read one series as float32 (X = column, Y = row, Z = slice along the normal) in RAS+ mm, exact where oblique.

    Repeats of an image (same SOPInstanceUID, same pixels) are used once. `name` stands for the series in errors,
    which never show a path.

    Raises:
        InputError: with a reason code in the text: those of `slices.stack`, and NO_GEOMETRY, MULTI_FRAME, COLOUR,
            CODEC_MISSING, TRUNCATED, NOT_FINITE, DUPLICATE_POSITION (repeats that differ).
    """
    with quiet():
        images, repeats = _images(series, name)
        order, affine = stack([image.plane for image in images], name)
        plane = images[0].plane
        grid = Grid((plane.columns, plane.rows, len(order)), affine, Stored("dicom"))
        array = np.empty(grid.shape, np.float32, order="F")  # a slice is then one stretch of memory
        place: dict[str, tuple[int, _Image]] = {}
        for z, image in enumerate(images[k] for k in order):
            array[:, :, z] = _values(image, name)
            place[image.uid] = z, image
        for repeat in repeats:
            z, first = place[repeat.uid]
            if repeat.plane != first.plane or not np.array_equal(_values(repeat, name), array[:, :, z]):
                what = f"{repeat.nth} and {first.nth} have the same identity, but differ"
                raise refused("DUPLICATE_POSITION", what, name, "keep the right one")
    return Volume(array, grid)


@dataclass(frozen=True, slots=True)
class _Image:
    path: Path
    nth: str
    uid: str
    plane: Plane


def _images(series: Series, name: str) -> tuple[list[_Image], list[_Image]]:
    """The different images of the series, and those that repeat one of them."""
    images: dict[str, _Image] = {}
    repeats = []
    for i, path in enumerate(series.paths, start=1):
        nth = f"image {i} of {len(series.paths)}"
        plane, uid = _plane(path, name, nth)
        image = _Image(path, nth, uid or nth, plane)
        if images.setdefault(image.uid, image) is not image:
            repeats.append(image)
    return list(images.values()), repeats


def _plane(path: Path, name: str, nth: str) -> tuple[Plane, str]:
    try:
        ds = pydicom.dcmread(path, force=True, stop_before_pixels=True, specific_tags=_PLACE)
    except Exception as error:  # a parser on arbitrary bytes can fail in any way
        raise refused("TRUNCATED", f"{nth} cannot be read ({type(error).__name__})", name, _AGAIN) from None
    if str(ds.get("SOPClassUID", "")) in MULTI_FRAME or _number(ds, "NumberOfFrames", 1) != 1:
        fix = "convert it to single-frame images or NIfTI"
        raise refused("MULTI_FRAME", f"{nth} is an enhanced multi-frame object, not read yet", name, fix)
    if _number(ds, "SamplesPerPixel", 1) != 1:
        raise refused("COLOUR", f"{nth} is a colour image, no measured values", name)
    try:
        plane = Plane(
            int(ds.Rows),
            int(ds.Columns),
            tuple(map(float, ds.ImageOrientationPatient)),
            tuple(map(float, ds.ImagePositionPatient)),
            tuple(map(float, ds.PixelSpacing)),
        )
        numbers = (*plane.orientation, *plane.position_mm, *plane.spacing_mm)
        whole = len(numbers) == 11 and np.isfinite(numbers).all() and min(*plane.spacing_mm, plane.rows) > 0
    except (AttributeError, TypeError, ValueError):
        whole = False
    if not whole:
        what = f"{nth} does not say where it lies (orientation, position or pixel spacing is missing or wrong)"
        raise refused("NO_GEOMETRY", what, name, "leave it out, or export the original series")
    return plane, str(ds.get("SOPInstanceUID", ""))


def _number(ds: pydicom.Dataset, key: str, default: int) -> int:
    try:
        return int(ds.get(key) or default)
    except (TypeError, ValueError):
        return default


def _values(image: _Image, name: str) -> npt.NDArray[np.float32]:
    """The rescaled values (column, row) of one image; computed in float64 and then rounded once to float32."""
    try:
        ds = pydicom.dcmread(image.path, force=True)
        _check_codec(ds, name)
        pixels = ds.pixel_array
    except (ValueError, TypeError, AttributeError, KeyError, EOFError, OSError, RuntimeError, NotImplementedError) as e:
        raise refused("TRUNCATED", f"{image.nth} is cut or damaged ({type(e).__name__})", name, _AGAIN) from None
    if pixels.shape != (image.plane.rows, image.plane.columns):
        raise refused("TRUNCATED", f"{image.nth} holds {pixels.shape} pixels, not what its header says", name, _AGAIN)
    values: npt.NDArray[Any] = np.asarray(apply_modality_lut(pixels, ds)).astype(np.float32).T
    if not np.isfinite(values).all():
        raise refused("NOT_FINITE", f"{image.nth} holds values that are not finite numbers", name, _AGAIN)
    return values


def _check_codec(ds: pydicom.Dataset, name: str) -> None:
    syntax = UID(str(ds.file_meta.get("TransferSyntaxUID", "")))
    if not syntax.is_transfer_syntax or not syntax.is_compressed or syntax.is_deflated:
        return
    try:
        available = get_decoder(syntax).is_available
    except NotImplementedError:
        available = False
    if not available:
        fix = "convert the series to uncompressed DICOM first, or install a decoder that pydicom can use"
        raise refused("CODEC_MISSING", f"nothing here can decompress {syntax.name}", name, fix)
