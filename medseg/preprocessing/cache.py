"""The prepared cases of a run: read once, kept as memory-mapped arrays, each with a manifest written last.

cache/<configuration>/<case>.image.npy       (C, X, Y, Z) float16, float32 where float16 would lose too much
                      <case>.classes.npy     (X, Y, Z) uint8, class indices
                      <case>.foreground.npz  flat voxel indices of each class, at most 10000 a class
                      <case>.reference.npz   the label map as given, for validation on the scan's own grid
                      <case>.json            the manifest
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from medseg.errors import InputError, MedsegError, RunError
from medseg.files import Output, Record, output_of, outputs_stand, read_record, write_record, written_whole
from medseg.imaging.dataset import Case, Dataset, case_digest, read_case
from medseg.imaging.volume import LabelMap
from medseg.preprocessing.prepare import Undo, prepare, prepare_labels
from medseg.preprocessing.settings import PreprocessingSettings

VERSION = 1
FOREGROUND_VOXELS = 10_000  # a class; more would not change where patches are drawn
FLOAT16_LOSS = 1e-3  # in standard deviations of the normalised image


class CachedCase(Record):
    """The manifest of one prepared case."""

    version: int
    case: str
    key: str
    settings: str  # digest of the preprocessing settings
    spacing_mm: tuple[float, float, float]
    undo: Undo
    outputs: tuple[Output, ...]


@dataclass(frozen=True)
class CacheJob:
    """What one case's preparation needs; small, so that it can cross to a worker process."""

    case: Case
    dataset: Dataset
    settings: PreprocessingSettings
    folder: Path


def prepare_case(job: CacheJob) -> CachedCase:
    """Prepare one case and keep it, unless it stands already for the same files and settings.

    Raises:
        InputError, GeometryError: the case cannot be read or its label does not fit.
        ResourceError: the disk is full, or a file of the case cannot be opened.
    """
    key = cache_key(job)
    manifest = job.folder / f"{job.case.name}.json"
    stands = standing(job.folder, job.case.name)
    if stands is not None and stands.key == key:
        return stands
    manifest.unlink(missing_ok=True)  # from here on the case counts as not prepared
    readings, labels, _ = read_case(job.case, job.dataset)
    prepared = prepare([reading.volume for reading in readings], job.settings)
    classes = prepare_labels(labels, prepared.undo, sorted(job.dataset.labels))
    written = (
        _save(job, "image", _smallest(prepared.image_CXYZ)),
        _save(job, "classes", classes),
        _save_several(job, "foreground", foreground_voxels(classes, key)),
        _save_several(job, "reference", {"labels": np.asarray(labels.array)}),
    )
    record = CachedCase(
        version=VERSION,
        case=job.case.name,
        key=key,
        settings=settings_digest(job.settings),
        spacing_mm=prepared.spacing_mm,
        undo=prepared.undo,
        outputs=tuple(output_of(path) for path in written),
    )
    write_record(manifest, record)
    return record


def cache_key(job: CacheJob) -> str:
    """A digest of all that the prepared case depends on: the case as it is read, and the settings."""
    if job.case.label is None:
        raise InputError("has no label map", job.case.name)
    told = json.dumps([VERSION, job.settings.model_dump(), case_digest(job.case, job.dataset)], sort_keys=True)
    return hashlib.sha256(told.encode()).hexdigest()


def settings_digest(settings: PreprocessingSettings) -> str:
    """Changes whenever a prepared case would."""
    return hashlib.sha256(settings.model_dump_json().encode()).hexdigest()


def standing(folder: Path, case: str) -> CachedCase | None:
    """The manifest of a prepared case if it is whole, else None: an interrupted or older one is done again."""
    manifest = folder / f"{case}.json"
    if not manifest.is_file():
        return None
    try:
        record = read_record(manifest, CachedCase)
    except MedsegError:
        return None
    return record if record.version == VERSION and outputs_stand(folder, record.outputs) else None


def foreground_voxels(classes: npt.NDArray[np.uint8], key: str) -> dict[str, npt.NDArray[np.int64]]:
    """For each class but 0 up to 10000 flat indices of its voxels, drawn by a seed that the key gives."""
    rng = np.random.default_rng(int(key[:16], 16))
    found: dict[str, npt.NDArray[np.int64]] = {}
    for value in np.unique(classes):
        if value > 0:
            where = np.flatnonzero(classes == value)
            if where.size > FOREGROUND_VOXELS:
                where = np.sort(rng.choice(where, FOREGROUND_VOXELS, replace=False))
            found[str(int(value))] = where
    return found


def _smallest(image: npt.NDArray[np.float32]) -> npt.NDArray[Any]:
    with np.errstate(over="ignore"):
        half = image.astype(np.float16)
    loss = np.abs(half.astype(np.float32) - image).max(initial=0.0)
    return half if np.isfinite(loss) and loss <= FLOAT16_LOSS else image


def _save(job: CacheJob, what: str, array: npt.NDArray[Any]) -> Path:
    path = job.folder / f"{job.case.name}.{what}.npy"
    with written_whole(path) as beside:
        np.save(beside, np.ascontiguousarray(array), allow_pickle=False)
    return path


def _save_several(job: CacheJob, what: str, arrays: dict[str, Any]) -> Path:
    path = job.folder / f"{job.case.name}.{what}.npz"
    with written_whole(path) as beside:
        np.savez_compressed(beside, **arrays)
    return path


@dataclass(frozen=True, eq=False)
class LoadedCase:
    """A prepared case: image (C, X, Y, Z) and classes (X, Y, Z), mapped from disk, and where classes lie."""

    name: str
    image_CXYZ: npt.NDArray[Any]
    classes_XYZ: npt.NDArray[np.uint8]
    foreground: dict[int, npt.NDArray[np.int64]]
    spacing_mm: tuple[float, float, float]
    undo: Undo


def load_cases(folder: Path, names: Sequence[str], settings: PreprocessingSettings) -> tuple[LoadedCase, ...]:
    """Open the prepared cases; arrays are memory-mapped, so that a data set larger than memory works.

    Raises:
        RunError: a case is not (wholly) prepared, or was prepared by other settings.
    """
    return tuple(_load(folder, name, settings_digest(settings)) for name in names)


def _load(folder: Path, name: str, settings: str) -> LoadedCase:
    record = standing(folder, name)
    if record is None or record.settings != settings:
        raise RunError(f"case {name} is not prepared", folder, "run medseg plan again with the same options")
    with np.load(folder / f"{name}.foreground.npz", allow_pickle=False) as file:
        foreground = {int(k): file[k] for k in file.files}
    return LoadedCase(
        name=name,
        image_CXYZ=np.load(folder / f"{name}.image.npy", mmap_mode="r", allow_pickle=False),
        classes_XYZ=np.load(folder / f"{name}.classes.npy", mmap_mode="r", allow_pickle=False),
        foreground=foreground,
        spacing_mm=record.spacing_mm,
        undo=record.undo,
    )


def load_reference(folder: Path, case: LoadedCase, names: dict[int, str]) -> LabelMap:
    """The case's label map as it was given, on the scan's own grid."""
    with np.load(folder / f"{case.name}.reference.npz", allow_pickle=False) as file:
        return LabelMap(file["labels"], case.undo.grid, names)
