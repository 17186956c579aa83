"""Which DICOM files belong together, from their headers alone.

Names of patients stand in headers, in file names and in folder names, so nothing here speaks of a path or repeats a
value from a header: files are counted ("file 3 of 40"), and pydicom's own warnings are never shown.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pydicom
from pydicom.config import IGNORE, settings
from pydicom.uid import UID

from medseg.imaging.case import Left

logging.getLogger("pydicom").setLevel(logging.CRITICAL)  # its remarks repeat values, which may name a patient

IMAGES = {  # storage class -> modality; everything else is no volume of measured values
    "1.2.840.10008.5.1.4.1.1.2": "CT",
    "1.2.840.10008.5.1.4.1.1.4": "MR",
    "1.2.840.10008.5.1.4.1.1.128": "PT",
}
MULTI_FRAME = {  # the enhanced forms: one file holds many slices
    "1.2.840.10008.5.1.4.1.1.2.1": "CT",
    "1.2.840.10008.5.1.4.1.1.2.2": "CT",
    "1.2.840.10008.5.1.4.1.1.4.1": "MR",
    "1.2.840.10008.5.1.4.1.1.4.4": "MR",
    "1.2.840.10008.5.1.4.1.1.130": "PT",
    "1.2.840.10008.5.1.4.1.1.128.1": "PT",
}
_HEADER = ["SOPClassUID", "SOPInstanceUID", "SeriesInstanceUID", "ImageType"]


@dataclass(frozen=True, slots=True)
class Series:
    """The files of one series, and the number `n` of different images that they hold."""

    uid: str
    modality: str
    paths: tuple[Path, ...]
    n: int


@dataclass(frozen=True, slots=True)
class _Header:
    path: Path
    where: str
    modality: str
    series: str
    image: str


@contextmanager
def quiet() -> Iterator[None]:
    """Keep pydicom from warning about values and from refusing a file for a badly written one."""
    before = settings.reading_validation_mode
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        settings.reading_validation_mode = IGNORE
        try:
            yield
        finally:
            settings.reading_validation_mode = before


def is_dicom(path: Path) -> bool:
    """True by the content: the DICOM mark after 128 bytes, or a file that begins with a DICOM header without it."""
    try:
        with path.open("rb") as file:
            start = file.read(132)
    except OSError:
        return False
    if start[128:132] == b"DICM":
        return True
    return start[:2] in (b"\x02\x00", b"\x08\x00", b"\x00\x08")  # group 0002 or 0008, in either byte order


def find_series(paths: Iterable[Path]) -> tuple[tuple[Series, ...], tuple[Left, ...]]:
    """Group the single images of CT, MR and PET among `paths` by series, from their headers alone.

    Returns the series in the order of their UIDs, and what was left: files that are no DICOM, objects that are no
    image (segmentations, structure sets, reports), localisers, and repeats of an image (used once).
    """
    ordered = sorted(paths)
    headers, left = [], []
    with quiet():
        for i, path in enumerate(ordered, start=1):
            found = _header(path, f"file {i} of {len(ordered)}")
            if isinstance(found, Left):
                left.append(found)
            else:
                headers.append(found)
    by_series: dict[str, list[_Header]] = {}
    for header in headers:
        by_series.setdefault(header.series, []).append(header)
    series = []
    for uid, members in sorted(by_series.items()):
        repeats = _repeats(members)
        left += [Left(h.where, "repeats an image of its series; used once") for h in repeats]
        files = tuple(h.path for h in members)
        series.append(Series(uid, members[0].modality, files, len(files) - len(repeats)))
    return tuple(series), tuple(left)


def _header(path: Path, where: str) -> _Header | Left:
    if not is_dicom(path):
        return Left(where, "is no DICOM file")
    try:
        ds = pydicom.dcmread(path, force=True, stop_before_pixels=True, specific_tags=_HEADER)
        kind = str(ds.get("SOPClassUID", "") or ds.file_meta.get("MediaStorageSOPClassUID", ""))
        series, image = str(ds.get("SeriesInstanceUID", "")), str(ds.get("SOPInstanceUID", ""))
        purpose = [str(value).upper() for value in ds.get("ImageType", None) or []]
    except Exception:  # a parser on arbitrary bytes can fail in any way; one bad file stops no other
        return Left(where, "is a damaged DICOM file", broken=True)
    modality = IMAGES.get(kind) or MULTI_FRAME.get(kind)
    if modality is None:
        return Left(where, f"is a DICOM object without a volume ({_class_name(kind)})")
    if not series:
        return Left(where, "is a DICOM image that names no series")
    if "LOCALIZER" in purpose[2:3]:
        return Left(where, "is a localiser, no part of a volume")
    return _Header(path, where, modality, series, image or where)


def _class_name(kind: str) -> str:
    """The standard's name of a storage class; a private class has none, and its text is not shown."""
    name = str(UID(kind).name) if kind else ""
    return name if name and name != kind else "unknown kind"


def _repeats(members: list[_Header]) -> list[_Header]:
    first = {header.image: header for header in reversed(members)}
    return [header for header in members if first[header.image] is not header]
