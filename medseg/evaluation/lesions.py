"""How well a structure of several instances is found, lesion by lesion: detection, false alarms and panoptic quality.

A lesion is a component of voxels that touch by a face, an edge or a corner. All intersections come from one joint
histogram of the two maps of components, in the box that holds both.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.ndimage import generate_binary_structure, label

from medseg.evaluation.boxes import Mask, as_mask, box_of

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

PANOPTIC_IOU = 0.5  # above it a lesion has one partner at most, whatever the others are (Kirillov 2019)
_ROUNDING = 1e-9  # a lesion of exactly the least volume counts, however its voxel's volume is rounded


@dataclass(frozen=True, slots=True)
class LesionMatch:
    """One lesion of the reference: its volume, its best IoU with a lesion of the prediction, and if that is a hit."""

    volume_ml: float
    best_iou: float
    matched: bool


@dataclass(frozen=True, slots=True)
class _Lesions:
    """Voxels of every lesion of the reference (R,) and of the prediction (P,); and of each pair of lesions that share
    a voxel, by its number on either side, the IoU (N,).
    """

    reference: Ints
    prediction: Ints
    pair_r: Ints
    pair_p: Ints
    iou: Floats

    def met(self, iou: float) -> tuple[int, int]:
        """How many lesions of the reference, and of the prediction, have a partner with more than this IoU."""
        hit = self.iou > iou
        return len(np.unique(self.pair_r[hit])), len(np.unique(self.pair_p[hit]))

    def f1(self, iou: float) -> float | None:
        """2 TP / (2 TP + FP + FN), where TP are lesions of the reference; None where neither side has any."""
        met_r, met_p = self.met(iou)
        return _share(2 * met_r, 2 * met_r + len(self.prediction) - met_p + len(self.reference) - met_r)


def lesion_metrics(
    reference: Mask,
    prediction: Mask,
    spacing_mm: Sequence[float],
    min_lesion_mm3: float = 0.0,
    lesion_iou: float = 0.1,
) -> dict[str, float | None]:
    """The metrics of group "lesions" of two masks (X, Y, Z), or (X, Y), of one shape, by name.

    A lesion is hit by any of the other side with an IoU above `lesion_iou`, so that one may hit several and the other
    way round. Lesions below `min_lesion_mm3` count on neither side, as if their voxels were background; of two
    dimensions that is mm2, so a single slice is better given as (X, Y, 1). What a side without lesions leaves open is
    None: sensitivity without any in the reference, precision without any in the prediction, F1, RQ and PQ without any
    at all, SQ without a match. Sources: metrics as in ISLES 2022 (detection) and Kirillov 2019 (panoptic quality).
    """
    lesions = _lesions(reference, prediction, spacing_mm, min_lesion_mm3)
    n_ref, n_pred = len(lesions.reference), len(lesions.prediction)
    met_r, met_p = lesions.met(lesion_iou)
    matched = lesions.iou[lesions.iou > PANOPTIC_IOU]
    rq = _share(2 * len(matched), n_ref + n_pred)
    sq = _share(math.fsum(matched), len(matched))
    return {
        "lesions_ref": float(n_ref),
        "lesions_pred": float(n_pred),
        "lesion_sensitivity": _share(met_r, n_ref),
        "lesion_precision": _share(met_p, n_pred),
        "lesion_f1": lesions.f1(lesion_iou),
        "lesion_f1_overlap": lesions.f1(0.0),
        "lesion_false_positives": float(n_pred - met_p),
        "rq": rq,
        "sq": sq,
        "pq": None if rq is None else rq * (sq or 0.0),
    }


def match_lesions(
    reference: Mask,
    prediction: Mask,
    spacing_mm: Sequence[float],
    min_lesion_mm3: float = 0.0,
    lesion_iou: float = 0.1,
) -> tuple[LesionMatch, ...]:
    """What became of every lesion of the reference, the largest first; arguments as of `lesion_metrics`."""
    lesions = _lesions(reference, prediction, spacing_mm, min_lesion_mm3)
    best = np.zeros(len(lesions.reference))
    np.maximum.at(best, lesions.pair_r, lesions.iou)
    voxel_ml = math.prod(spacing_mm) / 1000.0
    found = [(int(n) * voxel_ml, float(iou)) for n, iou in zip(lesions.reference, best, strict=True)]
    return tuple(LesionMatch(ml, iou, iou > lesion_iou) for ml, iou in sorted(found, reverse=True))


def _lesions(reference: Mask, prediction: Mask, spacing_mm: Sequence[float], min_lesion_mm3: float) -> _Lesions:
    r, p = as_mask(reference), as_mask(prediction)
    box = box_of(r, p)
    if box is None:
        none = np.zeros(0, np.int64)
        return _Lesions(none, none, none, none, np.zeros(0))
    r, p = r[box], p[box]
    least = min_lesion_mm3 / math.prod(spacing_mm) * (1 - _ROUNDING)
    either = r | p
    of_r, sizes_r = _components(r, either, least)
    of_p, sizes_p = _components(p, either, least)
    both = (of_r > 0) & (of_p > 0)
    pairs, common = np.unique(of_r[both] * (len(sizes_p) + 1) + of_p[both], return_counts=True)
    pair_r, pair_p = (numbers - 1 for numbers in np.divmod(pairs, len(sizes_p) + 1))
    return _Lesions(sizes_r, sizes_p, pair_r, pair_p, common / (sizes_r[pair_r] + sizes_p[pair_p] - common))


def _components(mask: Mask, where: Mask, least: float) -> tuple[Ints, Ints]:
    """For the voxels `where` the number of their component, 0 if it has fewer voxels than `least`; and all sizes.

    Only these voxels are kept, so that the map of components, 4 bytes a voxel, is never there for both sides at once.
    """
    numbers, n = label(mask, generate_binary_structure(mask.ndim, mask.ndim))
    found = numbers[where]
    sizes = np.bincount(found, minlength=n + 1)
    counts = sizes >= least
    counts[0] = False
    return (np.cumsum(counts, dtype=np.int64) * counts)[found], sizes[counts]


def _share(part: float, whole: float) -> float | None:
    return part / whole if whole else None
