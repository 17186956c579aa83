"""THE one path from scan to network input and back, shared by planning's cache, training and inference."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from medseg.errors import GeometryError
from medseg.files import Record
from medseg.imaging.grid import Grid, Stored
from medseg.imaging.volume import LabelMap, Volume, check_channels
from medseg.preprocessing.crop import Box, crop_box, slices
from medseg.preprocessing.intensity import normalised, outline
from medseg.preprocessing.orientation import Turn, turn_to_ras, turned, turned_back, turned_numbers
from medseg.preprocessing.resample import (
    LINEAR,
    ON_CPU,
    Order,
    Orders,
    Resampler,
    Shape,
    argmax_resampled,
    painted_resampled,
)
from medseg.preprocessing.settings import PreprocessingSettings

Classes = npt.NDArray[np.unsignedinteger[Any]]
COARSE = 3.0  # beyond this ratio to its finest axis a scan's coarse axis is interpolated linearly: a cubic rings there


class Undo(Record):
    """All that is needed to bring labels from the network's grid back to the scan's own grid."""

    shape: Shape
    affine: tuple[tuple[float, float, float, float], ...]
    format: str
    qform_code: int
    sform_code: int
    turn: Turn
    box: Box
    prepared_shape: Shape

    @property
    def grid(self) -> Grid:
        """The scan's own grid."""
        stored = Stored(self.format, self.qform_code, self.sform_code)  # type: ignore[arg-type]
        return Grid(self.shape, np.array(self.affine), stored)

    @property
    def cropped_shape(self) -> Shape:
        """Shape of the crop in RAS axes, before resampling."""
        x, y, z = (stop - start for start, stop in self.box)
        return x, y, z


@dataclass(frozen=True, eq=False)
class Prepared:
    """Network input (C, X, Y, Z), float32, in RAS axes at `spacing_mm`, and how to undo it."""

    image_CXYZ: npt.NDArray[np.float32]
    spacing_mm: tuple[float, float, float]
    undo: Undo


def prepare(channels: Sequence[Volume], settings: PreprocessingSettings, resampler: Resampler = ON_CPU) -> Prepared:
    """Turn to RAS, crop, normalise, resample: in this order, so that statistics see measured values.

    Only the crop is copied, one channel at a time; `resampler` says where resampling is done.

    Raises:
        GeometryError: the channels are not on one grid, or their number is not the plan's.
    """
    grid = channels[0].grid
    if len(channels) != len(settings.channels):
        raise GeometryError(f"has {len(channels)} channel(s) where the plan has {len(settings.channels)}")
    check_channels(channels, "")
    turn = turn_to_ras(grid)
    views = [turned(volume.array, turn) for volume in channels]
    box = crop_box(views, settings.crop)
    cropped = [view[slices(box)] for view in views]
    spacing = turned_numbers(grid.spacing_mm, turn)
    shape = resampled_shape(cropped[0].shape, spacing, settings.spacing_mm)
    orders = image_orders(spacing)
    inside = outline(cropped) if any(how.nonzero_only for how in settings.channels) else None
    image = np.empty((len(channels), *shape), np.float32)
    for out, channel, how in zip(image, cropped, settings.channels, strict=True):
        out[...] = resampler.image(normalised(channel, how, inside), shape, orders)
    undo = Undo(
        shape=grid.shape,
        affine=tuple((float(r[0]), float(r[1]), float(r[2]), float(r[3])) for r in grid.affine),
        format=grid.stored.format,
        qform_code=grid.stored.qform_code,
        sform_code=grid.stored.sform_code,
        turn=turn,
        box=box,
        prepared_shape=shape,
    )
    sx, sy, sz = (s * n / m for s, n, m in zip(spacing, cropped[0].shape, shape, strict=True))
    return Prepared(image, (sx, sy, sz), undo)


def prepare_labels(labels: LabelMap, undo: Undo, values: Sequence[int], resampler: Resampler = ON_CPU) -> Classes:
    """The label map as classes (X, Y, Z) on the network's grid: class k + 1 is `values[k]`, 0 everything else.

    They are uint8, uint16 where there are more than 255 values.

    Raises:
        GeometryError: the label map has another shape than the scan.
    """
    if labels.grid.shape != undo.shape:
        raise GeometryError(f"the label map's shape {labels.grid.shape} is not the scan's {undo.shape}")
    cropped = turned(labels.array, undo.turn)[slices(undo.box)]
    classes = _looked_up(cropped, _classes_of(values, int(labels.array.max(initial=0))))
    return np.ascontiguousarray(resampler.labels(classes, undo.prepared_shape, LINEAR))


def _classes_of(values: Sequence[int], largest: int) -> Classes:
    """For each value from 0 to `largest` its class."""
    table = np.zeros(largest + 1, _type_for(len(values)))
    for index, value in enumerate(values):
        if value <= largest:
            table[value] = index + 1
    return table


def _type_for(largest: int) -> type[np.uint8] | type[np.uint16]:
    return np.uint8 if largest <= 255 else np.uint16


def _looked_up(array: npt.NDArray[Any], table: Classes) -> Classes:
    """`table[array]` a plane at a time: numpy widens the whole of an index to 8 bytes a voxel."""
    if array.dtype == table.dtype and np.array_equal(table, np.arange(table.size)):
        return array
    out: Classes = np.empty_like(array, table.dtype)
    slowest = max(range(array.ndim), key=lambda axis: abs(array.strides[axis]))
    for given, found in zip(np.moveaxis(array, slowest, 0), np.moveaxis(out, slowest, 0), strict=True):
        found[...] = table[given]
    return out


def restore(
    logits_LXYZ: Iterable[npt.NDArray[np.float32]], undo: Undo, values: Sequence[int], names: dict[int, str]
) -> LabelMap:
    """Logits on the network's grid to labels on the scan's own: interpolate linearly, arg-max, paste, turn back.

    A map (X, Y, Z) a class: an array, or one after the other where they need not be held together.
    """
    winner = argmax_resampled(logits_LXYZ, undo.cropped_shape, LINEAR)
    return restore_classes(winner, undo, values, names)


def restore_painted(
    logits_LXYZ: Iterable[npt.NDArray[np.float32]], undo: Undo, values: Sequence[int], names: dict[int, str]
) -> LabelMap:
    """The same of outputs that may overlap: where a logit is above 0 its value is painted, over those before it."""
    painted = painted_resampled(logits_LXYZ, undo.cropped_shape, LINEAR)
    return restore_classes(painted, undo, values, names)


def restore_classes(
    classes_XYZ: npt.NDArray[Any], undo: Undo, values: Sequence[int], names: dict[int, str]
) -> LabelMap:
    """Classes on the cropped grid (RAS axes) pasted into the scan's own grid, as label values."""
    table: Classes = np.array([0, *values], _type_for(max(values)))
    full = turned(np.zeros(undo.shape, table.dtype), undo.turn)
    full[slices(undo.box)] = _looked_up(classes_XYZ, table)  # a view of the stored array: no copy
    return LabelMap(turned_back(full, undo.turn), undo.grid, names)


def resampled_shape(shape: Sequence[int], spacing_mm: Sequence[float], target_mm: Sequence[float | None]) -> Shape:
    """The shape after resampling: round(spacing / target x shape), at least 1; unchanged where the target is None."""
    x, y, z = (
        n if t is None else max(1, round(s / t * n)) for n, s, t in zip(shape, spacing_mm, target_mm, strict=True)
    )
    return x, y, z


def image_orders(spacing_mm: Sequence[float]) -> Orders:
    """Cubic along every axis, but linear along one that is more than three times coarser than the finest."""
    orders: list[Order] = [1 if s > COARSE * min(spacing_mm) else 3 for s in spacing_mm]
    return orders[0], orders[1], orders[2]
