from __future__ import annotations

import gzip
import io
import tracemalloc
import zlib

import numpy as np
import pytest

from medseg.imaging import compressed
from medseg.imaging.compressed import inflated_range

RAW = np.random.default_rng(0).integers(0, 30, 3000).astype(np.uint8).tobytes()
PACKED = gzip.compress(RAW, mtime=0)
NAMED = PACKED[:3] + b"\x08" + PACKED[4:10] + b"scan.nii\0" + PACKED[10:]


def told(packed: bytes, start: int = 352, count: int = 2000, needed: int = 3000) -> bytes | type[Exception]:
    """What reading gives: the bytes, or the kind of the error."""
    try:
        return inflated_range(io.BytesIO(packed), start, count, needed).tobytes()
    except (EOFError, zlib.error) as error:
        return type(error)


def both(packed: bytes, **what: int) -> bytes | type[Exception]:
    """The same from the fast path and from zlib alone."""
    found = told(packed, **what)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compressed, "_at_once", lambda *_: None)
        assert told(packed, **what) == found
    return found


@pytest.mark.parametrize("packed", [PACKED, NAMED, gzip.compress(RAW, 0), gzip.compress(RAW, 9)])
def test_whole_streams_are_read_at_once(monkeypatch, packed):
    monkeypatch.setattr(compressed, "inflate", None)  # what cannot be read at once would need it
    assert told(packed) == RAW[352:2352]
    assert told(packed, start=0, count=3000) == RAW
    assert told(packed, start=3000, count=0) == b""


def test_the_file_may_stand_anywhere():
    file = io.BytesIO(b"a header of its own" + PACKED)
    file.seek(19)
    assert inflated_range(file, 352, 2000, 3000).tobytes() == RAW[352:2352]
    file = io.BytesIO(b"a header of its own" + zlib.compress(RAW))
    file.seek(19)
    assert inflated_range(file, 352, 2000, 3000).tobytes() == RAW[352:2352]


def test_a_file_cut_anywhere_is_told_as_zlib_tells_it():
    kinds = {both(PACKED[:end]) for end in range(0, len(PACKED), 7)} | {both(PACKED[:-k]) for k in range(1, 12)}
    assert kinds == {EOFError}


def test_any_flipped_bit_is_told_as_zlib_tells_it():
    free = range(4, 10)  # time and system: nothing depends on them
    for at in (*range(12), *range(12, len(PACKED) - 8, 41), *range(len(PACKED) - 8, len(PACKED))):
        broken = bytearray(PACKED)
        broken[at] ^= 1 << (at % 8)
        found = both(bytes(broken))
        assert (found == RAW[352:2352]) if at in free else (found in (zlib.error, EOFError)), at


@pytest.mark.parametrize(
    ("rest", "found"),
    [
        (b"\0" * 50, RAW[352:2352]),
        (b"rest", zlib.error),
        (PACKED[:40], EOFError),
        (gzip.compress(b"more"), RAW[352:2352]),
        (PACKED, RAW[352:2352]),
        (PACKED[-8:], zlib.error),
    ],
)
def test_what_follows_the_stream_is_judged_as_zlib_judges_it(rest, found):
    assert both(PACKED + rest) == found


def test_a_stream_of_two_parts_is_one():
    halves = gzip.compress(RAW[:1000]) + gzip.compress(RAW[1000:])
    assert both(halves) == RAW[352:2352]


def test_a_stream_that_holds_too_little_ends_too_early():
    assert both(PACKED, needed=3001) is EOFError
    assert both(PACKED, start=1001) is EOFError
    assert both(b"") is EOFError


def test_of_many_volumes_one_is_kept():
    many = gzip.compress(bytes(30_000_000), 1)
    tracemalloc.start()
    inflated_range(io.BytesIO(many), 29_000_000, 1_000_000, 30_000_000)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 6_000_000
