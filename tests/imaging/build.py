"""Small files to read: NIfTI, datasets and DICOM series, each with whatever is wrong with it."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import (
    CTImageStorage,
    EnhancedCTImageStorage,
    EnhancedMRImageStorage,
    ExplicitVRLittleEndian,
    MRImageStorage,
    PositronEmissionTomographyImageStorage,
)

PATIENT = "Müller^Jörg"
ROOT_UID = "1.2.826.0.1.3680043.8.498.1"
FRAME_OF_REFERENCE = f"{ROOT_UID}.99"
MODALITIES = {CTImageStorage: "CT", MRImageStorage: "MR", PositronEmissionTomographyImageStorage: "PT"}


def decimal_string(value: float) -> str:
    """At most 16 characters, as DICOM's DS wants (pydicom's own helper gives 17 for 9.999999999999998)."""
    return f"{float(value):.9g}"


def write_nifti(path: Path, array: NDArray[Any], affine: NDArray[np.float64] | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = nib.Nifti1Image(array, np.eye(4) if affine is None else affine)
    image.set_qform(image.affine, code=1)
    image.set_sform(image.affine, code=1)
    nib.save(image, path)
    return path


def write_json(path: Path, said: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(said if isinstance(said, str) else json.dumps(said), encoding="utf-8")
    return path


def some_image(seed: int = 0, shape: tuple[int, int, int] = (6, 5, 4)) -> NDArray[np.int16]:
    return np.random.default_rng(seed).integers(-100, 100, shape).astype(np.int16)


def some_label(value: int = 1, shape: tuple[int, int, int] = (6, 5, 4)) -> NDArray[np.uint8]:
    label = np.zeros(shape, np.uint8)
    label[1:3, 1:3, 1:3] = value
    return label


@dataclass
class Built:
    """A series to be written: stored values (slice, row, column), and where its slices lie in LPS+ mm.

    `tags` are header values of all its images, None for one to be left out; `tags_of` gives those of one slice.
    `first` is the number of its first image: another one makes other images of the same series.
    """

    stored: NDArray[np.int16]
    row: NDArray[np.float64] = field(default_factory=lambda: np.array([1.0, 0, 0]))
    column: NDArray[np.float64] = field(default_factory=lambda: np.array([0.0, 1, 0]))
    first_mm: NDArray[np.float64] = field(default_factory=lambda: np.array([-20.0, -30, 40]))
    between_rows_mm: float = 0.8
    between_columns_mm: float = 0.7
    step_mm: float = 2.5
    slopes: Sequence[float] = (1.0,)
    intercepts: Sequence[float] = (0.0,)
    positions_mm: Mapping[int, NDArray[np.float64]] = field(default_factory=dict)
    series: str = "1"
    sop_class: str = CTImageStorage
    frame_of_reference: str = FRAME_OF_REFERENCE
    tags: Mapping[str, Any] = field(default_factory=dict)
    tags_of: Callable[[int], Mapping[str, Any]] = field(default=lambda _: {})
    first: int = 1

    @property
    def normal(self) -> NDArray[np.float64]:
        return np.cross(self.row, self.column)

    def position_mm(self, z: int) -> NDArray[np.float64]:
        return self.positions_mm.get(z, self.first_mm + z * self.step_mm * self.normal)

    def world_ras(self, x: int, y: int, z: int) -> NDArray[np.float64]:
        lps = self.position_mm(z) + x * self.between_columns_mm * self.row + y * self.between_rows_mm * self.column
        return lps * [-1, -1, 1]

    def values(self, z: int) -> NDArray[np.float32]:
        """(column, row) in the units that the header states."""
        slope, intercept = self.slopes[z % len(self.slopes)], self.intercepts[z % len(self.intercepts)]
        slope, intercept = float(decimal_string(slope)), float(decimal_string(intercept))
        return (self.stored[z].astype(np.float64) * slope + intercept).astype(np.float32).T

    def dataset(self, z: int) -> FileDataset:
        meta = FileMetaDataset()
        meta.TransferSyntaxUID = ExplicitVRLittleEndian
        meta.MediaStorageSOPClassUID = self.sop_class
        meta.MediaStorageSOPInstanceUID = f"{ROOT_UID}.{self.series}.{z + self.first}"
        ds = FileDataset("", Dataset(), preamble=b"\0" * 128, file_meta=meta)
        ds.SpecificCharacterSet = "ISO_IR 192"
        ds.PatientName, ds.PatientID = PATIENT, "12345678"
        ds.SOPClassUID, ds.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
        ds.SeriesInstanceUID = f"{ROOT_UID}.{self.series}"
        if self.frame_of_reference:
            ds.FrameOfReferenceUID = self.frame_of_reference
        ds.Modality, ds.SeriesDescription = MODALITIES.get(self.sop_class, "CT"), f"Abdomen {PATIENT}"
        ds.InstanceNumber = z + self.first
        ds.ImageOrientationPatient = [decimal_string(float(v)) for v in (*self.row, *self.column)]
        ds.ImagePositionPatient = [decimal_string(float(v)) for v in self.position_mm(z)]
        ds.PixelSpacing = [decimal_string(v) for v in (self.between_rows_mm, self.between_columns_mm)]
        ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
        ds.Rows, ds.Columns = self.stored.shape[1:]
        ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 16, 15, 1
        ds.RescaleSlope = decimal_string(float(self.slopes[z % len(self.slopes)]))
        ds.RescaleIntercept = decimal_string(float(self.intercepts[z % len(self.intercepts)]))
        ds.PixelData = self.stored[z].tobytes()
        return change(ds, **self.tags, **self.tags_of(z))

    def datasets(self) -> list[FileDataset]:
        return [self.dataset(z) for z in range(len(self.stored))]


def change(ds: FileDataset, **values: Any) -> FileDataset:
    """Set header values by keyword; None takes one away."""
    for keyword, value in values.items():
        if value is None:
            delattr(ds, keyword)
        else:
            setattr(ds, keyword, value)
    return ds


def save_all(datasets: Sequence[FileDataset], folder: Path, order: Sequence[int] | None = None) -> list[Path]:
    """Write the images under names that tell nothing of their order."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for number, i in enumerate(order if order is not None else range(len(datasets))):
        path = folder / f"IM{number:04d}"
        datasets[i].save_as(path, enforce_file_format=True)
        paths.append(path)
    return paths


def some_series(n: int = 4, seed: int = 0, **what: Any) -> Built:
    stored = np.random.default_rng(seed).integers(-1000, 2000, (n, 5, 6)).astype(np.int16)
    return Built(stored, **what)


def tilted(n: int, degrees: float, **what: Any) -> Built:
    """A series whose slices are displaced against their normal, as with a tilted gantry."""
    built = some_series(n, **what)
    drift = built.step_mm * np.tan(np.radians(degrees)) * built.column
    positions = {z: built.first_mm + z * (built.step_mm * built.normal + drift) for z in range(n)}
    return replace(built, positions_mm=positions)


def phases(
    m: int, n: int = 4, tags_of: Callable[[int, int], Mapping[str, Any]] | None = None, **what: Any
) -> list[Any]:
    """The images of a series that shows each of its n positions m times; `tags_of(phase, slice)` are their values."""
    images = []
    for k in range(m):
        built = some_series(n, seed=k, first=1 + k * n, **what)
        if tags_of is not None:
            built = replace(built, tags_of=lambda z, k=k: tags_of(k, z))
        images += built.datasets()
    return images


def enhanced(built: Built, frames: Sequence[Mapping[str, Any]], number: int = 1) -> FileDataset:
    """One multi-frame object of some of a series' slices.

    Each frame names its slice `z`, and may hold EchoTime, BValue, FrameType, StackID, TemporalPositionIndex, Moment and
    Dimensions. The first dimension pointer is a private one, as some manufacturers write them.
    """
    ct = built.sop_class == CTImageStorage
    ds = built.dataset(0)
    for keyword in ("ImageOrientationPatient", "ImagePositionPatient", "PixelSpacing"):
        delattr(ds, keyword)
    ds.SOPClassUID = EnhancedCTImageStorage if ct else EnhancedMRImageStorage
    ds.SOPInstanceUID = f"{ROOT_UID}.{built.series}.0.{number}"
    ds.file_meta.MediaStorageSOPClassUID, ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPClassUID, ds.SOPInstanceUID
    ds.NumberOfFrames, ds.ImageType = len(frames), ["ORIGINAL", "PRIMARY", "VOLUME", "NONE"]
    pointer = Dataset()
    pointer.DimensionIndexPointer, pointer.FunctionalGroupPointer = 0x2005106E, 0x2005140F
    pointer.DimensionIndexPrivateCreator = "Philips MR Imaging DD 005"
    ds.DimensionIndexSequence = [pointer]
    directions = [decimal_string(float(v)) for v in (*built.row, *built.column)]
    measures = [decimal_string(v) for v in (built.between_rows_mm, built.between_columns_mm)]
    ds.SharedFunctionalGroupsSequence = [
        group(
            PlaneOrientationSequence={"ImageOrientationPatient": directions},
            PixelMeasuresSequence={"PixelSpacing": measures, "SliceThickness": decimal_string(built.step_mm)},
        )
    ]
    ds.PerFrameFunctionalGroupsSequence = [_frame_group(built, frame, "CT" if ct else "MR") for frame in frames]
    ds.PixelData = b"".join(built.stored[frame["z"]].tobytes() for frame in frames)
    return ds


def group(**sequences: Mapping[str, Any]) -> Dataset:
    """A functional group: of each sequence its only item."""
    made = Dataset()
    for keyword, values in sequences.items():
        item = Dataset()
        for name, value in values.items():
            setattr(item, name, value)
        setattr(made, keyword, [item])
    return made


def _frame_group(built: Built, frame: Mapping[str, Any], modality: str) -> Dataset:
    kept = {
        "StackID": "StackID",
        "TemporalPositionIndex": "TemporalPositionIndex",
        "Dimensions": "DimensionIndexValues",
    }
    content = {keyword: frame[name] for name, keyword in kept.items() if name in frame}
    if "Moment" in frame:
        content["FrameAcquisitionDateTime"] = frame["Moment"]
    position = [decimal_string(float(v)) for v in built.position_mm(frame["z"])]
    sequences: dict[str, Mapping[str, Any]] = {
        "PlanePositionSequence": {"ImagePositionPatient": position},
        "FrameContentSequence": content,
    }
    if "EchoTime" in frame:
        sequences["MREchoSequence"] = {"EffectiveEchoTime": frame["EchoTime"]}
    if "BValue" in frame:
        sequences["MRDiffusionSequence"] = {"DiffusionBValue": frame["BValue"]}
    if "FrameType" in frame:
        sequences[f"{modality}ImageFrameTypeSequence"] = {"FrameType": frame["FrameType"]}
    return group(**sequences)
