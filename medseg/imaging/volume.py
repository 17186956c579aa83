"""A scan's voxels with their grid (`Volume`), and a segmentation with its grid and names (`LabelMap`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt

from medseg.errors import GeometryError
from medseg.imaging.grid import Grid

_PIECE = 1 << 18  # voxels compared together


def distinct(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """The different values of an array (X, Y, Z), sorted.

    Only where a value differs from the one before it in memory is it looked at: labels change seldom, so this is some
    fifteen times faster than sorting them.
    """
    flat = array.reshape(-1, order="F" if array.flags.f_contiguous else "C")
    found = [flat[:1]]
    for start in range(0, flat.size - 1, _PIECE):
        part = flat[start : start + _PIECE + 1]  # of which the first value is the last of the part before
        found.append(np.unique(part[1:][part[1:] != part[:-1]]))
    return np.unique(np.concatenate(found))


def _filled(array: npt.NDArray[Any], grid: Grid) -> npt.NDArray[Any]:
    if array.shape != grid.shape:
        raise GeometryError(f"array {array.shape} does not fill grid {grid.shape}")
    view = array.view()
    view.flags.writeable = False
    return view


@dataclass(frozen=True, eq=False)
class Volume:
    """Intensities (X, Y, Z) on their grid.

    Raises:
        GeometryError: the array does not fill the grid.
    """

    array: npt.NDArray[Any]
    grid: Grid

    def __post_init__(self) -> None:
        object.__setattr__(self, "array", _filled(self.array, self.grid))


@dataclass(frozen=True, eq=False)
class LabelMap:
    """Label values (X, Y, Z), whole numbers of at least 0, on their grid; `names` maps values to structures.

    Raises:
        GeometryError: the array does not fill the grid, or its type is not unsigned.
    """

    array: npt.NDArray[np.unsignedinteger[Any]]
    grid: Grid
    names: Mapping[int, str]

    def __post_init__(self) -> None:
        if self.array.dtype not in (np.uint8, np.uint16):
            raise GeometryError(f"a label map holds uint8 or uint16, not {self.array.dtype}")
        object.__setattr__(self, "array", _filled(self.array, self.grid))
        object.__setattr__(self, "names", MappingProxyType(dict(self.names)))

    @cached_property
    def present(self) -> tuple[int, ...]:
        """The values that occur, without the background 0, sorted."""
        return tuple(int(value) for value in distinct(self.array) if value > 0)


def check_channels(volumes: Sequence[Volume], name: str) -> None:
    """Refuse channels of one case that do not lie on each other.

    Raises:
        GeometryError: the shapes differ, or a corner lies more than a hundredth of a voxel elsewhere.
    """
    for i, volume in enumerate(volumes[1:], start=1):
        check_same_place(volumes[0].grid, volume.grid, name, f"channel {i}")


def check_same_place(grid: Grid, other: Grid, name: str, what: str) -> None:
    """Refuse a channel or label on `other` that does not lie on the image on `grid`.

    Raises:
        GeometryError: as `check_channels`.
    """
    fix = f"export image and {what} from the same scan again"
    if grid.shape != other.shape:
        differs = f"[OTHER_SHAPE] its {what} has shape {other.shape}, its image {grid.shape}"
        raise GeometryError(differs, name, fix)
    if not grid.agrees(other):
        away = f"[OTHER_GRID] its {what} lies up to {grid.deviation_mm(other):.3g} mm away from its image"
        raise GeometryError(away, name, fix)
