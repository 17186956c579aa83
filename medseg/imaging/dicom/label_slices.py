"""From labelled frames to a label map: their slices in order, empty ones between them, and the way onto a grid.

A segmentation leaves out frames without labels. What is left tells where labels are, not how far slices reach, so the
step is worked out before labels are brought onto another grid: else a lone slice would be spread over its neighbours'
places.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from medseg.imaging.dicom.label_objects import AGAIN, refuse_place
from medseg.imaging.grid import Affine, Grid, Stored
from medseg.imaging.planes import (
    SAME_DIRECTION,
    SAME_POSITION_MM,
    SAME_SPACING,
    SHEARED,
    UNEVEN,
    UNEVEN_AT_LEAST_MM,
    Plane,
    Planes,
    straight_grid,
)
from medseg.imaging.slicing import labels_onto
from medseg.imaging.voxels import refuse

Floats = npt.NDArray[np.float64]
Labels = npt.NDArray[np.unsignedinteger[Any]]

_ON_STEP = 0.05  # of a step: positions are rounded, and so are stated steps


def in_order(frames: Sequence[Plane], name: str) -> tuple[Planes, npt.NDArray[np.int64]]:
    """The slices that frames lie on, each once, and of each frame the number of its slice.

    Raises:
        InputError: frames of several directions or pixel sizes, or beside each other on one slice; no geometry.
    """
    try:
        orientation = np.array([f.orientation for f in frames], np.float64).reshape(-1, 2, 3)
        spacing = np.array([f.spacing_mm for f in frames], np.float64).reshape(-1, 2)
        positions = np.array([f.position_mm for f in frames], np.float64).reshape(-1, 3)
    except ValueError:
        refuse("NO_GEOMETRY", "its frames do not say where they lie", name, AGAIN)
    lengths = np.linalg.norm(orientation, axis=2)
    if not len(frames) or (np.abs(lengths - 1) > 1e-2).any() or spacing.min() <= 0:
        refuse("NO_GEOMETRY", "its frames do not say where they lie", name, AGAIN)
    if (
        np.ptp(orientation, axis=0).max() > SAME_DIRECTION
        or np.ptp(spacing, axis=0).max() > SAME_SPACING * spacing.max()
    ):
        refuse("MIXED_ORIENTATION", "its frames lie in several directions, or have pixels of several sizes", name)
    mirror = np.array([-1.0, -1.0, 1.0])  # DICOM's LPS+ to RAS+
    row, column = orientation[0] / lengths[0][:, None] * mirror
    if abs(row @ column) > 1e-3:
        refuse("NO_GEOMETRY", "the directions of its rows and columns are not at right angles", name, AGAIN)
    positions = positions * mirror
    along = positions @ np.cross(row, column)
    order = np.argsort(along, kind="stable")
    number = np.empty(len(order), np.int64)
    number[order] = np.cumsum(np.diff(along[order], prepend=along[order[0]]) > SAME_POSITION_MM)
    first = np.array([order[i] for i in np.unique(number[order], return_index=True)[1]])
    if np.abs(positions - positions[first][number]).max() > SAME_POSITION_MM + SAME_SPACING * spacing.max():
        refuse("SHIFTED", "frames lie beside each other on one slice", name)
    shape = (frames[0].columns, frames[0].rows)
    return Planes(shape, (float(spacing[0, 1]), float(spacing[0, 0])), row, column, positions[first]), number


def with_empty(array: Labels, planes: Planes, step_mm: float) -> tuple[Labels, Planes]:
    """The same with the empty slices put in that are missing at this step; places between two are interpolated."""
    counts = np.maximum(np.rint(np.diff(planes.along_mm) / step_mm).astype(np.int64), 1) if step_mm else np.array([1])
    if len(planes) < 2 or (counts == 1).all():
        return array, planes
    at = np.concatenate([[0], np.cumsum(counts)])
    every = np.arange(at[-1] + 1)
    positions = np.stack([np.interp(every, at, planes.positions_mm[:, i]) for i in range(3)], axis=1)
    out = np.zeros((*planes.shape, len(every)), array.dtype, order="F")
    for k, n in enumerate(at):
        out[:, :, n] = array[:, :, k]
    return out, Planes(planes.shape, planes.spacing_mm, planes.row, planes.column, positions)


def step_of(planes: Planes, spacing_mm: float, thickness_mm: float, onto: Grid | None = None) -> float:
    """The distance of neighbouring slices, of which only some may be given; 0 if nothing tells.

    The first of these that all distances are multiples of: the stated one; the smallest distance, if it occurs twice
    or is the thickness of a slice; the step of the grid, if slices lie on its slices; the smallest; the thickness.
    """
    steps = np.diff(planes.along_mm)
    smallest = float(steps.min()) if len(steps) else 0.0
    twice = np.count_nonzero(np.abs(steps - smallest) <= _ON_STEP * smallest) > 1
    said = [spacing_mm, smallest if twice or abs(smallest - thickness_mm) <= _ON_STEP * smallest else 0.0]
    said += [_grid_step(planes, onto) if onto is not None else 0.0, smallest, thickness_mm]
    return next((step for step in said if step > 0 and _are_multiples(steps, step)), 0.0)


def _are_multiples(steps: Floats, step: float) -> bool:
    ratio = steps / step
    return bool((np.rint(ratio) >= 1).all() and (np.abs(ratio - np.rint(ratio)) <= _ON_STEP).all())


def _grid_step(planes: Planes, grid: Grid) -> float:
    """The grid's step along the slices' normal if they lie on its slices, along whichever axis; else 0."""
    index = np.linalg.inv(grid.affine)
    for axis in range(3):
        others = [a for a in range(3) if a != axis]
        if (np.abs(planes.normal @ grid.affine[:3, others]) > 1e-3 * np.array(grid.spacing_mm)[others]).any():
            continue
        at = planes.positions_mm @ index[axis, :3] + index[axis, 3]
        on_slices = bool((np.abs(at - np.rint(at)) <= _ON_STEP).all())
        return float(abs(planes.normal @ grid.affine[:3, axis])) if on_slices else 0.0
    return 0.0


def slices_onto(
    array: Labels, planes: Planes, stated_mm: tuple[float, float], onto: Grid, name: str
) -> tuple[Labels, tuple[str, ...]]:
    """Labels (X, Y, N) on slices brought onto a grid by the nearest pixel, and a note if part of them lies outside.

    stated_mm: spacing and thickness of slices as the object states them, 0 where it does not.

    Raises:
        GeometryError: nothing of them lies on the grid.
    """
    step = step_of(planes, *stated_mm, onto)
    filled, every = with_empty(array, planes, step)
    if len(every) == 1 and step:
        filled, every = _with_neighbours(filled, every, step)
    out = labels_onto(filled, every, onto)
    if array.any() and not out.any():
        refuse_place("its labels lie nowhere on its scan", name, "give the scan that they were drawn on")
    beyond = _outside(array, planes, onto)
    return out, (f"{beyond} labelled voxel(s) lie outside the scan: they are left",) if beyond else ()


def _with_neighbours(array: Labels, planes: Planes, step: float) -> tuple[Labels, Planes]:
    """A lone slice between two empty ones, which tell how far it reaches."""
    out = np.zeros((*planes.shape, 3), array.dtype, order="F")
    out[:, :, 1] = array[:, :, 0]
    positions = planes.positions_mm[0] + np.outer([-step, 0.0, step], planes.normal)
    return out, Planes(planes.shape, planes.spacing_mm, planes.row, planes.column, positions)


def _outside(array: Labels, planes: Planes, grid: Grid) -> int:
    """How many labelled pixels have their centres more than half a voxel outside of the grid."""
    index = np.linalg.inv(grid.affine)
    beyond = 0
    for k in range(array.shape[2]):
        x, y = np.nonzero(array[:, :, k])
        world = planes.positions_mm[k] + np.outer(x * planes.spacing_mm[0], planes.row)
        world += np.outer(y * planes.spacing_mm[1], planes.column)
        at = world @ index[:3, :3].T + index[:3, 3]
        beyond += int(np.count_nonzero(((at < -0.51) | (at > np.array(grid.shape) - 0.49)).any(axis=1)))
    return beyond


def own_grid(array: Labels, planes: Planes, stated_mm: tuple[float, float]) -> tuple[Labels, Grid, tuple[str, ...]]:
    """The grid of the slices themselves, from the first to the last with a frame, and the labels on it."""
    step = step_of(planes, *stated_mm)
    filled, every = with_empty(array, planes, step)
    if len(every) == 1:
        return filled, _grid(every, every.normal * (step or min(planes.spacing_mm))), ()
    way = (every.positions_mm[-1] - every.positions_mm[0]) / (len(every) - 1)
    away = np.linalg.norm(every.positions_mm - every.positions_mm[0] - np.outer(np.arange(len(every)), way), axis=1)
    step_mm = float(way @ every.normal)
    drift = float(np.linalg.norm(way - step_mm * every.normal))
    if away.max() <= 2 * max(UNEVEN * step_mm, UNEVEN_AT_LEAST_MM) and drift <= SHEARED * step_mm:
        return filled, _grid(every, way), ()
    grid = straight_grid(every)
    note = "its slices are tilted or stand unevenly: its labels were brought onto a straight grid"
    return labels_onto(filled, every, grid), grid, (note,)


def _grid(planes: Planes, way: Floats) -> Grid:
    affine: Affine = np.eye(4)
    affine[:3, 0], affine[:3, 1] = planes.row * planes.spacing_mm[0], planes.column * planes.spacing_mm[1]
    affine[:3, 2], affine[:3, 3] = way, planes.positions_mm[0]
    return Grid((*planes.shape, len(planes)), affine, Stored("dicom"))
