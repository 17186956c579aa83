"""Patches read from boxes of scans: where each voxel of a patch is read is computed once, for image and classes alike.

A patch that is neither rotated, scaled nor bent is a crop, and mirrored as one. All others are read by interpolation,
whatever is done to them at once: images linearly, classes from the nearest voxel, zero beyond the scan.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

Size = tuple[int, int, int]
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Bend:
    """An elastic deformation: displacements (3, I, J, K) in voxels of the scan at the points of a coarse grid, and for
    each axis the shares (n, I) with which a voxel of the patch takes part in them.
    """

    points: Floats
    shares: tuple[Floats, Floats, Floats]

    def field(self) -> npt.NDArray[np.float32]:
        """Displacements (3, X, Y, Z) of the patch's voxels."""
        x, y, z = self.shares
        bent: Floats = np.einsum("xi,yj,zk,aijk->axyz", x, y, z, self.points, optimize=True)
        return bent.astype(np.float32)


@dataclass(frozen=True, eq=False)
class Place:
    """How a patch is read: the scan's voxel in its centre, a matrix (3, 3) from offsets within the patch to offsets in
    the scan, both in voxels; axes along which the patch is mirrored; and a bend on top. Without a matrix it is a crop.
    """

    centre: Size
    matrix: Floats | None = None
    mirror: tuple[int, ...] = ()
    bend: Bend | None = None

    def offsets(self, patch: Sequence[int]) -> list[Floats]:
        """For each axis of the patch (3, n): what positions along it add to the offset along the axes of the scan."""
        matrix = np.eye(3) if self.matrix is None else self.matrix
        steps = [_steps(n, axis in self.mirror) for axis, n in enumerate(patch)]
        return [matrix[:, axis, None] * step for axis, step in enumerate(steps)]


@cache
def _steps(n: int, mirrored: bool) -> Floats:
    """Offsets of `n` voxels from the one in their middle."""
    steps = np.arange(n, dtype=np.float64) - n // 2
    return steps[::-1] if mirrored else steps


@dataclass(frozen=True, slots=True)
class Span:
    """A box of a scan: its first voxel and its shape. It may reach beyond the scan, where all is zero."""

    start: Size
    shape: Size


def span_of(place: Place, patch: Size, scan: Sequence[int]) -> Span:
    """The box that the patch is read from, of a scan of this shape; to be interpolated, at least two voxels wide."""
    if place.matrix is None:
        x, y, z = (c - n // 2 for c, n in zip(place.centre, patch, strict=True))
        return Span((x, y, z), patch)
    offsets = place.offsets(patch)
    bent = np.zeros(3) if place.bend is None else np.abs(place.bend.points).max((1, 2, 3))
    low = np.floor(sum(o.min(1) for o in offsets) - bent) - 1  # and one for rounding
    high = np.ceil(sum(o.max(1) for o in offsets) + bent) + 1
    first = np.clip(np.array(place.centre) + low, 0, np.array(scan) - 1).astype(int)
    last = np.minimum(np.array(place.centre) + high, np.array(scan) - 1).astype(int)
    (x, y, z), (i, j, k) = first.tolist(), np.maximum(last - first + 1, 2).tolist()
    return Span((x, y, z), (i, j, k))


@dataclass(frozen=True, eq=False)
class Boxes:
    """Boxes of one shape of several scans: image (B, C, X, Y, Z), classes (B, X, Y, Z); zero beyond the scan.

    previous: as classes, the segmentation of an earlier stage.
    """

    image: Tensor
    classes: Tensor
    previous: Tensor | None = None


def gather(boxes: Boxes, starts: Sequence[Size], places: Sequence[Place], patch: Size) -> Boxes:
    """Patches, one of each box, whose first voxels in their scans are `starts`; images as float32.

    Either all are crops, mirrored along the same axes, or none is. The value at a position is interpolated as by
    scipy's `map_coordinates` in its mode `grid-constant`; classes exactly between two voxels may take either.
    """
    if places[0].matrix is None:
        axes = [axis - 3 for axis in places[0].mirror]
        previous = None if boxes.previous is None else boxes.previous.flip(axes)
        return Boxes(boxes.image.flip(axes).float(), boxes.classes.flip(axes), previous)
    grid = _grid(starts, places, patch, boxes.image.shape[2:], boxes.image.device)
    image = functional.grid_sample(boxes.image.float(), grid, mode="bilinear", align_corners=True)
    previous = None if boxes.previous is None else _nearest(boxes.previous, grid)
    return Boxes(image, _nearest(boxes.classes, grid), previous)


def _nearest(classes: Tensor, grid: Tensor) -> Tensor:
    read = functional.grid_sample(classes.unsqueeze(1).float(), grid, mode="nearest", align_corners=True)
    return read.squeeze(1).to(classes.dtype)


def _grid(
    starts: Sequence[Size], places: Sequence[Place], patch: Size, box: Sequence[int], device: torch.device
) -> Tensor:
    """Where each voxel is read (B, X, Y, Z, 3): from -1 to 1 over the box, its last axis first, as torch wants it."""
    offsets = [place.offsets(patch) for place in places]
    bends = [place.bend.field() if place.bend else None for place in places]
    grid = torch.empty((len(places), *patch, 3), device=device)
    for r, n in enumerate(box):
        scale = 2.0 / max(n - 1, 1)
        first = [scale * (p.centre[r] - s[r]) - 1.0 for p, s in zip(places, starts, strict=True)]
        terms = [scale * np.stack([of[d][r] for of in offsets]) for d in range(3)]
        terms[0] += np.array(first)[:, None]
        whole = on_device(np.concatenate(terms, axis=1).astype(np.float32), device)
        x, y, z = torch.split(whole, list(patch), dim=1)
        there = (x[:, :, None] + y[:, None, :])[..., None] + z[:, None, None, :]
        if any(bend is not None for bend in bends):
            bent = [np.zeros(patch, np.float32) if bend is None else bend[r] for bend in bends]
            there += scale * on_device(np.stack(bent), device)
        grid[..., 2 - r] = there
    return grid


def on_device(values: npt.NDArray[np.generic], device: torch.device) -> Tensor:
    """The values on the device, without waiting for it."""
    tensor = torch.from_numpy(values)
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor
