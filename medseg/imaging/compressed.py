"""Bytes out of gzip and zlib streams, checked to the last: a checksum that is wrong at the end counts as well."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

MOST = 1032  # deflate makes nothing smaller than by this factor, so a file can be too short for what it claims
_IN, _OUT = 1 << 17, 1 << 20
_SPARE = 1 << 16  # bytes about the wanted ones (a header) that may be kept as well
_EITHER = 32 + zlib.MAX_WBITS  # gzip or zlib, told by their first bytes


def inflate(file: BinaryIO, most: int = _OUT) -> Iterator[bytes]:
    """The decompressed blocks, of `most` bytes each, of all gzip or zlib streams from here to the end of the file.

    Raises:
        EOFError: the file ends before the stream does.
        zlib.error: damaged: a code or checksum is wrong, or something follows the stream (zeros may).
    """
    decoder = zlib.decompressobj(_EITHER)
    while data := file.read(_IN):
        while data:
            if decoder.eof:
                data = data.lstrip(b"\0")
                if not data:
                    break
                decoder = zlib.decompressobj(_EITHER)
            yield decoder.decompress(data, most)
            data = decoder.unused_data if decoder.eof else decoder.unconsumed_tail
    yield decoder.flush()
    if not decoder.eof:
        raise EOFError("the compressed data is cut short")


# Memory for so many bytes, of which the wanted ones end before the second number.
Room = Callable[[int, int], npt.NDArray[np.uint8]]


def new_room(size: int, end: int) -> npt.NDArray[np.uint8]:  # noqa: ARG001  the one that does not care
    """Memory of its own."""
    return np.empty(size, np.uint8)


def inflated_range(file: BinaryIO, start: int, count: int, needed: int, room: Room = new_room) -> npt.NDArray[np.uint8]:
    """`count` decompressed bytes from `start` on, in `room`; the whole stream is checked, but no more than these are
    kept.

    Raises:
        EOFError: the file ends before the stream, or the stream has less than `needed` bytes.
        zlib.error: as `inflate`.
    """
    needed = max(needed, start + count)
    begin = file.tell()
    whole = _at_once(file, needed, count + _SPARE, start + count, room)
    if whole is not None:
        return whole[start : start + count]
    file.seek(begin)
    out = room(count, count)
    at = 0
    for block in inflate(file):
        low, high = max(start, at), min(start + count, at + len(block))
        if low < high:
            out[low - start : high - start] = np.frombuffer(block, np.uint8)[low - at : high - at]
        at += len(block)
    if at < needed:
        raise EOFError("the decompressed data is too short")
    return out


def _at_once(file: BinaryIO, least: int, most: int, end: int, room: Room) -> npt.NDArray[np.uint8] | None:
    """All bytes of a gzip file that holds one stream of `least` to `most` bytes, by libdeflate: twice as fast as zlib.

    None where anything is not as expected: zlib then finds out what it is. That nothing follows the stream, which
    libdeflate does not tell, is known by the checksum and length that end it: they stand at the end of the file alone.
    """
    packed = file.read()
    size = int.from_bytes(packed[-4:], "little")
    if packed[:2] != b"\x1f\x8b" or not least <= size <= most:
        return None
    import imagecodecs  # which loads the codec that is used, in a few milliseconds

    codec: Any = imagecodecs  # its stubs do not know that arrays are taken
    out = room(size, end)
    try:
        found = codec.gzip_decode(packed, out=out)
    except (codec.DeflateError, ValueError):
        return None
    last = codec.deflate_crc32(out).to_bytes(4, "little") + packed[-4:]
    return out if found.size == size and packed.find(last) == len(packed) - len(last) else None
