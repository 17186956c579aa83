"""A volume as a classic DICOM image series, CT or MR: one file a slice, read back by SimpleITK before they appear."""

from __future__ import annotations

import hashlib
import os
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, MRImageStorage, generate_uid
from pydicom.valuerep import format_number_as_ds

from medseg.errors import GeometryError, InputError, explained
from medseg.files import STRAY_AFTER_S
from medseg.imaging.dicom.headers import quiet
from medseg.imaging.grid import LPS_TO_RAS, Grid
from medseg.imaging.volume import Volume
from medseg.imaging.writing.objects import MANUFACTURER, RESEARCH_USE_ONLY, short_text

DESCRIPTION = f"medseg image series - {RESEARCH_USE_ONLY}"
RIGHT_ANGLE = 1e-4  # cosine of the angle between axes that DICOM's slices can still follow
FARTHEST_MM = 1e-3
_PART = ".part-series-"
_STEPS = 65535  # of 16-bit numbers
_LPS = np.diag(LPS_TO_RAS)[:3]


@dataclass(frozen=True, slots=True)
class Stored:
    """How values are stored as 16-bit whole numbers: value = stored * slope + intercept; `exact` if nothing is lost."""

    slope: float
    intercept: float
    exact: bool
    signed: bool = True

    @property
    def least(self) -> int:
        """The smallest number that can be stored."""
        return -32768 if self.signed else 0

    @property
    def most(self) -> int:
        """The largest number that can be stored."""
        return self.least + _STEPS


@dataclass(frozen=True, slots=True)
class SeriesWritten:
    """The files in the order of their slices; the largest errors of place and of value found on reading back."""

    paths: tuple[Path, ...]
    deviation_mm: float
    loss: float
    notes: tuple[str, ...] = ()


def write_series(
    folder: Path, volume: Volume, modality: Literal["CT", "MR"], patient: str, seed: str = ""
) -> SeriesWritten:
    """Write a volume on an orthogonal grid into `folder` as `IM0001.dcm`, ..., in the order along the slices' normal.

    The folder, new or empty, appears in one step when all was read back: a run that was killed leaves nothing in it.
    `patient` is a pseudonym for PatientID; the name stays empty, as does all else that is not known. UIDs follow from
    the arguments, so that the same call gives the same series. Whole numbers within 16 bits are stored exactly; others
    in 65535 steps over their range, which loses half a step at most.

    Raises:
        InputError: values that are not finite, or a folder that holds something.
        GeometryError: the grid's axes are not at right angles; what SimpleITK read back differs.
        ResourceError: the disk is full or the folder cannot be written to.
    """
    grid = volume.grid
    _check_axes(grid)
    stored = storing(volume)
    uids = _uids(volume, modality, patient, seed)
    with quiet(), explained(folder):
        _check_free(folder)
        folder.parent.mkdir(parents=True, exist_ok=True)
        _sweep(folder.parent)
        with TemporaryDirectory(prefix=_PART, dir=folder.parent) as scratch:
            whole = Path(scratch) / "series"
            whole.mkdir()
            beside = [whole / f"IM{i + 1:04d}.dcm" for i in range(grid.shape[2])]
            for i, (path, k) in enumerate(zip(beside, _order(grid), strict=True)):
                image = _image(volume, k, i + 1, modality, stored, uids, patient)
                with path.open("wb") as file:
                    image.save_as(file, enforce_file_format=True)
                    file.flush()
                    os.fsync(file.fileno())
            deviation, loss = _read_back(beside, volume, stored)
            if folder.is_dir():
                folder.rmdir()
            whole.rename(folder)
    paths = tuple(folder / path.name for path in beside)
    said = f"values are stored in steps of {stored.slope:.3g}: they lost {loss:.3g} at most"
    return SeriesWritten(paths, deviation, loss, (said,) if loss else ())


def _check_free(folder: Path) -> None:
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError("is not empty", folder, "name a new folder")


def _sweep(folder: Path) -> None:
    """Take away what killed runs left there a day ago."""
    for stray in folder.glob(f"{_PART}*"):
        with suppress(FileNotFoundError):  # its writer, or another sweeper, was faster
            if time.time() - stray.stat().st_mtime > STRAY_AFTER_S:
                shutil.rmtree(stray)


def _check_axes(grid: Grid) -> None:
    directions = grid.affine[:3, :3] / np.linalg.norm(grid.affine[:3, :3], axis=0)
    if np.abs(directions.T @ directions - np.eye(3)).max() > RIGHT_ANGLE:
        raise GeometryError("[SHEARED] the grid's axes are not at right angles", fix="resample it onto a straight grid")


def _order(grid: Grid) -> Sequence[int]:
    """The slices in their order along the normal of rows and columns, in LPS; a left-handed grid has them backwards."""
    along = range(grid.shape[2])
    row, column, slices = (grid.affine[:3, axis] * _LPS for axis in range(3))
    return along if np.dot(np.cross(row, column), slices) > 0 else along[::-1]


def storing(volume: Volume) -> Stored:
    """The slope and intercept (as DICOM's 16 characters hold them) that lose the least.

    Raises:
        InputError: values that are not finite.
    """
    lowest, highest, whole = np.inf, -np.inf, True
    for part in _slices(volume):
        if not np.isfinite(part).all():
            raise InputError("[INTENSITIES] the image holds values that are not finite numbers", fix="replace them")
        lowest, highest = min(lowest, float(part.min())), max(highest, float(part.max()))
        whole = whole and bool((part == np.rint(part)).all())
    if whole and lowest >= -32768 and highest <= 32767:
        return Stored(1.0, 0.0, exact=True)
    if whole and lowest >= 0 and highest <= _STEPS:  # no intercept: GDCM refuses signed numbers that become unsigned
        return Stored(1.0, 0.0, exact=True, signed=False)
    if whole and highest - lowest <= _STEPS:
        return Stored(1.0, _as_ds(lowest + 32768), exact=_as_ds(lowest + 32768) == lowest + 32768)
    if lowest == highest:
        return Stored(1.0, _as_ds(lowest), exact=_as_ds(lowest) == lowest)
    slope = _as_ds((highest - lowest) / (_STEPS - 1))  # one step less, since DS rounds
    return Stored(slope, _as_ds(lowest + 32768 * slope), exact=False)


def _slices(volume: Volume) -> Iterator[npt.NDArray[np.float64]]:
    for k in range(volume.grid.shape[2]):
        yield np.asarray(volume.array[:, :, k], dtype=np.float64)


def _as_ds(value: float) -> float:
    return float(format_number_as_ds(float(value)))


def _uids(volume: Volume, modality: str, patient: str, seed: str) -> dict[str, str]:
    """UIDs of study, frame of reference and series, and the digest that those of the images follow from."""
    digest = hashlib.sha256(volume.grid.affine.tobytes())
    digest.update(f"{volume.grid.shape} {volume.array.dtype.str} {modality} {patient} {seed}".encode())
    for k in range(volume.grid.shape[2]):
        digest.update(np.ascontiguousarray(volume.array[:, :, k]).tobytes())
    text = digest.hexdigest()
    uids = {what: str(generate_uid(entropy_srcs=[text, what])) for what in ("study", "frame of reference", "series")}
    return uids | {"digest": text}


def _image(  # one argument for each thing that a file says
    volume: Volume, k: int, number: int, modality: str, stored: Stored, uids: dict[str, str], patient: str
) -> FileDataset:
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID = CTImageStorage if modality == "CT" else MRImageStorage
    meta.MediaStorageSOPInstanceUID = generate_uid(entropy_srcs=[uids["digest"], f"image {number}"])
    ds = FileDataset("", Dataset(), preamble=b"\0" * 128, file_meta=meta)
    ds.SOPClassUID, ds.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
    pseudonym = short_text(patient)
    if not pseudonym.isascii():
        ds.SpecificCharacterSet = "ISO_IR 192"
    ds.PatientID = pseudonym
    for keyword in _UNKNOWN:
        setattr(ds, keyword, None)
    ds.StudyInstanceUID, ds.SeriesInstanceUID = uids["study"], uids["series"]
    ds.FrameOfReferenceUID = uids["frame of reference"]
    ds.Modality, ds.SeriesDescription, ds.SeriesNumber, ds.InstanceNumber = modality, DESCRIPTION, 1, number
    ds.Manufacturer = MANUFACTURER
    _say_kind(ds, modality)
    _say_place(ds, volume.grid, k)
    _say_values(ds, volume, k, stored)
    return ds


_UNKNOWN = (  # type 2: they must be there and may be empty
    "PatientName",
    "PatientBirthDate",
    "PatientSex",
    "StudyDate",
    "StudyTime",
    "StudyID",
    "AccessionNumber",
    "ReferringPhysicianName",
    "PositionReferenceIndicator",
    "Laterality",
    "PatientPosition",
    "AcquisitionNumber",
)


def _say_kind(ds: Dataset, modality: str) -> None:
    ds.ImageType = ["DERIVED", "SECONDARY", "AXIAL" if modality == "CT" else "OTHER"]
    if modality == "CT":
        ds.KVP = None
        return
    ds.ScanningSequence, ds.SequenceVariant = "RM", "NONE"  # "research mode": how it was acquired is not known
    for keyword in ("ScanOptions", "MRAcquisitionType", "RepetitionTime", "EchoTime", "EchoTrainLength"):
        setattr(ds, keyword, None)


def _say_place(ds: Dataset, grid: Grid, k: int) -> None:
    lengths = np.linalg.norm(grid.affine[:3, :3], axis=0)
    row, column = (grid.affine[:3, axis] / lengths[axis] * _LPS + 0.0 for axis in (0, 1))
    position = (grid.affine[:3, 3] + k * grid.affine[:3, 2]) * _LPS + 0.0
    ds.ImageOrientationPatient = [format_number_as_ds(float(v)) for v in (*row, *column)]
    ds.ImagePositionPatient = [format_number_as_ds(float(v)) for v in position]
    ds.PixelSpacing = [format_number_as_ds(float(lengths[1])), format_number_as_ds(float(lengths[0]))]
    ds.SliceThickness = format_number_as_ds(float(lengths[2]))  # the extent of a voxel; what the scanner had is unknown


def _say_values(ds: Dataset, volume: Volume, k: int, stored: Stored) -> None:
    values = np.asarray(volume.array[:, :, k], dtype=np.float64)
    numbers = np.clip(np.rint((values - stored.intercept) / stored.slope), stored.least, stored.most)
    numbers = numbers.astype("<i2" if stored.signed else "<u2").T
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
    ds.Rows, ds.Columns = numbers.shape
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 16, 15, int(stored.signed)
    ds.PixelData = numbers.tobytes()
    if ds.Modality == "CT" or (stored.slope, stored.intercept) != (1.0, 0.0):  # an MR image has them where needed only
        ds.RescaleIntercept, ds.RescaleSlope = format_number_as_ds(stored.intercept), format_number_as_ds(stored.slope)


def _read_back(paths: Sequence[Path], volume: Volume, stored: Stored) -> tuple[float, float]:
    """The largest errors of place in mm and of value, as SimpleITK reads the files.

    Raises:
        GeometryError: they are larger than storing them explains.
    """
    import SimpleITK

    reader = SimpleITK.ImageSeriesReader()
    reader.SetFileNames([str(path) for path in paths])
    try:
        image = reader.Execute()
    except RuntimeError as error:
        raise _differs("SimpleITK cannot read it") from error
    order = list(_order(volume.grid))
    if image.GetSize() != volume.grid.shape:
        raise _differs("it has another size")
    deviation = _deviation(image, volume.grid, order)
    loss = 0.0
    whole = SimpleITK.GetArrayViewFromImage(image)
    for i, k in enumerate(order):
        loss = max(loss, float(np.abs(whole[i].T - np.asarray(volume.array[:, :, k], dtype=np.float64)).max()))
    largest = abs(stored.intercept) + _STEPS * stored.slope
    if loss > (0.0 if stored.exact else stored.slope * 0.5 + 1e-12 * largest):
        raise _differs(f"values differ by {loss:.3g}")
    if deviation > FARTHEST_MM:
        raise _differs(f"it lies {deviation:.3g} mm from where it was")
    return deviation, loss


def _deviation(image: Any, grid: Grid, order: Sequence[int]) -> float:
    """Largest distance in mm between the corners of the first and last slice as read and as meant."""
    x, y, z = (n - 1 for n in grid.shape)
    away = 0.0
    for i in (0, z):
        for corner in ((0, 0), (x, 0), (0, y), (x, y)):
            there = np.array(image.TransformIndexToPhysicalPoint((*corner, i))) * _LPS
            meant = grid.affine[:3, :3] @ (*corner, order[i]) + grid.affine[:3, 3]
            away = max(away, float(np.linalg.norm(there - meant)))
    return away


def _differs(what: str) -> GeometryError:
    return GeometryError(f"[READ_BACK] the series that was written differs: {what}", fix="please report this")
