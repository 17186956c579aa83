"""What flows through the engine: elements of surfaces, as places on a lattice; and what every engine can do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from medseg.evaluation.overlap import Overlap

ROUNDING = 1e-12  # a share that is 0.95 but for the order of summation counts as 0.95
FLAT = 1e-20  # a triangle whose squared sine at a corner is below this has no area

Labels = npt.NDArray[np.unsignedinteger[Any]]
Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Codes = npt.NDArray[np.uint8]
Shape = tuple[int, int, int]
Spacing = tuple[float, float, float]


@dataclass(frozen=True, eq=False)
class Elements:
    """The elements of one structure's surface on a lattice (I, J, K): flat indices (N,) in raster order; codes (N,).

    Of corners the lattice is one larger than the image on each axis, corner (i, j, k) is the low end of voxel
    (i, j, k), and the code tells which of the 8 voxels around it belong to the structure, the first in raster order in
    the highest bit. Of border voxels the lattice is that of the image, and the code is 1, or 0 where nothing but the
    image's end makes them border. low, high: the corners of the box around all places, both within it.
    """

    flat: Ints
    codes: Codes
    shape: Shape
    low: Shape
    high: Shape

    @classmethod
    def at(cls, flat: Ints, codes: Codes, shape: Shape) -> Elements:
        """Elements whose box is not known yet; of none it is empty."""
        places = np.unravel_index(flat, shape)
        low = [int(of.min(initial=n)) for of, n in zip(places, shape, strict=True)]
        high = [int(of.max(initial=-1)) for of in places]
        return cls(flat, codes, shape, (low[0], low[1], low[2]), (high[0], high[1], high[2]))

    def __len__(self) -> int:
        return len(self.flat)

    def places(self) -> Ints:
        """Indices (N, 3) on the lattice."""
        return np.stack(np.unravel_index(self.flat, self.shape), axis=1)

    def kept(self, which: npt.NDArray[np.bool_]) -> Elements:
        """Some of them."""
        return Elements.at(self.flat[which], self.codes[which], self.shape)


@dataclass(frozen=True, slots=True)
class Sums:
    """Of the distances from one surface to the other: the size of the surface, size times distance, the largest
    distance, and the sizes of what lies within each limit.
    """

    size: float
    moment: float
    largest: float
    within: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Bands:
    """Voxels near the border of the reference, near that of the prediction, and near both."""

    reference: int
    prediction: int
    both: int

    @property
    def iou(self) -> float:
        """Boundary IoU."""
        return self.both / (self.reference + self.prediction - self.both)


class Engine(Protocol):
    """All arrays are (I, J, K), the fastest axis last; a single slice has I = 1, and `planar` says that it is one."""

    name: str

    def overlaps(self, reference: Labels, prediction: Labels) -> dict[int, Overlap]:
        """Count every label but 0 that occurs in either map."""
        ...

    def corners(self, labels: Labels, planar: bool, threads: int) -> Mapping[int, Elements]:
        """The corners of every label's surface."""
        ...

    def borders(self, labels: Labels, planar: bool, threads: int) -> Mapping[int, Elements]:
        """The voxels of every label that share a face with another label or the outside."""
        ...

    def nearest_mm(self, queries: Elements, targets: Elements, spacing_mm: Spacing) -> Floats:
        """Distance (N,) in mm from every query to the nearest target, of which there is at least one."""
        ...

    def triangles_mm(
        self, queries: Elements, targets: Elements, spacing_mm: Spacing, planar: bool
    ) -> tuple[Floats, Floats]:
        """Area (N,) of every triangle of the queries, and distance (N,) of its centre to the targets' triangles."""
        ...

    def sums(self, distances_mm: Floats, sizes: Floats, limits_mm: Sequence[float]) -> Sums:
        """Sum over all elements of a surface."""
        ...

    def percentile_mm(self, distances_mm: Floats, sizes: Floats, share: float) -> float:
        """The smallest distance that at least this share of the surface does not exceed."""
        ...

    def bands(
        self,
        labels: tuple[Labels, Labels],
        borders: tuple[Elements, Elements],
        value: int,
        depth_mm: float,
        spacing_mm: Spacing,
    ) -> Bands:
        """Count the voxels equal to `value` in each map that lie within a depth of their own border voxels."""
        ...

    def warm_up(self) -> None:
        """Compile what few cases need, if anything is compiled at all."""
        ...
