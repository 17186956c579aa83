"""What a data set looks like, case by case: geometry, intensities of labelled voxels, and where labels lie."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from medseg.errors import InputError, MedsegError
from medseg.files import Record, read_record, write_record
from medseg.imaging.dataset import Case, Dataset, case_digest, read_case
from medseg.preprocessing.crop import nonzero_box, slices
from medseg.preprocessing.orientation import turn_to_ras, turned, turned_numbers

VERSION = 1
QUANTILES = 201  # 0, 0.5, ..., 100 %: holds the 0.5 and 99.5 % points that CT clipping needs


class Sketch(Record):
    """Intensities of a channel's labelled voxels: how many, mean, sd, and quantiles from 0 to 100 % in steps of 0.5."""

    voxels: int
    mean: float
    sd: float
    quantiles: tuple[float, ...]


class Structure(Record):
    """A structure in one case: voxels, volume, and its centre within the crop, 0 to 1 along R, A, S."""

    value: int
    voxels: int
    volume_ml: float
    centre: tuple[float, float, float]


class CaseFingerprint(Record):
    """One case, in RAS axes; `key` is a digest of all that it was read from: an unchanged case is not read again.

    `patient` is a name that tells nothing of a person; cases of one patient are never in both parts of a fold. `notes`
    says what was mended or left on reading.
    """

    version: int
    case: str
    patient: str = ""
    key: str
    orientation: str
    spacing_mm: tuple[float, float, float]
    shape: tuple[int, int, int]
    cropped: tuple[int, int, int]
    channels: tuple[Sketch, ...]
    structures: tuple[Structure, ...]
    notes: tuple[str, ...] = ()


class Fingerprint(Record):
    """A whole data set. Merging two is joining their cases, so the order of merging never matters."""

    version: int = VERSION
    cases: tuple[CaseFingerprint, ...]

    @property
    def digest(self) -> str:
        """Changes whenever a case is added, removed or changed."""
        return hashlib.sha256(repr([(c.case, c.key) for c in self.cases]).encode()).hexdigest()


def merged(*parts: Fingerprint) -> Fingerprint:
    """The fingerprint of all cases of `parts`, sorted by name."""
    cases = {case.case: case for part in parts for case in part.cases}
    return Fingerprint(cases=tuple(cases[name] for name in sorted(cases)))


@dataclass(frozen=True)
class FingerprintJob:
    """What looking at one case needs; small, so that it can cross to a worker process."""

    case: Case
    dataset: Dataset
    folder: Path


def fingerprint_case(job: FingerprintJob) -> CaseFingerprint:
    """Look at one case and keep what was seen in `folder`, unless it stands there for the same files.

    Raises:
        InputError, GeometryError: the case cannot be read, or its channels or its label do not fit.
    """
    if job.case.label is None:
        raise InputError("has no label map", job.case.name)
    kept = job.folder / f"{job.case.name}.json"
    key = hashlib.sha256(f"{job.case.patient} {case_digest(job.case, job.dataset)}".encode()).hexdigest()
    stands = _standing(kept, key)
    if stands is not None:
        return stands
    readings, labels, notes = read_case(job.case, job.dataset)
    grid = readings[0].volume.grid
    turn = turn_to_ras(grid)
    image = np.stack([turned(reading.volume.array, turn) for reading in readings])
    box = nonzero_box(image)
    label = turned(np.asarray(labels.array), turn)
    x, y, z = (stop - start for start, stop in box)
    shape = image.shape[1:]
    record = CaseFingerprint(
        version=VERSION,
        case=job.case.name,
        patient=job.case.patient,
        key=key,
        orientation="".join(grid.axcodes),
        spacing_mm=turned_numbers(grid.spacing_mm, turn),
        shape=(shape[0], shape[1], shape[2]),
        cropped=(x, y, z),
        channels=tuple(_sketch(channel[label > 0]) for channel in image),
        structures=_structures(label[slices(box)], grid.voxel_ml),
        notes=notes,
    )
    write_record(kept, record)
    return record


def _standing(kept: Path, key: str) -> CaseFingerprint | None:
    if not kept.is_file():
        return None
    try:
        record = read_record(kept, CaseFingerprint)
    except MedsegError:
        return None  # written by another version: look again
    return record if record.key == key and record.version == VERSION else None


def _sketch(values: npt.NDArray[np.float32]) -> Sketch:
    if values.size == 0:
        return Sketch(voxels=0, mean=0.0, sd=0.0, quantiles=())
    quantiles = np.quantile(values, np.linspace(0, 1, QUANTILES))
    return Sketch(
        voxels=int(values.size),
        mean=float(values.mean(dtype=np.float64)),
        sd=float(values.std(dtype=np.float64)),
        quantiles=tuple(float(q) for q in quantiles),
    )


def _structures(label: npt.NDArray[np.unsignedinteger], voxel_ml: float) -> tuple[Structure, ...]:
    found = []
    for value in np.unique(label):
        if value == 0:
            continue
        where = np.nonzero(label == value)
        x, y, z = (float((w.mean() + 0.5) / n) for w, n in zip(where, label.shape, strict=True))
        voxels = int(where[0].size)
        found.append(Structure(value=int(value), voxels=voxels, volume_ml=voxels * voxel_ml, centre=(x, y, z)))
    return tuple(found)


def pooled(fingerprint: Fingerprint, channel: int) -> Sketch:
    """One channel's sketch over all cases, each case with equal weight, as nnU-Net samples them.

    Quantiles are read from the mean of the cases' cumulative distributions: a quantile of all quantiles would be
    ruled by the cases' extremes.
    """
    sketches = [c.channels[channel] for c in fingerprint.cases if c.channels[channel].voxels]
    if not sketches:
        return Sketch(voxels=0, mean=0.0, sd=0.0, quantiles=())
    means = np.array([s.mean for s in sketches])
    variance = np.mean([s.sd**2 for s in sketches]) + means.var()
    levels = np.linspace(0, 1, QUANTILES)
    every = np.unique(np.concatenate([s.quantiles for s in sketches]))
    below = np.mean([np.interp(every, s.quantiles, levels) for s in sketches], axis=0)
    return Sketch(
        voxels=sum(s.voxels for s in sketches),
        mean=float(means.mean()),
        sd=float(np.sqrt(variance)),
        quantiles=tuple(float(q) for q in np.interp(levels, below, every)),
    )


def centres(fingerprint: Fingerprint, value: int) -> npt.NDArray[np.float64]:
    """Centres (n, 3) of a structure in the cases that hold it, each from 0 to 1 of the crop along R, A, S."""
    found: Sequence[tuple[float, float, float]] = [
        s.centre for c in fingerprint.cases for s in c.structures if s.value == value
    ]
    return np.array(found, dtype=np.float64).reshape(-1, 3)
