"""Grids on which no label is cut: of the slices of segmentations, of contours, and of a grid made larger.

A segmentation holds the slices that have labels, a structure set no slices at all, so that neither says how far a grid
must reach for another's labels as well.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NoReturn

import numpy as np
import numpy.typing as npt

from medseg.errors import GeometryError
from medseg.imaging.dicom.label_slices import own_grid
from medseg.imaging.dicom.rtstruct import Structure
from medseg.imaging.dicom.seg import Segments
from medseg.imaging.grid import Affine, Grid
from medseg.imaging.planes import SAME_DIRECTION, SAME_POSITION_MM, SAME_SPACING, Planes

Points = npt.NDArray[np.float64]

IN_PLANE_MM = 1.0  # pixels of a grid that is made for contours alone, at most ...
ACROSS = 8  # ... and so many of them across the smallest contour, ...
FINEST_MM = 0.1  # ... but none finer than this
_MADE_UP = 1 << 27  # voxels of such a grid, at most
_LARGEST = 1 << 28  # voxels that any grid may grow to, and ...
_GROWS = 4  # ... how many times as large it may become: what needs more lies too far apart to be of one scan
_LONGEST_MM = 4000.0  # of any scan
_ONE_PLANE_MM = 0.2  # contours nearer than this are drawn on one plane
_ON_EDGE = 1e-3  # of a voxel: nothing lies outside that lies no farther beyond the edge of a voxel


def extended(grid: Grid, points_mm: Points) -> Grid:
    """The grid, with as many more of its own voxels at each end as hold all points (N, 3), RAS+ mm; itself if none.

    Raises:
        GeometryError: it would be larger than any scan.
    """
    if not len(points_mm):
        return grid
    index = np.linalg.inv(grid.affine)
    at = points_mm @ index[:3, :3].T + index[:3, 3]
    low = np.minimum(np.floor(at.min(axis=0) + 0.5 + _ON_EDGE), 0)
    high = np.maximum(np.ceil(at.max(axis=0) - 0.5 - _ON_EDGE), np.array(grid.shape) - 1)
    if not low.any() and (high == np.array(grid.shape) - 1).all():
        return grid
    sizes = [float(n) for n in high - low + 1]
    if not math.prod(sizes) <= max(_LARGEST, _GROWS * math.prod(grid.shape)):
        _refuse_far()
    affine: Affine = np.array(grid.affine)
    affine[:3, 3] += affine[:3, :3] @ low
    return Grid((int(sizes[0]), int(sizes[1]), int(sizes[2])), affine, grid.stored)


def _refuse_far() -> NoReturn:
    what = "[OFF_GRID] its labels lie farther from the others than any scan reaches"
    raise GeometryError(what, fix="give the labels of one scan")


def segments_grid(several: Sequence[Segments]) -> Grid:
    """The grid of the slices of all segmentations if they share one geometry, else of those of the first.

    Raises:
        GeometryError: it would be larger than any scan.
    """
    first = several[0]
    alike = [one for one in several if _same_geometry(one.planes, first.planes)]
    positions = np.concatenate([one.planes.positions_mm for one in alike])
    along = positions @ first.planes.normal
    if np.ptp(along) > _LONGEST_MM:
        _refuse_far()
    order = np.argsort(along, kind="stable")
    apart = np.diff(along[order], prepend=-np.inf) > SAME_POSITION_MM
    p = first.planes
    planes = Planes(p.shape, p.spacing_mm, p.row, p.column, positions[order][apart])
    stated = [next((one.stated_mm[k] for one in alike if one.stated_mm[k] > 0), 0.0) for k in (0, 1)]
    return own_grid(np.zeros((*planes.shape, len(planes)), np.uint8), planes, (stated[0], stated[1]))[1]


def _same_geometry(one: Planes, other: Planes) -> bool:
    directions = np.abs([one.row - other.row, one.column - other.column]).max() <= SAME_DIRECTION
    spacing = np.allclose(one.spacing_mm, other.spacing_mm, rtol=SAME_SPACING)
    return bool(one.shape == other.shape and directions and spacing)


def labelled_points(segments: Segments) -> Points:
    """The centres (N, 3), RAS+ mm, of the outermost labelled pixels of each slice: the corners of their box."""
    planes, found = segments.planes, [np.zeros((0, 3))]
    for k in range(len(planes)):
        x, y = np.nonzero(segments.array[:, :, k])
        if len(x):
            corners = [(i, j) for i in (x.min(), x.max()) for j in (y.min(), y.max())]
            index = np.array(corners) * planes.spacing_mm
            found.append(planes.positions_mm[k] + index @ np.array([planes.row, planes.column]))
    return np.concatenate(found)


def contour_points(structures: Sequence[Structure]) -> Points:
    """All points (N, 3) of the contours of structures, RAS+ mm."""
    return np.concatenate([np.zeros((0, 3)), *(contour for s in structures for contour in s.contours)])


def contours_grid(structures: Sequence[Structure]) -> Grid:
    """A grid along the planes of the contours that covers them all, at the distance of the planes.

    How large pixels were nobody says: they are 1 mm, or fine enough for the smallest contour. A grid of one voxel where
    nothing is drawn.

    Raises:
        GeometryError: it would be larger than any scan.
    """
    contours = [contour for s in structures for contour in s.contours]
    if not contours:
        return Grid((1, 1, 1), np.eye(4))
    normal = _normal(max(contours, key=len))
    row = np.eye(3)[int(np.argmin(np.abs(normal)))]
    row = row - (row @ normal) * normal
    row /= np.linalg.norm(row)
    column = np.cross(normal, row)
    steps = np.diff(np.sort([contour.mean(axis=0) @ normal for contour in contours]))
    steps = steps[steps > _ONE_PLANE_MM]
    smallest = min(float(np.ptp(contour @ axis)) for contour in contours for axis in (row, column))
    pixel = float(np.clip(smallest / ACROSS, FINEST_MM, IN_PLANE_MM))
    points = np.concatenate(contours)
    extent = [float(np.ptp(points @ axis)) for axis in (row, column, normal)]
    step = float(np.median(steps)) if len(steps) else IN_PLANE_MM
    needed = (extent[0] / pixel + 1) * (extent[1] / pixel + 1) * (extent[2] / step + 1)
    pixel *= max(1.0, math.sqrt(needed / _MADE_UP))
    affine: Affine = np.eye(4)
    affine[:3, :3] = np.stack([row * pixel, column * pixel, normal * step], axis=1)
    start = points @ np.stack([row, column, normal], axis=1)
    corner = start.min(axis=0) + np.array([pixel / 2, pixel / 2, 0.0])  # pixels have their centres within what is drawn
    affine[:3, 3] = np.stack([row, column, normal], axis=1) @ corner
    return extended(Grid((1, 1, 1), affine), points)


def _normal(contour: Points) -> Points:
    """The direction that a contour does not reach along, pointing the way of the world axis that is nearest."""
    normal: Points = np.linalg.svd(contour - contour.mean(axis=0), full_matrices=False)[2][2]
    return np.asarray(normal * np.sign(normal[np.argmax(np.abs(normal))]))
