"""Bring arrays to the axes that a network sees, and back: permutations and flips only, so nothing is interpolated."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from medseg.files import Record
from medseg.imaging.grid import Grid, closest_axes
from medseg.preprocessing.settings import Orientation


class Turn(Record):
    """`order[k]` is the stored axis that runs along world axis k; `flip[k]` says that it runs against it."""

    order: tuple[int, int, int]
    flip: tuple[bool, bool, bool]


def turn_to_ras(grid: Grid) -> Turn:
    """The turn that brings an array on `grid` to the axes nearest to right, anterior, superior."""
    axes = closest_axes(grid.affine)
    order = sorted(range(3), key=lambda stored: axes[stored][0])
    x, y, z = order
    return Turn(order=(x, y, z), flip=(not axes[x][1], not axes[y][1], not axes[z][1]))


AS_STORED = Turn(order=(0, 1, 2), flip=(False, False, False))


def turn_to(orientation: Orientation, grid: Grid) -> Turn:
    """The turn that brings an array on `grid` to what a network sees."""
    return turn_to_ras(grid) if orientation == "ras" else AS_STORED


def turned(array: npt.NDArray[Any], turn: Turn) -> npt.NDArray[Any]:
    """A view (X, Y, Z) of `array` in stored axes, brought to RAS axes."""
    return array.transpose(turn.order)[tuple(slice(None, None, -1 if f else 1) for f in turn.flip)]


def turned_back(array: npt.NDArray[Any], turn: Turn) -> npt.NDArray[Any]:
    """The exact inverse of `turned`."""
    unflipped = array[tuple(slice(None, None, -1 if f else 1) for f in turn.flip)]
    return unflipped.transpose(np.argsort(turn.order))


def turned_numbers(values: tuple[float, float, float], turn: Turn) -> tuple[float, float, float]:
    """Numbers that belong to stored axes (spacing, shape), in the order of RAS axes."""
    x, y, z = turn.order
    return values[x], values[y], values[z]
