"""Names of DICOM cases: a keyed hash, since everything else about a series may name the patient.

The key and what the names stand for are kept in `case_map.json`, mode 0600, in the folder of the results.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
from pathlib import Path

from medseg.files import Record, read_record


class MappedCase(Record):
    """Where a case came from."""

    paths: tuple[str, ...]
    names: tuple[str, ...]


class CaseMap(Record):
    """`case_map.json`: the key of the case names, and where each case came from. Private."""

    version: int = 1
    key: str
    cases: dict[str, MappedCase]

    @property
    def secret(self) -> bytes:
        """The key as bytes."""
        return bytes.fromhex(self.key)


def read_case_map(folder: Path) -> CaseMap:
    """The folder's private map, or an empty one with a key of its own.

    Raises:
        InputError: the file is damaged.
    """
    path = folder / "case_map.json"
    return read_record(path, CaseMap) if path.is_file() else CaseMap(key=secrets.token_hex(16), cases={})


def shown_path(path: Path | str) -> str:
    """A path, or a name in one, as text that any record can hold: bytes that are no UTF-8 are written as `\\xfc`."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def dicom_name(key: bytes, uid: str, what: str = "case") -> str:
    """`case-` and 8 hex digits for a UID or any other private text."""
    return f"{what}-{hmac.new(key, uid.encode(), hashlib.sha256).hexdigest()[:8]}"
