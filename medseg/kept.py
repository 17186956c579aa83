"""Records of finished cases, so that the same command goes on where it was ended, and parts fill one folder together.

FOLDER/<case>.json    what was found, and what it was found from; one that failed says why, and is tried again
    .key              mode 0600: the secret of the names of DICOM, so that all parts give the same ones
    .joint.lock       held by whoever looks whether all is done, and writes the joint result

A record is checked on reading, and what it was made from can be read again: so nobody waits until it is on the disk,
which would take longer than scoring a small case.
"""

from __future__ import annotations

import hashlib
import json
import secrets
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any, Generic, Literal, TypeVar

from pydantic import ValidationError

from medseg.errors import InputError, explained
from medseg.files import Record, read_record, sha256, stamp, write_text
from medseg.locks import lock
from medseg.parts import WHOLE, Part

JOIN_PATIENCE_S = 1800.0  # summarising thousands of cases takes minutes
_KEY, _JOINT = ".key", ".joint.lock"

R = TypeVar("R", bound=Record)


class _Entry(Record):
    """What is kept of a case. asked: digest of what was asked for; content: of the bytes that it was made from; stamp:
    of the sizes and times of their files, which spares reading them again.
    """

    version: Literal[1] = 1
    asked: str
    content: str
    stamp: str
    failure: str = ""
    record: Any = None


@dataclass(frozen=True, slots=True)
class Subject:
    """A case as its record knows it: its name, all files that it is made from, and what else it depends on."""

    name: str
    files: tuple[Path, ...]
    said: str = ""


@dataclass(frozen=True, slots=True)
class Ended(Generic[R]):
    """What came of a case: its record, unless there is none, and why it failed, if it did."""

    record: R | None
    failure: str = ""


@dataclass(frozen=True, slots=True)
class PartDone:
    """The end of a part before all others: the joint result is not written. `left`: cases of others that are missing;
    `failed`: those of this part. none left: another part writes it, or did.
    """

    part: Part
    left: int
    failed: Mapping[str, str] = field(default_factory=dict)

    @property
    def words(self) -> str:
        """One line for a person."""
        if not self.left:
            return f"part {self.part.words} is done; another part writes the result"
        return f"part {self.part.words} is done; the result is written when {self.left} case(s) of other parts are"


def digest_of(*values: Any) -> str:
    """A digest of what was asked for (plain values), and of the version of medseg."""
    return hashlib.sha256(json.dumps([version("medseg"), *values], sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class Kept(Generic[R]):
    """A folder of records of one kind; small, so that it can cross to a worker process.

    asked: a digest of what all of them depend on, such as settings. holds: whether what a record tells of is there.
    """

    folder: Path
    kind: type[R]
    asked: str
    holds: Callable[[R], bool] | None = None

    def done(self, of: Subject) -> R | None:
        """The record of a finished case, if all that it was made from is as it was; None where it is to be made."""
        ended = self.ended(of)
        return ended.record if ended is not None and not ended.failure else None

    def ended(self, of: Subject) -> Ended[R] | None:
        """What came of a case, be it a failure; None where nothing of it stands."""
        entry = self._entry(of)
        if entry is None:
            return None
        if not entry.stamp or entry.stamp != _stamp(of):
            content = _content(of)
            if not content or entry.content != content:
                return None
        try:
            record = None if entry.record is None else self.kind.model_validate(entry.record)
        except ValidationError:
            return None
        gone = record is not None and self.holds is not None and not self.holds(record)
        return None if gone else Ended(record, entry.failure)

    def made(self, of: Subject, make: Callable[[], R], failed: Callable[[R], str] | None = None) -> R:
        """The record that stands, else the one that `make` makes, which is kept.

        failed: why a record counts as that of a failed case, which is tried again; empty if it does not.

        Raises:
            ResourceError: it cannot be written.
            And what `make` raises; nothing is kept then.
        """
        if (stands := self.done(of)) is not None:
            return stands
        stamp, content = _stamp(of), _content(of)  # of before it is read: a change meanwhile will be seen
        record = make()
        failure = failed(record) if failed is not None else ""
        self._write(of, _Entry(asked=self.asked, content=content, stamp=stamp, failure=failure, record=record))
        return record

    def fail(self, of: Subject, reason: str) -> None:
        """Let other parts know that a case failed; it is tried again by the same command."""
        entry = _Entry(asked=self.asked, content=_content(of), stamp=_stamp(of), failure=reason)
        self._write(of, entry)

    def _entry(self, of: Subject) -> _Entry | None:
        path = self._path(of)
        if not path.is_file():
            return None
        try:
            entry = read_record(path, _Entry)
        except InputError:
            return None  # damaged, or of another version
        return entry if entry.asked == self.asked else None

    def _write(self, of: Subject, entry: _Entry) -> None:
        write_text(self._path(of), entry.model_dump_json() + "\n", synced=False)

    def _path(self, of: Subject) -> Path:
        return self.folder / f"{of.name}.json"


@dataclass(slots=True)
class Share(Generic[R]):
    """The cases of one part: what was done before, what is to be done, and what came of it.

    kept: None where nothing is kept. every: all cases of all parts.
    """

    kept: Kept[R] | None
    part: Part
    every: Sequence[Subject]
    done: dict[str, R] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    before: int = 0

    def look(self) -> None:
        """Take up what stands of this part's cases."""
        for one in self.mine:
            if self.kept is not None and (record := self.kept.done(one)) is not None:
                self.done[one.name] = record
        self.before = len(self.done)

    @property
    def mine(self) -> list[Subject]:
        """The cases of this part."""
        return [one for one in self.every if self.part.holds(one.name)]

    def is_todo(self, name: str) -> bool:
        """Whether this part has that case, and it is not done."""
        return self.part.holds(name) and name not in self.done

    @property
    def told(self) -> str:
        """What was done before, in words; else empty."""
        return f"{self.before} of {len(self.mine)} already done" if self.before else ""

    def fail(self, of: Subject, reason: str) -> None:
        """One of its cases failed; the other parts learn it."""
        self.failed[of.name] = reason
        if self.kept is not None and self.part != WHOLE:
            self.kept.fail(of, reason)

    def join(self) -> PartDone | None:
        """Take up what the other parts did; None if nothing is missing, else what to say of it."""
        left, own = 0, dict(self.failed)
        for one in self.every:
            if self.part.holds(one.name):
                continue
            ended = self.kept.ended(one) if self.kept is not None else None
            if ended is None:
                left += 1
                continue
            if ended.record is not None:
                self.done[one.name] = ended.record
            if ended.failure:
                self.failed[one.name] = ended.failure
        return PartDone(self.part, left, own) if left else None


@contextmanager
def joining(folder: Path) -> Iterator[None]:
    """One after the other: who looks whether all cases are done, and writes the joint result if they are.

    Raises:
        ResourceError: as `locks.lock`.
    """
    with lock(folder / _JOINT, JOIN_PATIENCE_S):
        yield


def shared_key(folder: Path) -> str:
    """The secret (hex) of all that work in this folder; whoever comes first makes it.

    Raises:
        ResourceError: it cannot be read or written.
    """
    path = folder / _KEY
    with lock(folder / _JOINT, JOIN_PATIENCE_S), explained(path):
        if not path.is_file():
            write_text(path, secrets.token_hex(16), private=True)
        return path.read_text(encoding="ascii").strip()


def _content(of: Subject) -> str:
    """A digest of the bytes of its files; empty where one cannot be read."""
    try:
        sizes = [path.stat().st_size for path in of.files]
        return hashlib.sha256(f"{sizes} {of.said} {sha256(of.files)}".encode()).hexdigest()
    except (OSError, InputError):
        return ""


def _stamp(of: Subject) -> str:
    try:
        return stamp(of.files, time.time(), of.said)
    except OSError:
        return ""
