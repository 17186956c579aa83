"""The worker's side: one job from its sheet to its outcome. It runs inside a Dask worker and knows nothing of Dask."""

from __future__ import annotations

import socket
import traceback
from dataclasses import dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from medseg.cluster.sheets import Sheet, read_sheet, understood
from medseg.errors import MedsegError
from medseg.parallel import Unforeseen
from medseg.resources import M_MMAP_THRESHOLD, M_TRIM_THRESHOLD, peak_memory_bytes, told_to_malloc

SAME = ("medseg", "torch", "numpy", "numba")  # of other versions the same case could end with other bytes

KEPT_BYTES = 32 << 20

Versions = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a job, as a value: an error that was raised would be kept, with its words, by the scheduler.

    unfit: why this worker can do no job at all. peak_bytes: the most memory that its process ever held.
    """

    peak_bytes: int | None = None
    value: Any = None
    error: Exception | None = None
    unfit: str = ""


def versions() -> Versions:
    """Of the packages that must be the same everywhere; a program that is no package counts by its absence."""
    return tuple(_version(name) for name in SAME)


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "none"


def unlike(theirs: Versions, host: str) -> str:
    """In what a worker's packages differ from those here, in words; else empty."""
    pairs = zip(SAME, versions(), theirs, strict=True)
    differ = [f"{name} {their} where this is {ours}" for name, ours, their in pairs if ours != their]
    return f"the worker on {host} has {', '.join(differ)}" if differ else ""


@dataclass(frozen=True, slots=True)
class About:
    """What a worker says of itself before any work: its packages, and whether it sees the shared folder."""

    host: str
    versions: Versions
    sees: bool


def about(nonce: str) -> About:
    """Say it; `nonce` is a file that the driver wrote into the shared folder."""
    return About(socket.gethostname(), versions(), Path(nonce).is_file())


@cache
def keep_blocks() -> bool:
    """Let glibc keep freed blocks of up to 32 MB, as it learns to by itself where nobody sets it otherwise. Dask has
    its workers give back every page at once (MALLOC_TRIM_THRESHOLD_): a network on a CPU takes twice as long by that.

    True if done, once in each process; other C libraries are left as they are.
    """
    return told_to_malloc({M_MMAP_THRESHOLD: KEPT_BYTES, M_TRIM_THRESHOLD: 2 * KEPT_BYTES})


def do_job(path: str, digest: str, wanted: Versions) -> Outcome:
    """Do what the sheet says. All errors are part of the outcome."""
    host = socket.gethostname()
    if wanted != versions():
        return Outcome(unfit=f"the worker on {host} has other versions of medseg's packages")
    keep_blocks()
    try:
        told = read_sheet(Sheet(path, digest))
    except MedsegError:
        return Outcome(unfit=f"the worker on {host} does not see the folder that results are written to")
    try:
        work, arguments = understood(told)
        return Outcome(value=work(*arguments), peak_bytes=peak_memory_bytes())
    except (MedsegError, MemoryError) as error:
        return Outcome(error=error, peak_bytes=peak_memory_bytes())
    except Exception:
        return Outcome(error=Unforeseen(traceback.format_exc()), peak_bytes=peak_memory_bytes())
