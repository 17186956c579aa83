"""Which volume a DICOM label object was drawn on: references may be missing or wrong, and places decide then."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pydicom
from pydicom.dataelem import DataElement

from medseg.imaging.dicom.headers import quiet
from medseg.imaging.dicom.volumes import LabelObject, SubVolume
from medseg.imaging.grid import LPS_TO_RAS

ON_SLICE = 0.25  # of the step: a contour or frame farther from every slice was drawn on another volume
BESIDE = 1.0  # pixels by which a contour may reach out of its slice
_FRAMES = ("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence")
_REFERENCES = (*_FRAMES, "ReferencedSeriesSequence", "ReferencedFrameOfReferenceSequence")
_PLACES = (*_FRAMES, "ROIContourSequence")


def owners_of(label: LabelObject, volumes: Sequence[SubVolume]) -> tuple[SubVolume, ...]:
    """The volumes that a label object may belong to; several where it cannot be known which.

    The images that it names decide (the volume that holds most of them), else its series, else its frame of reference
    and study. Where these leave several volumes, or only the last is known, all that was drawn must lie on the slices.
    """
    named = _named_images(label.path)
    shares = [sum(frame.uid in named for frame in volume.frames) for volume in volumes]
    by_images = [volume for volume, share in zip(volumes, shares, strict=True) if 0 < share == max(shares)]
    referred = by_images or [volume for volume in volumes if volume.series_uid in label.series_uids]
    if len(referred) == 1:
        return tuple(referred)
    near = referred or [volume for volume in volumes if in_space_of(label, volume)]
    places = _places_lps(label.path) if near else np.zeros((0, 3))
    return tuple(volume for volume in near if lies_on(places, volume))


def in_space_of(label: LabelObject, volume: SubVolume) -> bool:
    """True if both name the same frame of reference, and not two different studies."""
    frame = label.frame_of_reference
    study = not label.study_uid or not volume.study_uid or label.study_uid == volume.study_uid
    return bool(frame) and frame == volume.frame_of_reference and study


def lies_on(places_lps: npt.NDArray[np.float64], volume: SubVolume) -> bool:
    """True if every place (N, 3), LPS+ mm, lies on a slice of the volume, within its field of view."""
    if volume.planes is None or not len(places_lps):
        return False
    planes = volume.planes
    places = places_lps @ LPS_TO_RAS[:3, :3]
    along = places @ planes.normal
    nearest = np.searchsorted((planes.along_mm[1:] + planes.along_mm[:-1]) / 2, along)
    away = np.abs(along - planes.along_mm[nearest])
    step = float(np.median(np.diff(planes.along_mm))) if len(planes) > 1 else 1.0
    offset = places - planes.positions_mm[nearest]
    pixels = np.stack([offset @ planes.row, offset @ planes.column], axis=1) / planes.spacing_mm
    inside = (pixels >= -BESIDE) & (pixels <= np.array(planes.shape) - 1 + BESIDE)
    return bool((away <= ON_SLICE * step).all() and inside.all())


def _named_images(path: Path) -> set[str]:
    """SOPInstanceUIDs of all images that a label object says it was drawn on."""
    return {str(item.value) for item in _elements(path, _REFERENCES) if item.keyword == "ReferencedSOPInstanceUID"}


def _places_lps(path: Path) -> npt.NDArray[np.float64]:
    """(N, 3), LPS+ mm: the first pixel of each frame of a SEG, every point of an RTSTRUCT's contours."""
    items = [item for item in _elements(path, _PLACES) if item.keyword in ("ImagePositionPatient", "ContourData")]
    try:
        found = [np.array(item.value, dtype=np.float64).reshape(-1, 3) for item in items if item.value]
    except (TypeError, ValueError):
        return np.zeros((0, 3))
    return np.concatenate(found) if found else np.zeros((0, 3))


def _elements(path: Path, tags: Sequence[str]) -> list[DataElement]:
    """All elements within some sequences of a header; none where it is damaged, which reading the labels will say."""
    try:
        with quiet():
            header = pydicom.dcmread(path, force=True, stop_before_pixels=True, specific_tags=list(tags))
            return list(header.iterall())
    except Exception:  # a parser on arbitrary bytes can fail in any way
        return []
