"""The file of a prepared case: arrays and a record in one safetensors file, which appears whole or not at all.

The format is public (8 bytes that tell the length of a JSON header, the header, the bare arrays), so any safetensors
reader opens it. It is written here, piece by piece, and mapped here, so that neither takes a copy in memory.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from medseg.errors import explained
from medseg.files import written_whole

ALIGNED = 64  # bytes: arrays of the header's length rounded up to this can be used as they are mapped
_LONGEST = 100_000_000  # bytes of a header: the format's own limit
_PIECE = 1 << 20  # values converted at a time
_RECORD = "medseg"
_TYPES = {"F32": "<f4", "F16": "<f2", "I64": "<i8", "U32": "<u4", "U16": "<u2", "U8": "|u1"}
_NAMES = {np.dtype(kind): name for name, kind in _TYPES.items()}


@dataclass(frozen=True)
class Part:
    """An array to be kept, as `kind`; it is converted on the way to the disk."""

    array: npt.NDArray[Any]
    kind: np.dtype[Any]


def write_case_file(path: Path, record: str, parts: Mapping[str, Part]) -> None:
    """Write arrays and a record as one file.

    Raises:
        ResourceError: the disk is full or the folder cannot be written to.
    """
    ordered = sorted(parts.items(), key=lambda part: -part[1].kind.itemsize)  # wide types first: all stay aligned
    told: dict[str, Any] = {"__metadata__": {_RECORD: record}}
    at = 0
    for name, part in ordered:
        end = at + part.array.size * part.kind.itemsize
        told[name] = {"dtype": _NAMES[part.kind], "shape": part.array.shape, "data_offsets": [at, end]}
        at = end
    header = json.dumps(told, separators=(",", ":")).encode()
    header += b" " * (-(8 + len(header)) % ALIGNED)
    with written_whole(path) as beside, beside.open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        for _, part in ordered:
            _write(file, part)


def _write(file: BinaryIO, part: Part) -> None:
    flat = np.ascontiguousarray(part.array).reshape(-1)
    for start in range(0, flat.size, _PIECE):
        with np.errstate(over="ignore"):
            file.write(flat[start : start + _PIECE].astype(part.kind, copy=False).data)


@dataclass(frozen=True)
class CaseFile:
    """The header of such a file: the record, and where each array lies."""

    path: Path
    record: str
    places: dict[str, tuple[np.dtype[Any], tuple[int, ...], int]]  # type, shape, first byte

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        """All arrays, read-only, mapped from disk: nothing is read before it is used."""
        whole = np.memmap(self.path, np.uint8, "r")
        return {
            name: whole[at : at + kind.itemsize * math.prod(shape)].view(kind).reshape(shape)
            for name, (kind, shape, at) in self.places.items()
        }


def read_case_file(path: Path) -> CaseFile | None:
    """Read the header; None if there is no such file, it is cut, or it is none of these.

    Raises:
        ResourceError: it is there but may not be read.
    """
    with explained(path):
        try:
            with path.open("rb") as file:
                length = int.from_bytes(file.read(8), "little")
                header = file.read(min(length, _LONGEST))
                size = file.seek(0, 2)
        except FileNotFoundError:
            return None
    try:
        found = _understood(path, header)
    except (ValueError, LookupError, TypeError, AttributeError):  # not the JSON of such a header
        return None
    ends = [at + kind.itemsize * math.prod(shape) for kind, shape, at in found.places.values()]
    return found if size == max(ends, default=8 + length) else None


def _understood(path: Path, header: bytes) -> CaseFile:
    told = json.loads(header)
    record: str = told.pop("__metadata__")[_RECORD]
    first = 8 + len(header)
    places = {
        name: (
            np.dtype(_TYPES[part["dtype"]]),
            tuple(map(_size, part["shape"])),
            first + _size(part["data_offsets"][0]),
        )
        for name, part in told.items()
    }
    return CaseFile(path, record, places)


def _size(number: object) -> int:
    if not isinstance(number, int) or number < 0:
        raise ValueError("a header of another kind")
    return number
