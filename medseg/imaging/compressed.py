"""Bytes out of gzip and zlib streams, checked to the last: a checksum that is wrong at the end counts as well."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from typing import BinaryIO

import numpy as np
import numpy.typing as npt

MOST = 1032  # deflate makes nothing smaller than by this factor, so a file can be too short for what it claims
_IN, _OUT = 1 << 17, 1 << 20
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


def inflated_range(file: BinaryIO, start: int, count: int, needed: int) -> npt.NDArray[np.uint8]:
    """`count` decompressed bytes from `start` on; the whole stream is checked, but no more than these are kept.

    Raises:
        EOFError: the file ends before the stream, or the stream has less than `needed` bytes.
        zlib.error: as `inflate`.
    """
    out = np.empty(count, np.uint8)
    at = 0
    for block in inflate(file):
        low, high = max(start, at), min(start + count, at + len(block))
        if low < high:
            out[low - start : high - start] = np.frombuffer(block, np.uint8)[low - at : high - at]
        at += len(block)
    if at < max(needed, start + count):
        raise EOFError("the decompressed data is too short")
    return out
