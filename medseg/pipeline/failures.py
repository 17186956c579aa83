"""`failed.json`: the cases that a command could not do, beside what it did; gone as soon as none is left."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from medseg.errors import explained
from medseg.files import Record, write_record
from medseg.parts import WHOLE, Part


class Failures(Record):
    """Cases that failed, each with its reason in one line; the same command tries them again."""

    version: Literal[1] = 1
    verb: str
    cases: dict[str, str]


def note_failures(folder: Path, verb: str, failed: Mapping[str, str], part: Part = WHOLE) -> None:
    """Write them down, or take away what an earlier run wrote.

    Raises:
        ResourceError: the folder cannot be written to.
    """
    path = folder / ("failed.json" if part == WHOLE else f"failed-{part.number}-of-{part.of}.json")
    if failed:
        write_record(path, Failures(verb=verb, cases=dict(sorted(failed.items()))))
        return
    with explained(folder):
        path.unlink(missing_ok=True)
