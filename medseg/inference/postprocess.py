"""Post-processing of label maps: stray components go, holes are filled. Which steps help is chosen by `medseg select`.

Components are of voxels that touch by a face, an edge or a corner. Source of the idea: nnU-Net (Isensee et al. 2021),
which keeps the largest component where cross-validation says that it helps. Every step works in the boxes of its
structures: beside the map, memory holds their numbered components, some 12 bytes a voxel of the largest box.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from medseg.imaging.volume import LabelMap
from medseg.inference.boxes import Box, Labels, apart, islands_of, pieces
from medseg.inference.records import Cleaning
from medseg.preprocessing.axis import memory_order

Mask = npt.NDArray[np.bool_]


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
    view = view.transpose(memory_order(view))
    islands = islands_of(view)
    for step in steps:
        held = [value for value in step.values if value in islands]
        boxes = apart(box for value in held for box in islands[value])
        if step.kind == "fill":
            for box in boxes:
                _fill(view[box], step.values)
            islands |= dict.fromkeys(held, boxes)  # any of them may have got the holes
        else:
            _remove([view[box] for box in boxes], step, labels.grid.voxel_ml)
    return LabelMap(array, labels.grid, labels.names)


def in_its_dimensions(labels: Labels) -> Labels:
    """A view (X, Y, Z), or of a single slice its two axes: every hole of a slice would be open in 3D."""
    return labels.squeeze(labels.shape.index(1)) if 1 in labels.shape else labels


def _remove(parts: Sequence[Labels], step: Cleaning, voxel_ml: float) -> None:
    """Make background of the components that a step does not keep, in place; none reaches from one part to another."""
    found = [components_of(mask_of(part, step.values)) for part in parts]
    voxels = np.concatenate([[0], *(components.voxels[1:] for components in found)])
    kept, before = _kept(step, voxels, voxel_ml), 0
    for part, components in zip(parts, found, strict=True):
        n = components.voxels.size - 1
        here = np.concatenate([kept[:1], kept[before + 1 : before + 1 + n]])
        before += n
        if not here.all():
            for planes in pieces(part.shape):
                part[planes][~here[components.numbered[planes]]] = 0


def kept_by(step: Cleaning, components: Components, voxel_ml: float) -> Mask:
    """For each number, 0 among them, whether a step that removes components keeps it."""
    return _kept(step, components.voxels, voxel_ml)


def _kept(step: Cleaning, voxels: npt.NDArray[np.int64], voxel_ml: float) -> Mask:
    kept: Mask
    if step.kind == "largest":
        kept = np.arange(voxels.size) == voxels.argmax()
    else:
        kept = voxels * voxel_ml >= step.ml * (1 - 1e-9)  # exactly so much stays, whatever its rounding
    kept[0] = True
    return kept


def mask_of(labels: Labels, values: Sequence[int]) -> Mask:
    """Where the array holds one of the values."""
    if len(values) == 1:
        return np.asarray(labels == values[0])
    table = np.zeros(int(max(labels.max(initial=0), *values)) + 1, np.bool_)
    table[list(values)] = True
    return np.asarray(table[labels])


def components_of(mask: Mask) -> Components:
    """The components of a mask."""
    numbered, n = ndimage.label(mask, np.ones((3,) * mask.ndim, np.bool_))
    voxels = np.zeros(n + 1, np.int64)
    for planes in pieces(mask.shape):
        some = numbered[planes]
        voxels += np.bincount(some[some > 0], minlength=n + 1)
    return Components(numbered, voxels)


def filled(labels: Labels, values: Sequence[int]) -> Labels:
    """The array with enclosed background given, hole by hole, the value that touches it most; itself without holes."""
    out = labels.copy()
    return out if _fill(out, values) else labels


def _fill(labels: Labels, values: Sequence[int]) -> bool:
    """Fill in place; False where nothing was to fill."""
    mask = mask_of(labels, values)
    numbered, n = ndimage.label(~mask)
    enclosed = _enclosed(numbered, n)
    changed = False
    for number, box in enumerate(ndimage.find_objects(numbered) if enclosed.any() else [], 1):
        if enclosed[number]:
            wide = _wider(box)
            changed |= _fill_within(labels[wide], mask[wide], numbered[wide] == number)
    return changed


def _fill_within(labels: Labels, mask: Mask, enclosed: Mask) -> bool:
    """Fill what is background of one enclosed stretch, hole by hole: other structures may lie in it."""
    around_it = np.ones((3,) * labels.ndim, np.bool_)
    numbered, _ = ndimage.label(enclosed & (labels == 0))
    changed = False
    for number, box in enumerate(ndimage.find_objects(numbered), 1):
        wide = _wider(box)
        hole = numbered[wide] == number
        rim = ndimage.binary_dilation(hole, around_it) & mask[wide]
        if rim.any():  # else it touches other structures alone
            labels[wide][hole] = np.bincount(labels[wide][rim]).argmax()
            changed = True
    return changed


def _wider(box: Box) -> Box:
    """The box and a voxel about it, as far as the array goes."""
    return tuple(slice(max(side.start - 1, 0), side.stop + 1) for side in box)


def _enclosed(numbered: npt.NDArray[np.integer[Any]], n: int) -> Mask:
    """For each number, 0 among them, whether no voxel of it lies at the border, so that no path of faces leads out."""
    enclosed = np.ones(n + 1, np.bool_)
    enclosed[0] = False
    for axis in range(numbered.ndim):
        for end in (0, -1):
            enclosed[numbered.take(end, axis)] = False
    return enclosed
