"""The images of one series, taken apart into volumes.

Orientation, matrix, pixel spacing and frame of reference always part. Any other header value parts only where that
explains something: the same positions imaged several times, or slices that fit no single stack. A value that merely
changes from slice to slice (a trigger time, the number of an axial rotation) parts nothing. What still repeats at every
position is taken for a course of time.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from typing import NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt

from medseg.imaging.dicom.frames import Image
from medseg.imaging.dicom.headers import as_numbers
from medseg.imaging.dicom.purpose import SCREEN
from medseg.imaging.dicom.tags import direction, shown_value
from medseg.imaging.planes import SAME_DIRECTION, SAME_POSITION_MM, SAME_SPACING, Fault, Plane, arrange

SPLIT_BY = (
    *("ImageType", "ComplexImageComponent", "ConvolutionKernel", "StackID", "EchoTime", "EchoNumbers"),
    *("InversionTime", "FlipAngle", "RepetitionTime", "DiffusionBValue", "TemporalPositionIdentifier", "TriggerTime"),
    "AcquisitionNumber",
)
FEW_REPEATS = 1.5  # images a position, on average: below, stacks overlap at their ends; above, all was imaged again
COVERED = 0.75  # of the positions, or of a fair share of the images: a part with fewer is a few slices sent again
MIXED = ("EchoTime", "FlipAngle", "DiffusionBValue", "ConvolutionKernel")  # what makes another contrast
LEAST_MIXED = 4  # slices of a value that is told, where others of the volume have another one
LEAST_SLICES = 3  # two slices are always evenly spaced, which proves nothing
INTERLEAVED = 0.1  # how near a step comes to a part's step divided by the number of parts ...
MOSTLY = 0.5  # ... for this share of the steps, if the parts were acquired in turns

K = TypeVar("K", bound=Hashable)


@dataclass(frozen=True, eq=False)
class Part:
    """Images that belong to one volume, and in safe words what sets them apart; `fault` if they are no slices."""

    images: tuple[Image, ...]
    differs: tuple[str, ...] = ()
    fault: Fault | None = None


class _Criterion(NamedTuple):
    name: str
    value: Callable[[Image], str]


def split(images: Sequence[Image]) -> tuple[Part, ...]:
    """Take the images of one series (none of them twice) apart into volumes, those that are no slices last.

    The order of the volumes follows the numbers of their images, never the order in which files were found.
    """
    images = sorted(images, key=_number)
    slices = [image for image in images if image.fault is None]
    criteria = _criteria(slices)
    parts = [piece for part in _with_lost(_stacks(slices), slices) for piece in _refined(part, criteria)]
    others = _grouped((image for image in images if image.fault is not None), lambda image: image.fault)
    return (*parts, *(Part(tuple(group), (), fault) for fault, group in others.items()))


def _number(image: Image) -> tuple[float, str, int]:
    number = image.times[-1]
    return np.inf if number is None else number, image.frame.uid, image.frame.index


def _grouped(images: Iterable[Image], key: Callable[[Image], K]) -> dict[K, list[Image]]:
    groups: dict[K, list[Image]] = {}
    for image in images:
        groups.setdefault(key(image), []).append(image)
    return groups


def _criteria(images: Sequence[Image]) -> tuple[_Criterion, ...]:
    """What may part the images: header values, then the indices of a multi-frame object's frames."""

    def header(keyword: str) -> _Criterion:
        return _Criterion(keyword, lambda image: image.text(keyword))

    def dimension(k: int) -> _Criterion:
        return _Criterion(f"dimension {k + 1}", lambda image: str(image.dimensions[k]))

    indices = min((len(image.dimensions) for image in images), default=0)
    return (*map(header, SPLIT_BY), *map(dimension, range(indices)))


def _told(keys: Sequence[Hashable], words: Sequence[str]) -> list[str]:
    """The words for each key, counted where they do not tell the keys apart; empty if all keys are the same."""
    nth = {key: n for n, key in enumerate(dict.fromkeys(keys), start=1)}
    if len(nth) == 1:
        return [""] * len(keys)
    if len(set(words)) == len(nth):
        return list(words)
    return [f"{word} ({nth[key]} of {len(nth)})" for key, word in zip(keys, words, strict=True)]


# --- what always parts ---


def _stacks(images: Sequence[Image]) -> list[Part]:
    """Parallel slices of one matrix and pixel spacing, in one frame of reference; images without a plane are left."""
    placed = [(image, image.plane) for image in images if image.plane is not None]
    uids = sorted({uid for image, _ in placed if (uid := image.text("FrameOfReferenceUID"))})
    references = {uid: n for n, uid in enumerate(uids)}
    turns = _alike([plane.orientation for _, plane in placed], lambda _: SAME_DIRECTION)
    pixels = _alike([plane.spacing_mm for _, plane in placed], lambda spacing: SAME_SPACING * max(spacing))
    stacks: dict[tuple[int, tuple[int, int], int, int], list[Image]] = {}
    planes: list[Plane] = []
    for (image, plane), turn, spacing in zip(placed, turns, pixels, strict=True):
        uid = image.text("FrameOfReferenceUID")
        key = (references.get(uid, 0), (plane.columns, plane.rows), turn, spacing)
        if key not in stacks:
            planes.append(plane)
        stacks.setdefault(key, []).append(image)
    if not stacks:
        return []
    frame, size, turn_of, spacing_of = zip(*stacks, strict=True)
    words = zip(
        _told(frame, ["frame of reference"] * len(stacks)),
        _told(size, [f"{plane.columns} x {plane.rows} pixels" for plane in planes]),
        _told(turn_of, [direction(_normal(plane)) for plane in planes]),
        _told(spacing_of, [f"pixels of {plane.spacing_mm[1]:.4g} x {plane.spacing_mm[0]:.4g} mm" for plane in planes]),
        strict=True,
    )
    return [Part(tuple(group), tuple(filter(None, said))) for group, said in zip(stacks.values(), words, strict=True)]


def _alike(values: Sequence[tuple[float, ...]], tolerance: Callable[[tuple[float, ...]], float]) -> list[int]:
    """For each value the number of the first one that is equal to it within its tolerance."""
    distinct = list(dict.fromkeys(values))
    if not distinct:
        return []
    from scipy.spatial import cKDTree  # here, since it takes long to import

    tree, place, n = cKDTree(distinct), [-1] * len(distinct), 0
    for k, value in enumerate(distinct):
        if place[k] < 0:
            for near in tree.query_ball_point(value, tolerance(value), p=np.inf):
                place[near] = n if place[near] < 0 else place[near]
            n += 1
    number = dict(zip(distinct, place, strict=True))
    return [number[value] for value in values]


def _normal(plane: Plane) -> npt.NDArray[np.float64]:
    row, column = np.array(plane.orientation).reshape(2, 3)
    return np.cross(row, column)


def _with_lost(parts: list[Part], images: Sequence[Image]) -> list[Part]:
    """The parts, and the images that do not say where they lie.

    Beside slices of the same ImageType they are slices whose place was lost: they stay with them, and the volume is
    refused. Other secondary images are captures; what is left is a stack without places.
    """
    lost = _grouped((image for image in images if image.plane is None), lambda image: image.text("ImageType"))
    for image_type, group in lost.items():
        kin = [k for k, part in enumerate(parts) if part.images[0].text("ImageType") == image_type]
        if kin:
            most = max(kin, key=lambda k: len(parts[k].images))
            parts[most] = replace(parts[most], images=(*parts[most].images, *group))
        else:
            secondary = image_type.upper().split("\\")[1:2] == ["SECONDARY"]
            parts = [*parts, Part(tuple(group), (), SCREEN if secondary else None)]
    return parts


# --- what parts where it explains something ---


@dataclass(frozen=True, eq=False)
class _Stack:
    """How images lie along their normal: of each its place (N), and what the places make."""

    place: npt.NDArray[np.int64]
    counts: npt.NDArray[np.int64]
    along_mm: npt.NDArray[np.float64]  # of each place
    even: bool  # the places are evenly spaced on a straight line

    @property
    def n(self) -> int:
        return len(self.counts)

    @property
    def total(self) -> int:
        return len(self.place)

    @property
    def equal(self) -> bool:
        return bool((self.counts == self.counts[0]).all())


def _stack(images: Sequence[Image]) -> _Stack | None:
    """None if one of the images does not say where it lies."""
    planes = [image.plane for image in images if image.plane is not None]
    if len(planes) < len(images) or not planes:
        return None
    along = np.array([plane.position_mm for plane in planes]) @ _normal(planes[0])
    order = np.argsort(along, kind="stable")
    place = np.empty(len(planes), np.int64)
    place[order] = np.cumsum(np.diff(along[order], prepend=along[order[0]]) > SAME_POSITION_MM)
    firsts = np.unique(place, return_index=True)[1]
    faults = arrange([planes[k] for k in firsts]).faults
    even = not {"GAP", "SHIFTED", "TOO_FEW"} & {fault.code for fault in faults}
    return _Stack(place, np.bincount(place), along[firsts], even)


def _refined(part: Part, criteria: Sequence[_Criterion]) -> list[Part]:
    stack = _stack(part.images)
    if stack is None or stack.n == 1 or (stack.even and stack.n == stack.total):
        return [part]
    for criterion in criteria:
        groups = _grouped(part.images, criterion.value)
        if len(groups) > 1 and _explains(stack, list(map(_stack, groups.values())), criterion.name):
            others = [one for one in criteria if one is not criterion]
            values = sorted(groups, key=_natural)
            words = _told(
                values, [f"{criterion.name} {shown_value(criterion.name, value)}".strip() for value in values]
            )
            pieces = (Part(tuple(groups[v]), (*part.differs, said)) for v, said in zip(values, words, strict=True))
            return [finer for piece in pieces for finer in _refined(piece, others)]
    return _in_time(part, stack)


def _natural(value: str) -> tuple[bool, tuple[float, ...], str]:
    found = as_numbers(value)
    return not found, found, value


def _explains(whole: _Stack, several: Sequence[_Stack | None], name: str) -> bool:
    """True if these parts are volumes, better than the whole is one."""
    parts = [part for part in several if part is not None]
    if whole.n == whole.total:
        return _disentangles(whole, parts, name)
    if sum(part.total - part.n for part in parts) >= whole.total - whole.n:
        return False
    if whole.equal:
        return all(part.equal and part.n == whole.n for part in parts)
    if whole.total < FEW_REPEATS * whole.n:
        fair = COVERED * whole.total / len(parts)
        return all(part.even and part.n >= max(LEAST_SLICES, fair) for part in parts)
    return all(part.n >= max(LEAST_SLICES, COVERED * whole.n) for part in parts)


def _disentangles(whole: _Stack, parts: Sequence[_Stack], name: str) -> bool:
    """True if slices that are no single stack are several even ones.

    A gap must not be explained away: stacks one behind the other are told by StackID alone, and slices that were
    acquired in turns (odd, then even) stay one stack, though one is missing.
    """
    if not all(part.even and part.n >= LEAST_SLICES for part in parts):
        return False
    spans = sorted((part.along_mm[0], part.along_mm[-1]) for part in parts)
    if all(before[1] < after[0] for before, after in pairwise(spans)):
        return name == "StackID"
    in_turns = max(float(np.median(np.diff(part.along_mm))) for part in parts) / len(parts)
    return bool((np.abs(np.diff(whole.along_mm) - in_turns) <= INTERLEAVED * in_turns).mean() < MOSTLY)


def _in_time(part: Part, stack: _Stack) -> list[Part]:
    """Images that repeat equally often at every position, as a course of time; by the first value that orders them."""
    if not stack.equal or stack.n < 2 or stack.counts[0] < 2:
        return [part]
    m = int(stack.counts[0])
    for moments in zip(*(image.times for image in part.images), strict=True):
        known = np.array([np.nan if moment is None else moment for moment in moments])
        order = np.lexsort((known, stack.place)).reshape(stack.n, m)
        if np.isfinite(known).all() and (np.diff(known[order], axis=1) > 0).all():
            phases = [tuple(part.images[k] for k in phase) for phase in order.T]
            said = [(*part.differs, f"time {k} of {m}") for k in range(1, m + 1)]
            return [Part(images, words) for images, words in zip(phases, said, strict=True)]
    return [part]


# --- what does not part, but is told ---


def mixed_values(images: Sequence[Image]) -> list[Fault]:
    """Whether the images of one volume are two or more stacks of different contrast, which fit together by chance.

    They may as well belong together, so they stay one volume. What varies from slice to slice makes no even stacks.
    """
    said = []
    for keyword in MIXED:
        groups = _grouped(images, partial(_contrast, keyword))
        if len(groups) < 2 or "" in groups or len(groups) * LEAST_MIXED > len(images):
            continue
        stacks = [_stack(group) for group in groups.values()]
        if all(stack is not None and stack.even and stack.n >= LEAST_MIXED for stack in stacks):
            said.append(f"{len(groups)} values of {keyword}")
    return [Fault("MIXED_VALUES", f"its images have {' and '.join(said)}")] if said else []


def _contrast(keyword: str, image: Image) -> Hashable:
    """A value of an image; numbers that are written in several ways are the same."""
    value = image.text(keyword)
    return as_numbers(value) or value
