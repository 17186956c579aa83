"""The bytes of a model file: an uncompressed zip of one JSON and safetensors weights, sealed by a digest of the whole.

    model.json                            the record, see record.py
    <configuration>/<fold>.safetensors    weights, in the record's order

Names are those of the record, times are fixed: equal content gives equal bytes on every system. The zip's comment, its
last 64 bytes, is the SHA-256 of all bytes before it, so that no byte can change unseen. Nothing is unpacked by a name
that the file gives.
"""

from __future__ import annotations

import hashlib
import io
import os
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from pydantic import ValidationError

from medseg.errors import InputError
from medseg.files import BROKEN_ZIP, written_whole
from medseg.inference.export.record import FoldModel, ModelFile

RECORD = "model.json"
SEAL = 64  # hexadecimal digits of a SHA-256
_BLOCK = 1 << 20
_DATED = (1980, 1, 1, 0, 0, 0)  # the first date that a zip can hold
_UNIX, _MODE = 3, 0o644 << 16
_AGAIN = "copy it again from where it came"
_BROKEN = (*BROKEN_ZIP, KeyError)  # or without what it should hold


@dataclass(frozen=True, eq=False)
class Archive:
    """A model file that is open and whole."""

    path: Path
    record: ModelFile
    _zip: zipfile.ZipFile

    def weights(self, model: FoldModel) -> bytes:
        """The safetensors of one of its models.

        Raises:
            InputError: they are not those that the record names.
        """
        try:
            found = self._zip.read(model.member)
        except _BROKEN as error:
            raise InputError(f"holds no {model.member} that can be read", self.path, _AGAIN) from error
        if hashlib.sha256(found).hexdigest() != model.card.weights_sha256:
            raise InputError(f"the weights of {model.member} are not those that it names", self.path, _AGAIN)
        return found


def pack(path: Path, record: ModelFile, weights: Sequence[Path]) -> None:
    """Write a model file, whole or not at all; `weights` are the safetensors of `record.models`, in their order.

    It is read again before it appears.

    Raises:
        InputError: weights are not those that their card names, or a file of them is gone.
        ResourceError: the disk is full or the folder cannot be written to.
    """
    with written_whole(path) as beside:
        with zipfile.ZipFile(beside, "w") as whole:
            whole.comment = b"0" * SEAL
            text = (record.model_dump_json(indent=1) + "\n").encode()
            _add(whole, RECORD, io.BytesIO(text), len(text))
            for model, source in zip(record.models, weights, strict=True):
                with source.open("rb") as file:
                    _add(whole, model.member, file, source.stat().st_size)
        with beside.open("r+b") as file:
            seal = _digest(file)
            file.seek(-SEAL, os.SEEK_END)
            file.write(seal)
        with unpacked(beside) as archive:
            for model in record.models:
                archive.weights(model)


@contextmanager
def unpacked(path: Path) -> Iterator[Archive]:
    """A model file, open to be read, once every byte of it is known to be as it was written.

    Raises:
        InputError: it is no model file, cut, changed, of another version, or holds what it should not.
    """
    try:
        file = path.open("rb")
    except OSError as error:
        raise InputError(f"cannot be read ({os.strerror(error.errno or 0).lower()})", path) from error
    with file:
        yield _opened(path, file)


def _opened(path: Path, file: IO[bytes]) -> Archive:
    try:
        if not zipfile.is_zipfile(file):
            raise InputError("is no model file of medseg, or is cut short", path, _AGAIN)
        seal = _digest(file)
        file.seek(-SEAL, os.SEEK_END)
        if file.read(SEAL) != seal:
            raise InputError("is no model file of medseg, or its bytes were changed", path, _AGAIN)
        whole = zipfile.ZipFile(file)
        record = _record(whole, path)
    except (OSError, *_BROKEN) as error:
        raise InputError("is no model file of medseg that can be read", path, _AGAIN) from error
    _check_members(whole, record, path)
    return Archive(path, record, whole)


def _record(whole: zipfile.ZipFile, path: Path) -> ModelFile:
    try:
        return ModelFile.model_validate_json(whole.read(RECORD))
    except ValidationError as error:
        problem = error.errors()[0]
        where = ".".join(map(str, problem["loc"]))
        what = f"its {RECORD} is not valid ({where}: {problem['msg']})"
        raise InputError(what, path, "export the model again, or use the medseg that wrote it") from error


def _check_members(whole: zipfile.ZipFile, record: ModelFile, path: Path) -> None:
    """The file holds what its record names and nothing else, stored as it is: nothing can swell when it is read."""
    found = whole.infolist()
    if [one.filename for one in found] != [RECORD, *(model.member for model in record.models)]:
        raise InputError("holds other files than its record names", path, _AGAIN)
    if any(one.compress_type != zipfile.ZIP_STORED or one.flag_bits & 1 for one in found):
        raise InputError("holds compressed or encrypted files, as no model file does", path, _AGAIN)


def _add(whole: zipfile.ZipFile, name: str, source: IO[bytes], size: int) -> None:
    told = zipfile.ZipInfo(name, _DATED)
    told.create_system, told.external_attr, told.file_size = _UNIX, _MODE, size
    with whole.open(told, "w") as member:
        while block := source.read(_BLOCK):
            member.write(block)


def _digest(file: IO[bytes]) -> bytes:
    """The SHA-256 of all bytes but the seal, as text."""
    left, digest = file.seek(0, os.SEEK_END) - SEAL, hashlib.sha256()
    file.seek(0)
    while left > 0 and (block := file.read(min(_BLOCK, left))):
        digest.update(block)
        left -= len(block)
    return digest.hexdigest().encode()
