"""Parts of the cases of a folder, that several machines share: which cases a part holds, and who works on which part.

The system lets go of these locks however a process ends, so nothing has to be cleared away after a crash.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from shutil import rmtree

from medseg.errors import InputError, ResourceError, explained
from medseg.locks import lock, try_lock

_PART = re.compile(r"\s*(\d{1,6})\s*/\s*(\d{1,6})\s*")
_CLAIMS, _RUNNING = ".claims.lock", ".running-{}-of-{}.lock"


@dataclass(frozen=True, slots=True)
class Part:
    """Part `number` (from 0) of `of` parts of a folder, that several machines share; 0 of 1 is all of it.

    A scan's part is told by its name alone: where a scan is added or taken away while parts run, or between runs, none
    of the others changes its part, so none is done twice or by nobody. A split of the sorted list would shift.
    """

    number: int = 0
    of: int = 1

    def holds(self, name: str) -> bool:
        """True if the scan called so belongs to this part."""
        digest = hashlib.sha256(name.encode("utf-8", "surrogateescape")).digest()
        return int.from_bytes(digest[:8], "big") % self.of == self.number

    @property
    def words(self) -> str:
        """`0/2`, as it is typed."""
        return f"{self.number}/{self.of}"


WHOLE = Part()


def part_from(text: str) -> Part:
    """Read `I/N`.

    Raises:
        InputError: it is not of this form, or there is no such part.
    """
    match = _PART.fullmatch(text)
    number, of = (int(match[1]), int(match[2])) if match else (0, 0)
    if number >= of:
        raise InputError(f"--part {text} is no part", fix="give I/N with I from 0 to N - 1: 0/2 and 1/2 share a folder")
    return Part(number, of)


@contextmanager
def claimed(of: Path, part: Part, within: str = "cases") -> Iterator[None]:
    """Keep others from the same part of the folder `of`, and from all of it; other parts of as many may go on beside.

    within: the folder in it where the locks of that work lie; it is made where it is missing.

    Raises:
        InputError: another run has the part, or the folder is shared out in another way at this moment.
        ResourceError: the folder cannot be written to, or its file system knows no locks.
    """
    locks = of / within
    with explained(of):
        locks.mkdir(parents=True, exist_ok=True)
    mine = locks / _RUNNING.format(part.number, part.of)
    with ExitStack() as claim:
        with lock(locks / _CLAIMS):
            _refuse_another_share(locks, part, of)
            if not claim.enter_context(try_lock(mine)):
                which = "it" if part.of == 1 else f"part {part.words} of it"
                raise InputError(f"another medseg works on {which} at this moment", of, _WAIT)
        try:
            yield
        finally:
            with lock(locks / _CLAIMS):  # else it could be another's by the time that it is deleted
                claim.close()
                mine.unlink(missing_ok=True)


def is_claimed(of: Path, part: Part, within: str = "cases") -> bool:
    """Whether somebody works on this part of the folder `of` at this moment."""
    locks = of / within
    mine = locks / _RUNNING.format(part.number, part.of)
    with lock(locks / _CLAIMS):  # who looks holds it for a moment, and is not to be taken for one at work
        if not mine.is_file():
            return False
        with try_lock(mine) as free:
            return not free


_WAIT = "wait for it, or name another output folder"


def put_away(folder: Path) -> None:
    """Remove a folder of passing use whose parts were claimed in itself, unless another still works on a part of it.

    Whoever is the last then removes it; one that begins at this very moment is told that the folder went away.
    """
    with suppress(ResourceError):  # then it stays, and does no harm
        with lock(folder / _CLAIMS):
            if any(map(_is_held, folder.glob(_RUNNING.format("*", "*")))):
                return
        rmtree(folder, ignore_errors=True)


def _is_held(path: Path) -> bool:
    with try_lock(path) as free:
        return not free


def _refuse_another_share(locks: Path, part: Part, of: Path) -> None:
    """Parts of another number hold other cases: some would be done twice at once."""
    like = _RUNNING.format("*", part.of)
    for other in sorted(locks.glob(_RUNNING.format("*", "*"))):
        if other.match(like):
            continue
        with try_lock(other) as free:
            if not free:
                number, total = other.name.removeprefix(".running-").removesuffix(".lock").split("-of-")
                which = "all of it" if total == "1" else f"part {number}/{total} of it"
                what = f"another medseg works on {which}, this would be {_called(part)}"
                raise InputError(what, of, "wait for it, or give parts of one number")
        other.unlink(missing_ok=True)  # of one that was killed; nobody takes it up while the claims are held


def _called(part: Part) -> str:
    return "all of it" if part.of == 1 else f"part {part.words}"
