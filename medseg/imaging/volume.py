"""A scan's voxels with their grid (`Volume`), and a segmentation with its grid and names (`LabelMap`)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt

from medseg.errors import GeometryError
from medseg.imaging.grid import Grid


def distinct(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """The different values of an array (X, Y, Z), sorted; slice by slice, several times faster than all at once."""
    if array.size == 0:
        return np.unique(array)
    return np.unique(np.concatenate([np.unique(part) for part in np.moveaxis(array, -1, 0)]))


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
