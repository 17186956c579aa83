"""What a data set looks like, case by case: geometry, intensities, where labels lie, what a scan is known by again."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from medseg.errors import InputError, MedsegError
from medseg.files import Record, read_record, write_record
from medseg.planning.label_runs import Runs, contiguous, middle, runs_by_value, small_pieces, touches, voxels_within
from medseg.planning.scan_values import QUANTILES, Sketch, Whole, look_at_values, short
from medseg.preprocessing.crop import Box, crop_box, crop_for
from medseg.preprocessing.orientation import turn_to_ras, turned, turned_numbers

if TYPE_CHECKING:
    from medseg.imaging.dataset import Case, Dataset
    from medseg.imaging.source import Reading
    from medseg.imaging.volume import LabelMap

__all__ = [
    "CaseFingerprint",
    "Fingerprint",
    "FingerprintJob",
    "Piece",
    "Sketch",
    "Structure",
    "Whole",
    "fingerprint_case",
    "fingerprint_of",
    "merged",
    "pooled",
]

VERSION = 3
MOST_TOLD = 3  # small pieces of a structure that are kept


class Piece(Record):
    """A small piece of a structure, and its distance from the structure's body."""

    voxels: int
    away_mm: float


class Structure(Record):
    """A structure in one case: voxels, their share of the scan, volume, and centre in the crop (0 to 1 along R, A, S).

    touches: the borders of the scan that it reaches, among L R P A I S. pieces: how many do not touch each other (0:
    not counted). small: those with less than a twentieth of the voxels, farthest from the others first.
    """

    value: int
    voxels: int
    share: float = 0.0
    volume_ml: float
    centre: tuple[float, float, float]
    touches: str = ""
    pieces: int = 1
    small: tuple[Piece, ...] = ()


class CaseFingerprint(Record):
    """One case, in RAS axes; `key` is a digest of all that it was read from: an unchanged case is not read again.

    `patient` is a name that tells nothing of a person (the case's own where it is not known); cases of one patient are
    never in both parts of a fold. `modalities` names the channels, `channels` tells of their labelled voxels, `whole`
    of all. `labels` is a digest of the label map. `outside`: labelled voxels beside the crop, which no network sees.
    `notes` says what was mended or left on reading.
    """

    version: int
    case: str
    patient: str = ""
    key: str
    orientation: str
    spacing_mm: tuple[float, float, float]
    shape: tuple[int, int, int]
    cropped: tuple[int, int, int]
    modalities: tuple[str, ...] = ()
    channels: tuple[Sketch, ...]
    whole: tuple[Whole, ...] = ()
    structures: tuple[Structure, ...]
    labels: str = ""
    outside: int = 0
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
    """The fingerprint of all cases of `parts`, sorted by name; a case may be in several of them.

    Raises:
        InputError: two different cases have the same name.
    """
    cases: dict[str, CaseFingerprint] = {}
    for case in (case for part in parts for case in part.cases):
        if cases.setdefault(case.case, case) != case:
            raise InputError("two different cases have this name", case.case, "give each case its own name")
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
    from medseg.imaging.dataset import case_digest, read_case  # whoever reads records needs none of its libraries

    if job.case.label is None:
        raise InputError("has no label map", job.case.name)
    kept = job.folder / f"{job.case.name}.json"
    said = f"{job.case.patient} {job.dataset.channels} {case_digest(job.case, job.dataset)}"
    key = hashlib.sha256(said.encode()).hexdigest()
    stands = _standing(kept, key)
    if stands is not None:
        return stands
    readings, labels, notes = read_case(job.case, job.dataset)
    record = fingerprint_of(job.case, job.dataset, readings, labels, notes, key)
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


def fingerprint_of(
    case: Case,
    dataset: Dataset,
    readings: Sequence[Reading],
    labels: LabelMap,
    notes: Sequence[str] = (),
    key: str = "",
) -> CaseFingerprint:
    """What a case looks like that was read: its channels, and its label on the grid of the first.

    Voxels that nobody labelled (the data set's `ignore`) count as background.
    """
    grid = readings[0].volume.grid
    turn = turn_to_ras(grid)
    channels = [turned(reading.volume.array, turn) for reading in readings]
    label = contiguous(turned(labels.array, turn).T).T  # read more than once: turned around once
    runs = runs_by_value(label, dataset.ignore)
    labelled = sum(int(of_one.lengths.sum()) for of_one in runs.values())
    seen = [look_at_values(channel, label, labelled, dataset.ignore) for channel in channels]
    box = crop_box(channels, crop_for(dataset.channels))
    x, y, z = (stop - start for start, stop in box)
    shape = label.shape
    spacing_mm = turned_numbers(grid.spacing_mm, turn)
    return CaseFingerprint(
        version=VERSION,
        case=case.name,
        patient=case.patient,
        key=key,
        orientation="".join(grid.axcodes),
        spacing_mm=spacing_mm,
        shape=(shape[0], shape[1], shape[2]),
        cropped=(x, y, z),
        modalities=dataset.channels,
        channels=tuple(sketch for sketch, _ in seen),
        whole=tuple(whole for _, whole in seen),
        structures=_structures(runs, box, label.shape, spacing_mm, grid.voxel_ml),
        labels=_digest(runs, label.shape),
        outside=labelled - sum(voxels_within(of_one, box) for of_one in runs.values()),
        notes=tuple(notes),
    )


def _structures(
    runs: dict[int, Runs], box: Box, shape: Sequence[int], spacing_mm: tuple[float, float, float], voxel_ml: float
) -> tuple[Structure, ...]:
    found = []
    every = small_pieces(list(runs.values()), spacing_mm)
    for (value, of_one), (pieces, small) in zip(runs.items(), every, strict=True):
        voxels = int(of_one.lengths.sum())
        x, y, z = ((at + 0.5 - start) / (stop - start) for at, (start, stop) in zip(middle(of_one), box, strict=True))
        found.append(
            Structure(
                value=value,
                voxels=voxels,
                share=short(voxels / math.prod(shape)),
                volume_ml=short(voxels * voxel_ml),
                centre=(short(x), short(y), short(z)),
                touches=touches(of_one, shape),
                pieces=pieces,
                small=tuple(Piece(voxels=p.voxels, away_mm=short(p.away_mm)) for p in small[:MOST_TOLD]),
            )
        )
    return tuple(found)


def _digest(runs: dict[int, Runs], shape: Sequence[int]) -> str:
    """The same for the same label map, however it was stored; empty where nothing is labelled."""
    digest = hashlib.blake2b(repr(tuple(shape)).encode(), digest_size=8)
    for value, of_one in runs.items():
        digest.update(value.to_bytes(4, "little"))
        for places in (of_one.x, of_one.stop, of_one.y, of_one.z):
            digest.update(places.astype("<i4").tobytes())
    return digest.hexdigest() if runs else ""


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
