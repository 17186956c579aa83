"""Compressed pixel data: the codecs of imagecodecs, as a decoder plug-in of pydicom.

One permissively licensed wheel decodes all of RLE, JPEG, JPEG-LS, JPEG 2000 and HTJ2K, and lets other threads run
meanwhile. Only those of its decoders are used that stand up to damaged input: its `ljpeg`, `jpegsof3` and `dicomrle`
leave their memory, its `htj2k` fills what is missing without a word. So does `jpeg8`, and `jpegls` takes seconds to
refuse what has no end; hence the check for it.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from pydicom.pixels.decoders.base import DecodeRunner, get_decoder
from pydicom.uid import (
    HTJ2K,
    JPEG2000,
    UID,
    HTJ2KLossless,
    HTJ2KLosslessRPCL,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
    RLELossless,
)

PLUGIN = "medseg"
IMAGECODECS = "imagecodecs>=2024.9.22"
TRUNCATED = "[TRUNCATED]"  # stands in the text of errors, since pydicom hands on nothing else of a plug-in's error

_JPEG = (JPEGBaseline8Bit, JPEGExtended12Bit, JPEGLossless, JPEGLosslessSV1)
_JPEG_LS = (JPEGLSLossless, JPEGLSNearLossless)
_JPEG_2000 = (JPEG2000Lossless, JPEG2000, HTJ2KLossless, HTJ2KLosslessRPCL, HTJ2K)
SYNTAXES = (RLELossless, *_JPEG, *_JPEG_LS, *_JPEG_2000)
DECODER_DEPENDENCIES = dict.fromkeys(SYNTAXES, (IMAGECODECS,))  # pydicom asks a plug-in for this

_NAMES = {
    "RLE": RLELossless,
    "JPEG baseline": JPEGBaseline8Bit,
    "JPEG extended": JPEGExtended12Bit,
    "JPEG lossless": JPEGLosslessSV1,
    "JPEG-LS lossless": JPEGLSLossless,
    "JPEG-LS near-lossless": JPEGLSNearLossless,
    "JPEG 2000 lossless": JPEG2000Lossless,
    "JPEG 2000": JPEG2000,
    "HTJ2K lossless": HTJ2KLossless,
}
_LOSSY = (JPEGBaseline8Bit, JPEGExtended12Bit, JPEGLSNearLossless, JPEG2000, HTJ2K)
_NEXT_BEST = ("pylibjpeg", "pyjpegls")  # of pydicom's own plug-ins those that refuse what they cannot decode
_RLE_HEADER = 64  # bytes: the number of segments, and where each begins
_START_OF_FRAME = {*range(0xC0, 0xD0), 0xF7} - {0xC4, 0xC8, 0xCC}
_ALONE = {0x01, *range(0xD0, 0xD9)}  # markers without a length
_SIZE_J2K = b"\xff\x4f\xff\x51"
_END = b"\xff\xd9"
_REGISTERING = threading.Lock()


@dataclass(frozen=True, slots=True)
class Picture:
    """What a codestream says of itself: size, samples per pixel, bits per sample."""

    rows: int
    columns: int
    samples: int
    bits: int


def register_codecs() -> None:
    """Give pydicom the decoders of imagecodecs, under the name of `PLUGIN`; once, however often this is called."""
    with _REGISTERING:
        for syntax in SYNTAXES:
            decoder = get_decoder(syntax)
            if PLUGIN not in decoder.available_plugins and is_available(syntax):
                decoder.add_plugin(PLUGIN, (__name__, "decode"))


def available_codecs() -> dict[str, bool]:
    """The kinds of compression that DICOM images come in, each with whether it can be read here."""
    register_codecs()
    return {name: get_decoder(syntax).is_available for name, syntax in _NAMES.items()}


def decoder_plugin(syntax: UID) -> str | None:
    """The plug-in to decode `syntax` with: that of medseg before pydicom's own; None where there is no decoder."""
    register_codecs()
    try:
        decoder = get_decoder(syntax)
    except NotImplementedError:
        return None
    there = decoder.available_plugins
    return next((plugin for plugin in (PLUGIN, *_NEXT_BEST, *there) if plugin in there), None)


def is_available(uid: str) -> bool:
    """True if imagecodecs is installed with the codec of this transfer syntax (pydicom asks a plug-in for this)."""
    try:
        import imagecodecs
    except ImportError:
        return False
    codecs = {**dict.fromkeys(_JPEG, "JPEG8"), **dict.fromkeys(_JPEG_LS, "JPEGLS"), RLELossless: "PACKBITS"}
    return uid in SYNTAXES and bool(getattr(imagecodecs, codecs.get(UID(uid), "JPEG2K")).available)


def decode(src: bytes, runner: DecodeRunner) -> bytes:
    """One frame of one sample per pixel, in the container that the header states (the interface of a plug-in).

    Bits above BitsStored are cleared, or repeat the sign: pydicom 3.0 leaves them where a codestream has more bits
    than its header says (pydicom issue 2260).

    Raises:
        ValueError: the codestream is cut, damaged, or not of the size that its header states.
    """
    syntax, signed = runner.transfer_syntax, bool(runner.pixel_representation)
    allocated, bits = runner.bits_allocated, runner.bits_stored
    if runner.samples_per_pixel != 1 or allocated not in (8, 16, 32):
        raise ValueError("medseg decodes images of one sample of 8, 16 or 32 bits")
    size = runner.rows, runner.columns
    if syntax == RLELossless:
        return contained(_from_rle(src, size, allocated), bits).tobytes()
    said = picture(src, syntax)
    if (said.rows, said.columns, said.samples) != (*size, 1):
        raise ValueError(f"{TRUNCATED} the codestream is not of the size that its header says")
    values = _decoded(src, syntax)
    if values.shape != size:
        raise ValueError("the codec gave an image of another size")
    values = values.astype(f"{'i' if signed else 'u'}{allocated // 8}")
    if syntax in _LOSSY and said.bits > bits:  # what goes beyond is no overlay, but a lossy codec's overshoot
        lowest = -(2 ** (bits - 1)) if signed else 0
        values = contained(values, min(said.bits, allocated)).clip(lowest, lowest + 2**bits - 1)
    else:
        values = contained(values, bits if syntax in _JPEG else min(bits, said.bits))
    if syntax in _JPEG_LS:
        runner.set_option("jls_precision", allocated)  # or pydicom would look for the sign at another bit
    elif syntax in _JPEG_2000:
        runner.set_option("j2k_is_signed", int(signed))
    return values.tobytes()


def contained(values: npt.NDArray[np.integer[Any]], bits: int) -> npt.NDArray[np.integer[Any]]:
    """`values` with only their lowest `bits`, the highest of which is the sign in a signed type; changed in place."""
    above = 8 * values.dtype.itemsize - bits
    if above:
        values <<= above
        values >>= above
    return values


def picture(src: bytes, syntax: str) -> Picture:
    """Read the size of the image from the head of its codestream.

    Raises:
        ValueError: there is none.
    """
    if syntax in _JPEG_2000:
        at = src.find(_SIZE_J2K)
        if at < 0 or len(src) < at + 43:
            raise ValueError("this is no JPEG 2000 codestream")
        right, lower, left, upper = (int.from_bytes(src[at + 8 + 4 * i : at + 12 + 4 * i]) for i in range(4))
        return Picture(lower - upper, right - left, int.from_bytes(src[at + 40 : at + 42]), (src[at + 42] & 0x7F) + 1)
    at = 2
    while src[:2] == b"\xff\xd8" and at + 10 <= len(src) and src[at] == 0xFF:
        marker = src[at + 1]
        if marker in _START_OF_FRAME:
            rows, columns = int.from_bytes(src[at + 5 : at + 7]), int.from_bytes(src[at + 7 : at + 9])
            return Picture(rows, columns, src[at + 9], src[at + 4])
        if marker == 0xFF:
            at += 1
        elif marker in _ALONE:
            at += 2
        else:
            at += 2 + int.from_bytes(src[at + 2 : at + 4])
    raise ValueError("this is no JPEG codestream")


def _decoded(src: bytes, syntax: str) -> npt.NDArray[Any]:
    import imagecodecs

    whole = src.rstrip(b"\x00\xff").endswith(_END)
    if syntax not in _JPEG_2000 and not whole:
        raise ValueError(f"{TRUNCATED} the codestream has no end")
    try:
        if syntax in _JPEG:
            return np.asarray(imagecodecs.jpeg8_decode(src))
        if syntax in _JPEG_LS:
            return np.asarray(imagecodecs.jpegls_decode(src))
        return np.asarray(imagecodecs.jpeg2k_decode(src))
    except (RuntimeError, ValueError, MemoryError) as error:
        raise ValueError(f"{'' if whole else TRUNCATED} the codec refuses it ({type(error).__name__})") from None


def _from_rle(src: bytes, size: tuple[int, int], allocated: int) -> npt.NDArray[np.unsignedinteger[Any]]:
    """An image of one byte plane a segment, the highest first (DICOM PS3.5, annex G), as unsigned numbers."""
    import imagecodecs

    planes, pixels = allocated // 8, size[0] * size[1]
    if len(src) < _RLE_HEADER or int.from_bytes(src[:4], "little") != planes:
        raise ValueError("the RLE header does not fit the image")
    starts = [int.from_bytes(src[at : at + 4], "little") for at in range(4, 4 + 4 * planes, 4)]
    out = np.empty((pixels, planes), np.uint8)
    for plane, (start, end) in enumerate(zip(starts, [*starts[1:], len(src)], strict=True)):
        try:
            found = imagecodecs.packbits_decode(src[max(start, _RLE_HEADER) : end])
        except (RuntimeError, ValueError, MemoryError) as error:
            raise ValueError(f"{TRUNCATED} the codec refuses it ({type(error).__name__})") from None
        if len(found) < pixels:
            raise ValueError(f"{TRUNCATED} an RLE segment ends early")
        out[:, planes - 1 - plane] = np.frombuffer(found, np.uint8, pixels)
    return out.view(f"<u{planes}").reshape(size)
