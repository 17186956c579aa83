"""The grid of a scan: how its voxels lie in the patient. Worlds are RAS+ mm, always."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

import numpy as np
import numpy.typing as npt

from medseg.errors import GeometryError

Affine = npt.NDArray[np.float64]
Axcodes = tuple[str, str, str]

SAME_PLACE = 0.01  # of the smallest spacing; headers written by different tools differ by rounding, not by more
LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


@dataclass(frozen=True, slots=True)
class Stored:
    """How the grid stood in its file, so that results are stored the same way."""

    format: Literal["nifti", "dicom", "memory"] = "memory"
    qform_code: int = 1
    sform_code: int = 1


@dataclass(frozen=True, eq=False)
class Grid:
    """Shape (X, Y, Z) and affine (voxel index -> RAS+ mm, 4x4 float64) of a scan, and how it was stored.

    Raises:
        GeometryError: the affine is not finite or cannot be inverted, or the shape is not three positive numbers.
    """

    shape: tuple[int, int, int]
    affine: Affine
    stored: Stored = field(default_factory=Stored)

    def __post_init__(self) -> None:
        shape = tuple(int(n) for n in self.shape)
        if len(shape) != 3 or min(shape) < 1:
            raise GeometryError(f"a scan needs three positive sizes, not {shape}")
        affine = np.array(self.affine, dtype=np.float64)
        if affine.shape != (4, 4) or not np.isfinite(affine).all():
            raise GeometryError("the affine is not a finite 4x4 matrix")
        if abs(np.linalg.det(affine[:3, :3])) < 1e-9 or not np.allclose(affine[3], [0, 0, 0, 1]):
            raise GeometryError("the affine cannot be inverted: an axis has no length or two axes are parallel")
        affine.flags.writeable = False
        object.__setattr__(self, "shape", shape)
        object.__setattr__(self, "affine", affine)

    @cached_property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Distance of neighbouring voxels along each axis, cleaned of float32 noise (0.8, not 0.800000011920929)."""
        lengths = np.linalg.norm(self.affine[:3, :3], axis=0)
        x, y, z = (_shortest(float(length)) for length in lengths)
        return x, y, z

    @cached_property
    def axcodes(self) -> Axcodes:
        """The direction each axis points to most: R or L, A or P, S or I."""
        axes = closest_axes(self.affine)
        x, y, z = ("LR"[up] if world == 0 else "PA"[up] if world == 1 else "IS"[up] for world, up in axes)
        return x, y, z

    @property
    def skew(self) -> float:
        """The largest |cosine| of the angle of two axes: 0 where all are at right angles."""
        axes = self.affine[:3, :3] / np.linalg.norm(self.affine[:3, :3], axis=0)
        return float(np.abs((axes.T @ axes)[np.triu_indices(3, 1)]).max())

    @property
    def voxel_ml(self) -> float:
        """Volume of one voxel in millilitres."""
        return float(abs(np.linalg.det(self.affine[:3, :3]))) / 1000.0

    @property
    def corners_mm(self) -> npt.NDArray[np.float64]:
        """World positions (8, 3) of the eight corner voxels."""
        ends = [(0, n - 1) for n in self.shape]
        index = np.array(np.meshgrid(*ends, indexing="ij")).reshape(3, -1)
        corners: npt.NDArray[np.float64] = (self.affine[:3, :3] @ index).T + self.affine[:3, 3]
        return corners

    def deviation_mm(self, other: Grid) -> float:
        """Largest distance between corresponding corners of two grids of equal shape; inf if the shapes differ."""
        if self.shape != other.shape:
            return float("inf")
        if np.array_equal(self.affine, other.affine):
            return 0.0
        return float(np.linalg.norm(self.corners_mm - other.corners_mm, axis=1).max())

    def agrees(self, other: Grid) -> bool:
        """True if both grids have the same shape and no corner differs by more than a hundredth of a voxel."""
        return self.deviation_mm(other) <= SAME_PLACE * min(self.spacing_mm)


def _shortest(length: float) -> float:
    """The number with the fewest digits that is the same float32, if it is near; else `length` rounded to 1e-9."""
    short = float(str(np.float32(length)))
    return short if abs(short - length) <= 1e-6 * max(length, 1.0) else round(length, 9)


def closest_axes(affine: Affine) -> tuple[tuple[int, int], tuple[int, int], tuple[int, int]]:
    """For each voxel axis the world axis (0 R, 1 A, 2 S) it follows most, and 1 if it points that way, 0 if against.

    Each world axis is given once: the assignment with the largest sum of |direction cosines|.
    """
    direction = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    orders = [(0, 1, 2), (0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0)]
    best = max(orders, key=lambda order: sum(abs(direction[w, v]) for v, w in enumerate(order)))
    x, y, z = ((w, int(direction[w, v] > 0)) for v, w in enumerate(best))
    return x, y, z
