"""What a worker on another machine is told to do, as files of a private folder on the disk that all machines share.

Over the wire goes only where such a sheet lies and its digest: a scheduler keeps what is sent through it, writes it
into logs, and may be somebody else's, while a job may name folders that are called after patients. A sheet holds what
Dask would have sent, in its own form. That form can make a program run: so the folder is open to its owner alone, and a
worker reads no sheet but the very one whose digest it was given by the authenticated driver.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from shutil import rmtree
from typing import Any

from distributed.protocol.serialize import deserialize_bytes, serialize_bytes

from medseg.errors import ResourceError, explained
from medseg.files import stray_name


@dataclass(frozen=True, slots=True)
class Sheet:
    """Where one job is written down, and the SHA-256 of its bytes."""

    path: str
    digest: str


class Sheets:
    """A private folder of sheets, on the shared disk; it is made when it is first needed."""

    def __init__(self, within: Path) -> None:
        self.folder = within.resolve() / stray_name("cluster")
        self._count = 0

    def make(self) -> Path:
        """The folder, mode 0700.

        Raises:
            ResourceError: it cannot be made.
        """
        with explained(self.folder.parent):
            self.folder.parent.mkdir(parents=True, exist_ok=True)
            self.folder.mkdir(mode=0o700, exist_ok=True)
        return self.folder

    def write(self, work: Callable[..., Any], arguments: tuple[Any, ...]) -> Sheet:
        """Write a job down.

        Raises:
            ResourceError: the disk is full.
        """
        told = bytes(serialize_bytes((work, arguments)))
        self._count += 1
        path = self.make() / f"{self._count}.job"
        with explained(path), open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:  # noqa: PTH123
            file.write(told)
        return Sheet(str(path), hashlib.sha256(told).hexdigest())

    def remove(self) -> None:
        """Remove the folder with all that lies in it."""
        rmtree(self.folder, ignore_errors=True)


def read_sheet(sheet: Sheet) -> bytes:
    """The bytes of a sheet.

    Raises:
        ResourceError: it cannot be seen from here, or is not what was written.
    """
    with explained("a job of this run"):
        told = Path(sheet.path).read_bytes()
    if hashlib.sha256(told).hexdigest() != sheet.digest:
        raise ResourceError("a job of this run is not what was written", fix="check the disk that the machines share")
    return told


def understood(told: bytes) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    """The work that a sheet tells of, and its arguments."""
    work, arguments = deserialize_bytes(told)
    return work, arguments
