"""A segmentation as a result to be handed on, and the source images that it belongs to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pydicom
from pydicom.dataset import Dataset
from pydicom.uid import generate_uid

from medseg.errors import InputError
from medseg.imaging.dicom.headers import quiet
from medseg.imaging.dicom.volumes import SubVolume
from medseg.imaging.grid import Grid
from medseg.imaging.planes import Planes
from medseg.imaging.slicing import labels_from
from medseg.imaging.volume import LabelMap, Volume
from medseg.imaging.writing.codes import Code

Made = Literal["AUTOMATIC", "SEMIAUTOMATIC", "MANUAL", ""]  # how labels were drawn; "" where it is not known

SAME_PIXEL = 0.25  # of the smallest spacing: nearer than this, the nearest voxel of every pixel is its own
_EMPTY_IF_MISSING = (  # type 2 of the modules Patient, General Study, General Series, Frame of Reference, Equipment
    "PatientName",
    "PatientID",
    "PatientBirthDate",
    "PatientSex",
    "StudyDate",
    "StudyTime",
    "ReferringPhysicianName",
    "StudyID",
    "AccessionNumber",
    "SeriesNumber",
    "PositionReferenceIndicator",
    "Manufacturer",
)


@dataclass(frozen=True, slots=True)
class Algorithm:
    """What drew the labels: name, version, and the SHA-256 (hex) of the model's weights, or ""."""

    name: str
    version: str
    model: str = ""


@dataclass(frozen=True, eq=False)
class Result:
    """Labels on the grid that the scan was read on, and all that a file of results says about them.

    own: the grid for file formats; `labels.grid` unless the scan's file was sheared. scan: the DICOM source, None where
    the scan was a file. image: intensities on `labels.grid`. codes: the user's own codes, by structure name. warnings:
    one line each, without any text of the headers. made: how the labels were drawn, as DICOM says it; RTSTRUCT leaves
    it empty where it is not known, and SEG, which must say something, then says MANUAL and names no algorithm.
    """

    labels: LabelMap
    own: Grid
    scan: SubVolume | None
    algorithm: Algorithm
    image: Volume | None = None
    codes: Mapping[str, Code] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    made: Made = "AUTOMATIC"

    @property
    def by_algorithm(self) -> bool:
        """True if the labels are known to be an algorithm's, alone or with a person."""
        return self.made in ("AUTOMATIC", "SEMIAUTOMATIC")


@dataclass(frozen=True, slots=True)
class Written:
    """A file that was written and read back; `deviation_mm` is the largest error of place found in it."""

    path: Path
    deviation_mm: float


def source(result: Result) -> tuple[SubVolume, Planes]:
    """The DICOM volume that the result belongs to, and its slices.

    Raises:
        InputError: the scan was no DICOM, or has no geometry.
    """
    if result.scan is None or result.scan.planes is None:
        raise InputError("[NO_SOURCE] the scan was no DICOM series", fix="write NIfTI or NRRD instead")
    return result.scan, result.scan.planes


def native(result: Result) -> npt.NDArray[np.unsignedinteger[Any]]:
    """Labels on the scan's own slices (X, Y, N): as they are, or by the nearest voxel where the scan was mended.

    Raises:
        InputError: the scan was no DICOM.
    """
    _, planes = source(result)
    return result.labels.array if _own_voxels(planes, result.labels.grid) else labels_from(result.labels, planes)


def _own_voxels(planes: Planes, grid: Grid) -> bool:
    if grid.shape != (*planes.shape, len(planes)):
        return False
    far = np.array(planes.shape) - 1
    reach = planes.row * planes.spacing_mm[0] * far[0], planes.column * planes.spacing_mm[1] * far[1]
    first = (grid.affine[:3, 3] + np.arange(len(planes))[:, None] * grid.affine[:3, 2]) - planes.positions_mm
    last = first + sum(grid.affine[:3, axis] * far[axis] - reach[axis] for axis in (0, 1))
    away = max(np.linalg.norm(first, axis=1).max(), np.linalg.norm(last, axis=1).max())
    return bool(away <= SAME_PIXEL * min(grid.spacing_mm))


def source_headers(result: Result) -> list[Dataset]:
    """The headers of the scan's files, without pixels, in the order of `planes`; one alone for a multi-frame file.

    Missing attributes that must be there but may be empty are added empty; UIDs are those of `scan`. Nothing else is
    invented.

    Raises:
        InputError: the scan was no DICOM, or a file of it cannot be read any more.
    """
    scan, _ = source(result)
    with quiet():
        return [_header(path, scan) for path in scan.paths]


def _header(path: Path, scan: SubVolume) -> Dataset:
    try:
        ds = pydicom.dcmread(path, force=True, stop_before_pixels=True)
    except Exception as error:  # a parser on arbitrary bytes can fail in any way
        raise InputError("[SOURCE_GONE] an image of the series cannot be read any more", fix="read it again") from error
    for keyword in _EMPTY_IF_MISSING:
        if keyword not in ds:
            setattr(ds, keyword, None)
    meta = ds.file_meta if hasattr(ds, "file_meta") else Dataset()
    if not ds.get("SOPClassUID"):
        ds.SOPClassUID = meta.get("MediaStorageSOPClassUID")
    # The scan has one valid UID of each kind, the file perhaps several, or a text that is none. A study alone may have
    # none there, but no object can do without one: it is derived from the series, the same for every result of it.
    for keyword, uid in (
        ("SOPInstanceUID", next(frame.uid for frame in scan.frames if frame.path == path)),
        ("SeriesInstanceUID", scan.series_uid),
        ("StudyInstanceUID", scan.study_uid or str(generate_uid(entropy_srcs=[scan.series_uid, "study"]))),
        ("FrameOfReferenceUID", scan.frame_of_reference),
    ):
        if ds.get(keyword) != uid:
            setattr(ds, keyword, uid)
    return ds


def result_uid(result: Result, what: str) -> str:
    """A UID made from the source volume, the model and `what`: a second run writes the same objects anew.

    Raises:
        InputError: the scan was no DICOM.
    """
    scan, _ = source(result)
    volume = [] if scan.of == 1 else [scan.frames[0].uid, str(scan.frames[0].index)]
    return str(generate_uid(entropy_srcs=[scan.series_uid, *volume, result.algorithm.model, what]))
