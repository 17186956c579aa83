"""The voxels of one structure, gone through in pieces of its boxes that stay in the processor's cache."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from medseg.inference.boxes import Box, Labels, pieces
from medseg.inference.postprocess import Mask, mask_of

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class StructureVoxels:
    """Voxels of some values, all of which lie in boxes that do not touch. The axes (A, B, C) of the labels are as they
    lie in memory, A with the longest steps.
    """

    labels_ABC: Labels
    values: tuple[int, ...]
    boxes: Sequence[Box]

    def masks(self, box: Box) -> Iterator[Mask]:
        """The mask of a box, plane after plane along A, in pieces."""
        here = self.labels_ABC[box]
        return (mask_of(here[planes], self.values) for planes in pieces(here.shape))

    def values_of(self, image_ABC: npt.NDArray[Any]) -> Iterator[npt.NDArray[Any]]:
        """The intensities (N,) of its voxels in an image with the labels' axes, piece by piece."""
        for box in self.boxes:
            there = image_ABC[box]
            for planes, mask in zip(pieces(there.shape), self.masks(box), strict=True):
                yield there[planes][mask]

    def position(self) -> tuple[int, npt.NDArray[np.float64]]:
        """How many voxels there are, and their mean index along A, B and C in the whole array."""
        voxels, total = 0, np.zeros(3)
        for box in self.boxes:
            counted = self._counted(box)
            voxels += int(counted[0].sum())
            total += [(n * np.arange(side.start, side.stop)).sum() for side, n in zip(box, counted, strict=True)]
        return voxels, total / voxels

    def _counted(self, box: Box) -> tuple[Ints, Ints, Ints]:
        """How many voxels lie in each plane of a box across A, B and C."""
        sums = [np.zeros(side.stop - side.start, np.int64) for side in box]
        first = 0
        for mask in self.masks(box):
            rows = mask.sum(axis=2, dtype=np.int64)
            sums[0][first : first + len(mask)] = rows.sum(axis=1)
            sums[1] += rows.sum(axis=0)
            sums[2] += mask.reshape(-1, mask.shape[2]).sum(axis=0, dtype=np.int64)
            first += len(mask)
        a, b, c = sums
        return a, b, c
