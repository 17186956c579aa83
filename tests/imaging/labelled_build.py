"""Small DICOM series with label objects, written by medseg's own writers, and whatever may be wrong with them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.uid import generate_uid

from medseg.imaging.dicom.scanner import scan_dicom
from medseg.imaging.dicom.volumes import SubVolume
from medseg.imaging.grid import Grid
from medseg.imaging.volume import LabelMap, Volume
from medseg.imaging.writing.result import Algorithm, Result
from medseg.imaging.writing.rtstruct import write_rtstruct
from medseg.imaging.writing.seg import write_seg
from medseg.imaging.writing.series import write_series

SHAPE = (12, 10, 6)
AFFINE = np.array([[-0.8, 0, 0, 20], [0, -0.7, 0, 30], [0, 0, 2.5, -40], [0, 0, 0, 1.0]])
NAMES = {1: "liver", 2: "lesion"}


def box(value: int = 1, at: int = 2, shape: tuple[int, int, int] = SHAPE) -> NDArray[np.uint8]:
    label = np.zeros(shape, np.uint8)
    label[at : at + 4, at : at + 4, 1:4] = value
    return label


def series(
    folder: Path,
    seed: int = 0,
    modality: Literal["CT", "MR"] = "CT",
    patient: str = "Müller^Jörg",
    affine: NDArray[np.float64] = AFFINE,
    shape: tuple[int, int, int] = SHAPE,
    **header: Any,
) -> SubVolume:
    """A series of random values; `header` sets values of all its images."""
    voxels = np.random.default_rng(seed).integers(-900, 900, shape).astype(np.int16)
    written = write_series(folder, Volume(voxels, Grid(shape, affine)), modality, patient, str(seed))
    for path in written.paths if header else ():
        image = pydicom.dcmread(path)
        for key, value in header.items():
            setattr(image, key, value)
        image.save_as(path)
    (volume,) = scan_dicom(written.paths).volumes
    return volume


def in_study_of(volume: SubVolume) -> dict[str, str]:
    """Header values that put a series into the study and space of another."""
    return {"StudyInstanceUID": volume.study_uid, "FrameOfReferenceUID": volume.frame_of_reference}


def label(
    path: Path,
    volume: SubVolume,
    array: NDArray[np.uint8],
    names: Mapping[int, str] | None = None,
    kind: Literal["seg", "labelmap", "rtstruct"] = "seg",
) -> Path:
    """The labels (X, Y, Z), on the volume's grid, as a label object."""
    assert volume.grid is not None
    labels = LabelMap(array, volume.grid, NAMES if names is None else names)
    result = Result(labels, volume.grid, volume, Algorithm("tests", "1"))
    if kind == "rtstruct":
        return write_rtstruct(path, result).path
    return write_seg(path, result, labelmap=kind == "labelmap").path


def overlapping(
    path: Path,
    volume: SubVolume,
    arrays: Mapping[int, NDArray[np.uint8]],
    names: Mapping[int, str],
    kind: Literal["seg", "rtstruct"] = "seg",
) -> Path:
    """A label object whose structures (each where its array is not 0) share voxels."""
    alone = {
        value: pydicom.dcmread(label(path, volume, np.where(array > 0, np.uint8(value), np.uint8(0)), names, kind))
        for value, array in arrays.items()
    }
    made = next(iter(alone.values()))
    if kind == "rtstruct":
        contours = [next(r for r in ds.ROIContourSequence if r.ReferencedROINumber == v) for v, ds in alone.items()]
        made.ROIContourSequence = contours
    else:  # frames follow each other bit by bit, and these are of whole bytes
        size = made.Rows * made.Columns // 8
        pixels = b"".join(ds.PixelData[: size * ds.NumberOfFrames] for ds in alone.values())
        groups = [_grouped(ds) for ds in alone.values()]
        made.PerFrameFunctionalGroupsSequence = [group for frames in groups for group in frames]
        made.NumberOfFrames, made.PixelData = len(pixels) // size, pixels + b"\0" * (len(pixels) % 2)
        shared = made.SharedFunctionalGroupsSequence[0]
        if "SegmentIdentificationSequence" in shared:
            del shared.SegmentIdentificationSequence
    made.save_as(path)
    return path


def _grouped(ds: Any) -> list[Any]:
    """The groups of each frame, with the segment that may be said once for all."""
    shared = ds.SharedFunctionalGroupsSequence[0]
    for group in ds.PerFrameFunctionalGroupsSequence:
        if "SegmentIdentificationSequence" in shared:
            group.SegmentIdentificationSequence = shared.SegmentIdentificationSequence
    return list(ds.PerFrameFunctionalGroupsSequence)


def forget(path: Path, *keywords: str) -> Path:
    """Put UIDs that belong to nothing in place of those that a label object refers to by these keywords."""
    found = pydicom.dcmread(path)
    for item in found.iterall():
        if item.keyword in keywords:
            item.value = generate_uid()
    found.save_as(path)
    return path
