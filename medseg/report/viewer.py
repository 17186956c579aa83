"""What the viewer of one case shows: the scan as bytes and the labels, small enough to stand in a page.

Each is a NIfTI file in base64, with its axes near to R, A, S. The scan is cut to what is labelled with some margin, its
window becomes 8 bits, and it is made coarser until it is small; labels keep their voxels unless there are too many.
"""

from __future__ import annotations

import base64
import gzip
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, TypeVar

import nibabel as nib
import numpy as np
import numpy.typing as npt

from medseg.imaging.volume import LabelMap, Volume
from medseg.report.frame import Frame, frame_of
from medseg.report.page import data_block

MOST_LABEL_VOXELS: Final = 16_000_000
CASE_PAGE_VOXELS: Final = 14_000_000  # of a scan on its own page: 8 MB packed
REPORT_VOXELS: Final = 2_500_000  # of a scan that shares a page with others
MOST_STRUCTURES: Final = 240  # with values of their own in the viewer

Affine = npt.NDArray[np.float64]
Bytes = npt.NDArray[np.uint8]
A = TypeVar("A", bound=np.generic)
Side = Literal["reference", "prediction"]
_VOLUMES: Final = ("scan", "reference", "prediction", "uncertainty")


@dataclass(frozen=True, slots=True)
class Window:
    """Which values of a scan are black and white (`shown`), and which are kept at all (`kept`), in `unit`."""

    kept: tuple[float, float]
    shown: tuple[float, float]
    unit: str = ""

    def said(self) -> str:
        """For a person: `-160 to 240 HU`."""
        low, high = self.shown
        digits = 0 if high - low >= 20 else 2
        return f"{low:.{digits}f} to {high:.{digits}f}{f' {self.unit}' if self.unit else ''}".replace("-", "\u2212")


@dataclass(frozen=True, slots=True)
class Place:
    """Somewhere to jump to: world position in RAS+ mm, and what is there."""

    mm: tuple[float, float, float]
    text: str


@dataclass(frozen=True, slots=True)
class Scene:
    """What the viewer of one case shows. Values of the labels are 1, 2, ... in the order of `structures`.

    scan, reference, prediction, uncertainty (0 to 255): packed NIfTI files, empty where there is none. first, of: the
    number of the first slice along each axis, and how many the whole scan has; every: how many of its voxels each voxel
    of the labels is.
    """

    structures: tuple[str, ...]
    scan: bytes = b""
    window: Window | None = None
    reference: bytes = b""
    prediction: bytes = b""
    places: tuple[Place, ...] = ()
    tolerance_mm: float = 1.0
    first: tuple[int, ...] = (0, 0, 0)
    of: tuple[int, ...] = (0, 0, 0)
    every: tuple[int, ...] = (1, 1, 1)
    uncertainty: bytes = b""

    def as_json(self) -> str:
        """As the scripts of a page read it, safe within a script element."""
        window = self.window or Window((0, 255), (0, 255))
        return data_block(
            {
                "structures": [{"value": n, "name": name} for n, name in enumerate(self.structures, 1)],
                **{side: _text(getattr(self, side)) for side in _VOLUMES},
                "range": window.kept,
                "window": window.shown,
                "unit": window.unit,
                "places": [{"mm": place.mm, "text": place.text} for place in self.places],
                "tolerance_mm": self.tolerance_mm,
                "first": self.first,
                "of": self.of,
                "every": self.every,
            }
        )


def _text(raw: bytes) -> str | None:
    return base64.b64encode(raw).decode("ascii") if raw else None


def scene_of(
    sides: Mapping[Side, LabelMap],
    structures: Mapping[int, str],
    scan: Volume | None = None,
    window: Window | None = None,
    places: Sequence[Place] = (),
    tolerance_mm: float = 1.0,
    scan_voxels: int = REPORT_VOXELS,
    frame: Frame | None = None,
    uncertainty: Volume | None = None,
) -> Scene:
    """A scene of label maps on one grid and, where there is one, the scan on the same grid.

    structures: the values that are shown and their names, the most important first; those beyond `MOST_STRUCTURES` are
    left out. scan_voxels: at most so many of the scan. uncertainty: 0 to 1, on the same grid.
    """
    shown = dict(list(structures.items())[:MOST_STRUCTURES])
    maps = list(sides.values())
    frame = frame or frame_of([labels.array for labels in maps], maps[0].grid)
    table = np.zeros(1 << 16, np.uint8)
    table[list(shown)] = np.arange(1, len(shown) + 1)
    packed: dict[str, bytes] = {}
    every = (1, 1, 1)
    for side, labels in sides.items():
        array = frame.take(labels.array)
        every = _every(array.shape, MOST_LABEL_VOXELS)
        picked, affine = _picked(array, frame.affine, every)
        packed[side] = _nifti(table[picked], affine)
    if scan is not None and window is not None:
        array = in_bytes(frame.take(scan.array), window.kept)
        packed["scan"] = _nifti(*_averaged(array, frame.affine, _every(array.shape, scan_voxels)))
    if uncertainty is not None:
        array = in_bytes(frame.take(uncertainty.array), (0.0, 1.0))
        packed["uncertainty"] = _nifti(*_averaged(array, frame.affine, _every(array.shape, scan_voxels)))
    return Scene(
        tuple(shown.values()),
        window=window,
        places=tuple(places),
        tolerance_mm=tolerance_mm,
        first=frame.first,
        of=frame.of,
        every=every,
        **packed,
    )


def in_bytes(array: npt.NDArray[Any], kept: tuple[float, float]) -> Bytes:
    """Finite values as 0 to 255, of which the ends are the ends of the range that is kept."""
    low, high = kept
    scaled = array.astype(np.float32)
    scaled -= low
    scaled *= 255 / (high - low)
    made: Bytes = np.rint(np.clip(scaled, 0, 255, out=scaled), out=scaled).astype(np.uint8)
    return made


def _every(shape: Sequence[int], most: int) -> tuple[int, int, int]:
    """How many voxels become one along each axis, so that at most `most` are left; the longest axis first."""
    every = [1] * len(shape)
    while math.prod(-(-n // k) for n, k in zip(shape, every, strict=True)) > most:
        axis = max(range(len(shape)), key=lambda n: shape[n] / every[n])
        every[axis] += 1
    x, y, z = every
    return x, y, z


def _picked(array: npt.NDArray[A], affine: Affine, every: Sequence[int]) -> tuple[npt.NDArray[A], Affine]:
    """Every n-th voxel, that in the middle of its neighbours."""
    starts = [min((k - 1) // 2, n - 1) for k, n in zip(every, array.shape, strict=True)]
    made = affine.copy()
    made[:3, 3] += affine[:3, :3] @ starts
    made[:3, :3] = affine[:3, :3] * every
    return array[tuple(slice(s, None, k) for s, k in zip(starts, every, strict=True))], made


def _averaged(array: Bytes, affine: Affine, every: Sequence[int]) -> tuple[Bytes, Affine]:
    """Means of n x n x n voxels; what is left over at the far ends is left out."""
    if max(every) == 1:
        return array, affine
    kept = tuple(slice(0, n - n % k) for n, k in zip(array.shape, every, strict=True))
    mean = array[kept].astype(np.float32)
    for axis, k in enumerate(every):
        if k > 1:
            split = (*mean.shape[:axis], mean.shape[axis] // k, k, *mean.shape[axis + 1 :])
            mean = mean.reshape(split).mean(axis=axis + 1)
    made = affine.copy()
    made[:3, 3] += affine[:3, :3] @ [(k - 1) / 2 for k in every]
    made[:3, :3] = affine[:3, :3] * every
    return mean.round().astype(np.uint8), made


def _nifti(array: Bytes, affine: Affine) -> bytes:
    image = nib.Nifti1Image(np.asfortranarray(array), affine)
    image.header.set_xyzt_units("mm")
    return gzip.compress(image.to_bytes(), compresslevel=6, mtime=0)
