"""From the planes of single slices to one grid: order, regularity, affine. Pure geometry; no file is read here.

Positions in and out are millimetres: DICOM's LPS+ coming in, RAS+ going out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from medseg.errors import InputError
from medseg.imaging.grid import LPS_TO_RAS, Affine

Floats = npt.NDArray[np.float64]

SAME_POSITION_MM = 0.01  # nearer than any two real slices, farther than any rounding of one position
UNEVEN = 0.01  # of the step: a slice may stand this far from its place in the regular grid (rounded positions) ...
UNEVEN_AT_LEAST_MM = 0.01  # ... or this far, where slices are thinner than 1 mm: the promised exactness of places
SAME_DIRECTION = 1e-4  # direction cosines are often written with 6 digits; 1e-4 moves a corner by 0.03 mm at most
SAME_SPACING = 1e-4
SHEARED = 1e-3  # drift of slices against their normal, relative to the step (highdicom's limit too)


@dataclass(frozen=True, slots=True)
class Plane:
    """One slice: pixel rows and columns, direction of its rows and columns (6), first pixel (3, LPS+ mm), spacing.

    `spacing_mm` is as DICOM gives it: distance of neighbouring rows, then of neighbouring columns.
    """

    rows: int
    columns: int
    orientation: tuple[float, ...]
    position_mm: tuple[float, ...]
    spacing_mm: tuple[float, ...]


def refused(code: str, what: str, name: str, fix: str = "") -> InputError:
    """A refusal with its stable reason code."""
    return InputError(f"[{code}] {what}", name, fix)


def stack(planes: Sequence[Plane], name: str) -> tuple[list[int], Affine]:
    """Order the planes along their normal and give the affine of (column, row, slice) -> RAS+ mm.

    The third column of the affine is the true way from slice to slice, so a regular series is placed exactly.

    Raises:
        InputError: they make no regular volume; `name` is the case, and the text begins with the reason's code:
            TOO_FEW, MIXED_SIZE, MIXED_ORIENTATION, NO_GEOMETRY, MULTI_VOLUME, DUPLICATE_POSITION, GAP, TILT.
    """
    if len(planes) < 2:
        raise refused("TOO_FEW", f"{len(planes)} slice makes no volume", name, "give the whole series")
    _check_alike(planes, name)
    row, column, normal = _directions(planes[0], name)
    positions = np.array([plane.position_mm for plane in planes], dtype=np.float64)
    along = positions @ normal
    order = [int(i) for i in np.argsort(along, kind="stable")]
    positions, along = positions[order], along[order]
    _check_distinct(along, name)
    _check_regular(along, name)
    step = (positions[-1] - positions[0]) / (len(planes) - 1)
    _check_upright(positions, step, normal, name)
    between_rows, between_columns = planes[0].spacing_mm
    lps = np.eye(4)
    lps[:3, 0], lps[:3, 1], lps[:3, 2], lps[:3, 3] = row * between_columns, column * between_rows, step, positions[0]
    return order, LPS_TO_RAS @ lps


def _check_alike(planes: Sequence[Plane], name: str) -> None:
    split = "it holds more than one volume: export each on its own"
    sizes = sorted({(p.columns, p.rows) for p in planes})
    if len(sizes) > 1:
        raise refused("MIXED_SIZE", f"images of {len(sizes)} sizes, such as {sizes[0]} and {sizes[-1]}", name, split)
    spacing = np.array([p.spacing_mm for p in planes])
    if np.ptp(spacing, axis=0).max() > SAME_SPACING * spacing.max():
        raise refused("MIXED_SIZE", "images of several pixel spacings", name, split)
    orientation = np.array([p.orientation for p in planes])
    if np.ptp(orientation, axis=0).max() > SAME_DIRECTION:
        raise refused("MIXED_ORIENTATION", "its images lie in several directions", name, split)


def _directions(plane: Plane, name: str) -> tuple[Floats, Floats, Floats]:
    row, column = np.array(plane.orientation, dtype=np.float64).reshape(2, 3)
    lengths = np.linalg.norm(row), np.linalg.norm(column)
    if max(abs(length - 1) for length in lengths) > 1e-2 or abs(row @ column) > 1e-3:
        raise refused("NO_GEOMETRY", "the directions of its rows and columns are not at right angles", name)
    row, column = row / lengths[0], column / lengths[1]
    return row, column, np.cross(row, column)


def _check_distinct(along: Floats, name: str) -> None:
    """`along` (N) in mm, sorted."""
    starts = np.flatnonzero(np.diff(along, prepend=-np.inf) > SAME_POSITION_MM)
    counts = np.diff(starts, append=len(along))
    if (counts == 1).all():
        return
    if len(counts) > 1 and (counts == counts[0]).all():
        raise refused(
            "MULTI_VOLUME",
            f"{counts[0]} images at each of its {len(counts)} positions (phases or echoes, or sent twice)",
            name,
            "export one volume on its own",
        )
    where = ", ".join(f"{along[starts[i]]:.2f}" for i in np.flatnonzero(counts > 1)[:3])
    raise refused("DUPLICATE_POSITION", f"several images at {where} mm", name, "keep one image at each position")


def _check_regular(along: Floats, name: str) -> None:
    steps = np.diff(along)
    mean, typical = float(steps.mean()), float(np.median(steps))
    places = along[0] + mean * np.arange(len(along))
    if np.abs(along - places).max() <= max(UNEVEN * mean, UNEVEN_AT_LEAST_MM):
        return
    wide = np.flatnonzero(steps > 1.5 * typical)
    if len(wide):
        spans = ", ".join(f"{along[i]:.2f} and {along[i + 1]:.2f}" for i in wide[:3])
        what = f"slices are missing between {spans} mm (usual step {typical:.2f} mm)"
    else:
        what = (
            f"slices stand {steps.min():.2f} to {steps.max():.2f} mm apart, from {along[0]:.2f} to {along[-1]:.2f} mm"
        )
    raise refused("GAP", what, name, "export the whole series again")


def _check_upright(positions: Floats, step: Floats, normal: Floats, name: str) -> None:
    length = float(step @ normal)
    drift = float(np.linalg.norm(step - length * normal))
    if drift > SHEARED * length:
        degrees = float(np.degrees(np.arctan2(drift, length)))
        raise refused(
            "TILT",
            f"its slices are not stacked along their normal (gantry tilt of {degrees:.1f} degrees)",
            name,
            "resample it to a straight volume first",
        )
    places = positions[0] + step * np.arange(len(positions))[:, None]
    if np.linalg.norm(positions - places, axis=1).max() > 2 * max(UNEVEN * length, UNEVEN_AT_LEAST_MM):
        raise refused("TILT", "its slices are shifted against each other", name, "export the series again")
