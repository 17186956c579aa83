"""Locks between processes: a file that one holder has at a time, let go by the system however its process ends."""

from __future__ import annotations

import errno
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from medseg.errors import ResourceError, explained

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl

PATIENCE_S = 60.0  # short locks are held for milliseconds: who waits longer waits for something that hangs
_PAUSE_S = 0.02
_HELD = {errno.EACCES, errno.EAGAIN, errno.EDEADLK}  # the system's words for a lock that another holds


@contextmanager
def try_lock(path: Path) -> Iterator[bool]:
    """Hold the lock of the file at `path`, which is made where it is missing; False if another holds it.

    Raises:
        ResourceError: the file cannot be written to, or its file system knows no locks.
    """
    with _opened(path) as file:
        yield _taken(file, path)


@contextmanager
def lock(path: Path, patience_s: float = PATIENCE_S) -> Iterator[None]:
    """Hold the lock of the file at `path`, after whoever holds it now.

    Raises:
        ResourceError: as `try_lock`, or another held it for all of `patience_s`.
    """
    with _opened(path) as file:
        until = time.monotonic() + patience_s
        while not _taken(file, path):
            if time.monotonic() > until:
                what = f"another process has held this lock for {patience_s:.0f} s"
                raise ResourceError(what, path, "end the medseg that hangs, then run the same command again")
            time.sleep(_PAUSE_S)
        yield


@contextmanager
def _opened(path: Path) -> Iterator[BinaryIO]:
    with explained(path):
        file = path.open("ab")
    with file:  # closing it lets the lock go
        yield file


def _taken(file: BinaryIO, path: Path) -> bool:
    try:
        if sys.platform == "win32":
            file.seek(0)  # its locks are of bytes, from where the file stands
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        else:
            fcntl.flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in _HELD:
            return False
        fix = "choose a folder on a disk whose file system has locks"
        raise ResourceError("cannot be locked here", path, fix) from error
    return True
