"""The part of a scan that was acquired, and which of its faces a structure reaches."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from medseg.imaging.grid import Grid, closest_axes
from medseg.inference.measuring.record import Face

FACES: tuple[tuple[Face, Face], ...] = (("left", "right"), ("posterior", "anterior"), ("inferior", "superior"))
ABRUPT = 0.75  # of the next plane's: where a first plane holds so much at once, it was cut and did not fade out

Box = tuple[slice, ...]


def acquired_box(image_XYZ: npt.NDArray[Any]) -> Box:
    """The box of a scan (X, Y, Z) without the planes that were added around what was acquired.

    Such planes hold one value and nothing else, from the border inwards. A scan in which everything beside the body
    was set to one value has them as well, but there the body fades out, plane by plane: the border of the field
    is there only where the first plane within holds at least `ABRUPT` times as much as the second. Padding that
    follows no plane (a round field, a straightened tilt) is not found.
    """
    sides = []
    for axis, n in enumerate(image_XYZ.shape):
        planes = np.moveaxis(image_XYZ, axis, 0)
        before, after = _padding(planes), _padding(planes[::-1])
        sides.append(slice(before, n - after) if before + after < n else slice(0, n))
    return tuple(sides)


def _padding(planes: npt.NDArray[Any]) -> int:
    """How many planes of padding come first."""
    fill = planes[0].flat[0]
    before: float | None = None
    for n, plane in enumerate(planes):
        share = float(np.count_nonzero(plane != fill)) / plane.size
        if n == 0 and share:
            return 0
        if before is not None:
            return n - 1 if share and before >= ABRUPT * share else 0
        if share:
            before = share
    return 0


def faces_reached(box: Box, field: Box, grid: Grid) -> tuple[Face, ...]:
    """The faces of the acquired field (a box of voxels) that a structure's box touches or goes beyond.

    They are called by the direction in the patient that each axis follows most; an axis of one voxel has none.
    """
    found: set[Face] = set()
    for axis, (world, up) in enumerate(closest_axes(grid.affine)):
        if grid.shape[axis] > 1:
            low, high = FACES[world] if up else FACES[world][::-1]
            if box[axis].start <= field[axis].start:
                found.add(low)
            if box[axis].stop >= field[axis].stop:
                found.add(high)
    return tuple(face for pair in FACES for face in pair if face in found)
