"""The work on one scan in three stages: loaded (read and prepared), computed (labels), written (files and manifest).

The stages of several scans overlap (see `overlap`), so each gets all it needs as one value and keeps nothing.
"""

from __future__ import annotations

import time
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from medseg.errors import InputError, MedsegError
from medseg.files import sha256, written_together
from medseg.imaging.formats import with_data
from medseg.imaging.regrid import is_sheared
from medseg.imaging.scans import Scan, read_scan
from medseg.imaging.source import Reading
from medseg.imaging.volume import Volume
from medseg.inference.asked import Asked
from medseg.inference.case import CasePrediction, Ready, Segmenter
from medseg.inference.manifests import Cases, key_of, stamp_of
from medseg.inference.predictor import Predictor
from medseg.inference.records import Prediction, Unread
from medseg.inference.results import write_results
from medseg.planning.plan import Plan

SMALL_FIELD = 0.5  # a scan whose longest side is shorter than this share of the training scans' is remarked on


@dataclass(frozen=True, slots=True)
class Seen:
    """What a scan's files were when it was read: SHA-256 of their bytes, the stamp of their times, and the key."""

    digest: str
    stamp: str
    key: str


@dataclass(frozen=True, eq=False)
class Loaded:
    """A scan that is read, and prepared for every configuration; `stages_s` is what its stages took."""

    scan: Scan
    seen: Seen
    readings: Sequence[Reading]
    ready: Ready
    stages_s: dict[str, float]


@dataclass(frozen=True, eq=False)
class Answered:
    """A scan and what was found in it."""

    scan: Scan
    seen: Seen
    readings: Sequence[Reading]
    found: CasePrediction
    stages_s: dict[str, float]


@dataclass(frozen=True, eq=False)
class Work:
    """The three stages of every scan, and what they share."""

    segmenter: Segmenter
    cases: Cases
    asked: Asked

    @property
    def model(self) -> str:
        """The digest of the weights."""
        return self.segmenter.predictor.key

    def stands(self, scan: Scan, now: float) -> bool:
        """True if the case is done and its files have the sizes and times that they had then: none of them is read.

        False where a file of it is gone: reading it says so.
        """
        record = None if self.asked.overwrite else self.cases.done(scan.name)
        if record is None or not record.stamp:
            return False
        try:
            same = stamp_of(scan, now) == record.stamp
        except InputError:
            return False
        return same and self.cases.stands(record, key_of(record.scan, self.model, self.told_of(scan)))

    def told_of(self, scan: Scan) -> str:
        """All that a result depends on besides the scan's bytes and the weights, as one text."""
        return f"{self.asked.told_of(scan)} {self.segmenter.predictor.taught}"

    def load(self, scan: Scan) -> Loaded | None:
        """Read and prepare a scan; None if it is done already, which its bytes tell where their times do not.

        Raises:
            InputError, GeometryError: it cannot be read, or its channels are not the plan's.
        """
        began = time.monotonic()
        seen = scan_seen(scan, self.model, self.told_of(scan), time.time())
        record = None if self.asked.overwrite else self.cases.done(scan.name)
        if record is not None and self.cases.stands(record, seen.key):
            if record.stamp != seen.stamp:
                self.cases.finish(record.model_copy(update={"stamp": seen.stamp}))
            self.cases.settle(scan.name)
            return None
        self.cases.forget(scan.name)
        if not self.asked.formats_of(scan):
            raise InputError(f"is no DICOM: {', '.join(self.asked.formats)} cannot be written for it", scan.name)
        readings = read_scan(scan, self.asked.options)
        read = time.monotonic()
        ready = self.segmenter.ready([reading.volume for reading in readings])
        return Loaded(scan, seen, readings, ready, {"read": read - began, "prepare": time.monotonic() - read})

    def compute(self, loaded: Loaded) -> Answered:
        """Find the structures.

        Raises:
            InputError: the network's answer is no number.
            MemoryError: the scan does not fit.
        """
        began = time.monotonic()
        found = self.segmenter.predict(loaded.ready)
        stages_s = {**loaded.stages_s, "predict": time.monotonic() - began}
        return Answered(loaded.scan, loaded.seen, loaded.readings, found, stages_s)

    def write(self, answered: Answered) -> Prediction:
        """Write the files of a case, each read back; when all stand they appear together, and then the manifest.

        Raises:
            GeometryError: a file read back is not what was to be written.
            ResourceError: the disk is full.
        """
        began = time.monotonic()
        with written_together(self.cases.out, self.cases.folder) as place:
            record = _written(answered, self, place)
        stages_s = {**answered.stages_s, "write": time.monotonic() - began}
        rounded = {stage: round(seconds, 3) for stage, seconds in stages_s.items()}
        record = record.model_copy(update={"seconds": round(sum(stages_s.values()), 3), "stages_s": rounded})
        self.cases.finish(record)
        return record

    def fail(self, scan: Scan, reason: str) -> Unread:
        """Note why nothing new is there of a case."""
        failure = Unread(case=scan.name, reason=reason, model=self.model)
        self.cases.fail(failure)
        return failure


def _written(answered: Answered, work: Work, place: Path) -> Prediction:
    """The seam: what was found in a scan becomes files in `place`, and all that its manifest says but the time."""
    scan, readings, found, predictor = answered.scan, answered.readings, answered.found, work.segmenter.predictor
    results = write_results(place, scan, readings, found, predictor, work.asked)
    notes = list(notes_of(readings, found, predictor))
    if found.maps is not None and is_sheared(readings[0].own):
        notes.append("its maps lie on the straightened grid, its labels on its own")
    return Prediction(
        case=scan.name,
        input=scan.source,
        seconds=0.0,
        volumes_ml={row.structure: row.volume_ml for row in results.statistics if row.instance is None},
        warnings=tuple(dict.fromkeys(notes)),
        odd=found.odd,
        trust=results.trust,
        statistics=results.statistics,
        cut=tuple(row.remark for row in results.statistics if row.instance is None and row.cut_at),
        deviation_mm=results.deviation_mm,
        scan=answered.seen.digest,
        stamp=answered.seen.stamp,
        key=answered.seen.key,
        model=predictor.key,
        probabilities_of=found.maps.names if found.maps is not None and found.maps.probabilities is not None else (),
        outputs=results.outputs,
    )


def notes_of(readings: Sequence[Reading], found: CasePrediction, predictor: Predictor) -> Iterator[str]:
    """What the user should know of a scan and of how it was computed, besides what is odd about it."""
    yield from (note for reading in readings for note in reading.notes)
    if predictor.familiar is None:  # else it knows better what is odd
        yield from warnings_of(readings[0].volume, predictor.plan)
    yield from found.told


def scan_seen(scan: Scan, model: str, told: str, now: float) -> Seen:
    """The scan's bytes, and with the model and what else results depend on (`told`) the key of its results; `now` is of
    `time.time`.

    The times are taken first: bytes that change while they are read are then not known by them.

    Raises:
        InputError: a file went away or cannot be read.
    """
    stamp = stamp_of(scan, now)
    digest = sha256(with_data(scan.paths), scan.name)
    return Seen(digest, stamp, key_of(digest, model, told))


def warnings_of(scan: Volume, plan: Plan) -> tuple[str, ...]:
    """What about this scan is unlike the training cases."""
    configuration = plan.configuration
    target = configuration.preprocessing.spacing_mm
    spacing, shape = scan.grid.spacing_mm, scan.grid.shape
    found = []
    known = [t for t in target if t is not None]
    if known and max(spacing) > 4 * max(known):
        found.append(f"its voxels are up to {max(spacing):.3g} mm, the model works at {max(known):.3g} mm")
    if min(shape) == 1 and min(configuration.median_shape) > 1:
        found.append("it is a single slice, the model was trained on volumes")
    extent = [s * n for s, n in zip(spacing, shape, strict=True)]
    trained = [t * n for t, n in zip(target, configuration.median_shape, strict=True) if t is not None]
    if trained and max(extent) < SMALL_FIELD * max(trained):
        found.append(f"its field of view of {max(extent):.0f} mm is less than half of the training scans'")
    return tuple(found)


def reason_of(error: Exception) -> str:
    """Without `where`: it may be a path that names a patient. Of an error that nobody foresaw only its kind, since its
    text may hold anything.
    """
    if isinstance(error, MedsegError):
        return f"{error.what}; {error.fix}" if error.fix else error.what
    if isinstance(error, torch.OutOfMemoryError):
        return "is too large for the memory of the GPU; use --device cpu for it"
    if isinstance(error, MemoryError) or "DefaultCPUAllocator" in str(error):
        return "is too large for the memory of this machine"
    last = traceback.extract_tb(error.__traceback__)[-1]
    return f"[UNEXPECTED] {type(error).__name__} in {Path(last.filename).name}, line {last.lineno}: please report it"
