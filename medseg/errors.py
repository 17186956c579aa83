"""The errors of medseg: what happened, where, and what to do about it.

MedsegError            shown as one line, never with a traceback, never retried
  InputError           what was given cannot be used (a file, a folder, an option)
    GeometryError      arrays and grids, or two grids, that do not fit each other
  RunError             a run folder that is missing, unfinished, or made for something else
  ResourceError        the disk, the memory or a permission gave out
  CasesFailed          some cases failed; the others are done and kept
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

DONE, SOME_FAILED, WRONG_USE, INTERRUPTED = 0, 1, 2, 130


class MedsegError(Exception):
    """One line for a person: what happened, where (a path or case), what to do about it.

    What happened may begin with a stable code in brackets, for programs: `[TRUNCATED] is cut short`.
    """

    exit_code = WRONG_USE

    def __init__(self, what: str, where: str | Path = "", fix: str = "") -> None:
        self.what, self.where, self.fix = what, str(where), fix
        super().__init__(what, self.where, fix)  # all three, so that it crosses process borders whole

    def __str__(self) -> str:
        line = f"{self.where}: {self.what}" if self.where else self.what
        return f"{line}; {self.fix}" if self.fix else line


_CODES = re.compile(r"\[([A-Z_]+(?:, [A-Z_]+)*)\] ?")


def codes_in(said: str) -> list[str]:
    """The stable codes that stand in brackets in what an error says, in their order."""
    return [code for codes in _CODES.findall(said) for code in codes.split(", ")]


def without_codes(said: str) -> str:
    """What an error says to a person who is told what kind of error it is."""
    return _CODES.sub("", said)


class InputError(MedsegError):
    """Something that the user gave cannot be used."""


class GeometryError(InputError):
    """An array does not fill its grid, or two grids that must be equal differ."""


class RunError(MedsegError):
    """A run folder is missing, unfinished, or was made for something else."""


class ResourceError(MedsegError):
    """The disk, the memory or a permission gave out; nothing half-written is left behind."""


class CasesFailed(MedsegError):
    """Some cases failed; all others are done and kept."""

    exit_code = SOME_FAILED

    def __init__(self, failed: dict[str, str]) -> None:
        self.failed = failed
        names = ", ".join(sorted(failed)[:5]) + (", ..." if len(failed) > 5 else "")
        super().__init__(
            f"{len(failed)} case(s) failed: {names}",
            fix="the others are done; mend these and run the same command again",
        )

    def __reduce__(self) -> tuple[type[CasesFailed], tuple[dict[str, str]]]:
        return CasesFailed, (self.failed,)


def by_name(failures: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Names and reasons of what failed; what is called alike, such as two files without a name of their own, is told
    apart by a number.
    """
    found: dict[str, str] = {}
    for name, reason in failures:
        n, told = 1, name
        while told in found:
            n += 1
            told = f"{name} ({n})"
        found[told] = reason
    return found


@contextmanager
def explained(where: str | Path) -> Iterator[None]:
    """Turn the operating system's refusals at `where` into a ResourceError that says what to do.

    Raises:
        ResourceError: disk full, permission denied, read-only, or another OSError.
    """
    try:
        yield
    except OSError as error:
        raise ResourceError(_reason(error), where or str(error.filename or ""), _advice(error)) from error


def _number(error: OSError) -> int:
    """The system's number for the error; numpy tells of a write that was cut short by words alone."""
    return error.errno or (errno.ENOSPC if "requested and" in str(error) else 0)


def _reason(error: OSError) -> str:
    return os.strerror(_number(error)).lower() if _number(error) else str(error)


def _advice(error: OSError) -> str:
    match _number(error):
        case errno.ENOSPC | errno.EDQUOT:
            return "free some space there or choose another folder, then run the same command again"
        case errno.EACCES | errno.EPERM | errno.EROFS:
            return "choose a place where you may read and write"
        case errno.ENOTDIR | errno.EEXIST | errno.EISDIR:
            return "name a folder that is not a file"
        case _:
            return "check the path and the disk, then run the same command again"
