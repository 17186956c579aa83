"""One scan of a data set in the files of another form: voxels and headers as they are stored, and read back."""

from __future__ import annotations

import filecmp
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import numpy.typing as npt

from medseg.errors import GeometryError
from medseg.imaging.channels import stem
from medseg.imaging.label_files import read_label_file
from medseg.imaging.nifti import is_nifti, read_labels, read_nifti, read_volume, write_labels, write_volume
from medseg.imaging.nifti_header import Header, read_bytes, read_header
from medseg.imaging.reading import read_channels, read_source
from medseg.imaging.source import ReadOptions, Source
from medseg.imaging.volume import Volume

ENDING = ".nii.gz"
SAME_MM = 0.01
ANY_PLACE = ReadOptions(need_place=False)
_TEXTS = ("descrip", "aux_file", "intent_name", "db_name")  # of a NIfTI header: they may name a patient


@dataclass(frozen=True, slots=True)
class Scan:
    """Images of one case, and its label unless it is a test case."""

    name: str
    images: tuple[Source, ...]
    label: Path | None

    @property
    def files(self) -> tuple[Path, ...]:
        """All its files, each once."""
        images = [path for source in self.images for path in source.paths]
        return tuple(dict.fromkeys([*images, *([self.label] if self.label is not None else [])]))

    def is_copied(self, ending: str) -> bool:
        """Whether its files become files of this ending as they are."""
        return all(source.component is None for source in self.images) and all(
            ending_of(path) == ending for path in self.files
        )


def split(scan: Scan, images: Path, labels: Path, ending: str) -> float:
    """Write a file for each channel, and the label; the largest distance in mm between what was read and written.

    Raises:
        InputError: a file of it cannot be read.
        GeometryError: what was read back is not what was written.
    """
    away = [_write_image(s, images / f"{scan.name}_{k:04d}{ending}") for k, s in enumerate(scan.images)]
    if scan.label is not None:
        away.append(_write_label(scan.label, labels / f"{scan.name}{ending}"))
    return max(away)


def join(scan: Scan, images: Path, labels: Path) -> float:
    """Write all channels into one file, and the label; as `split`."""
    image = images / f"{scan.name}{ENDING}"
    away = [_write_image(scan.images[0], image) if len(scan.images) == 1 else _write_channels(scan.images, image)]
    if scan.label is not None:
        away.append(_write_label(scan.label, labels / f"{scan.name}{ENDING}"))
    return max(away)


def _write_image(source: Source, path: Path) -> float:
    """One channel as a file of its own."""
    (given,) = source.paths
    if source.component is None and ending_of(given) == ending_of(path):
        return _copied(given, path)
    if source.format != "nifti":
        volume = read_source(source, "", ANY_PLACE).volume
        write_volume(path, volume)
        back = read_volume(path, need_place=False)
        return _compared(back.array, volume.array, back.grid.deviation_mm(volume.grid), path)
    header = read_header(given, "sform", need_place=False)
    _store(path, given, header, _voxels(given, header, source.component or 0))
    return _stored_alike(path, 0, given, source.component or 0)


def _write_channels(sources: Sequence[Source], path: Path) -> float:
    """Several channels as one 4D file: as they are stored if all are stored alike, else as float32."""
    first = sources[0].paths[0]
    alike = all(source.format == "nifti" for source in sources)
    headers = [read_header(source.paths[0], "sform", need_place=False) for source in sources] if alike else []
    if alike and len({(str(h.dtype), h.scaling, h.shape) for h in headers}) == 1:
        voxels = [_voxels(s.paths[0], h, s.component or 0) for s, h in zip(sources, headers, strict=True)]
        _store(path, first, headers[0], np.stack(voxels, axis=-1))
        return max(_stored_alike(path, k, s.paths[0], s.component or 0) for k, s in enumerate(sources))
    readings = read_channels(sources, path.name, ANY_PLACE)
    grid = readings[0].volume.grid
    write_volume(path, Volume(readings[0].volume.array, grid))
    _store(path, path, read_header(path), np.stack([r.volume.array for r in readings], axis=-1))
    back = [read_nifti(path, k) for k in range(len(readings))]
    away = [b.volume.grid.deviation_mm(r.volume.grid) for b, r in zip(back, readings, strict=True)]
    return max(
        _compared(b.volume.array, r.volume.array, mm, path) for b, r, mm in zip(back, readings, away, strict=True)
    )


def _write_label(given: Path, path: Path) -> float:
    if ending_of(given) == ending_of(path):
        return _copied(given, path)
    if is_nifti(given):
        header = read_header(given, "sform", need_place=False)
        _store(path, given, header, _voxels(given, header, 0))
        return _stored_alike(path, 0, given, 0)
    labels = read_label_file(given)
    write_labels(path, labels)
    back = read_labels(path)
    return _compared(back.array, labels.array, back.grid.deviation_mm(labels.grid), path)


def ending_of(path: Path) -> str:
    """What stands behind the stem of its name, in small letters."""
    return path.name.removeprefix(stem(path)).lower()


def _copied(given: Path, path: Path) -> float:
    path.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(given, path)
    if not filecmp.cmp(given, path, shallow=False):
        raise GeometryError("[READ_BACK] the copy differs from what was copied", path.name, "check the disk")
    return 0.0


def _voxels(path: Path, header: Header, volume: int) -> npt.NDArray[Any]:
    return read_bytes(path, header, volume).view(header.dtype).reshape(header.shape, order="F")


def _store(path: Path, like: Path, header: Header, voxels: npt.NDArray[Any]) -> None:
    """Write voxels (X, Y, Z) or (X, Y, Z, C) as they are stored, under the header of `like` without its texts."""
    image: Any = nib.load(like)
    said = image.header.copy()
    said.extensions.clear()
    for key in _TEXTS:
        said[key] = b""
    said.set_data_dtype(header.dtype)
    said.set_data_shape(voxels.shape)
    path.parent.mkdir(parents=True, exist_ok=True)
    made = type(image)(voxels, None, said, dtype=header.dtype)
    made.header.set_slope_inter(*(header.scaling or (1.0, 0.0)))  # so that the voxels are written as they are
    nib.save(made, path)


def _stored_alike(path: Path, volume: int, given: Path, component: int) -> float:
    ours, theirs = (read_header(p, "sform", need_place=False) for p in (path, given))
    found = _voxels(path, ours, volume) if ours.scaling == theirs.scaling else np.zeros(0)
    return _compared(found, _voxels(given, theirs, component), ours.grid.deviation_mm(theirs.grid), path)


def _compared(found: npt.NDArray[Any], meant: npt.NDArray[Any], away_mm: float, path: Path) -> float:
    if not np.array_equal(found, meant, equal_nan=meant.dtype.kind == "f"):
        raise GeometryError("[READ_BACK] what was written holds other values than what was read", path.name)
    if not away_mm <= SAME_MM:
        raise GeometryError(f"[READ_BACK] what was written lies {away_mm:.3g} mm from where it was", path.name)
    return away_mm
