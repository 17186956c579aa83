"""The image planes of one DICOM file: a single one, or the frames of an enhanced multi-frame object.

Enhanced and legacy converted objects keep each value in a functional group, shared by all frames or of one frame; a
value that no group holds is looked for where single images keep it. Nothing depends on private elements, and dimension
index pointers are not followed: an index is only a number that tells frames apart.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pydicom.dataset import Dataset

from medseg.imaging.dicom.headers import (
    IMAGES,
    MULTI_FRAME,
    TEXTS,
    Header,
    as_numbers,
    named_uid,
    single_uid,
    text,
    vendor_b_value,
    whole,
)
from medseg.imaging.dicom.purpose import COLOUR, SCREEN, TOO_LARGE, UNDESCRIBED, purpose
from medseg.imaging.dicom.volumes import Frame
from medseg.imaging.planes import Fault, Plane

Texts = tuple[str, ...]
Times = tuple[float | None, ...]

_IN_GROUP: Mapping[str, tuple[tuple[str, str], ...]] = {  # keyword of a single image -> its places in an enhanced one
    "ImageOrientationPatient": (("PlaneOrientationSequence", "ImageOrientationPatient"),),
    "ImagePositionPatient": (("PlanePositionSequence", "ImagePositionPatient"),),
    "PixelSpacing": (("PixelMeasuresSequence", "PixelSpacing"),),
    "SliceThickness": (("PixelMeasuresSequence", "SliceThickness"),),
    "SpacingBetweenSlices": (("PixelMeasuresSequence", "SpacingBetweenSlices"),),
    "ImageType": (
        ("MRImageFrameTypeSequence", "FrameType"),
        ("CTImageFrameTypeSequence", "FrameType"),
        ("PETFrameTypeSequence", "FrameType"),
    ),
    "VolumeBasedCalculationTechnique": (
        ("MRImageFrameTypeSequence", "VolumeBasedCalculationTechnique"),
        ("CTImageFrameTypeSequence", "VolumeBasedCalculationTechnique"),
        ("PETFrameTypeSequence", "VolumeBasedCalculationTechnique"),
    ),
    "ComplexImageComponent": (("MRImageFrameTypeSequence", "ComplexImageComponent"),),
    "EchoTime": (("MREchoSequence", "EffectiveEchoTime"),),
    "RepetitionTime": (("MRTimingAndRelatedParametersSequence", "RepetitionTime"),),
    "FlipAngle": (("MRTimingAndRelatedParametersSequence", "FlipAngle"),),
    "InversionTime": (("MRModifierSequence", "InversionTimes"),),
    "DiffusionBValue": (("MRDiffusionSequence", "DiffusionBValue"),),
    "ConvolutionKernel": (("CTReconstructionSequence", "ConvolutionKernel"),),
    "StackID": (("FrameContentSequence", "StackID"),),
    "AcquisitionNumber": (("FrameContentSequence", "FrameAcquisitionNumber"),),
    "TemporalPositionIdentifier": (("FrameContentSequence", "TemporalPositionIndex"),),
    "TriggerTime": (("CardiacSynchronizationSequence", "NominalCardiacTriggerDelayTime"),),
}
LARGEST_BYTES = 64 << 30  # of the pixels of one file or volume: more is a damaged or hostile header
NEAREST_MM, FARTHEST_MM = 1e-3, 1e5  # between pixels, and from the origin: beyond, a header is damaged
_CONVERTED = ("UnassignedPerFrameConvertedAttributesSequence", "UnassignedSharedConvertedAttributesSequence")


@dataclass(frozen=True, slots=True)
class Image:
    """One image plane as its header describes it.

    plane: where it lies; None if the header does not say so. texts: in the order of TEXTS. dimensions: the frame's
    index values. times: what may put repeats of a position in order (temporal position, times in ms, the moments of
    acquisition and content, its number). claimed_bytes: of its pixels. cut: its file ends before its pixels do.
    fault: why it is no slice of a volume, if it is none.
    """

    frame: Frame
    plane: Plane | None
    texts: Texts
    dimensions: tuple[int, ...]
    times: Times
    claimed_bytes: int
    cut: bool
    fault: Fault | None

    def text(self, keyword: str) -> str:
        """A header value, several joined by a backslash; empty if there is none."""
        return self.texts[_PLACE[keyword]]


_PLACE = {keyword: place for place, keyword in enumerate(TEXTS)}


def images_of(header: Header, shared: dict[Texts, Texts]) -> tuple[Image, ...]:
    """The image planes of a file, one for each frame that it describes; a frame without a place has no plane.

    A file that cannot be taken frame by frame gives one image with a fault. `shared` makes equal texts of several
    files one object.
    """
    dataset = header.dataset
    fault, claimed = None, max(whole(dataset, "NumberOfFrames", 1), 1)
    frames = [_Frame(dataset)]
    if header.sop_class not in IMAGES | MULTI_FRAME:
        fault = SCREEN
    elif header.claimed_bytes > LARGEST_BYTES:
        fault = TOO_LARGE
    elif header.sop_class in MULTI_FRAME:
        frames = _enhanced(dataset) or frames
        fault = None if len(frames) == claimed else UNDESCRIBED
    elif claimed > 1:
        fault = UNDESCRIBED
    if fault is None and (whole(dataset, "SamplesPerPixel", 1) != 1 or _has_palette(dataset)):
        fault = COLOUR
    if fault is not None:
        frames = frames[:1]
    each = header.claimed_bytes // len(frames)
    return tuple(_image(header, index, frame, each, shared, fault) for index, frame in enumerate(frames))


def _has_palette(dataset: Dataset) -> bool:
    return text(dataset, "PhotometricInterpretation") == "PALETTE COLOR"


class _Frame:
    """Looks up values of one frame: in its functional groups where there are any, then in the main header."""

    def __init__(self, dataset: Dataset, groups: Sequence[Mapping[str, Dataset]] = ()) -> None:
        self.dataset, self.groups = dataset, groups

    def text(self, keyword: str) -> str:
        places = _IN_GROUP.get(keyword, ())
        for group in self.groups:
            for sequence, inside in places:
                if sequence in group and (found := text(group[sequence], inside)):
                    return found
        for group in self.groups:
            for sequence in _CONVERTED:
                if sequence in group and (found := text(group[sequence], keyword)):
                    return found
        return text(self.dataset, keyword)

    def content(self, keyword: str) -> str:
        for group in self.groups:
            if "FrameContentSequence" in group and (found := text(group["FrameContentSequence"], keyword)):
                return found
        return ""


def _enhanced(dataset: Dataset) -> list[_Frame]:
    """The frames of an enhanced object; the groups that they share are looked up once."""
    shared = [_first_items(group) for group in dataset.get("SharedFunctionalGroupsSequence") or []][:1]
    own = dataset.get("PerFrameFunctionalGroupsSequence") or []
    return [_Frame(dataset, (_first_items(group), *shared)) for group in own]


def _first_items(group: Dataset) -> Mapping[str, Dataset]:
    """Each functional group by its keyword; it has one item, if any."""
    found = {}
    for element in group:
        if element.VR == "SQ" and element.keyword and element.value:
            found[element.keyword] = element.value[0]
    return found


def _image(
    header: Header, index: int, frame: _Frame, claimed_bytes: int, shared: dict[Texts, Texts], fault: Fault | None
) -> Image:
    dataset = header.dataset
    texts = tuple(_text(frame, keyword) for keyword in TEXTS)
    image_type, technique = texts[_PLACE["ImageType"]], texts[_PLACE["VolumeBasedCalculationTechnique"]]
    return Image(
        Frame(header.path, index, _identity(dataset)),
        _plane(frame, whole(dataset, "Rows"), whole(dataset, "Columns")),
        shared.setdefault(texts, texts),
        tuple(int(n) for n in as_numbers(frame.content("DimensionIndexValues"))),
        _times(frame, index),
        claimed_bytes,
        header.cut,
        fault or purpose(image_type, technique),
    )


def _identity(dataset: Dataset) -> str:
    """The UID of the object, if need be as its file's meta header gives it; empty if it has none."""
    own = single_uid(text(dataset, "SOPInstanceUID").split("\\")[0])
    return own or single_uid(str(dataset.file_meta.get("MediaStorageSOPInstanceUID") or ""))


def _text(frame: _Frame, keyword: str) -> str:
    found = frame.text(keyword)
    if keyword in ("StudyInstanceUID", "FrameOfReferenceUID"):
        return single_uid(found)
    if keyword == "SeriesInstanceUID":
        return named_uid(found)
    return found or (vendor_b_value(frame.dataset) if keyword == "DiffusionBValue" else "")


def _plane(frame: _Frame, rows: int, columns: int) -> Plane | None:
    orientation = as_numbers(frame.text("ImageOrientationPatient"))
    position = as_numbers(frame.text("ImagePositionPatient"))
    spacing = as_numbers(frame.text("PixelSpacing"))
    if (len(orientation), len(position), len(spacing)) != (6, 3, 2) or min(rows, columns) < 1:
        return None
    if min(spacing) < NEAREST_MM or max(map(abs, (*position, *spacing))) > FARTHEST_MM:
        return None
    return Plane(rows, columns, orientation, position, spacing)


def _times(frame: _Frame, index: int) -> Times:
    acquired = frame.content("FrameAcquisitionDateTime")
    referred = frame.content("FrameReferenceDateTime")
    return (
        _number(frame.text("TemporalPositionIdentifier")),
        _number(frame.text("FrameReferenceTime")),
        _number(frame.text("TriggerTime")),
        _moment(referred),
        _moment(acquired or frame.text("AcquisitionDate") + frame.text("AcquisitionTime")),
        _moment(frame.text("ContentDate") + frame.text("ContentTime")),
        _counted(text(frame.dataset, "InstanceNumber"), index)
        if frame.groups
        else _number(frame.text("InstanceNumber")),
    )


def _counted(file_number: str, index: int) -> float:
    """The number of a frame among those of all files of its series."""
    return (_number(file_number) or 0.0) * 1e7 + index


def _number(said: str) -> float | None:
    found = as_numbers(said)
    return found[0] if found else None


def _moment(said: str) -> float | None:
    """A date and time, or a time alone, as a number that grows with it."""
    digits = re.match(r"\d+(\.\d+)?", said.replace(":", ""))
    return float(digits.group()) if digits else None
