"""Results to be written: small DICOM sources with everything that a header may lack, and labels on them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom import dcmread
from pydicom.dataset import Dataset, FileDataset
from pydicom.sequence import Sequence as Items
from pydicom.uid import EnhancedCTImageStorage

from medseg.imaging.dicom.headers import quiet
from medseg.imaging.dicom.volumes import Frame, State, SubVolume, Verdict
from medseg.imaging.planes import Arranged, Plane, arrange
from medseg.imaging.slicing import image_onto
from medseg.imaging.volume import LabelMap, Volume
from medseg.imaging.writing.result import Algorithm, Result
from tests.imaging.build import ROOT_UID, Built, decimal_string, save_all, some_series

ALGORITHM = Algorithm("medseg test", "1.2.3", "ab" * 32)
STUDY_UID, FRAME_OF_REFERENCE = f"{ROOT_UID}.900", f"{ROOT_UID}.901"
_STUDY = (
    *("StudyInstanceUID", "FrameOfReferenceUID", "PositionReferenceIndicator", "StudyDate", "StudyTime", "StudyID"),
    *("AccessionNumber", "ReferringPhysicianName", "PatientBirthDate", "PatientSex", "PatientAge", "Manufacturer"),
    *("SeriesNumber", "SliceThickness"),
)
SIDE_BY_SIDE = {1: "kidney_left", 2: "liver"}


def plane_of(ds: Dataset) -> Plane:
    """The plane of a single-frame image."""
    return Plane(
        int(ds.Rows),
        int(ds.Columns),
        tuple(float(v) for v in ds.ImageOrientationPatient),
        tuple(float(v) for v in ds.ImagePositionPatient),
        tuple(float(v) for v in ds.PixelSpacing),
    )


def _scan(arranged: Arranged, frames: Sequence[Frame], ds: Dataset) -> SubVolume:
    codes = tuple(fault.code for fault in arranged.faults)
    state: State = "FIXED" if codes else "OK"
    return SubVolume(
        series_uid=str(ds.SeriesInstanceUID),
        study_uid=str(ds.get("StudyInstanceUID") or STUDY_UID),
        patient_id="",
        frame_of_reference=str(ds.get("FrameOfReferenceUID") or FRAME_OF_REFERENCE),
        modality=str(ds.Modality),
        number=1,
        of=1,
        frames=tuple(frames[i] for i in arranged.order),
        planes=arranged.planes,
        grid=arranged.grid,
        verdict=Verdict(state, codes),
        tags={},
        shown={},
    )


def scan_of(datasets: Sequence[FileDataset], folder: Path) -> SubVolume:
    """Write single-frame images, last first, and arrange them to a volume."""
    datasets = list(datasets)[::-1]
    paths = save_all(datasets, folder)
    frames = [Frame(path, 0, str(ds.SOPInstanceUID)) for path, ds in zip(paths, datasets, strict=True)]
    return _scan(arrange([plane_of(ds) for ds in datasets]), frames, datasets[0])


def bare(built: Built) -> list[FileDataset]:
    """The images of a series without study, equipment and frame of reference."""
    made = built.datasets()
    for ds in made:
        for keyword in _STUDY:
            if keyword in ds:
                delattr(ds, keyword)
    return made


def with_study(ds: FileDataset) -> FileDataset:
    """An image as scanners send it: with study, equipment and frame of reference."""
    ds.StudyInstanceUID, ds.FrameOfReferenceUID = STUDY_UID, FRAME_OF_REFERENCE
    ds.StudyDate, ds.StudyTime, ds.StudyID, ds.AccessionNumber = "20200102", "101112", "S1", "A1"
    ds.ReferringPhysicianName, ds.PositionReferenceIndicator = "", ""
    ds.PatientBirthDate, ds.PatientSex, ds.PatientAge = "19500101", "F", "070Y"
    ds.Manufacturer, ds.SeriesNumber, ds.SliceThickness = "Maker", 3, decimal_string(2.5)
    return ds


def enhanced_of(built: Built, folder: Path, before: int = 2) -> SubVolume:
    """The series as one multi-frame file, in which `before` frames of something else come first; slices backwards."""
    single = [with_study(ds) for ds in built.datasets()]
    planes = [plane_of(ds) for ds in single]
    made = with_study(built.dataset(0))
    made.file_meta.MediaStorageSOPClassUID = made.SOPClassUID = EnhancedCTImageStorage
    made.file_meta.MediaStorageSOPInstanceUID = made.SOPInstanceUID = f"{ROOT_UID}.{built.series}.777"
    for keyword in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "SliceThickness"):
        delattr(made, keyword)
    made.NumberOfFrames = before + len(single)
    groups = []
    for i in [0] * before + list(range(len(single)))[::-1]:
        position, orientation, measures, group = Dataset(), Dataset(), Dataset(), Dataset()
        position.ImagePositionPatient = single[i].ImagePositionPatient
        orientation.ImageOrientationPatient = single[i].ImageOrientationPatient
        measures.PixelSpacing, measures.SliceThickness = single[i].PixelSpacing, single[i].SliceThickness
        group.PlanePositionSequence, group.PlaneOrientationSequence = Items([position]), Items([orientation])
        group.PixelMeasuresSequence = Items([measures])
        groups.append(group)
    made.SharedFunctionalGroupsSequence, made.PerFrameFunctionalGroupsSequence = Items([Dataset()]), Items(groups)
    made.PixelData = b"".join(single[i].PixelData for i in [0] * before + list(range(len(single)))[::-1])
    (path,) = save_all([made], folder)
    frames = [Frame(path, before + i, str(made.SOPInstanceUID)) for i in range(len(single))]
    return _scan(arrange(planes[::-1]), frames, made)


def blobs(shape: tuple[int, ...], values: Sequence[int] = (1, 2), seed: int = 0) -> NDArray[np.uint8]:
    """Random labels that touch every border of the array."""
    return np.random.default_rng(seed).choice(np.array([0, *values], np.uint8), shape)


def result_of(
    scan: SubVolume, names: Mapping[int, str] = SIDE_BY_SIDE, array: NDArray[Any] | None = None, **what: Any
) -> Result:
    """A result on the grid that the scan is read on; random labels of all names unless `array` is given."""
    if scan.grid is None:
        raise ValueError("the source has no grid")
    drawn = blobs(scan.grid.shape, tuple(names) or (1,)) if array is None else array
    return Result(LabelMap(drawn, scan.grid, names), scan.grid, scan, what.pop("algorithm", ALGORITHM), **what)


def some_result(
    folder: Path, built: Built | None = None, names: Mapping[int, str] = SIDE_BY_SIDE, **what: Any
) -> Result:
    """A result on a small CT series as scanners send it, with its image."""
    built = built or some_series()
    scan = scan_of([with_study(ds) for ds in built.datasets()], folder)
    return result_of(scan, names, image=image_of(built, scan), **what)


def image_of(built: Built, scan: SubVolume) -> Volume:
    """The intensities of a series on the grid that it is read on."""
    if scan.planes is None or scan.grid is None:
        raise ValueError("the source has no grid")
    stack = np.stack([built.values(z) for z in range(len(built.stored))], axis=2)
    return Volume(image_onto(stack, scan.planes, scan.grid, -1024.0), scan.grid)


def tilted(n: int = 6, degrees: float = 20.0) -> Built:
    """A series with a gantry tilt."""
    built = some_series(n)
    shift = np.tan(np.radians(degrees)) * built.step_mm
    places = {z: built.first_mm + z * (built.step_mm * built.normal + shift * built.column) for z in range(n)}
    return some_series(n, positions_mm=places)


def gapped(n: int = 6) -> Built:
    """A series from which two slices are missing."""
    built = some_series(n)
    places = {z: built.first_mm + (z + 2 * (z > 2)) * built.step_mm * built.normal for z in range(n)}
    return some_series(n, positions_mm=places)


def oblique(n: int = 4) -> Built:
    """A series whose slices are tilted as a whole, with six digits of direction as scanners write them."""
    row = np.round(np.array([np.cos(0.3), np.sin(0.3), 0.0]), 6)
    column = np.round(np.array([-np.sin(0.3) * np.cos(0.2), np.cos(0.3) * np.cos(0.2), np.sin(0.2)]), 6)
    return some_series(n, row=row, column=column)


def scan_in(folder: Path) -> SubVolume:
    """The one series of single-frame images in a folder of real data."""
    found = sorted(path for path in folder.rglob("*") if path.is_file())
    with quiet():
        headers = [dcmread(path, stop_before_pixels=True) for path in found]
        frames = [Frame(path, 0, str(ds.SOPInstanceUID)) for path, ds in zip(found, headers, strict=True)]
        return _scan(arrange([plane_of(ds) for ds in headers]), frames, headers[0])
