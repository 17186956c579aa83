"""What an output folder knows of each case: a manifest where it is done, a note where it failed. The manifest is
written last, so that a case without one is not done, whatever else of it is there.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from medseg.errors import InputError, explained
from medseg.files import outputs_stand, read_record, stamp, write_record
from medseg.imaging.formats import with_data
from medseg.imaging.scans import Scan
from medseg.imaging.writing.table import FORMATS
from medseg.inference.records import VERSION, Prediction, Unread


@dataclass(frozen=True, slots=True)
class Cases:
    """The folder OUT/cases."""

    out: Path

    @property
    def folder(self) -> Path:
        """Where the manifests stand."""
        return self.out / "cases"

    def done(self, case: str) -> Prediction | None:
        """The manifest of a finished case; None where there is none, or it is damaged or of another version."""
        return _manifest(self._done(case))

    def stands(self, record: Prediction, key: str) -> bool:
        """True if the finished case is the one that `key` asks for, and its outputs are there."""
        return record.key == key and outputs_stand(self.out, record.outputs)

    def finish(self, record: Prediction) -> None:
        """Write the manifest of a case whose outputs stand: from here on it is done."""
        write_record(self._done(record.case), record)
        self.settle(record.case)

    def settle(self, case: str) -> None:
        """The case is done: an older note that it failed goes."""
        with explained(self.out):
            self._failed(case).unlink(missing_ok=True)

    def fail(self, failure: Unread) -> None:
        """Note that a case failed. What was finished before and was not forgotten stays: it may still be right."""
        write_record(self._failed(failure.case), failure)

    def forget(self, case: str) -> None:
        """From here on the case is not done; its older labels go too, as they are not of this scan and model."""
        record = self.done(case)
        named = [Path(output.name).name for output in record.outputs] if record else []
        with explained(self.out):
            self._done(case).unlink(missing_ok=True)
            for name in (*named, *(f"{case}{form.suffix}" for form in FORMATS.values())):
                (self.out / name).unlink(missing_ok=True)

    def every(self) -> tuple[list[Prediction], list[Unread]]:
        """All finished cases of which a whole manifest is there, and all that failed."""
        done = [m for p in sorted(self.folder.glob("[!.]*.done.json")) if (m := _manifest(p)) is not None]
        failed = [f for p in sorted(self.folder.glob("[!.]*.failed.json")) if (f := _failure(p)) is not None]
        return done, failed

    def _done(self, case: str) -> Path:
        return self.folder / f"{case}.done.json"

    def _failed(self, case: str) -> Path:
        return self.folder / f"{case}.failed.json"


def _manifest(path: Path) -> Prediction | None:
    try:
        record = read_record(path, Prediction)
    except InputError:
        return None
    return record if record.version == VERSION else None


def _failure(path: Path) -> Unread | None:
    try:
        record = read_record(path, Unread)
    except InputError:
        return None
    return record if record.version == VERSION else None


def stamp_of(scan: Scan, now: float) -> str:
    """The stamp of the scan's files; see `files.stamp`.

    Raises:
        InputError: a file went away or its header cannot be read.
    """
    try:
        return stamp(with_data(scan.paths), now)
    except OSError:
        raise InputError("a file of it is there no more", scan.name) from None


def key_of(digest: str, model: str, told: str) -> str:
    """A digest of a scan's bytes (`digest`), the model and what was asked: equal means that a finished case stands."""
    return hashlib.sha256(f"{digest} {model} {told}".encode()).hexdigest()
