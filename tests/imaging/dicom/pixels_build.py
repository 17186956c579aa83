"""DICOM files with pixels stored in every way, and the volumes that they make, without a scan."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileDataset
from pydicom.encaps import encapsulate
from pydicom.uid import (
    HTJ2K,
    JPEG2000,
    UID,
    EnhancedCTImageStorage,
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

from medseg.imaging.dicom.volumes import Frame, SubVolume, Verdict
from medseg.imaging.planes import Plane, Planes, arrange
from tests.imaging.build import Built, decimal_string

Image = NDArray[Any]


@dataclass(frozen=True)
class Codec:
    """How a picture is compressed, and how far from it the decompressed one may be, as a share of its range."""

    syntax: UID
    encode: Callable[[Image, int], bytes]
    error: float = 0.0
    most_bits: int = 16
    least_bits: int = 8


def _rle(image: Image, bits: int) -> bytes:
    encoded: bytes = pydicom.pixels.get_encoder(RLELossless).encode(
        np.ascontiguousarray(image).tobytes(),
        rows=image.shape[0],
        columns=image.shape[1],
        samples_per_pixel=1,
        bits_allocated=8 * image.itemsize,
        bits_stored=bits,
        pixel_representation=0,
        photometric_interpretation="MONOCHROME2",
        number_of_frames=1,
    )
    return encoded


def _j2k(reversible: bool, level: int | None = None) -> Callable[[Image, int], bytes]:
    def encode(image: Image, bits: int) -> bytes:
        return bytes(
            imagecodecs.jpeg2k_encode(image, level, codecformat="j2k", reversible=reversible, bitspersample=bits)
        )

    return encode


def _lossless_jpeg(predictor: int) -> Callable[[Image, int], bytes]:
    return lambda image, bits: bytes(
        imagecodecs.jpeg8_encode(image, lossless=True, predictor=predictor, bitspersample=bits)
    )


CODECS: Mapping[str, Codec] = {
    "RLE": Codec(RLELossless, _rle),
    "JPEG baseline": Codec(JPEGBaseline8Bit, lambda image, _: bytes(imagecodecs.jpeg8_encode(image, 98)), 0.02, 8),
    "JPEG extended": Codec(
        JPEGExtended12Bit, lambda image, _: bytes(imagecodecs.jpeg8_encode(image, 98, bitspersample=12)), 0.002, 12, 12
    ),
    "JPEG lossless, first": Codec(JPEGLosslessSV1, _lossless_jpeg(1)),
    "JPEG lossless, sixth": Codec(JPEGLossless, _lossless_jpeg(6)),
    "JPEG-LS": Codec(JPEGLSLossless, lambda image, _: bytes(imagecodecs.jpegls_encode(image))),
    "JPEG-LS near": Codec(JPEGLSNearLossless, lambda image, _: bytes(imagecodecs.jpegls_encode(image, 2)), 0.008),
    "JPEG 2000 lossless": Codec(JPEG2000Lossless, _j2k(reversible=True)),
    "JPEG 2000": Codec(JPEG2000, _j2k(reversible=False, level=80), 0.005),
    "HTJ2K lossless": Codec(HTJ2KLossless, lambda image, _: bytes(imagecodecs.htj2k_encode(image, reversible=True))),
    "HTJ2K lossless RPCL": Codec(
        HTJ2KLosslessRPCL, lambda image, _: bytes(imagecodecs.htj2k_encode(image, reversible=True))
    ),
    "HTJ2K": Codec(HTJ2K, lambda image, _: bytes(imagecodecs.htj2k_encode(image, 0.0005, reversible=False)), 0.02),
}


def smooth(bits: int, signed: bool = False, shape: tuple[int, int] = (19, 23), seed: int = 0) -> Image:
    """A picture that uses all of `bits`, smooth enough for lossy codecs; two's complement if signed."""
    y, x = np.mgrid[: shape[0], : shape[1]] / max(shape)
    noise = np.random.default_rng(seed).normal(0, 0.01, shape)
    wave = 0.5 + 0.49 * np.sin(5 * x + seed) * np.cos(4 * y) + noise
    values = (wave.clip(0, 1) * (2**bits - 1)).astype(np.int64) - (2 ** (bits - 1) if signed else 0)
    return values.astype(f"{'i' if signed else 'u'}{1 if bits <= 8 else 2}")


def as_bits(image: Image, bits: int) -> Image:
    """The bit pattern of `image` in `bits`, as codecs without a sign get it."""
    kind = np.uint8 if image.itemsize == 1 else np.uint16
    return image.view(kind) & kind(2**bits - 1)


def stored_as(ds: FileDataset, images: Sequence[Image], bits: int, syntax: UID | None = None) -> FileDataset:
    """Put pictures into a dataset, not compressed."""
    first = images[0]
    ds.Rows, ds.Columns = first.shape
    ds.BitsAllocated, ds.BitsStored, ds.HighBit = 8 * first.itemsize, bits, bits - 1
    ds.PixelRepresentation = int(first.dtype.kind == "i")
    if len(images) > 1:
        ds.NumberOfFrames = len(images)
    data = b"".join(np.ascontiguousarray(image).tobytes() for image in images)
    ds.PixelData = data + b"\0" * (len(data) % 2)
    ds["PixelData"].VR = "OW" if first.itemsize > 1 else "OB"
    if syntax is not None:
        ds.file_meta.TransferSyntaxUID = syntax
    return ds


def compressed(ds: FileDataset, images: Sequence[Image], bits: int, codec: Codec) -> FileDataset:
    """Put pictures into a dataset, compressed."""
    stored_as(ds, images, bits, codec.syntax)
    ds.PixelData = encapsulate([codec.encode(as_bits(image, bits), bits) for image in images])
    ds["PixelData"].VR = "OB"
    ds["PixelData"].is_undefined_length = True
    return ds


def subvolume(paths: Sequence[Path], verdict: Verdict | None = None, repeats: Sequence[Path] = ()) -> SubVolume:
    """The volume that single-frame files, or the frames of one enhanced file, make."""
    planes, frames, modality = [], [], ""
    for path in paths:
        ds = pydicom.dcmread(path, stop_before_pixels=True, force=True)
        modality = str(ds.Modality)
        for index in range(int(ds.get("NumberOfFrames") or 1)):
            groups = ds.get("PerFrameFunctionalGroupsSequence")
            at = groups[index].PlanePositionSequence[0] if groups else ds
            shared = ds.SharedFunctionalGroupsSequence[0] if groups else None
            direction = shared.PlaneOrientationSequence[0] if shared else ds
            spacing = shared.PixelMeasuresSequence[0] if shared else ds
            planes.append(
                Plane(
                    int(ds.Rows),
                    int(ds.Columns),
                    tuple(map(float, direction.ImageOrientationPatient)),
                    tuple(map(float, at.ImagePositionPatient)),
                    tuple(map(float, spacing.PixelSpacing)),
                )
            )
            frames.append(Frame(path, index, str(ds.SOPInstanceUID)))
    arranged = arrange(planes)
    if verdict is None:
        verdict = (
            Verdict("OK")
            if not arranged.faults
            else Verdict("FIXED", tuple(f.code for f in arranged.faults), "; ".join(f.said for f in arranged.faults))
        )
    uids = [Frame(path, 0, str(pydicom.dcmread(path, stop_before_pixels=True).SOPInstanceUID)) for path in repeats]
    ordered = tuple(frames[i] for i in arranged.order)
    return volume_of(ordered, modality, arranged.planes, verdict, tuple(uids), arranged.grid)


def volume_of(
    frames: Sequence[Frame],
    modality: str,
    planes: Planes | None,
    verdict: Verdict | None = None,
    repeats: tuple[Frame, ...] = (),
    grid: Any = None,
) -> SubVolume:
    return SubVolume(
        *("1.2.3", "1.2", "12345678", "1.2.9", modality, 1, 1, tuple(frames), planes, grid),
        *(verdict or Verdict("OK"), {}, {}),
        repeats=repeats,
    )


def stack_of(paths: Sequence[Path], columns: int, rows: int, modality: str = "MR", frames: int = 1) -> SubVolume:
    """Any files as the slices of a volume, one above the other, whatever their headers say of their places."""
    listed = [Frame(path, index, f"{path}") for path in paths for index in range(frames)]
    positions = np.array([[0.0, 0.0, z] for z in range(len(listed))])
    planes = Planes((columns, rows), (1.0, 1.0), np.array([1.0, 0, 0]), np.array([0.0, 1, 0]), positions)
    return volume_of(listed, modality, planes)


def enhanced(built: Built, slopes: Sequence[float], codec: Codec | None = None, shared: bool = False) -> FileDataset:
    """One enhanced CT that holds all slices of `built`, last one first, each with its own slope."""
    ds = built.dataset(0)
    ds.SOPClassUID = ds.file_meta.MediaStorageSOPClassUID = EnhancedCTImageStorage
    images = [built.stored[z] for z in range(len(built.stored))][::-1]
    for keyword in ("ImageOrientationPatient", "ImagePositionPatient", "PixelSpacing", "RescaleSlope"):
        delattr(ds, keyword)
    del ds.RescaleIntercept
    common, frames = Dataset(), []
    common.PlaneOrientationSequence, common.PixelMeasuresSequence = [Dataset()], [Dataset()]
    common.PlaneOrientationSequence[0].ImageOrientationPatient = [
        decimal_string(float(v)) for v in (*built.row, *built.column)
    ]
    common.PixelMeasuresSequence[0].PixelSpacing = [built.between_rows_mm, built.between_columns_mm]
    for z in reversed(range(len(images))):
        frame = Dataset()
        frame.PlanePositionSequence = [Dataset()]
        frame.PlanePositionSequence[0].ImagePositionPatient = [decimal_string(float(v)) for v in built.position_mm(z)]
        if not shared:
            frame.PixelValueTransformationSequence = [_transformation(slopes[z % len(slopes)])]
        frames.append(frame)
    if shared:
        common.PixelValueTransformationSequence = [_transformation(slopes[0])]
    ds.SharedFunctionalGroupsSequence, ds.PerFrameFunctionalGroupsSequence = [common], frames
    return compressed(ds, images, 16, codec) if codec else stored_as(ds, images, 16)


def _transformation(slope: float) -> Dataset:
    item = Dataset()
    item.RescaleSlope, item.RescaleIntercept, item.RescaleType = decimal_string(slope), "-1024", "HU"
    return item
