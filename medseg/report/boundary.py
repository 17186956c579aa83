"""Where the boundary of a structure is wrong: signed distances of its surfaces, and the place of the largest.

As in the scores ("surfel"), a surface is made of the corners that voxels inside and outside share, a distance is that
from such a corner to the nearest of the other surface, and a corner counts as much as surface passes there. A distance
is below 0 where the prediction falls short of the reference, above 0 where it reaches beyond.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from medseg.evaluation.cells import surfel_sizes
from medseg.evaluation.engine.choice import engine
from medseg.evaluation.engine.values import Elements, Labels
from medseg.evaluation.surface import Place, arranged
from medseg.imaging.grid import Grid
from medseg.imaging.volume import LabelMap

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]

BIN_MM, BINS_MM = 0.25, 40.0  # distances are counted in bins of so many mm, up to so many
EDGES_MM: Final = np.arange(-BINS_MM - BIN_MM / 2, BINS_MM + BIN_MM, BIN_MM)  # round distances lie amid a bin
_SAME_MM: Final = 1e-9
CENTRAL: Final = "central"
_WORDS = (("right", "left"), ("anterior", "posterior"), ("superior", "inferior"))


@dataclass(frozen=True, slots=True)
class Boundary:
    """One structure of one case that both maps hold.

    beyond: share of both surfaces farther apart than the tolerance, of the reference's and the prediction's together.
    largest_mm: the largest distance, signed; it is found at `mm` (RAS+), in voxel `index` of the grid, on the side of
    the reference that `direction` tells. same: how much surface both share, in mm^2; counts: all other surface by
    signed distance, a bin for each pair of `EDGES_MM`.
    """

    structure: str
    beyond: float
    largest_mm: float
    mm: tuple[float, float, float]
    index: tuple[int, int, int]
    direction: str
    same: float
    counts: tuple[float, ...]


def boundaries(reference: LabelMap, prediction: LabelMap, tolerance_mm: dict[str, float]) -> tuple[Boundary, ...]:
    """The boundary of every structure that both maps hold; `tolerance_mm` has one for each that is asked about."""
    names = {**prediction.names, **reference.names}
    r, p, place = arranged(reference, prediction)
    by = engine()
    surfaces = by.corners(r, place.planar, 1), by.corners(p, place.planar, 1)
    sizes = surfel_sizes(place.spacing_mm[1:] if place.planar else place.spacing_mm)
    found = []
    for value in sorted(surfaces[0].keys() & surfaces[1].keys()):
        name = names.get(value, str(value))
        if name in tolerance_mm:
            there, back = surfaces[0][value], surfaces[1][value]
            sides = (
                _Side(there, by.nearest_mm(there, back, place.spacing_mm), _inside(there, p, value), sizes),
                _Side(back, by.nearest_mm(back, there, place.spacing_mm), ~_inside(back, r, value), sizes),
            )
            found.append(_boundary(name, sides, place, reference.grid, tolerance_mm[name]))
    return tuple(found)


class _Side:
    """Corners of one surface: signed distances to the other, and how much surface passes at each."""

    def __init__(self, corners: Elements, distances_mm: Floats, beyond: Mask, sizes: Floats) -> None:
        self.places = corners.places()
        self.signed = np.where(beyond, distances_mm, -distances_mm)
        self.sizes = sizes[corners.codes]


def _inside(corners: Elements, other: Labels, value: int) -> Mask:
    """Whether each corner lies within the other structure; of a corner off its surface any voxel round it tells."""
    last = np.array(other.shape) - 1
    return np.asarray(other[tuple(np.minimum(corners.places(), last).T)] == value)


def _boundary(name: str, sides: tuple[_Side, _Side], place: Place, grid: Grid, tolerance_mm: float) -> Boundary:
    apart = np.concatenate([side.signed for side in sides])
    sizes = np.concatenate([side.sizes for side in sides])
    corners = np.concatenate([side.places for side in sides])
    far = np.flatnonzero(np.abs(apart) >= np.abs(apart).max() - _SAME_MM)
    worst = int(far[np.linalg.norm(corners[far] - corners[far].mean(axis=0), axis=1).argmin()])  # amid equal ones
    thick = np.array([n > 1 for n in grid.shape])
    at = np.empty(3)
    at[list(place.axes)] = corners[worst]
    at -= np.where(thick, 0.5, 0.0)
    mm = grid.affine[:3, :3] @ at + grid.affine[:3, 3]
    middle = np.empty(3)
    middle[list(place.axes)] = np.average(sides[0].places, axis=0, weights=sides[0].sizes)
    centre = grid.affine[:3, :3] @ (middle - np.where(thick, 0.5, 0.0)) + grid.affine[:3, 3]
    differ = apart != 0
    counts, _ = np.histogram(np.clip(apart[differ], -BINS_MM, BINS_MM), EDGES_MM, weights=sizes[differ])
    limit = tolerance_mm + 1e-6 * max(1.0, tolerance_mm)
    i, j, k = (int(n) for n in np.clip(np.floor(at), 0, np.asarray(grid.shape) - 1))
    return Boundary(
        name,
        float(sizes[np.abs(apart) > limit].sum() / sizes.sum()),
        float(apart[worst]),
        (float(mm[0]), float(mm[1]), float(mm[2])),
        (i, j, k),
        direction(mm - centre),
        float(sizes[~differ].sum()),
        tuple(counts.tolist()),
    )


def direction(away_mm: Floats) -> str:
    """Where a point lies, seen from a centre, in words: `superior and left`; `away_mm` in RAS+."""
    largest = float(np.abs(away_mm).max())
    if largest == 0:
        return CENTRAL
    told = [_WORDS[axis][0 if away_mm[axis] > 0 else 1] for axis in (2, 1, 0) if abs(away_mm[axis]) > 0.5 * largest]
    return " and ".join(told)
