"""Files that appear whole or not at all: write beside, fsync, rename. Manifests are written last."""

from __future__ import annotations

import hashlib
import json
import lzma
import os
import re
import secrets
import struct
import sys
import time
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from shutil import rmtree
from typing import TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from medseg.errors import InputError, ResourceError, explained

if sys.platform != "win32":
    import resource

# What Python raises on the bytes of a zip that is cut, damaged, encrypted, or packed in a way that it does not know.
BROKEN_ZIP = (zipfile.BadZipFile, zlib.error, lzma.LZMAError, struct.error, EOFError, ValueError, RuntimeError)
SPARE_FILES = 128  # for all else that a process opens
STRAY_AFTER_S = 24 * 3600.0
SETTLED_S = 2.0  # some file systems count so coarsely: a file changed later may be changed again with the same time
_MARK = ".part-"
_STRAY = re.compile(r"\.part-\d+-[0-9a-f]{8}-")  # nobody else's files
RESEARCH_USE = "Research use only; not for diagnosis or treatment."


class Record(BaseModel):
    """A frozen record that is written to disk: unknown keys are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="constants")


R = TypeVar("R", bound=Record)


def stray_name(of: str) -> str:
    """A name that nobody else gives, by which later runs know what this one leaves behind if it is killed."""
    return f"{_MARK}{os.getpid()}-{secrets.token_hex(4)}-{of}"


@contextmanager
def written_whole(path: Path, private: bool = False, synced: bool = True) -> Iterator[Path]:
    """Yield a path to write to; on success it becomes `path` in one step, on any error it is removed.

    The temporary name keeps the suffixes, since writers choose the format by them. synced: wait until the bytes are on
    the disk; what is checked on reading, and can be made again, needs no wait.

    Raises:
        ResourceError: the disk is full or the folder cannot be written to.
    """
    with explained(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        beside = path.with_name(stray_name(path.name))
        try:
            if private:
                beside.touch(mode=0o600)
            yield beside
            if synced:
                sync(beside)
            beside.replace(path)
        finally:
            beside.unlink(missing_ok=True)


def sync(path: Path) -> None:
    """Wait until the bytes of a file are on the disk."""
    with path.open("rb+") as file:
        os.fsync(file.fileno())


@contextmanager
def written_together(folder: Path, within: Path) -> Iterator[Path]:
    """Yield an empty folder in `within`, of the same disk; on success its files move to `folder`, on any error none.

    Raises:
        ResourceError: the disk is full or a folder cannot be written to.
    """
    place = within / stray_name("folder")
    with explained(within):
        place.mkdir(parents=True)
    try:
        yield place
        with explained(folder):
            for path in sorted(place.iterdir()):
                path.replace(folder / path.name)
    finally:
        rmtree(place, ignore_errors=True)  # what a program holds open is swept up by the next run


def write_text(path: Path, text: str, private: bool = False, synced: bool = True) -> None:
    """Write `text` to `path`, whole or not at all; `private` gives mode 0600; `synced` as of `written_whole`."""
    with written_whole(path, private, synced) as beside:
        beside.write_text(text, encoding="utf-8")


def write_record(path: Path, record: Record, private: bool = False) -> None:
    """Write a record as indented JSON, whole or not at all."""
    write_text(path, record.model_dump_json(indent=1) + "\n", private)


def write_json(path: Path, values: object) -> None:
    """Write plain values as indented JSON, whole or not at all."""
    write_text(path, json.dumps(values, indent=1, allow_nan=False) + "\n")


def read_record(path: Path, kind: type[R]) -> R:
    """Read a record back.

    Raises:
        InputError: the file is missing, cut, or does not hold such a record.
    """
    try:
        return kind.model_validate_json(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError("there is no such file", path) from None
    except OSError as error:
        raise InputError(f"cannot be read ({os.strerror(error.errno or 0).lower()})", path) from error
    except (ValidationError, UnicodeDecodeError) as error:
        raise InputError(f"is not a valid {kind.__name__.lower()} file ({_first(error)})", path) from error


def _first(error: ValidationError | UnicodeDecodeError) -> str:
    if isinstance(error, UnicodeDecodeError):
        return "not UTF-8 text"
    problem = error.errors()[0]
    return f"{'.'.join(map(str, problem['loc']))}: {problem['msg']}".strip(": ")


def sha256(paths: Iterable[Path], of: str = "") -> str:
    """SHA-256 over the bytes of the files, in the order given; `of` is the case that they belong to.

    Raises:
        InputError: one cannot be read, or went away; said without its path, which may tell of a patient.
    """
    digest = hashlib.sha256()
    for path in paths:
        try:
            with path.open("rb") as file:
                while block := file.read(1 << 20):
                    digest.update(block)
        except OSError as error:
            why = os.strerror(error.errno).lower() if error.errno else type(error).__name__
            raise InputError(f"a file of it cannot be read ({why})", of) from error
    return digest.hexdigest()


def stamp(paths: Iterable[Path], now: float, said: str = "") -> str:
    """A digest of sizes and times of files, and of what else is `said`: the same later on means the same bytes.

    Empty where a file was changed in the last seconds before `now` (of `time.time`): a change within the same tick of
    the file system's clock would not be seen. The time of the last change of anything about a file counts as well,
    since a program can set back the other, but not this one (Windows keeps the time of making it there).

    Raises:
        OSError: a file is there no more.
    """
    found = [path.stat() for path in paths]
    times = [(one.st_size, one.st_mtime_ns, one.st_ctime_ns) for one in found]
    newest = max((max(one.st_mtime_ns, one.st_ctime_ns) for one in found), default=0) / 1e9
    told = f"{times} {said}" if said else repr(times)
    return hashlib.sha256(told.encode()).hexdigest() if newest < now - SETTLED_S else ""


class Output(Record):
    """One file of a finished case: its name, size and SHA-256."""

    name: str
    bytes: int
    sha256: str


def output_of(path: Path) -> Output:
    """Describe a finished file for its manifest."""
    return Output(name=path.name, bytes=path.stat().st_size, sha256=sha256([path]))


def outputs_stand(folder: Path, outputs: Iterable[Output]) -> bool:
    """True if every output still stands in `folder` with the size that its manifest says.

    Sizes are enough here: files appear only whole, so a file of the right size is the one that was written.
    """
    return all((folder / o.name).is_file() and (folder / o.name).stat().st_size == o.bytes for o in outputs)


def may_open(n: int) -> None:
    """Let this process hold `n` more files open at a time: 1024 is the usual limit, and a data set may have more cases.

    Raises:
        ResourceError: the system does not allow as many.
    """
    if sys.platform == "win32":  # mapped files do not count there
        return
    wanted = sum(1 for _ in Path("/dev/fd").iterdir()) + n + SPARE_FILES
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return
    if hard != resource.RLIM_INFINITY and hard < wanted:
        what = f"{n} files must be open together, and the system allows {hard} in all"
        raise ResourceError(what, fix=f"allow more: ulimit -n {wanted}")
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _is_stray(path: Path) -> bool:
    return _STRAY.match(path.name) is not None


def output_folder(path: Path, stray_after_s: float = STRAY_AFTER_S) -> Path:
    """Make `path` ready to be written into and sweep up what killed writers left right there, a day ago unless told.

    stray_after_s: 0 where nobody else writes there.

    Raises:
        ResourceError: it cannot be made or written to, or is a file.
    """
    with explained(path):
        path.mkdir(parents=True, exist_ok=True)
        probe = path / stray_name("probe")  # a stray as well, if it is left behind
        probe.touch()
        probe.unlink()
        for stray in filter(_is_stray, path.iterdir()):
            with suppress(FileNotFoundError):  # its writer, or another sweeper, was faster
                if time.time() - stray.stat().st_mtime < stray_after_s:
                    continue
                if stray.is_dir():
                    rmtree(stray, ignore_errors=True)
                else:
                    stray.unlink()
    return path
