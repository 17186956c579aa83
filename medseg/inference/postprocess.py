"""Post-processing of label maps: stray components go, holes are filled. Which steps help is chosen by `medseg select`.

Components are of voxels that touch by a face, an edge or a corner. Source of the idea: nnU-Net (Isensee et al. 2021),
which keeps the largest component where cross-validation says that it helps.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from medseg.imaging.volume import LabelMap
from medseg.inference.records import Cleaning

Labels = npt.NDArray[np.unsignedinteger[Any]]
Mask = npt.NDArray[np.bool_]
Box = tuple[slice, ...]


@dataclass(frozen=True, eq=False)
class Components:
    """Voxels numbered by their component from 1 on, 0 elsewhere; and the voxels of each component, 0 of number 0."""

    numbered: npt.NDArray[np.integer[Any]]
    voxels: npt.NDArray[np.int64]


def cleaned(labels: LabelMap, steps: Sequence[Cleaning]) -> LabelMap:
    """The label map after all steps, one after the other; as it is where there are none."""
    if not steps:
        return labels
    array = np.array(labels.array)
    view = in_its_dimensions(array)
    for step in steps:
        box = box_of(view, step.values)
        if box is not None:
            view[box] = _changed(view[box], step, labels.grid.voxel_ml)
    return LabelMap(array, labels.grid, labels.names)


def in_its_dimensions(labels: Labels) -> Labels:
    """A view (X, Y, Z), or of a single slice its two axes: every hole of a slice would be open in 3D."""
    return labels.squeeze(labels.shape.index(1)) if 1 in labels.shape else labels


def _changed(labels: Labels, step: Cleaning, voxel_ml: float) -> Labels:
    """The array (any number of axes) after one step; the same array where it changes nothing."""
    if step.kind == "fill":
        return filled(labels, step.values)
    found = components_of(mask_of(labels, step.values))
    kept = kept_by(step, found, voxel_ml)
    return labels if kept.all() else np.where(kept[found.numbered], labels, labels.dtype.type(0))


def kept_by(step: Cleaning, components: Components, voxel_ml: float) -> Mask:
    """For each number, 0 among them, whether a step that removes components keeps it."""
    kept: Mask
    if step.kind == "largest":
        kept = np.arange(components.voxels.size) == components.voxels.argmax()
    else:
        kept = components.voxels * voxel_ml >= step.ml * (1 - 1e-9)  # exactly so much stays, whatever its rounding
    kept[0] = True
    return kept


def mask_of(labels: Labels, values: Sequence[int]) -> Mask:
    """Where the array holds one of the values."""
    if len(values) == 1:
        return np.asarray(labels == values[0])
    table = np.zeros(int(max(labels.max(initial=0), *values)) + 1, np.bool_)
    table[list(values)] = True
    return np.asarray(table[labels])


def box_of(labels: Labels, values: Sequence[int]) -> Box | None:
    """The smallest box that holds all voxels of these values; None where there are none."""
    mask = mask_of(labels, values)
    sides = []
    for axis in range(mask.ndim):
        along = np.flatnonzero(mask.any(axis=tuple(a for a in range(mask.ndim) if a != axis)))
        if not along.size:
            return None
        sides.append(slice(int(along[0]), int(along[-1]) + 1))
    return tuple(sides)


def components_of(mask: Mask) -> Components:
    """The components of a mask."""
    numbered, _ = ndimage.label(mask, np.ones((3,) * mask.ndim, np.bool_))
    voxels = np.bincount(numbered.reshape(-1))
    voxels[0] = 0
    return Components(numbered, voxels)


def filled(labels: Labels, values: Sequence[int]) -> Labels:
    """The array with enclosed background given, hole by hole, the value that touches it most; itself without holes."""
    mask = mask_of(labels, values)
    holes = _enclosed(mask) & (labels == 0)
    if not holes.any():
        return labels
    out = labels.copy()
    around = np.ones((3,) * labels.ndim, np.bool_)
    numbered, _ = ndimage.label(holes)
    for number, box in enumerate(ndimage.find_objects(numbered), 1):
        wide = tuple(slice(max(side.start - 1, 0), side.stop + 1) for side in box)
        hole = numbered[wide] == number
        rim = ndimage.binary_dilation(hole, around) & mask[wide]
        if rim.any():  # else it touches other structures alone
            out[wide][hole] = np.bincount(labels[wide][rim]).argmax()
    return out


def _enclosed(mask: Mask) -> Mask:
    """What no path of faces joins to the border: what scipy's `binary_fill_holes` adds, found several times faster."""
    numbered, n = ndimage.label(~mask)
    outside = np.zeros(n + 1, np.bool_)
    outside[0] = True
    for axis in range(mask.ndim):
        for end in (0, -1):
            outside[numbered.take(end, axis)] = True
    return np.zeros_like(mask) if outside.all() else ~outside[numbered]
