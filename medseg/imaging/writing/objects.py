"""What the DICOM results made with highdicom share: their source as it wants to see it, patient, study, references.

highdicom refuses much that real headers hold (odd dates, missing types, frames of many files). It is therefore given
clean stand-ins of the source images; afterwards the object receives what the source itself says about the patient.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from pydicom.charset import convert_encodings
from pydicom.dataset import Dataset
from pydicom.uid import CTImageStorage
from pydicom.valuerep import format_number_as_ds

from medseg.imaging.dicom.volumes import Frame
from medseg.imaging.planes import Planes
from medseg.imaging.writing.result import Algorithm, Result, source
from medseg.imaging.writing.snomed import Triple

logging.getLogger("highdicom").setLevel(logging.CRITICAL)  # its remarks repeat values, which may name a patient

MANUFACTURER = "medseg"
RESEARCH_USE_ONLY = "RESEARCH USE ONLY"
_STAND_IN = "2.25."
_LPS = np.array([-1.0, -1.0, 1.0])


def stand_ins(result: Result, headers: Sequence[Dataset]) -> list[Dataset]:
    """A single-frame image for each slice, in their order, that says where it lies and nothing of the patient.

    Their SOPInstanceUIDs count from 2.25.1; `refer` replaces them by the real ones.
    """
    scan, planes = source(result)
    first = headers[0]
    across, down = planes.spacing_mm
    orientation = [format_number_as_ds(v) for v in _orientation(first, scan.frames[0], planes)]
    step = float(np.median(np.diff(planes.along_mm)))
    made = []
    for number, position in enumerate(planes.positions_mm * _LPS + 0.0, start=1):
        ds = Dataset()
        ds.SOPClassUID, ds.SOPInstanceUID = CTImageStorage, f"{_STAND_IN}{number}"
        ds.StudyInstanceUID, ds.SeriesInstanceUID = first.StudyInstanceUID, first.SeriesInstanceUID
        ds.FrameOfReferenceUID = first.FrameOfReferenceUID
        ds.PositionReferenceIndicator = first.PositionReferenceIndicator
        ds.Modality = scan.modality
        ds.PatientID = ds.PatientName = ds.PatientBirthDate = ds.PatientSex = None
        ds.StudyDate = ds.StudyTime = ds.StudyID = ds.AccessionNumber = ds.ReferringPhysicianName = None
        ds.Columns, ds.Rows = planes.shape
        ds.ImageOrientationPatient = orientation
        ds.ImagePositionPatient = [format_number_as_ds(float(v)) for v in position]
        ds.PixelSpacing = [format_number_as_ds(float(down)), format_number_as_ds(float(across))]
        ds.SliceThickness = format_number_as_ds(_thickness(first) or step)
        if str(first.get("LossyImageCompression", "")) == "01":
            for keyword in ("LossyImageCompression", "LossyImageCompressionRatio", "LossyImageCompressionMethod"):
                if first.get(keyword):
                    setattr(ds, keyword, first[keyword].value)
        made.append(ds)
    return made


def _said(header: Dataset, frame: Frame, group: str, keyword: str) -> Any:
    """What a header says of one of its frames: in its functional groups where it has them, else at its root."""
    for sequence, i in (("PerFrameFunctionalGroupsSequence", frame.index), ("SharedFunctionalGroupsSequence", 0)):
        items = header.get(sequence) or []
        found = items[i].get(group) if i < len(items) else None
        if found and keyword in found[0]:
            return found[0][keyword].value
    return header.get(keyword)


def _orientation(header: Dataset, frame: Frame, planes: Planes) -> list[float]:
    """The directions of rows and columns in the source's own digits, so that readers find both in the same place."""
    exact = [float(v) for v in (*(planes.row * _LPS), *(planes.column * _LPS))]
    try:
        own = [float(v) for v in _said(header, frame, "PlaneOrientationSequence", "ImageOrientationPatient")]
    except (TypeError, ValueError):
        return exact
    lengths = [np.linalg.norm(own[:3]), np.linalg.norm(own[3:])] if len(own) == 6 else [0.0]
    even = min(lengths) > 0 and np.allclose(np.array(own) / np.repeat(lengths, 3), exact, atol=2e-4)
    return own if even else exact


def _thickness(header: Dataset) -> float:
    try:
        return max(float(header.get("SliceThickness") or 0.0), 0.0)
    except (TypeError, ValueError):
        return 0.0


def hand_over(made: Dataset, result: Result, headers: Sequence[Dataset]) -> None:
    """Give an object the patient and study of its source, letter for letter, and a character set that holds all.

    The source's character set is kept, unless the object's own texts need letters that it lacks.
    """
    made.copy_patient_and_study_information(with_instance(headers[0], CTImageStorage, f"{_STAND_IN}1"))
    meanings = [term[2] for code in result.codes.values() for term in (code.category, code.type, *code.modifiers)]
    regions = [code.region[2] for code in result.codes.values() if code.region]
    names = [*result.labels.names.values(), *meanings, *regions, *result.warnings]
    own = character_set(headers[0], [result.algorithm.name, result.algorithm.version, *names])
    if own:
        made.SpecificCharacterSet = own
    elif "SpecificCharacterSet" in made:
        del made.SpecificCharacterSet


def with_instance(ds: Dataset, kind: str, uid: str) -> Dataset:
    """The same header under another class and instance UID; `ds` stays as it is."""
    made = Dataset()
    made.update(ds)
    made.add_new("SOPClassUID", "UI", kind)  # to set an attribute would change the element that both share
    made.add_new("SOPInstanceUID", "UI", uid)
    return made


def character_set(header: Dataset, texts: Iterable[str]) -> Any:
    """The source's character set, so that its names stay letter for letter, unless it lacks letters of our texts."""
    own, text = header.get("SpecificCharacterSet"), "".join(texts)
    single = isinstance(own, str) and own not in ("", "ISO_IR 6")  # DICOM's default is plain ASCII
    try:
        text.encode(convert_encodings(own)[0] if single else "ascii")
    except UnicodeEncodeError:
        return "ISO_IR 192"
    return own


def instances(headers: Sequence[Dataset]) -> list[Dataset]:
    """One reference (class and instance UID) for each file of the source."""
    made = []
    for header in headers:
        ds = Dataset()
        ds.ReferencedSOPClassUID, ds.ReferencedSOPInstanceUID = header.SOPClassUID, header.SOPInstanceUID
        made.append(ds)
    return made


def refer(made: Dataset, result: Result, headers: Sequence[Dataset]) -> None:
    """Make a segmentation's references to stand-ins point to the source's files, and to the frames in them."""
    scan, _ = source(result)
    files = dict(zip(scan.paths, instances(headers), strict=True))
    many = {path for path, header in zip(scan.paths, headers, strict=True) if "NumberOfFrames" in header}
    done: set[int] = set()
    for group in made.PerFrameFunctionalGroupsSequence:
        for derivation in group.get("DerivationImageSequence", []):
            for item in derivation.SourceImageSequence:
                if id(item) in done:  # the same item stands in the frames of several segments
                    continue
                done.add(id(item))
                frame = scan.frames[int(str(item.ReferencedSOPInstanceUID).removeprefix(_STAND_IN)) - 1]
                item.ReferencedSOPClassUID = files[frame.path].ReferencedSOPClassUID
                item.ReferencedSOPInstanceUID = files[frame.path].ReferencedSOPInstanceUID
                if frame.path in many:
                    item.ReferencedFrameNumber = frame.index + 1
    made.SourceImageSequence = list(files.values())
    series = Dataset()
    series.SeriesInstanceUID = headers[0].SeriesInstanceUID
    series.ReferencedInstanceSequence = list(files.values())
    made.ReferencedSeriesSequence = [series]


def concept(code: Triple) -> Any:
    """A code as highdicom's CodedConcept."""
    from highdicom.sr import CodedConcept

    return CodedConcept(*code)


def algorithm_identification(algorithm: Algorithm) -> Any:
    """The algorithm as highdicom's AlgorithmIdentificationSequence; the model's hash is its parameter."""
    from highdicom import AlgorithmIdentificationSequence
    from pydicom.sr.codedict import codes

    return AlgorithmIdentificationSequence(
        name=short_text(algorithm.name),
        version=short_text(algorithm.version),
        family=codes.DCM.ArtificialIntelligence,
        parameters={"model_sha256": algorithm.model} if algorithm.model else None,
    )


def equipment(algorithm: Algorithm) -> dict[str, Any]:
    """Who made an object, as keyword arguments: a program has no serial number, so its model's hash stands for one."""
    return {
        "manufacturer": MANUFACTURER,
        "manufacturer_model_name": short_text(algorithm.name),
        "software_versions": short_text(algorithm.version),
        "device_serial_number": algorithm.model[:16] or short_text(algorithm.version),
    }


def short_text(text: str, most: int = 64) -> str:
    """Text as DICOM's LO holds it: no backslash or control character, at most 64 characters, never empty."""
    clean = "".join(c if c.isprintable() and c != "\\" else "_" for c in text).strip()
    return clean[:most].strip() or "_"
