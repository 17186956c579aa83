"""What DICOM files hold: every volume with a verdict, the objects that label them, and what was left, with the reason.

Each header is read once. Nothing is decided by names, extensions or folders, and DICOMDIR indices are not followed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import numpy as np
from pydicom.dataset import Dataset
from pydicom.uid import generate_uid

from medseg.imaging.case import Left
from medseg.imaging.dicom.frames import LARGEST_BYTES, Image, Texts, images_of
from medseg.imaging.dicom.headers import (
    IMAGES,
    MULTI_FRAME,
    Header,
    as_numbers,
    class_name,
    named_uid,
    quiet,
    read_header,
    single_uid,
    text,
)
from medseg.imaging.dicom.purpose import LOCALIZER, TOO_LARGE, reformatted
from medseg.imaging.dicom.split import Part, mixed_values, split
from medseg.imaging.dicom.tags import shown_of, tags_of
from medseg.imaging.dicom.volumes import Frame, LabelObject, Scanned, SubVolume, Verdict
from medseg.imaging.planes import SAME_POSITION_MM, Arranged, Fault, arrange

LABELS: Mapping[str, Literal["seg", "rtstruct"]] = {
    "1.2.840.10008.5.1.4.1.1.66.4": "seg",
    "1.2.840.10008.5.1.4.1.1.66.7": "seg",  # the label map form
    "1.2.840.10008.5.1.4.1.1.481.3": "rtstruct",
}
SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"  # and its multi-frame forms, .1 to .4
DICOMDIR = "1.2.840.10008.1.3.10"
FEW_SLICES = 15  # a series in three directions, in each no more than these, is a localiser, whatever it is called
CROSSING = 0.5  # cosine: directions that are farther apart than this cross each other

_AGAIN = "copy or export the series again"


@dataclass(eq=False, slots=True)
class _Series:
    """What was found of a series: its different images by modality, and further copies of them."""

    patient_id: str
    images: dict[str, list[Image]] = field(default_factory=dict)
    first: dict[tuple[str, int], Image] = field(default_factory=dict)
    copies: dict[tuple[str, int], list[Image]] = field(default_factory=dict)

    def add(self, image: Image, modality: str) -> None:
        identity = (image.frame.uid, image.frame.index)
        if image.frame.uid and self.first.setdefault(identity, image) is not image:
            self.copies.setdefault(identity, []).append(image)
        else:
            self.images.setdefault(modality, []).append(image)


def scan_dicom(files: Iterable[Path], allow_gaps: bool = False) -> Scanned:
    """Scan files for CT, MR and PET volumes and what labels them; with `allow_gaps`, missing slices may be filled.

    Every file ends up in a volume (which may be refused), in `labels` or in `left`. Volumes are ordered by study and
    number of series. Nothing is raised for what a file holds.
    """
    ordered = sorted(files)
    found: dict[tuple[str, str], _Series] = {}
    labels: list[LabelObject] = []
    left: list[Left] = []
    shared: dict[Texts, Texts] = {}
    with quiet():
        for i, path in enumerate(ordered, start=1):
            header = read_header(path, f"file {i} of {len(ordered)}")
            sorted_in = header if isinstance(header, Left) else _sort_in(header, found, shared)
            if isinstance(sorted_in, LabelObject):
                labels.append(sorted_in)
            elif sorted_in is not None:
                left.append(sorted_in)
    volumes = [volume for uids, series in found.items() for volume in _volumes(uids, series, allow_gaps)]
    return Scanned(tuple(sorted(volumes, key=_in_order)), tuple(labels), tuple(left))


def _in_order(volume: SubVolume) -> tuple[object, ...]:
    number = as_numbers(volume.tags.get("SeriesNumber", ""))
    return volume.study_uid, number or (np.inf,), volume.series_uid, volume.number


def _sort_in(
    header: Header, found: dict[tuple[str, str], _Series], shared: dict[Texts, Texts]
) -> LabelObject | Left | None:
    """Add an image to its series; or give what it is instead."""
    try:
        dataset, where = header.dataset, header.where
        if header.sop_class in LABELS:
            return _label(header)
        if header.sop_class == DICOMDIR:
            return Left(where, "is an index of files (DICOMDIR), which is not followed")
        modality = IMAGES.get(header.sop_class) or MULTI_FRAME.get(header.sop_class) or _captured(header)
        if not modality:
            return Left(where, f"is a DICOM object without a volume ({class_name(header.sop_class)})")
        uids = single_uid(text(dataset, "StudyInstanceUID")), named_uid(text(dataset, "SeriesInstanceUID"))
        if not uids[1]:
            return Left(where, "is a DICOM image that names no series")
        images = images_of(header, shared)
    except Exception:  # what is nested in a header is only parsed here; one bad file stops no other
        return Left(header.where, "is a damaged DICOM file", broken=True)
    series = found.setdefault(uids, _Series(text(dataset, "PatientID")))
    for image in images:
        series.add(image, modality)
    return None


def _captured(header: Header) -> str:
    """The modality from whose screen a secondary capture was taken, if it is one that makes volumes."""
    modality = text(header.dataset, "Modality")
    captured = header.sop_class == SECONDARY_CAPTURE or header.sop_class.startswith(SECONDARY_CAPTURE + ".")
    return modality if captured and modality in IMAGES.values() else ""


def _label(header: Header) -> LabelObject:
    dataset, kind = header.dataset, LABELS[header.sop_class]
    series = list(dataset.get("ReferencedSeriesSequence") or [])
    reference = single_uid(text(dataset, "FrameOfReferenceUID"))
    for frame in dataset.get("ReferencedFrameOfReferenceSequence") or []:
        reference = reference or single_uid(text(frame, "FrameOfReferenceUID"))
        studies: Iterable[Dataset] = frame.get("RTReferencedStudySequence") or []
        series += [one for study in studies for one in study.get("RTReferencedSeriesSequence") or []]
    uids = tuple(dict.fromkeys(uid for one in series if (uid := named_uid(text(one, "SeriesInstanceUID")))))
    study_uid, patient_id = single_uid(text(dataset, "StudyInstanceUID")), text(dataset, "PatientID")
    return LabelObject(kind, header.path, study_uid, patient_id, reference, uids)


# --- from the images of a series to volumes with verdicts ---


def _volumes(uids: tuple[str, str], series: _Series, allow_gaps: bool) -> list[SubVolume]:
    parts = [(modality, part) for modality, images in sorted(series.images.items()) for part in split(images)]
    volumes = [
        _volume(uids, series, modality, part, (number, len(parts)), allow_gaps)
        for number, (modality, part) in enumerate(parts, start=1)
    ]
    usable = [volume for volume in volumes if volume.verdict.usable]
    if len(usable) < 2:
        return volumes
    if _is_localiser(usable):
        return [replace(v, verdict=_refused(LOCALIZER)) if v.verdict.usable else v for v in volumes]
    return [_one_of(len(usable), volume) if volume.verdict.usable else volume for volume in volumes]


def _one_of(n: int, volume: SubVolume) -> SubVolume:
    verdict = volume.verdict
    said = "; ".join(filter(None, (f"one of {n} volumes of its series", verdict.said)))
    choose = Verdict("CHOOSE", ("MULTI_VOLUME", *verdict.codes), said, "choose one by a rule, such as Volume=1")
    return replace(volume, verdict=choose)


def _is_localiser(volumes: Sequence[SubVolume]) -> bool:
    """True for a few slices in each of three directions that cross each other."""
    normals = [volume.planes.normal for volume in volumes if volume.planes is not None]
    apart: list[np.ndarray[tuple[int, ...], np.dtype[np.float64]]] = []
    for normal in normals:
        if all(abs(normal @ other) < CROSSING for other in apart):
            apart.append(normal)
    return len(apart) == 3 and all(len(volume.frames) <= FEW_SLICES for volume in volumes)


def _volume(
    uids: tuple[str, str], series: _Series, modality: str, part: Part, number_of: tuple[int, int], allow_gaps: bool
) -> SubVolume:
    copies = [copy for i in part.images for copy in series.copies.get((i.frame.uid, i.frame.index), ())]
    arranged, verdict = _judged(part, copies, series, allow_gaps)
    images = [part.images[k] for k in arranged.order]
    reference = next((uid for image in images if (uid := image.text("FrameOfReferenceUID"))), "")
    tags = {"Modality": modality} | tags_of(images, arranged.planes, number_of[0])
    return SubVolume(
        series_uid=uids[1],
        study_uid=uids[0],
        patient_id=series.patient_id,
        frame_of_reference=reference or str(generate_uid(entropy_srcs=list(uids))),
        modality=modality,
        number=number_of[0],
        of=number_of[1],
        frames=_identified(images, [uids[1], str(number_of[0])]),
        planes=arranged.planes,
        grid=arranged.grid,
        verdict=verdict,
        tags=tags,
        shown=shown_of(tags),
        differs=", ".join(part.differs),
        repeats=tuple(copy.frame for copy in copies),
    )


def _identified(images: Sequence[Image], of: Sequence[str]) -> tuple[Frame, ...]:
    """The frames; a file without a UID is given one by its place among the files of its volume."""
    nth = {path: str(n) for n, path in enumerate(dict.fromkeys(image.frame.path for image in images))}
    return tuple(
        image.frame
        if image.frame.uid
        else replace(image.frame, uid=str(generate_uid(entropy_srcs=[*of, nth[image.frame.path]])))
        for image in images
    )


def _judged(part: Part, copies: Sequence[Image], series: _Series, allow_gaps: bool) -> tuple[Arranged, Verdict]:
    images = part.images
    unarranged = Arranged(tuple(range(len(images))), None, None)
    fault = part.fault or _unplaced(images) or _cut((*images, *copies)) or _contradicted(copies, series.first)
    if fault is not None:
        return unarranged, _refused(fault)
    arranged = arrange([image.plane for image in images if image.plane is not None])
    mendable = {"TILT", "GAP"} if allow_gaps else {"TILT"}
    mended = [fault for fault in arranged.faults if arranged.grid is not None and fault.code in mendable]
    bad = [_explained(fault, images) for fault in arranged.faults if fault not in mended]
    if not bad and _voxel_bytes(arranged, images) > LARGEST_BYTES:
        bad = [TOO_LARGE]
    if bad:
        return arranged, _refused(bad[0])
    if copies:
        mended.append(Fault("REPEATS", f"{len(copies)} copies of its images are used once"))
    if not any(image.text("FrameOfReferenceUID") for image in images):
        mended.append(Fault("NO_FRAME_OF_REFERENCE", "it names no frame of reference; one is derived from its series"))
    told = [*mended, *mixed_values(images)]
    codes, said = tuple(fault.code for fault in told), [fault.said for fault in told]
    first = images[0]
    if reformatted(first.text("ImageType"), first.text("VolumeBasedCalculationTechnique")):
        said.append("cut anew out of another volume (MPR)")
    return arranged, Verdict("FIXED" if mended else "OK", codes, "; ".join(said))


def _refused(fault: Fault) -> Verdict:
    return Verdict("REFUSED", (fault.code,), fault.said, fault.fix)


def _unplaced(images: Sequence[Image]) -> Fault | None:
    n = sum(image.plane is None for image in images)
    said = f"{n} of {len(images)} images do not say where they lie (orientation, position or pixel spacing)"
    return Fault("NO_GEOMETRY", said, "leave them out, or export the original series") if n else None


def _cut(images: Sequence[Image]) -> Fault | None:
    n = sum(image.cut for image in images)
    said = f"{n} of {len(images)} images are cut short, or hold no pixels"
    return Fault("TRUNCATED", said, _AGAIN) if n else None


def _contradicted(copies: Sequence[Image], first: Mapping[tuple[str, int], Image]) -> Fault | None:
    n = sum(copy.plane != first[copy.frame.uid, copy.frame.index].plane for copy in copies)
    said = f"{n} images have the identity of another one, but not its place"
    return Fault("DUPLICATE_POSITION", said, "keep the right ones") if n else None


def _explained(fault: Fault, images: Sequence[Image]) -> Fault:
    """Images that repeat though no header value tells them apart, in the words for what they are."""
    if fault.code not in ("MULTI_VOLUME", "DUPLICATE_POSITION"):
        return fault
    positions = np.array([image.plane.position_mm for image in images if image.plane is not None])
    if np.ptp(positions, axis=0).max() <= SAME_POSITION_MM:
        return Fault("TOO_FEW", f"its {len(images)} images lie at one position, which makes no volume")
    if fault.code == "MULTI_VOLUME":
        return Fault("DUPLICATE_POSITION", f"{fault.said}, which no header value tells apart", fault.fix)
    return fault


def _voxel_bytes(arranged: Arranged, images: Sequence[Image]) -> int:
    """Bytes of the volume, stored or as it is read (float32), whichever is more."""
    voxels = int(np.prod(np.array(arranged.grid.shape, dtype=object))) if arranged.grid is not None else 0
    return max(4 * voxels, sum(image.claimed_bytes for image in images))
