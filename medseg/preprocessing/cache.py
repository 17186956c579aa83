"""The prepared cases of a run: read once, kept as one memory-mapped file a case, which appears whole or not at all.

cache/<configuration>/<case>.safetensors holds
    image             (C, X, Y, Z) float16, float32 where float16 would lose too much
    classes           (X, Y, Z) uint8, class indices; uint16 above 255 classes. Class k + 1 is the k-th label value; the
                      last one, of a data set with an ignore label, is that of voxels that nobody labelled
    foreground.<k>    flat voxel indices of class k, at most 10000 of them, but none of voxels that nobody labelled
    foreground.0      with an ignore label: of all voxels that somebody labelled, the background among them
    reference.*       the label map as given, for validation on the scan's own grid: where its value changes, to what
and in its header a record with the key of all that it was made from.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from pydantic import ValidationError

from medseg.errors import InputError, RunError, explained
from medseg.files import Record, may_open
from medseg.imaging.volume import LabelMap
from medseg.preprocessing.axis import REACH, ROWS, cheapest_first
from medseg.preprocessing.case_file import CaseFile, Part, read_case_file, write_case_file
from medseg.preprocessing.prepare import Undo, prepare, prepare_labels
from medseg.preprocessing.resample import ON_CPU, Resampler
from medseg.preprocessing.settings import PreprocessingSettings

if TYPE_CHECKING:
    from medseg.imaging.dataset import Case, Dataset

VERSION = 2
FOREGROUND_VOXELS = 10_000  # a class; more would not change where patches are drawn
HALF_UP_TO = 4.0  # in standard deviations: below it float16 is off by less than 1e-3, above by 2e-3 and more
BEYOND = 1e-3  # of the voxels may lie beyond it
PIECES_BYTES = 4e6  # of the pieces that are worked on at a time, whatever the size of a scan
_PIECE = 1 << 18  # voxels looked at together
_LIST = "foreground."
ALSO = {"2d": "2d", "3d": "3d", "3d_lowres": "lowres"}  # folder -> what `medseg plan --also` calls it

Classes = npt.NDArray[np.unsignedinteger[Any]]


class CachedCase(Record):
    """The record of one prepared case."""

    version: int
    case: str
    key: str
    settings: str  # digest of the preprocessing settings
    spacing_mm: tuple[float, float, float]
    undo: Undo


@dataclass(frozen=True)
class CacheJob:
    """What one case's preparation needs; small, so that it can cross to a worker process.

    content: a digest of what the case is read from, where it was computed already (the key of its fingerprint); else
    its files are read for it. resampler: where resampling is done; only the CPU's can cross to a worker.
    """

    case: Case
    dataset: Dataset
    settings: PreprocessingSettings
    folder: Path
    content: str = ""
    resampler: Resampler = ON_CPU


def prepare_case(job: CacheJob) -> CachedCase:
    """Prepare one case and keep it, unless it stands already for the same files and settings.

    Raises:
        InputError, GeometryError: the case cannot be read or its label does not fit.
        ResourceError: the disk is full, or a file of the case cannot be opened.
    """
    from medseg.imaging.dataset import read_case_images, read_case_label  # whoever trains needs none of its libraries

    key = cache_key(job)
    stands = standing(job.folder, job.case.name)
    if stands is not None and stands.key == key:
        return stands
    with explained(job.folder):
        case_path(job.folder, job.case.name).unlink(missing_ok=True)  # from here on the case counts as not prepared
    readings = read_case_images(job.case, job.dataset)
    grid = readings[0].volume.grid
    prepared = prepare([reading.volume for reading in readings], job.settings, job.resampler)
    del readings  # the scan as it was read is the largest array of all, and the label comes next
    labels = read_case_label(job.case, job.dataset, grid)
    classes = prepare_labels(labels, prepared.undo, label_values(job.dataset), job.resampler)
    ignored = None if job.dataset.ignore is None else len(job.dataset.labels) + 1
    record = CachedCase(
        version=VERSION,
        case=job.case.name,
        key=key,
        settings=settings_digest(job.settings),
        spacing_mm=prepared.spacing_mm,
        undo=prepared.undo,
    )
    small = np.dtype(np.uint32 if classes.size < 2**32 else np.int64)
    parts = {
        "image": Part(prepared.image_CXYZ, stored_as(prepared.image_CXYZ)),
        "classes": Part(classes, classes.dtype),
        **{_LIST + name: Part(where, small) for name, where in foreground_voxels(classes, key, ignored).items()},
        **{name: Part(array, array.dtype) for name, array in runs_of(labels.array).items()},
    }
    write_case_file(case_path(job.folder, job.case.name), record.model_dump_json(), parts)
    return record


def predicted_bytes(shape: Sequence[int], target_shape: Sequence[int], channels: int, masked: bool = True) -> float:
    """The peak of the memory that preparing a scan of `shape` on `target_shape` takes, above the process itself.

    All channels as float32 and beside them half of one: its file, compressed, while it is read (stored in up to 4 bytes
    a voxel); or all of one, where only what is not zero is normalised (`masked`): then its crop is copied, here taken
    as the whole scan. The result of all channels, and beside it one more. The slab that is resampled, before and after
    (twice, since each axis gives a new one). The label comes when the scan is gone, and needs less.
    """
    old, new = math.prod(shape), math.prod(target_shape)
    first = cheapest_first(shape, target_shape)[0]
    rows = min(1.0, ROWS / target_shape[first])
    slab = old * min(1.0, rows + 2 * REACH / shape[first]) + 2 * new * rows
    beside = 1.0 if masked else 0.5
    return 4.0 * ((channels + beside) * old + (channels + 1) * new + slab) + PIECES_BYTES


def case_path(folder: Path, case: str) -> Path:
    """Where a prepared case stands."""
    return folder / f"{case}.safetensors"


def cache_key(job: CacheJob) -> str:
    """A digest of all that the prepared case depends on: the case as it is read, and the settings."""
    from medseg.imaging.dataset import case_digest

    if job.case.label is None:
        raise InputError("has no label map", job.case.name)
    content = job.content or case_digest(job.case, job.dataset)
    told = json.dumps([VERSION, job.settings.model_dump(), label_values(job.dataset), content], sort_keys=True)
    return hashlib.sha256(told.encode()).hexdigest()


def label_values(dataset: Dataset) -> list[int]:
    """The label value of each class but 0: structures, and last the value to ignore, where there is one."""
    return [*sorted(dataset.labels), *([] if dataset.ignore is None else [dataset.ignore])]


def settings_digest(settings: PreprocessingSettings) -> str:
    """Changes whenever a prepared case would."""
    return hashlib.sha256(settings.model_dump_json().encode()).hexdigest()


def standing(folder: Path, case: str) -> CachedCase | None:
    """The record of a prepared case if it is whole, else None: an older one, or one of another version, is done again.

    Raises:
        ResourceError: it may not be read.
    """
    found = _standing(folder, case)
    return found[0] if found else None


def _standing(folder: Path, case: str) -> tuple[CachedCase, CaseFile] | None:
    file = read_case_file(case_path(folder, case))
    if file is None:
        return None
    try:
        record = CachedCase.model_validate_json(file.record)
    except ValidationError:
        return None
    return (record, file) if record.version == VERSION else None


def stored_as(image: npt.NDArray[np.float32]) -> np.dtype[Any]:
    """float16, or float32 where float16 would lose more than 1e-3 SD in more than one voxel of a thousand.

    Those are the voxels beyond 4 SD: float16 is off by up to 2**-10 SD below, and by up to 2**-9 and more above. A root
    mean square could not tell: of a scan normalised by itself float16 never loses more than 2**-11 SD in that sense.
    """
    flat, far = image.reshape(-1), 0
    for start in range(0, flat.size, _PIECE):
        piece = np.abs(flat[start : start + _PIECE])
        far += int(np.count_nonzero(piece > HALF_UP_TO))
        if far > BEYOND * flat.size or piece.max() > np.finfo(np.float16).max:
            return np.dtype(np.float32)
    return np.dtype(np.float16)


def foreground_voxels(classes: Classes, key: str, ignored: int | None = None) -> dict[str, npt.NDArray[np.int64]]:
    """For each class but 0 up to 10000 flat indices of its voxels, sorted, drawn by a seed that the key gives.

    Drawn by their number within the class, then looked up in pieces: time and memory do not grow with the classes.
    With a class of voxels to be ignored, 0 lists voxels of all others together, and that class has no list.
    """
    rng = np.random.default_rng(int(key[:16], 16))
    flat = np.ascontiguousarray(classes).reshape(-1)
    found = _drawn_by_class(flat, rng)
    if ignored is not None:
        found.pop(str(ignored), None)
        labelled = _drawn_by_class((flat != ignored).view(np.uint8), rng)
        found |= {"0": labelled["1"]} if labelled else {}
    return found


def _drawn_by_class(flat: Classes, rng: np.random.Generator) -> dict[str, npt.NDArray[np.int64]]:
    pieces = [(start, flat[start : start + _PIECE]) for start in range(0, flat.size, _PIECE)]
    bins = int(flat.max(initial=0)) + 1
    counts = [np.bincount(piece, minlength=bins) for _, piece in pieces]
    totals = sum(counts, np.zeros(bins, np.int64))
    drawn = {int(k): _drawn(int(totals[k]), rng) for k in np.flatnonzero(totals) if k > 0}
    found: dict[int, list[npt.NDArray[np.int64]]] = {k: [] for k in drawn}
    seen = np.zeros(bins, np.int64)  # voxels of each class in the pieces before
    for (start, piece), count in zip(pieces, counts, strict=True):
        for k, where in _by_class(piece, count):
            low, high = np.searchsorted(drawn[k], (seen[k], seen[k] + where.size))
            found[k].append(start + where[drawn[k][low:high] - seen[k]])
        seen += count
    return {str(k): np.concatenate(lists) for k, lists in found.items()}


def _drawn(n: int, rng: np.random.Generator) -> npt.NDArray[np.int64]:
    """Which of `n` voxels are kept."""
    return np.arange(n) if n <= FOREGROUND_VOXELS else np.sort(rng.choice(n, FOREGROUND_VOXELS, replace=False))


def _by_class(piece: Classes, count: npt.NDArray[np.int64]) -> Iterator[tuple[int, npt.NDArray[np.int64]]]:
    """Each class but 0 in a flat piece of the map, and where it is; `count` says how many voxels each has."""
    labelled = np.flatnonzero(piece)
    labelled = labelled[np.argsort(piece[labelled], kind="stable")]
    at = 0
    for k in np.flatnonzero(count[1:]) + 1:
        yield int(k), labelled[at : at + count[k]]
        at += int(count[k])


def runs_of(labels: Classes) -> dict[str, npt.NDArray[Any]]:
    """A label map (X, Y, Z) as runs of one value, flat in Fortran order; voxel by voxel where that is smaller."""
    flat = labels.reshape(-1, order="F")
    ends = range(0, flat.size - 1, _PIECE)
    pieces = [flat[a : a + _PIECE + 1] for a in ends]  # of which each begins with the last voxel of the one before
    starts = np.concatenate(
        [[0], *(np.flatnonzero(p[1:] != p[:-1]) + a + 1 for a, p in zip(ends, pieces, strict=True))]
    )
    small = starts.astype(np.uint32 if flat.size < 2**32 else np.int64)
    if small.size * (small.itemsize + flat.itemsize) > flat.nbytes:
        return {"reference.values": flat}
    return {"reference.values": flat[starts], "reference.starts": small}


def from_runs(arrays: Mapping[str, npt.NDArray[Any]], shape: Sequence[int]) -> Classes:
    """The inverse of `runs_of`."""
    flat, starts = arrays["reference.values"], arrays.get("reference.starts")
    if starts is not None:
        flat = np.repeat(flat, np.diff(starts, append=starts.dtype.type(math.prod(shape))))
    return flat.reshape(shape, order="F")


@dataclass(frozen=True, eq=False)
class LoadedCase:
    """A prepared case: image (C, X, Y, Z) and classes (X, Y, Z), mapped from disk, and where classes lie.

    foreground: flat indices of voxels of each class; with an ignore label 0 lists all that somebody labelled.
    previous_XYZ: for the second stage of a cascade, the classes that the first stage found (see training/cascade.py).
    """

    name: str
    image_CXYZ: npt.NDArray[Any]
    classes_XYZ: Classes
    foreground: dict[int, npt.NDArray[np.integer[Any]]]
    spacing_mm: tuple[float, float, float]
    undo: Undo
    previous_XYZ: Classes | None = None


def load_cases(folder: Path, names: Sequence[str], settings: PreprocessingSettings) -> tuple[LoadedCase, ...]:
    """Open the prepared cases; arrays are memory-mapped, so that a data set larger than memory works.

    Raises:
        RunError: a case is not (wholly) prepared, or was prepared by other settings.
        ResourceError: a file may not be read, or the system does not let so many be open.
    """
    may_open(len(names))
    return tuple(_load(folder, name, settings_digest(settings)) for name in names)


def _load(folder: Path, name: str, settings: str) -> LoadedCase:
    found = _standing(folder, name)
    if found is None or found[0].settings != settings:
        raise _not_prepared(folder, name)
    record, file = found
    arrays = file.arrays()
    lists = {name.removeprefix(_LIST): array for name, array in arrays.items() if name.startswith(_LIST)}
    return LoadedCase(
        name=name,
        image_CXYZ=arrays["image"],
        classes_XYZ=arrays["classes"],
        foreground={int(k): lists[k] for k in sorted(lists, key=int)},
        spacing_mm=record.spacing_mm,
        undo=record.undo,
    )


def _not_prepared(folder: Path, case: str) -> RunError:
    """Where nothing at all stands, the plan was not asked to prepare for this configuration."""
    asked = ALSO.get(folder.name)
    if asked is None or any(folder.glob("*.safetensors")):
        return RunError(f"case {case} is not prepared", folder, "run medseg plan again with the same options")
    fix = f"plan again with --also {asked}, all other options as before"
    return RunError(f"no case is prepared for {asked}", folder, fix)


def load_reference(folder: Path, case: LoadedCase, names: dict[int, str]) -> LabelMap:
    """The case's label map as it was given, on the scan's own grid.

    Raises:
        RunError: the case is no longer prepared.
    """
    found = _standing(folder, case.name)
    if found is None:
        raise _not_prepared(folder, case.name)
    return LabelMap(from_runs(found[1].arrays(), case.undo.shape), case.undo.grid, names)
