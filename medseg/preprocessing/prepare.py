"""THE one path from scan to network input and back, shared by planning's cache, training and inference."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from medseg.errors import GeometryError
from medseg.files import Record
from medseg.imaging.grid import Grid, Stored
from medseg.imaging.volume import LabelMap, Volume, check_channels
from medseg.preprocessing.axis import pairs
from medseg.preprocessing.crop import Box, crop_box, slices
from medseg.preprocessing.intensity import Scale, normalised, outline, scale_of
from medseg.preprocessing.orientation import Turn, turn_to, turned, turned_numbers
from medseg.preprocessing.resample import (
    LINEAR,
    ON_CPU,
    Order,
    Orders,
    Resampler,
    Shape,
)
from medseg.preprocessing.settings import PreprocessingSettings, Resampling

Classes = npt.NDArray[np.unsignedinteger[Any]]
Image = npt.NDArray[np.float32]
COARSE = 3.0  # beyond this ratio to its finest axis a scan's coarse axis is resampled otherwise: a cubic rings there


class Undo(Record):
    """All that is needed to bring labels from the network's grid back to the scan's own grid.

    orders: how answers are interpolated on the way, 1 (linear) or 0 (nearest) along each axis of the network's grid.
    """

    shape: Shape
    affine: tuple[tuple[float, float, float, float], ...]
    format: str
    qform_code: int
    sform_code: int
    turn: Turn
    box: Box
    prepared_shape: Shape
    orders: Orders = LINEAR

    @property
    def grid(self) -> Grid:
        """The scan's own grid."""
        stored = Stored(self.format, self.qform_code, self.sform_code)  # type: ignore[arg-type]
        return Grid(self.shape, np.array(self.affine), stored)

    @property
    def cropped_shape(self) -> Shape:
        """Shape of the crop in the network's axes, before resampling."""
        x, y, z = (stop - start for start, stop in self.box)
        return x, y, z

    @property
    def prepared_grid(self) -> Grid:
        """Where the network's voxels lie; their whole extent is that of the crop."""
        affine = np.array(self.affine)
        made = affine.copy()
        for k, (stored, flip) in enumerate(zip(self.turn.order, self.turn.flip, strict=True)):
            step = -affine[:3, stored] if flip else affine[:3, stored]
            ratio = self.cropped_shape[k] / self.prepared_shape[k]
            first = self.shape[stored] - 1 if flip else 0
            made[:3, 3] += first * affine[:3, stored] + (self.box[k][0] + (ratio - 1) / 2) * step
            made[:3, k] = ratio * step
        return Grid(self.prepared_shape, made)


@dataclass(frozen=True, eq=False)
class Prepared:
    """Network input (C, X, Y, Z), float32, at `spacing_mm`, in RAS axes or as stored, and how to undo it."""

    image_CXYZ: npt.NDArray[np.float32]
    spacing_mm: tuple[float, float, float]
    undo: Undo


def prepare(channels: Sequence[Volume], settings: PreprocessingSettings, resampler: Resampler = ON_CPU) -> Prepared:
    """Turn, crop, normalise, resample: in this order, so that statistics see measured values.

    Nothing of a scan's size is copied but what counts only where it is not zero, one channel at a time; `resampler`
    says where resampling is done.

    Raises:
        GeometryError: the channels are not on one grid, or their number is not the plan's.
        InputError: a channel should hold colours, but has values that are none.
    """
    grid = channels[0].grid
    if len(channels) != len(settings.channels):
        raise GeometryError(f"has {len(channels)} channel(s) where the plan has {len(settings.channels)}")
    check_channels(channels, "")
    turn = turn_to(settings.orientation, grid)
    views = [turned(volume.array, turn) for volume in channels]
    box = crop_box(views, settings.crop)
    cropped = [view[slices(box)] for view in views]
    x, y, z = (float(np.float32(s)) if settings.resampling.float32_spacing else s for s in grid.spacing_mm)
    spacing = turned_numbers((x, y, z), turn)
    shape = resampled_shape(cropped[0].shape, spacing, settings.spacing_mm)
    target = tuple(s if t is None else t for s, t in zip(spacing, settings.spacing_mm, strict=True))
    orders = image_orders(spacing, target, settings.resampling)
    inside = outline(cropped) if any(how.nonzero_only for how in settings.channels) else None
    image = np.empty((len(channels), *shape), np.float32)
    for out, channel, how in zip(image, cropped, settings.channels, strict=True):
        scale = scale_of(channel, how)
        whole = normalised(channel, how, inside) if scale is None else channel
        out[...] = _resampled(whole, shape, orders, resampler, scale)
    undo = Undo(
        shape=grid.shape,
        affine=tuple((float(r[0]), float(r[1]), float(r[2]), float(r[3])) for r in grid.affine),
        format=grid.stored.format,
        qform_code=grid.stored.qform_code,
        sform_code=grid.stored.sform_code,
        turn=turn,
        box=box,
        prepared_shape=shape,
        orders=answer_orders(target, spacing, settings.resampling),
    )
    sx, sy, sz = (s * n / m for s, n, m in zip(spacing, cropped[0].shape, shape, strict=True))
    return Prepared(image, (sx, sy, sz), undo)


def _resampled(
    channel_XYZ: npt.NDArray[Any], shape: Shape, orders: Orders, resampler: Resampler, scale: Scale | None
) -> Image:
    """A channel on `shape`; along an axis of order 0 its slices are resampled one by one, each within its own range."""
    if 0 not in orders or channel_XYZ.shape == shape:
        return resampler.image(channel_XYZ, shape, orders, scale)
    axis = orders.index(0)
    out = np.empty(shape, np.float32)
    nearest = pairs(channel_XYZ.shape[axis], shape[axis], 0).nearest
    x, y, z = (1 if a == axis else n for a, n in enumerate(shape))
    for k in np.unique(nearest):
        plane = resampler.image(channel_XYZ.take([k], axis), (x, y, z), orders, scale)
        np.moveaxis(out, axis, 0)[nearest == k] = np.moveaxis(plane, axis, 0)
    return out


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
    return np.ascontiguousarray(resampler.labels(classes, undo.prepared_shape, undo.orders))


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


def resampled_shape(shape: Sequence[int], spacing_mm: Sequence[float], target_mm: Sequence[float | None]) -> Shape:
    """The shape after resampling: round(spacing / target x shape), at least 1; unchanged where the target is None."""
    x, y, z = (
        n if t is None else max(1, round(s / t * n)) for n, s, t in zip(shape, spacing_mm, target_mm, strict=True)
    )
    return x, y, z


def image_orders(spacing_mm: Sequence[float], target_mm: Sequence[float], how: Resampling) -> Orders:
    """The spline for intensities along each axis; 0, the nearest, along the one whose slices are resampled alone."""
    orders: list[Order] = [how.order] * 3
    if how.thick == "linear":
        orders = [1 if s > COARSE * min(spacing_mm) else how.order for s in spacing_mm]
    elif how.thick == "nearest" and (axis := thick_axis(spacing_mm, target_mm)) is not None:
        orders[axis] = 0
    return orders[0], orders[1], orders[2]


def answer_orders(target_mm: Sequence[float], spacing_mm: Sequence[float], how: Resampling) -> Orders:
    """The same for answers on their way back, which are interpolated linearly along all other axes."""
    orders: list[Order] = [1, 1, 1]
    if how.thick == "nearest" and (axis := thick_axis(target_mm, spacing_mm)) is not None:
        orders[axis] = 0
    return orders[0], orders[1], orders[2]


def thick_axis(before_mm: Sequence[float], after_mm: Sequence[float]) -> int | None:
    """The axis whose slices nnU-Net resamples one by one: the coarsest, where it is more than three times coarser than
    the finest; of the spacing before if it is so uneven, else of the one after. None where two axes are the coarsest.
    """
    for spacing in (before_mm, after_mm):
        if max(spacing) > COARSE * min(spacing):
            coarsest = [axis for axis, s in enumerate(spacing) if s == max(spacing)]
            return coarsest[0] if len(coarsest) == 1 else None
    return None
