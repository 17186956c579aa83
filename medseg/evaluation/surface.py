"""How far two surfaces lie apart: Hausdorff distances, ASSD, surface Dice (NSD) and boundary F1.

The surface is that of DeepMind's `surface-distance` ("surfel"): every corner shared by voxels of which some lie inside
and some outside carries the piece of surface that passes there (`cells.py`), and all statistics are weighted by the
size of these pieces. Outside of the array counts as background. Distances are exact, in float64.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.ndimage import distance_transform_edt
from scipy.spatial import cKDTree

from medseg.evaluation.metrics import at_tolerance
from medseg.evaluation.overlap import Labels

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

PERCENTILE = 0.95
VOXELS_PER_SEARCH = 25  # a search in the tree costs about as much as this many voxels of a distance transform
TRANSFORM_UP_TO = 1 << 25  # voxels; a distance transform needs some 50 bytes for each
_ROUNDING = 1e-12  # a share that is 0.95 but for the order of summation counts as 0.95


@dataclass(frozen=True, slots=True)
class Surface:
    """Surface of one structure: corners (N, D) in raster order, and the mm^2 (or, in 2D, mm) that pass at each (N,).

    Corner (i, j, k) is the one at the low end of voxel (i, j, k).
    """

    corners: Ints
    sizes: Floats


@dataclass(frozen=True, slots=True)
class Apart:
    """Distance in mm (N,) from every piece of one surface to the other surface, and the sizes (N,) of these pieces."""

    distances_mm: Floats
    sizes: Floats

    def percentile_mm(self, share: float) -> float:
        """The smallest distance that at least this share of the surface does not exceed."""
        order = np.argsort(self.distances_mm, kind="stable")
        shares = np.cumsum(self.sizes[order])
        at = int(np.searchsorted(shares, (share - _ROUNDING) * shares[-1]))
        return float(self.distances_mm[order[min(at, len(order) - 1)]])

    def within(self, tolerance_mm: float) -> float:
        """How much of this surface lies within the tolerance of the other; equality counts, rounding forgiven."""
        limit = tolerance_mm + 1e-6 * max(1.0, tolerance_mm)
        return float(self.sizes[self.distances_mm <= limit].sum())


def surface_of(labels: Labels, value: int, box: tuple[slice, ...], sizes: Floats) -> Surface:
    """Find the surface of the voxels equal to `value`, all of which lie in `box`, in an array of 2 or 3 dimensions.

    `sizes` is the table of `cells.surfel_sizes`.
    """
    mask = labels[box] == value
    padded = np.zeros([n + 2 for n in mask.shape], dtype=np.uint8)
    padded[(slice(1, -1),) * mask.ndim] = mask
    codes = cell_codes(padded)
    flat = codes.ravel()
    mixed = np.flatnonzero((flat != 0) & (flat != len(sizes) - 1))
    corners = np.stack(np.unravel_index(mixed, codes.shape), axis=1) + [side.start for side in box]
    return Surface(corners.astype(np.int64, copy=False), sizes[flat[mixed]])


def cell_codes(mask: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """For each cell of 2x2(x2) neighbours in an array of 0 and 1 its code in `cells.surfel_sizes`, one less a side."""
    codes = mask
    bits = 1
    for axis in reversed(range(mask.ndim)):  # one axis at a time, each doubles the number of voxels in the code
        low = tuple(slice(None, -1) if n == axis else slice(None) for n in range(mask.ndim))
        high = tuple(slice(1, None) if n == axis else slice(None) for n in range(mask.ndim))
        codes = np.bitwise_or(codes[low] << np.uint8(bits), codes[high])
        bits *= 2
    return codes


def distances(reference: Surface, prediction: Surface, spacing_mm: Sequence[float]) -> tuple[Apart, Apart]:
    """Measure from each surface to the other, reference first; neither may be empty."""
    there = _nearest_mm(prediction.corners, reference.corners, spacing_mm)
    back = _nearest_mm(reference.corners, prediction.corners, spacing_mm)
    return Apart(there, reference.sizes), Apart(back, prediction.sizes)


def _nearest_mm(targets: Ints, queries: Ints, spacing_mm: Sequence[float]) -> Floats:
    """Distance from each query corner to the nearest target corner.

    Most corners are shared by both surfaces and need no search. The others go through a tree, or, where they are so
    many that they fill their box (noise, holes), through a distance transform of that box.
    """
    nearest = np.zeros(len(queries))
    low = np.minimum(targets.min(axis=0), queries.min(axis=0))
    shape = tuple(int(n) + 1 for n in np.maximum(targets.max(axis=0), queries.max(axis=0)) - low)
    targets, queries = targets - low, queries - low
    alone = ~_shared(targets, queries, shape)
    box, searches = math.prod(shape), int(np.count_nonzero(alone))
    if searches == 0:
        return nearest
    spacing = np.asarray(spacing_mm, dtype=np.float64)
    if box <= min(VOXELS_PER_SEARCH * searches, TRANSFORM_UP_TO):
        elsewhere = np.ones(shape, dtype=np.bool_)
        elsewhere[tuple(targets.T)] = False
        nearest[alone] = distance_transform_edt(elsewhere, sampling=spacing)[tuple(queries[alone].T)]
    else:
        tree = cKDTree(targets * spacing, balanced_tree=False, compact_nodes=False)  # the quickest on a lattice
        nearest[alone] = tree.query(queries[alone] * spacing)[0]
    return nearest


def _shared(targets: Ints, queries: Ints, shape: tuple[int, ...]) -> npt.NDArray[np.bool_]:
    """True for each query corner that is a target too; both in raster order, so that their flat indices ascend."""
    flat_t, flat_q = (np.ravel_multi_index(tuple(corners.T), shape) for corners in (targets, queries))
    at = np.minimum(np.searchsorted(flat_t, flat_q), len(flat_t) - 1)
    shared: npt.NDArray[np.bool_] = flat_t[at] == flat_q
    return shared


def surface_metrics(there: Apart, back: Apart, tolerances_mm: Sequence[float]) -> dict[str, float]:
    """Reduce the distances of both directions to the metrics, by name; the first tolerance is the main one."""
    size_r, size_p = float(there.sizes.sum()), float(back.sizes.sum())
    total_r, total_p = float(there.distances_mm @ there.sizes), float(back.distances_mm @ back.sizes)
    both = Apart(np.concatenate([there.distances_mm, back.distances_mm]), np.concatenate([there.sizes, back.sizes]))
    found = {
        "hd_mm": float(both.distances_mm.max()),
        "hd95_mm": max(there.percentile_mm(PERCENTILE), back.percentile_mm(PERCENTILE)),
        "hd95_pooled_mm": both.percentile_mm(PERCENTILE),
        "assd_mm": (total_r + total_p) / (size_r + size_p),
        "masd_mm": (total_r / size_r + total_p / size_p) / 2,
        "mean_ref_to_pred_mm": total_r / size_r,
        "mean_pred_to_ref_mm": total_p / size_p,
    }
    for n, tolerance_mm in enumerate(tolerances_mm):
        near_r, near_p = there.within(tolerance_mm), back.within(tolerance_mm)
        recall, precision = near_r / size_r, near_p / size_p
        at = {
            "nsd": (near_r + near_p) / (size_r + size_p),
            "boundary_f1": 2 * recall * precision / (recall + precision) if recall + precision else 0.0,
            "boundary_precision": precision,
            "boundary_recall": recall,
        }
        found |= {at_tolerance(name, tolerance_mm) if n else name: value for name, value in at.items()}
    return found
