"""Labels as a DICOM RT Structure Set: contours on the slices that the scan was acquired in.

Written with pydicom alone (PS3.3 A.19). Before the file appears, it is read back and filled by code that shares
nothing with the one that drew the contours, and compared with the labels slice by slice.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pydicom
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import ImplicitVRLittleEndian, RTStructureSetStorage
from scipy import ndimage

from medseg.errors import GeometryError
from medseg.files import RESEARCH_USE, written_whole
from medseg.imaging.dicom.headers import quiet
from medseg.imaging.dicom.volumes import SubVolume
from medseg.imaging.planes import Planes
from medseg.imaging.volume import LabelMap
from medseg.imaging.writing import snomed
from medseg.imaging.writing.codes import UNKNOWN, code_of, colour_of
from medseg.imaging.writing.contours import filled, outlines
from medseg.imaging.writing.objects import MANUFACTURER, RESEARCH_USE_ONLY, character_set
from medseg.imaging.writing.result import Result, Written, native, result_uid, source, source_headers
from medseg.imaging.writing.seg import segments

Floats = npt.NDArray[np.float64]
Labels = npt.NDArray[np.unsignedinteger[Any]]

AGREES = 0.99  # Dice of each structure after reading back; what is drawn here gives 1
SERIES_NUMBER = 9003  # beside those of the other results
_DECIMALS = 4  # of a coordinate in mm: 16 characters then reach to 10 km
_MIRROR = np.array([-1.0, -1.0, 1.0])  # RAS+ <-> LPS+
_STUDY = "1.2.840.10008.3.1.2.3.1"  # Detached Study Management: retired, and still what PS3.3 refers to a study by
_OF_THE_STUDY = (
    "PatientName", "PatientID", "IssuerOfPatientID", "PatientBirthDate", "PatientSex", "PatientAge", "PatientSize",
    "PatientWeight", "PatientIdentityRemoved", "DeidentificationMethod", "DeidentificationMethodCodeSequence",
    "LongitudinalTemporalInformationModified", "StudyInstanceUID", "StudyID", "StudyDate", "StudyTime",
    "StudyDescription", "AccessionNumber", "IssuerOfAccessionNumberSequence", "ReferringPhysicianName",
    "FrameOfReferenceUID", "PositionReferenceIndicator",
)  # fmt: skip


@dataclass(frozen=True, eq=False)
class Contour:
    """One closed polygon: the label value it surrounds, its slice, and its points (n, 3) in LPS+ mm."""

    value: int
    slice: int
    points_mm: Floats


def write_rtstruct(path: Path, result: Result) -> Written:
    """Write the labels as contours on the native slices of the scan and read them back.

    The file is Implicit VR Little Endian: in explicit VR a contour may have no more than 64 kB (PS3.3 C.8.8.6).
    A structure without a voxel is an ROI without contours. `deviation_mm` is the largest distance of a point in the
    file from where it was drawn.

    Raises:
        InputError: the scan was no DICOM series, an image of it is gone, or there is no structure.
        GeometryError: what was read back is not what was drawn; the file does not appear.
        ResourceError: the disk is full or the folder cannot be written to.
    """
    scan, planes = source(result)
    labels = native(result)
    contours = _drawn(labels, planes)
    headers = source_headers(result)
    images = _references(scan, headers)
    encoded = BytesIO()  # pydicom tells of a full disk in a page of its own
    with quiet(), written_whole(path) as beside:
        _structure_set(result, headers[0], images, contours).save_as(encoded, enforce_file_format=True)
        beside.write_bytes(encoded.getbuffer())
        deviation = _read_back(beside, labels, planes, images, contours)
    return Written(path, deviation)


def _drawn(labels: Labels, planes: Planes) -> list[Contour]:
    """The contours of every structure, slice by slice."""
    across, down = planes.row * planes.spacing_mm[0], planes.column * planes.spacing_mm[1]
    contours = []
    for k, start in enumerate(planes.positions_mm):
        for i, box in enumerate(ndimage.find_objects(labels[:, :, k])):
            if box is None:
                continue
            low = [side.start for side in box]
            for polygon in outlines(labels[:, :, k][box] == i + 1):
                x, y = (polygon + low).T[:, :, None]
                contours.append(Contour(i + 1, k, (start + x * across + y * down) * _MIRROR))
    return sorted(contours, key=lambda contour: contour.value)


def _references(scan: SubVolume, headers: Sequence[Dataset]) -> list[Dataset]:
    """For each slice, the image (and its frame) that it was acquired as."""
    by_path = dict(zip(scan.paths, headers, strict=True))
    items = []
    for frame in scan.frames:
        header, item = by_path[frame.path], Dataset()
        item.ReferencedSOPClassUID = header.SOPClassUID
        item.ReferencedSOPInstanceUID = frame.uid
        if int(header.get("NumberOfFrames") or 1) > 1:
            item.ReferencedFrameNumber = frame.index + 1
        items.append(item)
    return items


def _structure_set(
    result: Result, header: Dataset, images: Sequence[Dataset], contours: Sequence[Contour]
) -> FileDataset:
    names = roi_names(result.labels)
    algorithm, now = result.algorithm, datetime.now().astimezone()
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = ImplicitVRLittleEndian
    ds = FileDataset("", Dataset(), preamble=b"\0" * 128, file_meta=meta)
    texts = (*names.values(), algorithm.name, algorithm.version, *result.warnings)
    if own := character_set(header, texts):
        ds.SpecificCharacterSet = own
    for keyword in _OF_THE_STUDY:
        if keyword in header:
            ds[keyword] = header[keyword]
    ds.SOPClassUID, ds.SOPInstanceUID = RTStructureSetStorage, result_uid(result, "RTSTRUCT")
    ds.InstanceCreationDate = ds.SeriesDate = ds.StructureSetDate = f"{now:%Y%m%d}"
    ds.InstanceCreationTime = ds.SeriesTime = ds.StructureSetTime = f"{now:%H%M%S}"
    ds.SeriesInstanceUID, ds.SeriesNumber = result_uid(result, "RTSTRUCT series"), SERIES_NUMBER
    ds.Modality, ds.SeriesDescription = "RTSTRUCT", f"medseg contours - {RESEARCH_USE_ONLY}"
    ds.OperatorsName = ""
    ds.Manufacturer, ds.ManufacturerModelName = MANUFACTURER, algorithm.name[:64]
    ds.SoftwareVersions = algorithm.version[:64]
    ds.InstanceNumber = 1
    ds.StructureSetLabel, ds.StructureSetName = "medseg", f"medseg - {RESEARCH_USE_ONLY}"
    said = [RESEARCH_USE, f"Model: {algorithm.model or 'not stated'}.", *result.warnings]
    ds.StructureSetDescription = " ".join(said)[:1024]
    ds.ReferencedFrameOfReferenceSequence = [_frame_of_reference(header, images)]
    ds.StructureSetROISequence = [_roi(value, name, result, header) for value, name in names.items()]
    ds.ROIContourSequence = [
        _roi_contour(value, colour_of(name, value), [c for c in contours if c.value == value], images)
        for value, name in names.items()
    ]
    ds.RTROIObservationsSequence = [_observation(value, name, result) for value, name in names.items()]
    ds.ApprovalStatus = "UNAPPROVED"
    return ds


def roi_names(labels: LabelMap) -> dict[int, str]:
    """The name of every structure by its value, as DICOM can hold it: at most 64 characters, and no two the same.

    Raises:
        InputError: there is no structure.
    """
    return {segment.value: segment.label for segment in segments(labels)}


def _frame_of_reference(header: Dataset, images: Sequence[Dataset]) -> Dataset:
    series, study, frame = Dataset(), Dataset(), Dataset()
    series.SeriesInstanceUID = header.SeriesInstanceUID
    by_file: dict[str, Dataset] = {}
    for image in images:
        item = by_file.setdefault(image.ReferencedSOPInstanceUID, Dataset())
        item.ReferencedSOPClassUID = image.ReferencedSOPClassUID
        item.ReferencedSOPInstanceUID = image.ReferencedSOPInstanceUID
        if "ReferencedFrameNumber" in image:
            item.ReferencedFrameNumber = [*_listed(item.get("ReferencedFrameNumber")), image.ReferencedFrameNumber]
    series.ContourImageSequence = list(by_file.values())
    study.ReferencedSOPClassUID, study.ReferencedSOPInstanceUID = _STUDY, header.StudyInstanceUID
    study.RTReferencedSeriesSequence = [series]
    frame.FrameOfReferenceUID = header.FrameOfReferenceUID
    frame.RTReferencedStudySequence = [study]
    return frame


def _listed(value: Any) -> list[int]:
    return [] if value is None else [int(v) for v in np.atleast_1d(value)]


def _roi(value: int, name: str, result: Result, header: Dataset) -> Dataset:
    item = Dataset()
    item.ROINumber, item.ROIName = value, name
    item.ReferencedFrameOfReferenceUID = header.FrameOfReferenceUID
    item.ROIGenerationAlgorithm = result.made
    if result.by_algorithm:
        item.ROIGenerationDescription = f"{result.algorithm.name} {result.algorithm.version}"[:64]
    return item


def _roi_contour(
    value: int, colour: tuple[int, int, int], contours: Sequence[Contour], images: Sequence[Dataset]
) -> Dataset:
    item = Dataset()
    item.ReferencedROINumber, item.ROIDisplayColor = value, list(colour)
    if contours:
        item.ContourSequence = [_contour(i, contour, images) for i, contour in enumerate(contours, start=1)]
    return item


def _contour(number: int, contour: Contour, images: Sequence[Dataset]) -> Dataset:
    item = Dataset()
    item.ContourNumber = number
    item.ContourImageSequence = [images[contour.slice]]
    item.ContourGeometricType, item.NumberOfContourPoints = "CLOSED_PLANAR", len(contour.points_mm)
    values = np.round(contour.points_mm, _DECIMALS) + 0.0  # + 0.0: no "-0.0"
    text = "\\".join(map(str, values.ravel().tolist())).encode()
    # DS, given as bytes: the file is implicit VR, and making a million decimal strings takes pydicom many seconds
    item.add(DataElement("ContourData", "OB", text + b" " * (len(text) % 2)))
    return item


def _observation(value: int, name: str, result: Result) -> Dataset:
    item = Dataset()
    item.ObservationNumber = item.ReferencedROINumber = value
    code, _ = code_of(result.labels.names.get(value, name), result.codes)
    item.RTROIInterpretedType, item.ROIInterpreter = "", ""
    if code.category == snomed.ANATOMICAL_STRUCTURE:
        item.RTROIInterpretedType = "ORGAN"
    elif code.category == snomed.RT_TARGET and code.type[2][:3] in ("GTV", "CTV", "PTV"):
        item.RTROIInterpretedType = code.type[2][:3]
    if code != UNKNOWN:
        what = Dataset()
        what.CodeValue, what.CodingSchemeDesignator, what.CodeMeaning = code.type
        item.RTROIIdentificationCodeSequence = [what]
    return item


def _read_back(
    path: Path, labels: Labels, planes: Planes, images: Sequence[Dataset], contours: Sequence[Contour]
) -> float:
    """The largest distance in mm of a point in the file from where it was drawn.

    Raises:
        GeometryError: contours are missing or elsewhere, or filled they do not give the labels.
    """
    found = _contours_in(path, images)
    if [_what(contour) for contour in found] != [_what(contour) for contour in contours]:
        raise GeometryError("[READ_BACK] the contours in the file are not those that were drawn")
    polygons: dict[tuple[int, int], list[Floats]] = {}
    for contour in found:
        way = contour.points_mm * _MIRROR - planes.positions_mm[contour.slice]
        index = np.stack([way @ planes.row, way @ planes.column], axis=1) / planes.spacing_mm
        polygons.setdefault((contour.value, contour.slice), []).append(index)
    n = int(labels.max()) + 1
    both, total = np.zeros(n), np.zeros(n)
    for k in range(len(planes)):
        total += np.bincount(labels[:, :, k].ravel(), minlength=n)
    for (value, k), drawn in polygons.items():
        ends = np.concatenate(drawn)
        low, high = np.floor(ends.min(axis=0)).astype(int).clip(0), np.ceil(ends.max(axis=0)).astype(int) + 1
        box = labels[low[0] : high[0], low[1] : high[1], k]
        inside = filled([polygon - low for polygon in drawn], box.shape)
        both[value] += np.count_nonzero(inside & (box == value))
        total[value] += np.count_nonzero(inside)
    dice = 2 * both[1:] / np.maximum(total[1:], 1)
    if ((dice < AGREES) & (total[1:] > 0)).any():
        raise GeometryError(f"[READ_BACK] filled, the contours in the file give the labels with {dice.min():.3f} Dice")
    away = (np.linalg.norm(f.points_mm - c.points_mm, axis=1).max() for f, c in zip(found, contours, strict=True))
    return float(max(away, default=0.0))


def _contours_in(path: Path, images: Sequence[Dataset]) -> list[Contour]:
    slices = {_image_key(image): k for k, image in enumerate(images)}
    found = []
    for roi in pydicom.dcmread(path).ROIContourSequence:
        for item in roi.get("ContourSequence", []):
            points = np.array(item.get_item("ContourData").value.split(b"\\"), dtype=np.float64).reshape(-1, 3)
            found.append(
                Contour(int(roi.ReferencedROINumber), slices[_image_key(item.ContourImageSequence[0])], points)
            )
    return found


def _what(contour: Contour) -> tuple[int, int, int]:
    return contour.value, contour.slice, len(contour.points_mm)


def _image_key(item: Dataset) -> tuple[str, int]:
    return str(item.ReferencedSOPInstanceUID), int(item.get("ReferencedFrameNumber") or 0)
