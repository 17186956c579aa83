"""Passing over the first elements of a DICOM file without reading them.

What says how pixels are stored comes late in a header, behind a hundred elements and more. To hop from one to the
next by its length is several times faster than to parse them, which is most of the work of reading a plain series.
"""

from __future__ import annotations

import struct
from io import BufferedIOBase

from pydicom.uid import UID, ExplicitVRBigEndian
from pydicom.valuerep import EXPLICIT_VR_LENGTH_16, EXPLICIT_VR_LENGTH_32

_BLOCK = 1 << 14
_UNDEFINED = 0xFFFFFFFF
_META_STARTS = 132  # after the preamble and the mark
_UID_AT_MOST = 64
_SHORT = frozenset(vr.encode() for vr in EXPLICIT_VR_LENGTH_16)  # representations whose length takes two bytes, ...
_LONG = frozenset(vr.encode() for vr in EXPLICIT_VR_LENGTH_32)  # ... and four, behind two reserved ones


def skip_to(file: BufferedIOBase, group: int) -> UID | None:
    """Move `file` to its first element of at least `group`, or to one before it whose end is not plain to see.

    Returns the transfer syntax; None, wherever the file stands then, if it has to be parsed from its beginning: it has
    no mark or no meta header, is deflated or big endian, or is not stored in the way that it says.
    """
    walk = _Walk(file)
    if walk.bytes_at(128, 4) != b"DICM":
        return None
    syntax = None
    walk.at = _META_STARTS
    while (found := walk.element(implicit=False)) is not None and found.group == 0x0002:
        if found.number == 0x0010 and found.end - found.start <= _UID_AT_MOST:
            said = walk.bytes_at(found.start, found.end - found.start)
            syntax = UID(said.rstrip(b"\0 ").decode("latin-1"))
        walk.at = found.end
    if syntax is None or not syntax.is_transfer_syntax or syntax.is_deflated or syntax == ExplicitVRBigEndian:
        return None
    if (walk.bytes_at(walk.at + 4, 2) in _SHORT | _LONG) == syntax.is_implicit_VR:
        return None
    while (found := walk.element(syntax.is_implicit_VR)) is not None and found.group < group:
        walk.at = found.end
    file.seek(walk.at)
    return syntax


class _Element:
    """A tag, and where its value starts and ends."""

    __slots__ = ("end", "group", "number", "start")

    def __init__(self, group: int, number: int, start: int, length: int) -> None:
        self.group, self.number, self.start, self.end = group, number, start, start + length


class _Walk:
    """A place in a file, from which elements are hopped over; the file is read in blocks."""

    def __init__(self, file: BufferedIOBase) -> None:
        self._file, self._base = file, 0
        file.seek(0)
        self._block = file.read(_BLOCK)
        self.at = 0

    def bytes_at(self, at: int, n: int) -> bytes:
        """The `n` bytes at `at`; fewer at the end of the file."""
        if not self._base <= at or at + n > self._base + len(self._block):
            self._file.seek(at)
            self._base, self._block = at, self._file.read(_BLOCK)
        return self._block[at - self._base : at - self._base + n]

    def element(self, implicit: bool) -> _Element | None:
        """The element that begins here (little endian); None where its end is not plain to see."""
        head = self.bytes_at(self.at, 12)
        if len(head) < 12:  # no pixels come in so few bytes
            return None
        group, number = struct.unpack_from("<HH", head)
        if implicit:
            start, length = self.at + 8, struct.unpack_from("<I", head, 4)[0]
        elif head[4:6] in _SHORT:
            start, length = self.at + 8, struct.unpack_from("<H", head, 6)[0]
        elif head[4:6] in _LONG:
            start, length = self.at + 12, struct.unpack_from("<I", head, 8)[0]
        else:
            return None
        return None if length == _UNDEFINED else _Element(group, number, start, length)
