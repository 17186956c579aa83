"""Are the probabilities of a structure true ones? Expected calibration error, Brier score and a reliability table.

They are measured near the structure: in a whole scan, nearly all of which is surely background, every model would look
calibrated. Near is within 10 mm of the reference or of the prediction, measured between centres of voxels.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.ndimage import distance_transform_edt

from medseg.errors import InputError
from medseg.evaluation.boxes import Box, Mask, as_mask, box_of, grown, steps

Floats = npt.NDArray[np.float64]
Probability = npt.NDArray[np.floating[Any]] | npt.NDArray[np.unsignedinteger[Any]]

BINS = 15
NEAR_MM = 10.0
_SLAB_VOXELS = 1 << 21  # a distance transform needs some 50 bytes for each
_ROUNDING = 1e-6  # distances of 10 mm count as near, and probabilities in float32 may exceed 1 so far
_ON_EDGE = 1e-5  # of a bin; less than a step of 16 bits, more than the rounding of float32


@dataclass(frozen=True, slots=True)
class Reliability:
    """Voxels near a structure in 15 bins of its probability, and the mean squared error of it (Brier 1950).

    Bin k holds what is above k/15, up to (k+1)/15; the first holds 0 as well. probability: its mean over the bin.
    frequency: the share of the bin's voxels that the reference holds. Both are None where a bin is empty, and `brier`
    where all are.
    """

    counts: tuple[int, ...]
    probability: tuple[float | None, ...]
    frequency: tuple[float | None, ...]
    brier: float | None

    @property
    def ece(self) -> float | None:
        """Expected calibration error: the mean over voxels of |probability - frequency| of their bin (Guo 2017)."""
        gaps = [
            n * abs(p - f)
            for n, p, f in zip(self.counts, self.probability, self.frequency, strict=True)
            if p is not None and f is not None
        ]
        return math.fsum(gaps) / sum(self.counts) if gaps else None


def calibration_metrics(
    probability: Probability, reference: Mask, prediction: Mask, spacing_mm: Sequence[float]
) -> dict[str, float | None]:
    """`ece` and `brier` of one structure; arguments and errors as of `reliability`; None where both masks are empty."""
    found = reliability(probability, reference, prediction, spacing_mm)
    return {"ece": found.ece, "brier": found.brier}


def reliability(
    probability: Probability, reference: Mask, prediction: Mask, spacing_mm: Sequence[float]
) -> Reliability:
    """The table of one structure: its probability and two masks, all (X, Y, Z), or (X, Y), of one shape.

    Probabilities are 0 to 1, or unsigned integers of which the largest of their type stands for 1. Only what lies near
    is widened to float64, some planes at a time.

    Raises:
        InputError: near the structure there are values outside of 0 to 1.
    """
    r, p = as_mask(reference), as_mask(prediction)
    sums = np.zeros((3, BINS))  # voxels, their probabilities, and how many the reference holds
    squares = []
    for box, near in _near(r, p, spacing_mm):
        found, true = _shares(probability[box][near]), r[box][near]
        bins = np.clip(np.ceil(found * BINS - _ON_EDGE).astype(np.int64) - 1, 0, BINS - 1)
        for row, weights in zip(sums, (None, found, true), strict=True):
            row += np.bincount(bins, weights, BINS)
        squares.append(float(np.square(found - true).sum()))
    counts, total, hits = sums
    return Reliability(
        tuple(int(n) for n in counts),
        _means(total, counts),
        _means(hits, counts),
        math.fsum(squares) / float(counts.sum()) if squares else None,
    )


def _shares(values: npt.NDArray[Any]) -> Floats:
    full = float(np.iinfo(values.dtype).max) if values.dtype.kind == "u" else 1.0
    shares = values.astype(np.float64) / full
    if not (shares.min() >= -_ROUNDING and shares.max() <= 1 + _ROUNDING):  # false for NaN as well
        raise InputError(
            "its probabilities are not all from 0 to 1", fix="give probabilities, not the network's logits"
        )
    return shares


def _means(total: Floats, counts: Floats) -> tuple[float | None, ...]:
    return tuple(float(one) / float(n) if n else None for one, n in zip(total, counts, strict=True))


def _near(r: Mask, p: Mask, spacing_mm: Sequence[float]) -> Iterator[tuple[Box, Mask]]:
    """Where either mask is near, as boxes that do not overlap and masks of them, none of which is empty.

    What lies near a slab cannot be told from farther away than 10 mm, so each slab is looked at with so much about it.
    """
    tight = box_of(r, p)
    if tight is None:
        return
    box = grown(tight, NEAR_MM, spacing_mm, r.shape)
    sizes = [side.stop - side.start for side in box]
    axis = max(range(r.ndim), key=lambda n: sizes[n] * spacing_mm[n])
    halo = steps(NEAR_MM, spacing_mm)[axis]
    thick = max(1, halo, _SLAB_VOXELS * sizes[axis] // math.prod(sizes) - 2 * halo)
    for start in range(box[axis].start, box[axis].stop, thick):
        slab = slice(start, min(start + thick, box[axis].stop))
        wide = slice(max(slab.start - halo, box[axis].start), min(slab.stop + halo, box[axis].stop))
        there = (*box[:axis], wide, *box[axis + 1 :])
        away = ~(r[there] | p[there])
        if away.all():
            continue
        inner = (*(slice(None),) * axis, slice(slab.start - wide.start, slab.stop - wide.start))
        near = distance_transform_edt(away, sampling=spacing_mm)[inner] <= NEAR_MM * (1 + _ROUNDING)
        if near.any():
            yield (*box[:axis], slab, *box[axis + 1 :]), near
