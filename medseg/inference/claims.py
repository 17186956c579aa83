"""Several runs on one output folder: who works on which part of it, and taking turns at the records that all write.

The system lets go of these locks however a process ends, so nothing has to be cleared away after a crash.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from medseg.errors import InputError, explained
from medseg.inference.asked import Part
from medseg.locks import lock, try_lock

_RECORDS, _CLAIMS, _RUNNING = ".records.lock", ".claims.lock", ".running-{}-of-{}.lock"


@contextmanager
def records_alone(out: Path) -> Iterator[None]:
    """Read, change and write the records of the whole folder while no other run does; held for moments only.

    Raises:
        ResourceError: the folder cannot be written to, or its file system knows no locks.
    """
    with lock(_folder(out) / _RECORDS):
        yield


@contextmanager
def claimed(out: Path, part: Part) -> Iterator[None]:
    """Keep others from the same part of the folder, and from all of it; other parts of as many may go on beside.

    Raises:
        InputError: another run has the part, or the folder is shared out in another way at this moment.
        ResourceError: the folder cannot be written to, or its file system knows no locks.
    """
    folder = _folder(out)
    mine = folder / _RUNNING.format(part.number, part.of)
    with ExitStack() as claim:
        with lock(folder / _CLAIMS):
            _refuse_another_share(folder, part, out)
            if not claim.enter_context(try_lock(mine)):
                which = "it" if part.of == 1 else f"part {part.words} of it"
                raise InputError(f"another medseg works on {which} at this moment", out, _WAIT)
        try:
            yield
        finally:
            with lock(folder / _CLAIMS):  # else it could be another's by the time that it is deleted
                claim.close()
                mine.unlink(missing_ok=True)


_WAIT = "wait for it, or name another output folder"


def _refuse_another_share(folder: Path, part: Part, out: Path) -> None:
    """Parts of another number hold other scans: some would be done twice at once."""
    like = _RUNNING.format("*", part.of)
    for other in sorted(folder.glob(_RUNNING.format("*", "*"))):
        if other.match(like):
            continue
        with try_lock(other) as free:
            if not free:
                number, of = other.name.removeprefix(".running-").removesuffix(".lock").split("-of-")
                which = "all of it" if of == "1" else f"part {number}/{of} of it"
                what = f"another medseg works on {which}, this would be {_called(part)}"
                raise InputError(what, out, "wait for it, or give parts of one number")


def _called(part: Part) -> str:
    return "all of it" if part.of == 1 else f"part {part.words}"


def _folder(out: Path) -> Path:
    folder = out / "cases"
    with explained(out):
        folder.mkdir(parents=True, exist_ok=True)
    return folder
