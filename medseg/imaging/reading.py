"""Reading the channels of a scan, whatever format they are stored in, onto one grid."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np

from medseg.errors import GeometryError, InputError
from medseg.imaging import itk, nifti
from medseg.imaging.dicom.check import cross_checked
from medseg.imaging.dicom.reading import read_dicom
from medseg.imaging.grid import Grid
from medseg.imaging.regrid import volume_onto
from medseg.imaging.source import Format, Reading, ReadOptions, Source
from medseg.imaging.volume import check_channels


def read_source(source: Source, name: str, options: ReadOptions) -> Reading:
    """Read one channel as float32 (X, Y, Z); `name` is the case that it belongs to.

    Raises:
        InputError: it cannot be read, with the reason; DICOM is named by the case alone, never by a path.
        GeometryError: its geometry cannot be used.
    """
    return READERS[source.format](source, name, options)


def read_channels(sources: Sequence[Source], name: str, options: ReadOptions) -> tuple[Reading, ...]:
    """Read all channels of a scan; all lie on the grid of the first.

    DICOM volumes of one frame of reference may have other grids: they are interpolated linearly onto the first (its
    smallest value where they do not reach), with a note. Files must lie on each other.

    Raises:
        InputError: as `read_source`.
        GeometryError: the channels do not lie on each other.
    """
    readings = [read_source(source, name, options) for source in sources]
    for k in range(1, len(readings)):
        first, other = sources[0].dicom, sources[k].dicom
        if first is None or other is None:
            continue
        if first.frame_of_reference != other.frame_of_reference:
            what = f"[FRAME_OF_REFERENCE] its channels 0 and {k} have no frame of reference in common"
            raise GeometryError(what, name, "register one to the other, or take channels of one acquisition")
        readings[k] = _brought_onto(readings[k], readings[0].volume.grid, k, name)
    check_channels([reading.volume for reading in readings], name)
    return tuple(readings)


def _brought_onto(reading: Reading, grid: Grid, k: int, name: str) -> Reading:
    if grid.agrees(reading.volume.grid):
        return reading
    covered = _covered(reading.volume.grid, grid)
    if covered == 0:
        what = f"[NO_OVERLAP] its channels 0 and {k} lie nowhere on each other"
        raise GeometryError(what, name, "take channels of the same part of the body")
    fill = float(reading.volume.array.min())
    volume = volume_onto(reading.volume, grid, fill)
    part = f", of which it covers {100 * covered:.0f} %" if covered < 0.995 else ""
    note = f"channel {k} was interpolated linearly onto the grid of channel 0{part}"
    return Reading(volume, grid, (*reading.notes, note))


def _covered(given: Grid, wanted: Grid) -> float:
    """The share of a coarse raster of `wanted` that lies within `given`."""
    raster = np.meshgrid(*(np.linspace(0, n - 1, min(n, 24)) for n in wanted.shape), indexing="ij")
    index = np.stack([axis.ravel() for axis in raster])
    world = wanted.affine[:3, :3] @ index + wanted.affine[:3, 3:]
    inverse = np.linalg.inv(given.affine)
    there = inverse[:3, :3] @ world + inverse[:3, 3:]
    sizes = np.array(given.shape)[:, None]
    return float(((there > -0.5) & (there < sizes - 0.5)).all(axis=0).mean())


def grid_of(source: Source) -> Grid:
    """Grid of a channel, from the headers alone; of a NIfTI file that states its place twice, by its sform.

    Raises:
        InputError, GeometryError: they cannot be used.
    """
    if source.dicom is not None and source.dicom.grid is not None:
        return source.dicom.grid
    path = source.paths[0]
    return nifti.read_grid(path, "sform") if source.format == "nifti" else itk.read_itk_grid(path)


def shape_of(source: Source) -> tuple[int, int, int]:
    """Shape of a channel as it is stored, from the headers alone.

    Raises:
        InputError, GeometryError: they cannot be used.
    """
    return grid_of(source).shape


def _read_nifti(source: Source, _: str, options: ReadOptions) -> Reading:
    return nifti.read_nifti(source.paths[0], source.component, options.prefer, options.need_place)


def _read_itk(source: Source, _: str, options: ReadOptions) -> Reading:
    return itk.read_itk(source.paths[0], source.component, options.need_place)


def _read_dicom(source: Source, name: str, options: ReadOptions) -> Reading:
    if source.dicom is None:
        raise InputError("is no DICOM volume", name)
    reading = read_dicom(source.dicom, name, options)
    volume = cross_checked(source.dicom)
    if volume.checked == "agrees":
        return reading
    if not volume.verdict.usable:
        raise GeometryError(f"[{', '.join(volume.verdict.codes)}] {volume.verdict.said}", name, volume.verdict.fix)
    return replace(reading, notes=(*reading.notes, "no other library could check its geometry"))


READERS: Mapping[Format, Callable[[Source, str, ReadOptions], Reading]] = {
    "nifti": _read_nifti,
    "itk": _read_itk,
    "dicom": _read_dicom,
}
