"""From the frames of a DICOM volume to its values: decoded, rescaled frame by frame, padding replaced.

Each frame is rescaled by its own slope and intercept. MONOCHROME1 says how to show values, not what they are, so
nothing is inverted; a real-world value map leads to another unit than the one stored, so it is left alone, and told.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt

from medseg.errors import InputError
from medseg.imaging.dicom.headers import quiet
from medseg.imaging.dicom.rescale import TAGS, Conversion, conversion_of, convert_into
from medseg.imaging.dicom.stored import PixelError, Values, stored_values
from medseg.imaging.dicom.volumes import Frame, SubVolume
from medseg.resources import available_cores, available_memory_bytes

Floats = npt.NDArray[np.float32]
Seen = Counter[str]

STRAIGHTENED = {"TILT", "GAP"}  # codes of verdicts whose grid is not that of the slices
CT_PADDING_HU = -1024.0  # for what lies outside the scanner's circle, where a header names it as padding
_NOTES = {
    "tissue": "the padding value of {n} of {of} images lies among tissue and was not believed",
    "lossy": "{n} of {of} images were compressed with loss",
    "mapped": "the real-world value maps of {n} of {of} images were not applied",
    "no unit": "[UNITS] {n} of {of} images name no rescale intercept: their values may not be Hounsfield units",
    "other unit": "[UNITS] {n} of {of} images say that their values are no Hounsfield units",
}


@dataclass(frozen=True, slots=True)
class _Place:
    """A frame to be read, its number in the volume (for people: from 1), and where its values go (rows, columns)."""

    frame: Frame
    nth: int
    values: Floats


def read_frames(volume: SubVolume, name: str) -> tuple[Floats, tuple[str, ...]]:
    """The values (X = column, Y = row, N = slice) of all frames, in the units that their headers state, and notes.

    float32 in Fortran order, rounded once from float64. Pixels that a header names as padding become -1024 in a CT in
    Hounsfield units, and the smallest other value of the volume elsewhere. Repeats of frames are compared by value.
    `name` stands for the case in errors, which never show a path.

    Raises:
        InputError: COLOUR, CODEC_MISSING, TRUNCATED, DAMAGED, NOT_FINITE, DUPLICATE_POSITION, NO_GEOMETRY, TOO_LARGE.
    """
    if volume.planes is None:
        raise InputError("[NO_GEOMETRY] its images make no volume", name)
    if len({(frame.path, frame.index) for frame in volume.frames}) < len(volume.frames):
        raise InputError("[DUPLICATE_POSITION] an image stands at several places", name)
    shape = (*volume.planes.shape, len(volume.frames))
    needed = 4 * np.prod(shape, dtype=np.float64)
    if volume.grid is not None and STRAIGHTENED & set(volume.verdict.codes):
        needed += 4 * np.prod(volume.grid.shape, dtype=np.float64)  # both are held while one is brought onto the other
    if needed > available_memory_bytes():
        fix = "use a machine with more memory, or give a smaller scan"
        raise InputError(f"[TOO_LARGE] it needs {needed / 1e9:.1f} GB of memory, more than is free", name, fix)
    out = np.empty(shape, np.float32, order="F")  # a slice is then one stretch of memory
    places = [_Place(frame, k + 1, out[:, :, k].T) for k, frame in enumerate(volume.frames)]
    with quiet():
        seen = _read_all(places, volume.modality, name)
        if volume.repeats:
            _compare(volume, places, name)
    notes = [said.format(n=seen[key], of=shape[2]) for key, said in _NOTES.items() if seen[key]]
    if seen["padding"]:
        hounsfield = volume.modality == "CT" and not (seen["no unit"] or seen["other unit"])
        _replace(out, CT_PADDING_HU if hounsfield else _smallest(out))
        to = f"{CT_PADDING_HU:.0f} HU" if hounsfield else "the smallest value of the others"
        notes.insert(0, f"{seen['padding']} voxels of padding were set to {to}")
    return out, tuple(notes)


def _read_all(places: list[_Place], modality: str, name: str) -> Seen:
    """Read every place. Compressed frames are decoded by threads, whose codecs let each other run."""
    files: dict[Path, list[_Place]] = {}
    for place in places:
        files.setdefault(place.frame.path, []).append(place)
    seen, waiting, cores = Seen(), deque[Future[Seen]](), available_cores()
    with ThreadPoolExecutor(cores) as pool:
        for path, wanted in files.items():
            for _, compressed, work in _frames(path, wanted, modality, len(places), name):
                if not compressed:  # threads bring nothing here: most of the time goes into headers
                    seen.update(work())
                    continue
                waiting.append(pool.submit(work))
                if len(waiting) > 2 * cores:
                    seen.update(waiting.popleft().result())
        for future in waiting:
            seen.update(future.result())
    return seen


def _compare(volume: SubVolume, places: list[_Place], name: str) -> None:
    """Read the copies of frames one by one and compare them with what was read."""
    first = {(place.frame.uid, place.frame.index): place for place in places}
    again = np.empty_like(places[0].values)
    files: dict[Path, list[_Place]] = {}
    for repeat in volume.repeats:
        nth = first[repeat.uid, repeat.index].nth
        files.setdefault(repeat.path, []).append(_Place(repeat, nth, again))
    for path, wanted in files.items():
        for copy, _, work in _frames(path, wanted, volume.modality, len(places), name):
            work()
            if not np.array_equal(again, places[copy.nth - 1].values, equal_nan=True):
                what = f"[DUPLICATE_POSITION] image {copy.nth} of {len(places)} is there twice, with different values"
                raise InputError(what, name, "keep the right one")


def _frames(
    path: Path, wanted: list[_Place], modality: str, of: int, name: str
) -> Iterator[tuple[_Place, bool, Callable[[], Seen]]]:
    """The wanted places of one file, each with whether it is compressed and the work that fills it.

    Uncompressed frames must be worked on at once, while their file is open.
    """
    places = {place.frame.index: place for place in wanted}
    nth = wanted[0].nth
    try:
        with stored_values(path, TAGS) as stored:
            if (stored.layout.rows, stored.layout.columns) != wanted[0].values.shape:
                raise PixelError("TRUNCATED", "is of another size than it was, or than the others")
            for index, values in stored.frames(places.keys()):
                nth = places[index].nth
                how = conversion_of(stored, index, modality == "CT")
                yield places[index], stored.compressed, partial(_read, places[index], values, how, of, name)
    except PixelError as error:
        raise _refused(error, nth, of, name) from None


def _read(place: _Place, values: Callable[[], Values], how: Conversion, of: int, name: str) -> Seen:
    """Bring one frame into its place, padding as NaN; returns what is worth a note."""
    try:
        return convert_into(place.values, values(), how)
    except PixelError as error:
        raise _refused(error, place.nth, of, name) from None


def _refused(error: PixelError, nth: int, of: int, name: str) -> InputError:
    return InputError(f"[{error.code}] image {nth} of {of} {error.said}", name, error.fix)


def _smallest(values: Floats) -> float:
    smallest = float(np.fmin.reduce(values, axis=None))
    return smallest if np.isfinite(smallest) else 0.0


def _replace(values: Floats, fill: float) -> None:
    for k in range(values.shape[2]):  # slice by slice, to need little memory
        image = values[:, :, k]
        image[np.isnan(image)] = fill
