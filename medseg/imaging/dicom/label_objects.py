"""What DICOM segmentations and structure sets have in common: opening one, its names, what it says it belongs to."""

from __future__ import annotations

import io
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import pydicom
from pydicom.dataset import Dataset
from pydicom.filereader import read_partial

from medseg.errors import GeometryError, InputError, MedsegError
from medseg.imaging.dicom.headers import is_dicom, quiet, text
from medseg.imaging.volume import LabelMap
from medseg.imaging.voxels import refuse

Noted = tuple[LabelMap, tuple[str, ...]]  # a label map, and one line for each thing that it cannot hold

SEG = ("1.2.840.10008.5.1.4.1.1.66.4", "1.2.840.10008.5.1.4.1.1.66.7")  # of segments, of a label map
RTSTRUCT = ("1.2.840.10008.5.1.4.1.1.481.3",)
_SOP_CLASS = 0x00080016
AGAIN = "copy or export it again"


@dataclass(frozen=True, slots=True)
class References:
    """What a label object says it was drawn on; any of it may be missing or wrong."""

    series_uids: tuple[str, ...]
    frame_of_reference: str
    sop_uids: tuple[str, ...]

    def check(self, frame_of_reference: str, name: str) -> None:
        """Refuse an object of another frame of reference, if both are known.

        Raises:
            GeometryError: they differ.
        """
        if frame_of_reference and self.frame_of_reference and frame_of_reference != self.frame_of_reference:
            what = "its labels belong to another frame of reference than its scan"
            refuse_place(what, name, "give the scan that they were drawn on, or register the two")


def refuse_place(what: str, name: str, fix: str) -> NoReturn:
    """Raise the GeometryError of labels that do not lie on their scan."""
    raise GeometryError(f"[OFF_GRID] {what}", name, fix)


def is_label_object(path: Path, classes: Collection[str]) -> bool:
    """True if the file is a DICOM object of one of these storage classes."""
    if not is_dicom(path):
        return False
    try:
        with quiet(), path.open("rb") as file:
            start = read_partial(file, stop_when=lambda tag, *_: tag > _SOP_CLASS, force=True)
            return _class(start) in classes
    except Exception:  # a parser on arbitrary bytes can fail in any way; then it is none
        return False


class _Noticing(io.BufferedReader):
    """Notices that a file ends within a value; pydicom only warns of it, and gives what there is."""

    cut = False

    def read(self, size: int | None = -1, /) -> bytes:
        got = super().read(size)
        at_the_end = size == 8 and not any(got)  # where an element may begin, nothing or padding
        if size is not None and len(got) < size and not at_the_end:
            self.cut = True
        return got


@contextmanager
def label_object(path: Path, classes: Collection[str], name: str, tags: Sequence[str] = ()) -> Iterator[Dataset]:
    """The object, whole, or of its header `tags` alone; whatever fails while it is used is its damage.

    Raises:
        InputError: missing, of another kind, or damaged; said without any text of the object.
    """
    kind = "segmentation" if classes == SEG else "structure set"
    if not path.is_file():
        refuse("NOT_FOUND", f"its {kind} is gone", name)
    if not is_dicom(path):
        refuse("NOT_LABELS", f"is no DICOM {kind}", name)
    try:
        with quiet(), _Noticing(path.open("rb", buffering=0)) as file:
            wanted = ["SOPClassUID", "SpecificCharacterSet", *tags] if tags else None
            found = pydicom.dcmread(file, force=True, stop_before_pixels=bool(tags), specific_tags=wanted)
            if file.cut:
                refuse("TRUNCATED", f"its {kind} is cut short", name, AGAIN)
            if _class(found) not in classes:
                refuse("NOT_LABELS", f"is no DICOM {kind}", name)
            yield found
    except (MedsegError, MemoryError):
        raise
    except Exception as error:  # a parser on arbitrary bytes can fail in any way, and its words repeat values
        raise InputError(f"[DAMAGED] its {kind} is damaged ({type(error).__name__})", name, AGAIN) from None


def _class(found: Dataset) -> str:
    return text(found, "SOPClassUID") or str(found.file_meta.get("MediaStorageSOPClassUID", ""))


def items(found: Dataset, keyword: str) -> list[Dataset]:
    """The items of a sequence; none if it is absent or empty."""
    return list(found.get(keyword) or [])


def label_text(said: str, number: int) -> str:
    """The name of a structure in one line; its number where there is none."""
    name = " ".join("".join(c if c.isprintable() else " " for c in said).split())
    return name or str(number)


def unique(values: Iterator[str]) -> tuple[str, ...]:
    """Each value once, in order, without empty ones."""
    return tuple(dict.fromkeys(value for value in values if value))
