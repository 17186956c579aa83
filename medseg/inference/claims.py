"""Taking turns at the records of an output folder that all runs on it, or on parts of it, write."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from medseg.errors import explained
from medseg.locks import lock

_RECORDS = ".records.lock"


@contextmanager
def records_alone(out: Path) -> Iterator[None]:
    """Read, change and write the records of the whole folder while no other run does; held for moments only.

    Raises:
        ResourceError: the folder cannot be written to, or its file system knows no locks.
    """
    folder = out / "cases"
    with explained(out):
        folder.mkdir(parents=True, exist_ok=True)
    with lock(folder / _RECORDS):
        yield
