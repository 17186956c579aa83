"""The stored values of one DICOM file, frame by frame: as they left the scanner, before any rescaling."""

from __future__ import annotations

import struct
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from io import BufferedIOBase, BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate, generate_frames
from pydicom.filereader import dcmread, read_dataset, read_partial
from pydicom.pixels.decoders.base import get_decoder
from pydicom.tag import BaseTag, Tag
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)

from medseg.imaging.dicom.codecs import IMAGECODECS, SYNTAXES, TRUNCATED, contained, decoder_plugin
from medseg.imaging.dicom.headers import text, whole
from medseg.imaging.dicom.skip import skip_to


def tags_of(*keywords: str) -> tuple[BaseTag, ...]:
    """The tags of DICOM keywords."""
    return tuple(Tag(keyword) for keyword in keywords)


Values = npt.NDArray[Any]
Frames = Callable[[Collection[int]], Iterator[tuple[int, Callable[[], Values]]]]

_PIXELS, _FLOATS, _DOUBLES = 0x7FE00010, 0x7FE00008, 0x7FE00009
_UNDEFINED = 0xFFFFFFFF
IMAGE_GROUP = 0x0028  # no tag that is asked for comes before it
_LAYOUT = tags_of(
    *("Rows", "Columns", "NumberOfFrames", "SamplesPerPixel", "PhotometricInterpretation"),
    *("BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation"),
    *("ExtendedOffsetTable", "ExtendedOffsetTableLengths"),
)
_ITEM, _DELIMITER = b"\xfe\xff\x00\xe0", b"\xfe\xff\xdd\xe0"
_AGAIN = "copy or export the series again"
_UNPACK = "export the series without compression"


class PixelError(ValueError):
    """The pixels of a file cannot be used: the reason's code, what is wrong with the image, and what to do about it."""

    def __init__(self, code: str, said: str, fix: str = _AGAIN) -> None:
        self.code, self.said, self.fix = code, said, fix
        super().__init__(code, said, fix)


@dataclass(frozen=True, slots=True)
class Layout:
    """How pixels are stored: sizes, bits per pixel allocated and used, and whether these hold a sign."""

    rows: int
    columns: int
    frames: int
    allocated: int
    bits: int
    signed: bool

    @property
    def frame_bytes(self) -> int:
        """Bytes of one frame that is not compressed."""
        return self.rows * self.columns * self.allocated // 8


@dataclass(frozen=True, slots=True)
class Stored:
    """One open file: the wanted part of its header, and a way to its frames.

    `frames(wanted)` yields, in the order of the file, the number of each wanted frame and what gives its values
    (rows, columns) when called: at once where `compressed` is False, at any time and in any thread where it is True.
    """

    header: Dataset
    syntax: UID
    layout: Layout
    compressed: bool
    frames: Frames


@contextmanager
def stored_values(path: Path, tags: Iterable[BaseTag]) -> Iterator[Stored]:
    """Open a file for its pixels; its header holds `tags` beside those that say how pixels are stored.

    No tag may be of a group before IMAGE_GROUP. Call it within `quiet()`.

    Raises:
        PixelError: TRUNCATED, DAMAGED, COLOUR or CODEC_MISSING; also on asking for a frame.
    """
    try:
        file = path.open("rb")
    except OSError as error:
        raise PixelError("DAMAGED", f"cannot be opened ({type(error).__name__})") from None
    with file:
        try:
            stored = _opened(file, [*_LAYOUT, *tags])
        except PixelError:
            raise
        except (EOFError, struct.error):
            raise PixelError("TRUNCATED", "ends within its header") from None
        except Exception as error:  # a parser on arbitrary bytes can fail in any way
            raise PixelError("DAMAGED", f"has a header that cannot be read ({type(error).__name__})") from None
        yield stored


@dataclass(frozen=True, slots=True)
class _Element:
    """Where a file holds its pixels: the element's tag and representation, and the place and length of its value."""

    tag: int
    vr: str | None
    start: int
    length: int


def _opened(file: BufferedIOBase, tags: list[BaseTag | int]) -> Stored:
    header, syntax, element = _header(file, tags)
    if element is not None and syntax == DeflatedExplicitVRLittleEndian:
        file.seek(0)
        inflated = dcmread(file, force=True, specific_tags=[*tags, _PIXELS]).get("PixelData") or b""
        file, element = BytesIO(inflated), _Element(_PIXELS, "OW", 0, len(inflated))
    if element is None:
        raise PixelError("TRUNCATED", "holds no pixels")
    layout = _layout(header, element.tag)
    if not syntax.is_transfer_syntax:
        raise PixelError("CODEC_MISSING", "is stored in a way that is not known here", _UNPACK)
    if syntax.is_encapsulated:
        file.seek(element.start)
        return Stored(header, syntax, layout, True, _encapsulated(file.read(), header, syntax, layout))
    if element.length == _UNDEFINED:
        raise PixelError("DAMAGED", "is compressed, though its header says that it is not")
    if element.tag == _PIXELS and whole(header, "HighBit", layout.bits - 1) != layout.bits - 1:
        raise PixelError("DAMAGED", "has a header that contradicts itself (HighBit and BitsStored)")
    return Stored(header, syntax, layout, False, _uncompressed(file, element, syntax, layout))


def _header(file: BufferedIOBase, tags: list[BaseTag | int]) -> tuple[Dataset, UID, _Element | None]:
    found: list[_Element] = []

    def at_pixels(tag: BaseTag, vr: str | None, length: int) -> bool:
        if tag >> 16 == 0x7FE0 and tag in (_PIXELS, _FLOATS, _DOUBLES):  # pydicom compares tags slowly
            found.append(_Element(tag, vr, file.tell(), length))
        return bool(found)

    header: Dataset
    syntax = skip_to(file, IMAGE_GROUP)
    if syntax is not None:
        header = read_dataset(file, syntax.is_implicit_VR, True, stop_when=at_pixels, specific_tags=tags)  # type: ignore[arg-type]
    else:
        file.seek(0)
        header = read_partial(file, at_pixels, force=True, specific_tags=tags)  # type: ignore[arg-type]
        syntax = _syntax(header)
    return header, syntax, found[0] if found else None


def _syntax(header: Dataset) -> UID:
    said = str(header.file_meta.get("TransferSyntaxUID", ""))
    if said:
        return UID(said)
    implicit, little = header.original_encoding
    return ImplicitVRLittleEndian if implicit else ExplicitVRLittleEndian if little else ExplicitVRBigEndian


def _layout(header: Dataset, tag: int) -> Layout:
    allocated = whole(header, "BitsAllocated") if tag == _PIXELS else 32 if tag == _FLOATS else 64
    bits = whole(header, "BitsStored", allocated) if tag == _PIXELS else allocated
    rows, columns = whole(header, "Rows"), whole(header, "Columns")
    frames = whole(header, "NumberOfFrames", 1)
    kind = text(header, "PhotometricInterpretation")
    if whole(header, "SamplesPerPixel", 1) != 1 or kind not in ("", "MONOCHROME1", "MONOCHROME2"):
        raise PixelError("COLOUR", "is a colour image, no measured values", "leave it out")
    if allocated not in (8, 16, 32, 64) or not 1 <= bits <= allocated or min(rows, columns, frames) < 1:
        raise PixelError("DAMAGED", "has a header that does not say how its pixels are stored")
    signed = whole(header, "PixelRepresentation") == 1
    return Layout(rows, columns, frames, allocated, bits, signed)


def _uncompressed(file: BufferedIOBase, element: _Element, syntax: UID, layout: Layout) -> Frames:
    start = element.start
    there = min(file.seek(0, 2) - start, element.length)
    wanted = layout.frames * layout.frame_bytes
    if there < wanted:
        raise PixelError("TRUNCATED", f"holds {max(there, 0)} of the {wanted} bytes of pixels that its header says")
    kind = np.dtype(f"{'f' if element.tag != _PIXELS else 'i' if layout.signed else 'u'}{layout.allocated // 8}")
    if not syntax.is_little_endian:
        kind = kind.newbyteorder(">")
        if layout.allocated == 8 and element.vr == "OW":  # bytes were swapped in pairs, as if they were words
            file.seek(start)
            swapped = np.frombuffer(file.read(there // 2 * 2), np.uint16).byteswap()
            file, start = BytesIO(swapped.tobytes()), 0

    def frames(wanted: Collection[int]) -> Iterator[tuple[int, Callable[[], Values]]]:
        _check_there(wanted, layout)
        for index in sorted(wanted):
            yield index, partial(_read, file, start + index * layout.frame_bytes, kind, layout)

    return frames


def _read(file: BufferedIOBase, at: int, kind: np.dtype[Any], layout: Layout) -> Values:
    values: Values = np.empty((layout.rows, layout.columns), kind)
    file.seek(at)
    if file.readinto(values.reshape(-1).view(np.uint8).data) != layout.frame_bytes:
        raise PixelError("TRUNCATED", "ends before its pixels do")
    if not kind.isnative:
        values = values.astype(kind.newbyteorder("="))
    return values if kind.kind == "f" else contained(values, layout.bits)


def _encapsulated(buffer: bytes, header: Dataset, syntax: UID, layout: Layout) -> Frames:
    plugin = decoder_plugin(syntax)
    if plugin is None:
        fix = f'run: pip install "{IMAGECODECS}"' if syntax in SYNTAXES else _UNPACK
        raise PixelError("CODEC_MISSING", f"is compressed with {syntax.name}, which nothing here can read", fix)
    _check_items(buffer)
    tables = header.get("ExtendedOffsetTable"), header.get("ExtendedOffsetTableLengths")

    def frames(wanted: Collection[int]) -> Iterator[tuple[int, Callable[[], Values]]]:
        _check_there(wanted, layout)
        found = 0
        try:
            offsets = tables if all(tables) else None
            for frame in generate_frames(buffer, number_of_frames=layout.frames, extended_offsets=offsets):
                if found in wanted:
                    yield found, partial(_decoded, frame, syntax, layout, plugin)
                found += 1
        except (ValueError, struct.error):
            raise PixelError("TRUNCATED", "holds fewer compressed frames than its header says") from None
        if found != layout.frames:
            raise PixelError("TRUNCATED", f"holds {found} compressed frames, its header says {layout.frames}")

    return frames


def _check_there(wanted: Collection[int], layout: Layout) -> None:
    if not all(0 <= index < layout.frames for index in wanted):
        raise PixelError("TRUNCATED", f"holds {layout.frames} frames, not all that are wanted of it")


def _check_items(buffer: bytes) -> None:
    """Compressed pixels are items of a tag, a length and as many bytes, and a delimiter behind the last."""
    at = 0
    while at + 8 <= len(buffer) and buffer[at : at + 4] == _ITEM:
        at += 8 + int.from_bytes(buffer[at + 4 : at + 8], "little")
    if buffer[at : at + 4] != _DELIMITER and at != len(buffer):  # a missing delimiter at the end loses nothing
        code = "TRUNCATED" if at > len(buffer) - 8 else "DAMAGED"
        raise PixelError(code, "is cut or damaged: its compressed pixels do not end where they should")


def _decoded(frame: bytes, syntax: UID, layout: Layout, plugin: str) -> Values:
    how: dict[str, Any] = {
        "rows": layout.rows,
        "columns": layout.columns,
        "number_of_frames": 1,
        "samples_per_pixel": 1,
        "photometric_interpretation": "MONOCHROME2",
        "bits_allocated": layout.allocated,
        "bits_stored": layout.bits,
        "pixel_representation": int(layout.signed),
    }
    try:
        alone = encapsulate([frame], has_bot=False)  # or each frame would be looked for from the first one on
        values, _ = get_decoder(syntax).as_array(alone, index=0, decoding_plugin=plugin, **how)
    except Exception as error:  # pydicom gathers whatever a plug-in raises, and each has errors of its own
        code = "TRUNCATED" if TRUNCATED in str(error) else "DAMAGED"
        raise PixelError(code, "cannot be decompressed: it is cut or damaged") from None
    return contained(values, layout.bits)
