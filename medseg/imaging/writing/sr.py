"""Volumes and intensities as a DICOM structured report (TID 1500), written by highdicom and read back."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from pydicom.dataset import Dataset
from pydicom.uid import generate_uid

from medseg.errors import GeometryError, InputError
from medseg.files import RESEARCH_USE, written_whole
from medseg.imaging.dicom.headers import quiet
from medseg.imaging.writing import objects
from medseg.imaging.writing.codes import code_of
from medseg.imaging.writing.result import Algorithm, Result, Written, result_uid, source, source_headers
from medseg.imaging.writing.seg import Segment, segments
from medseg.imaging.writing.snomed import LEFT, RIGHT, Triple

DESCRIPTION = f"medseg measurements - {objects.RESEARCH_USE_ONLY}"
SERIES_NUMBER = 9002
_MILLILITRE: Triple = ("mL", "UCUM", "milliliter")
_PROCEDURES: dict[str, Triple] = {
    "CT": ("25045-6", "LN", "CT unspecified body region"),
    "MR": ("25056-3", "LN", "MRI unspecified body region"),
    "PT": ("44136-0", "LN", "PET unspecified body region"),
}
_ANY_PROCEDURE: Triple = ("363679005", "SCT", "Imaging procedure")
_SEG_TAGS = ["SOPClassUID", "SOPInstanceUID", "SeriesInstanceUID", "SegmentSequence", "ReferencedSeriesSequence"]


@dataclass(frozen=True, slots=True)
class Measured:
    """A structure's volume, and the mean and standard deviation of the intensities of its voxels, if there are any."""

    segment: Segment
    volume_ml: float
    mean: float | None = None
    sd: float | None = None


def measure(result: Result) -> tuple[Measured, ...]:
    """Measure every structure on the grid of the labels; an empty one has the volume 0 and no intensities.

    Raises:
        InputError: there are no structures; or intensities that are not finite numbers.
        GeometryError: the image lies on another grid.
    """
    labels, image = result.labels, result.image
    if image is not None and not image.grid.agrees(labels.grid):
        raise GeometryError("[GRID] the image and the labels lie on different grids")
    described = segments(labels)
    n = described[-1].value + 1
    counts = np.zeros(n)
    for z in range(labels.grid.shape[2]):
        counts += np.bincount(labels.array[:, :, z].ravel(), minlength=n)
    means = np.zeros(n) if image is None else _sums(result, n, np.zeros(n), 1) / np.maximum(counts, 1)
    variances = np.zeros(n) if image is None else _sums(result, n, means, 2) / np.maximum(counts, 1)
    if not np.isfinite(variances[1:]).all():
        raise InputError("[INTENSITIES] the image holds values that are not finite numbers", fix="replace them")
    made = []
    for segment in described:
        count, v = counts[segment.value], segment.value
        inside = (float(means[v]), float(np.sqrt(variances[v]))) if image is not None and count else (None, None)
        made.append(Measured(segment, float(count * labels.grid.voxel_ml), *inside))
    return tuple(made)


def _sums(result: Result, n: int, around: np.ndarray[Any, Any], power: int) -> np.ndarray[Any, np.dtype[np.float64]]:
    """For each structure's value the sum of (intensity - around)^power, in double precision; power is 1 or 2."""
    sums = np.zeros(n)
    if result.image is not None:
        for z in range(result.labels.grid.shape[2]):
            inside = result.labels.array[:, :, z] > 0
            values = result.labels.array[:, :, z][inside]
            away = result.image.array[:, :, z][inside].astype(np.float64) - around[values]
            sums += np.bincount(values, away if power == 1 else away * away, minlength=n)
    return sums


def write_sr(path: Path, result: Result, seg: Path) -> Written:
    """Write volumes (ml) and, where the result has its image, mean and SD of intensities, as a TID 1500 report.

    It refers to the segments of the SEG in `seg`, which must be this result's, and to the source series; it is marked
    unverified and preliminary. The file is read back by pydicom and its numbers are compared before it appears.

    Raises:
        InputError: the scan was no DICOM, or an image of it is gone; `seg` holds other segments.
        GeometryError: image and labels do not lie on one grid; what was read back differs from what was meant.
        ResourceError: the disk is full or the folder cannot be written to.
    """
    measured = measure(result)
    with quiet():
        made = _made(result, measured, _segmentation(seg, result, measured))
        with written_whole(path) as beside:
            encoded = BytesIO()  # pydicom tells of a full disk in a page of its own
            made.save_as(encoded, enforce_file_format=True)
            beside.write_bytes(encoded.getbuffer())
            _compare(beside, result, measured)
    return Written(path, 0.0)


def _segmentation(path: Path, result: Result, measured: Sequence[Measured]) -> Dataset:
    scan, _ = source(result)
    try:
        ds = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=[*_SEG_TAGS])
        names = {int(item.SegmentNumber): str(item.SegmentLabel) for item in ds.SegmentSequence}
        series = {str(item.SeriesInstanceUID) for item in ds.ReferencedSeriesSequence}
    except Exception as error:  # a parser on arbitrary bytes can fail in any way
        raise InputError("[SEG_MISMATCH] the segmentation to refer to cannot be read", fix="write it again") from error
    names.pop(0, None)
    if names != {m.segment.number: m.segment.label for m in measured}:
        raise InputError("[SEG_MISMATCH] the segmentation to refer to holds other structures", fix="write it again")
    if series != {scan.series_uid}:
        raise InputError("[SEG_MISMATCH] the segmentation to refer to is of another series", fix="write it again")
    return ds


def _made(result: Result, measured: Sequence[Measured], seg: Dataset) -> Dataset:
    from highdicom.sr import Comprehensive3DSR

    headers = source_headers(result)
    made: Dataset = Comprehensive3DSR(
        evidence=_evidence(result, headers, seg),
        content=_content(result, measured, seg),
        series_instance_uid=result_uid(result, "SR series"),
        series_number=SERIES_NUMBER,
        sop_instance_uid=result_uid(result, "SR"),
        instance_number=1,
        is_complete=True,
        is_final=False,
        is_verified=False,
        series_description=DESCRIPTION,
        **objects.equipment(result.algorithm),
    )
    objects.hand_over(made, result, headers)
    return made


def _evidence(result: Result, headers: Sequence[Dataset], seg: Dataset) -> list[Dataset]:
    """The segmentation and the source's files, as far as a report refers to them."""
    first = objects.stand_ins(result, headers)[0]
    images = [
        objects.with_instance(first, reference.ReferencedSOPClassUID, reference.ReferencedSOPInstanceUID)
        for reference in objects.instances(headers)
    ]
    own = objects.with_instance(first, seg.SOPClassUID, seg.SOPInstanceUID)
    own.add_new("SeriesInstanceUID", "UI", seg.SeriesInstanceUID)
    return [own, *images]


def _content(result: Result, measured: Sequence[Measured], seg: Dataset) -> Any:
    import highdicom.sr as sr
    from pydicom.sr.codedict import codes

    scan, _ = source(result)
    algorithm = result.algorithm
    device = sr.DeviceObserverIdentifyingAttributes(
        uid=_device_uid(algorithm),
        name=objects.short_text(algorithm.name),
        manufacturer_name=objects.MANUFACTURER,
        model_name=objects.short_text(algorithm.name),
        serial_number=objects.equipment(algorithm)["device_serial_number"],
    )
    report = sr.MeasurementReport(
        observation_context=sr.ObservationContext(observer_device_context=sr.ObserverContext(codes.DCM.Device, device)),
        procedure_reported=objects.concept(_PROCEDURES.get(scan.modality, _ANY_PROCEDURE)),
        imaging_measurements=[_group(result, m, seg) for m in measured],
        title=codes.DCM.ImagingMeasurementReport,
    )
    for remark in (f"{objects.RESEARCH_USE_ONLY}. {RESEARCH_USE}", *result.warnings):
        # TID 1500 is extensible: texts at its root are what any viewer of reports shows
        comment = sr.TextContentItem(codes.DCM.Comment, remark, sr.RelationshipTypeValues.CONTAINS)
        report[0].ContentSequence.append(comment)
    return report


def _device_uid(algorithm: Algorithm) -> str:
    return str(generate_uid(entropy_srcs=[algorithm.name, algorithm.version, algorithm.model]))


def _group(result: Result, measured: Measured, seg: Dataset) -> Any:
    import highdicom.sr as sr

    scan, _ = source(result)
    described = seg.SegmentSequence[[int(s.SegmentNumber) for s in seg.SegmentSequence].index(measured.segment.number)]
    code, _ = code_of(measured.segment.name, result.codes)
    side = next((objects.concept(m) for m in code.modifiers if m in (LEFT, RIGHT)), None)
    where = code.region or (code.type if side else None)
    return sr.VolumetricROIMeasurementsAndQualitativeEvaluations(
        tracking_identifier=sr.TrackingIdentifier(str(described.TrackingUID), str(described.TrackingID)),
        referenced_segment=sr.ReferencedSegment(
            sop_class_uid=str(seg.SOPClassUID),
            sop_instance_uid=str(seg.SOPInstanceUID),
            segment_number=measured.segment.number,
            source_series=sr.SourceSeriesForSegmentation(scan.series_uid),
        ),
        finding_category=objects.concept(code.category),
        finding_type=objects.concept(code.type),
        finding_sites=[sr.FindingSite(objects.concept(where), laterality=side)] if where else None,
        algorithm_id=sr.AlgorithmIdentification(
            objects.short_text(result.algorithm.name),
            objects.short_text(result.algorithm.version),
            [f"model_sha256={result.algorithm.model}"] if result.algorithm.model else None,
        ),
        measurements=_measurements(measured, scan.modality),
    )


def _measurements(measured: Measured, modality: str) -> list[Any]:
    from highdicom.sr import Measurement
    from pydicom.sr.codedict import codes

    made = [Measurement(codes.SCT.Volume, measured.volume_ml, objects.concept(_MILLILITRE))]
    for value, what in ((measured.mean, codes.SCT.Mean), (measured.sd, codes.SCT.StandardDeviation)):
        if value is None:
            continue
        match modality:
            case "CT":
                name, unit = codes.DCM.AttenuationCoefficient, codes.UCUM.HounsfieldUnit
                made.append(Measurement(name, value, unit, derivation=what))
            case "MR":
                made.append(Measurement(codes.DCM.MRSignalIntensity, value, codes.UCUM.NoUnits, derivation=what))
            case _:  # what the values are is not known here, only what was computed of them
                made.append(Measurement(what, value, codes.UCUM.NoUnits))
    return made


def _compare(path: Path, result: Result, measured: Sequence[Measured]) -> None:
    """Read the report by pydicom alone and compare its numbers, in their order, with those meant.

    Raises:
        GeometryError: a difference.
    """
    scan, _ = source(result)
    ds = pydicom.dcmread(path)
    meant = [(m.segment.number, [v for v in (m.volume_ml, m.mean, m.sd) if v is not None]) for m in measured]
    found = list(_found(ds))
    series = {str(item.UID) for item in _items(ds, "UIDREF") if _name(item) == "121232"}
    if found != meant or series != {scan.series_uid}:
        raise GeometryError("[READ_BACK] the report that was written holds other numbers", fix="please report this")


def _found(ds: Dataset) -> Iterator[tuple[int, list[float]]]:
    """The number of the segment and the values of each measurement group."""
    for group in _items(ds, "CONTAINER"):
        if _name(group) == "125007":  # Measurement Group
            image = next(item for item in group.ContentSequence if _name(item) == "121191")  # Referenced Segment
            numbers = [item.MeasuredValueSequence[0] for item in group.ContentSequence if item.ValueType == "NUM"]
            for number in numbers:
                if not np.isclose(float(number.NumericValue), number.FloatingPointValue, rtol=1e-9, atol=0):
                    raise GeometryError("[READ_BACK] two forms of a number in the report differ")
            values = [float(number.FloatingPointValue) for number in numbers]
            yield int(image.ReferencedSOPSequence[0].ReferencedSegmentNumber), values


def _items(ds: Dataset, kind: str) -> Iterator[Dataset]:
    for item in ds.get("ContentSequence", []):
        if item.ValueType == kind:
            yield item
        yield from _items(item, kind)


def _name(item: Dataset) -> str:
    return str(item.ConceptNameCodeSequence[0].CodeValue) if "ConceptNameCodeSequence" in item else ""
