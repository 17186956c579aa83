"""The header of one DICOM file: what kind of object it is, and its values as text and numbers.

Names of patients stand in headers, in file names and in folder names, so nothing here speaks of a path or repeats a
value from a header: files are counted ("file 3 of 40"), and pydicom's own warnings are never shown.
"""

from __future__ import annotations

import logging
import math
import os
import re
import threading
import warnings
import zlib
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from pydicom.config import IGNORE, settings
from pydicom.datadict import dictionary_VR, tag_for_keyword
from pydicom.dataset import Dataset
from pydicom.filereader import read_file_meta_info, read_partial
from pydicom.multival import MultiValue
from pydicom.tag import BaseTag, Tag
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    generate_uid,
)

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
    "1.2.840.10008.5.1.4.1.1.4.3": "MR",
    "1.2.840.10008.5.1.4.1.1.4.4": "MR",
    "1.2.840.10008.5.1.4.1.1.130": "PT",
    "1.2.840.10008.5.1.4.1.1.128.1": "PT",
}

# What selection rules may ask for, and what series are split by.
TEXTS = (
    *("Modality", "SeriesDescription", "StudyDescription", "ProtocolName", "BodyPartExamined", "PatientPosition"),
    *("ImageType", "SeriesNumber", "AcquisitionNumber", "ConvolutionKernel", "KVP", "ContrastBolusAgent"),
    *("SliceThickness", "SpacingBetweenSlices", "Manufacturer", "ManufacturerModelName", "MagneticFieldStrength"),
    *("ScanningSequence", "SequenceVariant", "SequenceName", "MRAcquisitionType", "EchoTime", "EchoNumbers"),
    *("RepetitionTime", "InversionTime", "FlipAngle", "DiffusionBValue", "ComplexImageComponent", "StackID"),
    *("TemporalPositionIdentifier", "TriggerTime", "Units", "VolumeBasedCalculationTechnique"),
    *("StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID"),
)
_OTHERS = (
    *("SOPClassUID", "SOPInstanceUID", "PatientID", "NumberOfFrames", "Rows", "Columns", "SamplesPerPixel"),
    *("BitsAllocated", "PhotometricInterpretation", "ImageOrientationPatient", "ImagePositionPatient", "PixelSpacing"),
    *("AcquisitionDate", "AcquisitionTime", "ContentDate", "ContentTime", "FrameReferenceTime", "InstanceNumber"),
    *("ReferencedSeriesSequence", "ReferencedFrameOfReferenceSequence"),
    *("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"),
)
_SIEMENS, _SIEMENS_B = Tag(0x0019, 0x0010), Tag(0x0019, 0x100C)
_GE, _GE_B = Tag(0x0043, 0x0010), Tag(0x0043, 0x1039)
_WANTED: list[BaseTag | int] = [Tag(tag_for_keyword(name) or 0) for name in (*TEXTS, *_OTHERS)]
_WANTED += [_SIEMENS, _SIEMENS_B, _GE, _GE_B]
_REFERENCES = Tag(0x3006, 0x0010)  # of a structure set, its contours follow, and nothing that is wanted
_NATIVE = (ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian)
_PIXELS = (0x7FE00008, 0x7FE00009, 0x7FE00010)  # as single, double or whole numbers
_PLAIN = {"CS", "DA", "DS", "DT", "IS", "TM", "UI"}  # representations whose bytes are plain text in every charset

_UID = re.compile(r"[0-9]+(\.[0-9]+)*")  # leading zeros are against the standard, but common, and they harm nothing
LONGEST_UID = 64  # characters

_META_STARTS = 132 + 12  # after the preamble, the mark, and the element that says how long the meta header is
INFLATED_AT_MOST = 1 << 30  # bytes; a deflated file that unpacks to more is a bomb, or better stored in another way


@dataclass(frozen=True, eq=False)
class Header:
    """What matters here of one DICOM file's header.

    `cut`: the file ends before its pixels do, or holds none. `claimed_bytes`: of all its pixels, as it describes them.
    """

    path: Path
    where: str
    sop_class: str
    dataset: Dataset
    claimed_bytes: int
    cut: bool


@contextmanager
def quiet() -> Iterator[None]:
    """Keep pydicom from warning about values and from refusing a file for a badly written one.

    Both are settings of the whole process: where several threads ask for it, the first sets and the last restores them.
    """
    with _QUIET.guard:
        if not _QUIET.within:
            _QUIET.restore.enter_context(_silenced())
        _QUIET.within += 1
    try:
        yield
    finally:
        with _QUIET.guard:
            _QUIET.within -= 1
            if not _QUIET.within:
                _QUIET.restore.close()


@dataclass(slots=True)
class _Quiet:
    guard: threading.Lock = field(default_factory=threading.Lock)
    within: int = 0
    restore: ExitStack = field(default_factory=ExitStack)


_QUIET = _Quiet()


@contextmanager
def _silenced() -> Iterator[None]:
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
            return _looks_like_dicom(file.read(132))
    except OSError:
        return False


def _looks_like_dicom(start: bytes) -> bool:
    return _marked(start) or start[:2] in (b"\x02\x00", b"\x08\x00", b"\x00\x08")  # group 0002 or 0008, either order


def _marked(start: bytes) -> bool:
    return start[128:132] == b"DICM"


def read_header(path: Path, where: str) -> Header | Left:
    """Read one file's header, once; `where` stands for the file in what is said about it. Call it within `quiet()`."""
    try:
        with path.open("rb") as file:
            start = file.read(132)
            if not _looks_like_dicom(start):
                return Left(where, "is no DICOM file")
            if _is_bomb(file, path):
                return Left(where, "unpacks to more than 1 GiB, which no single DICOM file should", broken=True)
            return _parsed(file, path, where, _marked(start))
    except OSError as error:
        return Left(where, f"cannot be read ({os.strerror(error.errno or 0).lower()})", broken=True)
    except Exception:  # a parser on arbitrary bytes can fail in any way; one bad file stops no other
        return Left(where, "is a damaged DICOM file", broken=True)


def _parsed(file: BinaryIO, path: Path, where: str, marked: bool) -> Header | Left:
    pixels: list[tuple[int, int]] = []  # where they begin, how long they say to be

    def after_header(tag: BaseTag, _: str | None, length: int) -> bool:
        if tag in _PIXELS:
            pixels.append((file.tell(), length))
        return tag >= _PIXELS[0] or (tag >> 16 == 0x3006 and tag > _REFERENCES)

    file.seek(0)
    dataset = read_partial(file, stop_when=after_header, force=not marked, specific_tags=_WANTED)
    sop_class = text(dataset, "SOPClassUID") or str(dataset.file_meta.get("MediaStorageSOPClassUID", ""))
    if not sop_class:
        return Left(where, "is a damaged DICOM file", broken=True) if marked else Left(where, "is no DICOM file")
    claimed = _claimed_bytes(dataset)
    native = dataset.file_meta.get("TransferSyntaxUID", ImplicitVRLittleEndian) in _NATIVE
    cut = not pixels or (native and _is_cut(pixels[0], claimed, os.fstat(file.fileno()).st_size))
    return Header(path, where, sop_class, dataset, claimed, cut)


def _is_bomb(file: BinaryIO, path: Path) -> bool:
    """True if a deflated file unpacks to more than can be meant; what it holds is counted, not kept."""
    file.seek(0)
    if DeflatedExplicitVRLittleEndian.encode() not in file.read(2048):
        return False
    meta = read_file_meta_info(path)
    if meta.get("TransferSyntaxUID") != DeflatedExplicitVRLittleEndian:
        return False
    file.seek(_META_STARTS + meta.FileMetaInformationGroupLength)
    inflate, total = zlib.decompressobj(-zlib.MAX_WBITS), 0
    while not inflate.eof and (block := inflate.unconsumed_tail or file.read(1 << 16)):
        total += len(inflate.decompress(block, 1 << 22))
        if total > INFLATED_AT_MOST:
            return True
    return False


def _is_cut(pixels: tuple[int, int], claimed: int, size: int) -> bool:
    """Native pixels say how long they are; whether compressed ones are whole is seen on decoding."""
    start, length = pixels
    return start + length > size or length < claimed


def _claimed_bytes(dataset: Dataset) -> int:
    samples: float = whole(dataset, "SamplesPerPixel", 1)
    if samples == 3 and text(dataset, "PhotometricInterpretation").startswith("YBR_FULL_422"):
        samples = 2  # of two neighbouring pixels the colour is stored once
    pixels = whole(dataset, "Rows") * whole(dataset, "Columns") * max(whole(dataset, "NumberOfFrames", 1), 1)
    return int(pixels * samples * whole(dataset, "BitsAllocated", 8)) // 8


def text(dataset: Dataset, keyword: str) -> str:
    """A header value as text, several joined by a backslash; empty if it is absent or cannot be understood."""
    tag = tag_for_keyword(keyword)
    return _text(dataset, BaseTag(tag)) if tag is not None else ""


def _text(dataset: Dataset, tag: BaseTag) -> str:
    if tag not in dataset:
        return ""
    try:
        raw = dataset.get_item(tag)
        stored = getattr(raw, "value", None)
        representation = getattr(raw, "VR", None)
        if representation in (None, "UN"):
            representation = None if tag.is_private else dictionary_VR(tag)
        if isinstance(stored, bytes) and (representation in _PLAIN or tag.is_private):
            values: Iterable[object] = stored.decode("latin-1").split("\\")
        else:
            value = dataset[tag].value
            values = value if isinstance(value, MultiValue | list) else [value]
    except Exception:  # whatever is wrong with one value, the others stand
        return ""
    return "\\".join("" if value is None else str(value).strip(" \0") for value in values)


def single_uid(said: str) -> str:
    """The UID that a header value is, as text; empty if it is none, or several."""
    return said if len(said) <= LONGEST_UID and _UID.fullmatch(said) else ""


def named_uid(said: str) -> str:
    """The UID for what a header value names: the first of several; derived from a text that is none; empty if empty."""
    first = single_uid(said.split("\\")[0])
    return first or (str(generate_uid(entropy_srcs=[said])) if said.strip("\\") else "")


def numbers(dataset: Dataset, keyword: str) -> tuple[float, ...]:
    """A header value as finite numbers; empty if it is absent or one of them is none."""
    return as_numbers(text(dataset, keyword))


def as_numbers(said: str) -> tuple[float, ...]:
    """Numbers that are joined by a backslash; empty if one of them is none or not finite."""
    try:
        found = tuple(map(float, said.split("\\"))) if said else ()
    except ValueError:
        return ()
    return found if all(map(math.isfinite, found)) else ()


def whole(dataset: Dataset, keyword: str, default: int = 0) -> int:
    """A header value as a whole number; `default` if it is absent or none."""
    found = numbers(dataset, keyword)
    return int(found[0]) if found else default


def vendor_b_value(dataset: Dataset) -> str:
    """The b-value where Siemens and GE kept it before the standard had a place for it; empty elsewhere.

    Source: their conformance statements; GE adds multiples of 1e9 to it as a mark.
    """
    if _text(dataset, _SIEMENS) == "SIEMENS MR HEADER":
        return _text(dataset, _SIEMENS_B)
    if _text(dataset, _GE) == "GEMS_PARM_01":
        first = as_numbers(_text(dataset, _GE_B).split("\\")[0])
        return str(int(first[0]) % 100_000) if first else ""
    return ""


def class_name(sop_class: str) -> str:
    """The standard's name of a storage class; a private class has none, and its text is not shown."""
    name = str(UID(sop_class).name) if sop_class else ""
    return name if name and name != sop_class else "unknown kind"
