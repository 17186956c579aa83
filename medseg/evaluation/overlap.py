"""How much two label maps overlap: voxel counts of all labels in one pass, and Dice, IoU and volumes from them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Labels = npt.NDArray[np.unsignedinteger[Any]]

_SLAB_VOXELS = 1 << 20  # bincount widens its input to 8 bytes a voxel: a slab at a time keeps that small


@dataclass(frozen=True, slots=True)
class Overlap:
    """Voxels of one structure in the reference, in the prediction, and in both."""

    reference: int
    prediction: int
    both: int

    @property
    def dice(self) -> float:
        """2 |R n P| / (|R| + |P|); at least one of them must not be empty."""
        return 2 * self.both / (self.reference + self.prediction)

    @property
    def iou(self) -> float:
        """|R n P| / |R u P|; at least one of them must not be empty."""
        return self.both / (self.reference + self.prediction - self.both)

    @property
    def precision(self) -> float:
        """|R n P| / |P|; the prediction must not be empty."""
        return self.both / self.prediction

    @property
    def recall(self) -> float:
        """|R n P| / |R|; the reference must not be empty."""
        return self.both / self.reference


def count_overlaps(reference: Labels, prediction: Labels) -> dict[int, Overlap]:
    """Count every label but 0 that occurs in either map; both are (X, Y, Z) arrays of the same shape.

    These are the diagonal and the two margins of the joint histogram, which is all that Dice, IoU and volumes need;
    the histogram itself would hold 4 billion cells for uint16 labels.
    """
    n_labels = int(max(reference.max(), prediction.max())) + 1
    counts = np.zeros((3, n_labels), dtype=np.int64)
    thick = max(1, _SLAB_VOXELS // max(1, reference[0].size))
    for begin in range(0, len(reference), thick):
        r, p = reference[begin : begin + thick].ravel(), prediction[begin : begin + thick].ravel()
        for row, values in zip(counts, (r, p, r[r == p]), strict=True):
            row += np.bincount(values, minlength=n_labels)
    found = np.flatnonzero(counts[:2].any(axis=0))
    return {int(v): Overlap(*(int(n) for n in counts[:, v])) for v in found if v > 0}
