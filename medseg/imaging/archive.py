"""Zip files, unpacked as if whoever made them meant harm: nothing is written elsewhere, and no more than is bearable.

What stands in a header of the archive is only believed where it leads to a refusal: bytes are counted as they come.
"""

from __future__ import annotations

import re
import shutil
import stat
import struct
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from medseg.errors import InputError, explained
from medseg.files import BROKEN_ZIP

MOST_FILES = 20_000
MOST_BYTES = 50 * 10**9
MOST_RATIO = 200  # bytes out for each byte in, of a member and of the whole
FREE_OF_RATIO = 4 << 20  # bytes: an empty slice is packed a thousandfold, and does no harm
LONGEST_NAME = 100

_BLOCK = 1 << 20
_ENTRY_BYTES = 1024  # of the directory, for each member: its fixed part is 46 bytes, the rest is its name
_DEVICE_NAMES = re.compile(r"(CON|PRN|AUX|NUL|COM\d|LPT\d)(\..*)?", re.IGNORECASE)  # of Windows, in every folder


def is_zip(path: Path) -> bool:
    """True by the content: the mark of a zip file at its beginning, and not that of DICOM after it."""
    try:
        with path.open("rb") as file:
            start = file.read(132)
    except OSError:
        return False
    return start[:4] in (b"PK\x03\x04", b"PK\x05\x06") and start[128:132] != b"DICM"


def extract_zip(path: Path, into: Path, name: str = "archive") -> None:
    """Unpack a zip file into the new folder `into`; on any refusal nothing of it is left there.

    Each folder of the archive becomes a numbered one (`into/0001`), so that no path of the archive is used; files keep
    their own names, cleaned, since the names of image files say which belong together. `name` stands for the archive
    in errors, which show no path and no name out of it.

    Raises:
        InputError: [ARCHIVE] it is damaged, or holds links, special files, encrypted members, paths that lead out of
            it, too many files, or too much.
        ResourceError: the disk is full, or `into` exists or cannot be made.
    """
    with explained(name):
        into.mkdir(parents=True)
        try:
            with _readable(name), path.open("rb") as file:
                _check_directory(file, name)
                with zipfile.ZipFile(file) as archive:
                    _extract(archive, path.stat().st_size, into, name)
        except BaseException:
            shutil.rmtree(into, ignore_errors=True)
            raise


@contextmanager
def _readable(name: str) -> Iterator[None]:
    try:
        yield
    except BROKEN_ZIP as error:
        raise _refused(f"it is damaged or packed in an unknown way ({type(error).__name__})", name) from None


def _refused(what: str, name: str) -> InputError:
    return InputError(f"[ARCHIVE] {what}", name, "unpack it yourself, if you trust it, and give the folder")


def _check_directory(file: BinaryIO, name: str) -> None:
    """Refuse an archive whose list of members would fill the memory, before it is read."""
    file.seek(0, 2)
    size = file.tell()
    file.seek(max(0, size - 65_557 - 76))  # the end record with the longest comment, and the larger one before it
    tail = file.read()
    end = tail.rfind(b"PK\x05\x06")
    if end < 0:
        raise _refused("it is damaged (its list of members is missing)", name)
    n, n_bytes = struct.unpack("<HI", tail[end + 10 : end + 16])
    large = tail.rfind(b"PK\x06\x06", 0, end)
    if large >= 0:
        n, n_bytes = struct.unpack("<QQ", tail[large + 32 : large + 48])
    if n > MOST_FILES or n_bytes > MOST_FILES * _ENTRY_BYTES:
        raise _refused(f"it holds more than {MOST_FILES} files", name)


def _extract(archive: zipfile.ZipFile, size: int, into: Path, name: str) -> None:
    members = archive.infolist()
    if len(members) > MOST_FILES:
        raise _refused(f"it holds more than {MOST_FILES} files", name)
    parts = [_safe_parts(member, name) for member in members]
    most = min(MOST_BYTES, shutil.disk_usage(into).free)
    if sum(member.file_size for member in members) > most:
        raise _refused(f"it holds more than {most / 1e9:.3g} GB", name)
    left = min(most, max(MOST_RATIO * size, FREE_OF_RATIO))
    for member, target in zip(members, _targets(members, parts, into), strict=True):
        if target is None:
            continue
        target.parent.mkdir(exist_ok=True)
        allowed = min(left, max(MOST_RATIO * min(member.compress_size, size), FREE_OF_RATIO))
        with archive.open(member) as source, target.open("xb") as sink:
            while block := source.read(_BLOCK):
                allowed, left = allowed - len(block), left - len(block)
                if allowed < 0:
                    raise _refused(f"it unpacks to more than {MOST_RATIO} times its size, or than there is room", name)
                sink.write(block)


def _safe_parts(member: zipfile.ZipInfo, name: str) -> tuple[str, ...]:
    """The parts of a member's path, if it is an ordinary file or folder that stays within the archive."""
    kind = stat.S_IFMT(member.external_attr >> 16)
    if kind == stat.S_IFLNK:
        raise _refused("it holds a link", name)
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
        raise _refused("it holds a special file", name)
    if member.flag_bits & 0x1:
        raise _refused("it is encrypted", name)
    if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise _refused("it is packed in a way that is not read here", name)
    said = member.orig_filename.replace("\\", "/")
    parts = PurePosixPath(said).parts
    if said.startswith("/") or ".." in parts or "\0" in said or re.match(r"[A-Za-z]:", said):
        raise _refused("it holds a path that leads out of it", name)
    return parts


def _targets(members: Sequence[zipfile.ZipInfo], parts: Sequence[tuple[str, ...]], into: Path) -> Iterator[Path | None]:
    """Where each member goes; None for folders. Names that only differ in case are told apart by a number."""
    folders: dict[tuple[str, ...], int] = {}
    taken: set[str] = set()
    for member, path in zip(members, parts, strict=True):
        if member.orig_filename.endswith(("/", "\\")) or not path:
            yield None
            continue
        number = folders.setdefault(path[:-1], len(folders) + 1)
        target = into / f"{number:04d}" / _clean(path[-1])
        again = 1
        while str(target).lower() in taken:
            again += 1
            target = target.with_name(f"{again}-{_clean(path[-1])}")
        taken.add(str(target).lower())
        yield target


def _clean(file_name: str) -> str:
    """A name that every system takes; hidden files stay hidden, and the end, which tells the format, stays."""
    kept = re.sub(r"[^\w.-]", "_", file_name).rstrip(".") or "_"
    if _DEVICE_NAMES.fullmatch(kept):
        kept = f"_{kept}"
    return kept if len(kept) <= LONGEST_NAME else kept[: LONGEST_NAME - 24] + kept[-24:]
