"""Surface and longest axial diameter of a structure, piece by piece of its box."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from scipy.spatial import ConvexHull

from medseg.evaluation.cells import cell_codes, surfel_sizes
from medseg.inference.boxes import Box
from medseg.inference.measuring.voxels import StructureVoxels

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

_HALF_WAY = np.array([(0.5, 0.0), (-0.5, 0.0), (0.0, 0.5), (0.0, -0.5)])


def surface_mm2(structure: StructureVoxels, spacing_mm: Sequence[float]) -> float:
    """The area of the surface of marching cubes in mm2; what lies outside of the scan counts as background.

    It follows the voxels' steps, and so is about a tenth larger than that of a smooth body.
    Source: Lorensen and Cline (1987), by the areas that surface metrics are weighted with (`evaluation/cells.py`).
    """
    counts = np.zeros(256, np.int64)
    for box in structure.boxes:
        last = np.zeros((1, *(side.stop - side.start + 2 for side in box[1:])), np.uint8)
        for mask in structure.masks(box):
            planes = np.concatenate([last, np.pad(mask.view(np.uint8), ((0, 0), (1, 1), (1, 1)))])
            counts += _counted(planes)
            last = planes[-1:]
        counts += _counted(np.concatenate([last, np.zeros_like(last)]))
    return float(counts @ surfel_sizes(tuple(spacing_mm)))


def _counted(planes: npt.NDArray[np.uint8]) -> Ints:
    """How many cells have each code; those wholly inside or outside are left out."""
    codes = cell_codes(planes).ravel()
    return np.bincount(codes[(codes != 0) & (codes != 255)], minlength=256)


def longest_axial_mm(structure: StructureVoxels, axial: int, spacing_mm: Sequence[float]) -> float:
    """The largest distance in mm between two points of the outline in one plane across the axis `axial` of (A, B, C).

    The outline runs half-way between the centres of neighbouring pixels inside and outside, as the surface does: a
    single pixel is as long as its longer side. A plane may hold several pieces; all count as one.
    """
    along = 2 if axial != 2 else 1
    scale = np.array([spacing_mm[3 - axial - along], spacing_mm[along]])
    ends = np.concatenate([_ends_of_rows(structure, box, axial, along) for box in structure.boxes])
    ends = ends[np.argsort(ends[:, 0], kind="stable")]
    planes = np.split(ends[:, 1:], np.flatnonzero(np.diff(ends[:, 0])) + 1)
    bounds = [_diagonal_mm(pixels, scale) for pixels in planes]
    longest = 0.0
    for k in np.argsort(bounds)[::-1]:
        if bounds[k] <= longest:  # nor can any that follows be longer
            break
        longest = max(longest, _longest_mm(planes[k], scale))
    return longest


def _ends_of_rows(structure: StructureVoxels, box: Box, axial: int, along: int) -> Ints:
    """Plane, row, and place along the row (N, 3) of the first and the last pixel in each row of a box."""
    firsts, lasts = [], []
    for mask in structure.masks(box):
        firsts.append(np.where(mask.any(axis=along), mask.argmax(axis=along), -1))
        lasts.append(mask.shape[along] - 1 - np.flip(mask, along).argmax(axis=along))
    first, last = np.concatenate(firsts), np.concatenate(lasts)
    held = np.nonzero(first >= 0)
    row_axes = [axis for axis in range(3) if axis != along]
    at = dict(zip(row_axes, held, strict=True))
    plane, row = (at[axis] + box[axis].start for axis in (axial, 3 - axial - along))
    return np.concatenate([np.stack([plane, row, end[held] + box[along].start], axis=1) for end in (first, last)])


def _diagonal_mm(pixels: Ints, scale: Floats) -> float:
    """Of the box about these pixels."""
    return float(np.hypot(*(scale * (np.ptp(pixels, axis=0) + 1))))


def _longest_mm(pixels: Ints, scale: Floats) -> float:
    """Of one plane: the two points lie among the corners of the convex hull, and these about the ends of rows."""
    points = (pixels[:, None] + _HALF_WAY).reshape(-1, 2) * scale
    corners = points[ConvexHull(points).vertices]
    away = corners[:, None] - corners
    return float(np.sqrt(np.square(away).sum(axis=2).max()))
