"""The engine in NumPy and SciPy: label by label, with whole distance transforms. Slow, plain, the other's oracle."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
from scipy.ndimage import binary_erosion, distance_transform_edt, find_objects, generate_binary_structure
from scipy.spatial import cKDTree

from medseg.evaluation.cells import cell_codes, surface_triangles
from medseg.evaluation.engine.values import (
    FLAT,
    ROUNDING,
    Bands,
    Codes,
    Elements,
    Floats,
    Ints,
    Labels,
    Shape,
    Spacing,
    Sums,
)
from medseg.evaluation.overlap import Overlap, count_overlaps

VOXELS_PER_SEARCH = 25  # a search in the tree costs about as much as this many voxels of a distance transform
TRANSFORM_UP_TO = 1 << 25  # voxels; a distance transform needs some 50 bytes for each
FIRST_NEIGHBOURS = 8  # triangles that are looked at first
_BATCH = 1 << 22  # triangles in hand at a time

Mask = npt.NDArray[np.bool_]


class PlainEngine:
    """See `values.Engine`."""

    name = "plain"

    def overlaps(self, reference: Labels, prediction: Labels) -> dict[int, Overlap]:
        """By counting each map and where they agree."""
        return count_overlaps(reference, prediction)

    def corners(self, labels: Labels, planar: bool, threads: int) -> Mapping[int, Elements]:  # noqa: ARG002
        """Label by label, in its box."""
        ni, nj, nk = labels.shape
        shape = (ni + 1, nj + 1, nk + 1)
        return {value: _corners(labels[box] == value, box, shape, planar) for value, box in _boxes(labels)}

    def borders(self, labels: Labels, planar: bool, threads: int) -> Mapping[int, Elements]:  # noqa: ARG002
        """Label by label, as what an erosion takes away."""
        return {value: _borders(labels[box] == value, box, labels.shape, planar) for value, box in _boxes(labels)}

    def nearest_mm(self, queries: Elements, targets: Elements, spacing_mm: Spacing) -> Floats:
        """In a tree, or, where queries are so many that they fill their box, by a distance transform of that box."""
        spacing = np.asarray(spacing_mm, np.float64)
        here, there = queries.places(), targets.places()
        low = np.minimum(there.min(axis=0), here.min(axis=0))
        here, there = here - low, there - low
        shape = tuple(np.maximum(there.max(axis=0), here.max(axis=0)) + 1)
        if math.prod(shape) <= min(VOXELS_PER_SEARCH * len(here), TRANSFORM_UP_TO):
            elsewhere = np.ones(shape, dtype=np.bool_)
            elsewhere[tuple(there.T)] = False
            at = distance_transform_edt(elsewhere, spacing, return_distances=False, return_indices=True)
            nearest = at[(slice(None), *here.T)].T
        else:
            tree = cKDTree(there * spacing, balanced_tree=False, compact_nodes=False)  # the quickest on a lattice
            nearest = there[tree.query(here * spacing)[1]]
        squares = ((here - nearest) * spacing) ** 2
        distances: Floats = np.sqrt(squares[:, 0] + squares[:, 1] + squares[:, 2])
        return distances

    def triangles_mm(
        self, queries: Elements, targets: Elements, spacing_mm: Spacing, planar: bool
    ) -> tuple[Floats, Floats]:
        """Among the triangles whose centres are nearest, more of them until none beyond can be nearer."""
        ours, theirs = (_triangles(one, spacing_mm, planar) for one in (queries, targets))
        centres, middle = ours.mean(axis=1), theirs.mean(axis=1)
        reach = float(np.linalg.norm(theirs - middle[:, None], axis=2).max())
        tree = cKDTree(middle)
        best, left, k = np.full(len(centres), np.inf), np.arange(len(centres)), FIRST_NEIGHBOURS
        while left.size:
            k = min(k, len(theirs))
            for part in np.array_split(left, math.ceil(left.size * k / _BATCH)):
                away, at = tree.query(centres[part], k)
                away, at = np.reshape(away, (-1, k)), np.reshape(at, (-1, k))
                best[part] = _to_triangles(centres[part, None], theirs[at]).min(axis=1)
                settled = (away[:, -1] - reach >= best[part]) | (k == len(theirs))
                best[part[~settled]] += np.inf
            left, k = np.flatnonzero(np.isinf(best)), 2 * k
        return _areas(ours), best

    def sums(self, distances_mm: Floats, sizes: Floats, limits_mm: Sequence[float]) -> Sums:
        """As they stand."""
        within = tuple(float(sizes[distances_mm <= limit].sum()) for limit in limits_mm)
        return Sums(float(sizes.sum()), float(distances_mm @ sizes), float(distances_mm.max()), within)

    def percentile_mm(self, distances_mm: Floats, sizes: Floats, share: float) -> float:
        """By sorting."""
        order = np.argsort(distances_mm, kind="stable")
        shares = np.cumsum(sizes[order])
        at = int(np.searchsorted(shares, (share - ROUNDING) * shares[-1]))
        return float(distances_mm[order[min(at, len(order) - 1)]])

    def bands(
        self,
        labels: tuple[Labels, Labels],
        borders: tuple[Elements, Elements],
        value: int,
        depth_mm: float,
        spacing_mm: Spacing,
    ) -> Bands:
        """By distance transforms from the border voxels."""
        limit = depth_mm + 1e-6 * max(1.0, depth_mm)
        masks = []
        for array, border in zip(labels, borders, strict=True):
            elsewhere = np.ones(array.shape, np.bool_)
            elsewhere[tuple(border.places().T)] = False
            masks.append((distance_transform_edt(elsewhere, spacing_mm) <= limit) & (array == value))
        near_r, near_p = masks
        return Bands(int(near_r.sum()), int(near_p.sum()), int((near_r & near_p).sum()))

    def warm_up(self) -> None:
        """Nothing is compiled."""


def _boxes(labels: Labels) -> list[tuple[int, tuple[slice, ...]]]:
    found: Sequence[tuple[slice, ...] | None] = find_objects(labels)
    return [(value, box) for value, box in enumerate(found, 1) if box is not None]


def _corners(mask: Mask, box: tuple[slice, ...], shape: Shape, planar: bool) -> Elements:
    padded = np.zeros([n + 2 for n in mask.shape], dtype=np.uint8)
    padded[1:-1, 1:-1, 1:-1] = mask
    codes = cell_codes(padded)[: 1 if planar else None]
    flat = codes.ravel()
    mixed = np.flatnonzero((flat != 0) & (flat != (15 if planar else 255)))
    return _placed(mixed, flat[mixed], codes.shape, box, shape)


def _borders(mask: Mask, box: tuple[slice, ...], shape: Shape, planar: bool) -> Elements:
    cross = generate_binary_structure(3, 1)
    if planar:
        cross[0], cross[2] = False, False
    border = mask & ~binary_erosion(mask, cross)
    outward = [(side.start == 0, side.stop == n) for side, n in zip(box, shape, strict=True)]
    widened = np.pad(mask, [(int(low), int(high)) for low, high in outward], mode="edge")
    kept = tuple(slice(int(low), int(low) + n) for (low, _), n in zip(outward, mask.shape, strict=True))
    inside = border & ~binary_erosion(widened, cross)[kept]  # beyond the image its edge goes on
    flat = np.flatnonzero(border.ravel())
    return _placed(flat, inside.ravel()[flat].astype(np.uint8), mask.shape, box, shape)


def _placed(
    flat: npt.NDArray[np.intp], codes: Codes, within: tuple[int, ...], box: tuple[slice, ...], shape: Shape
) -> Elements:
    places = np.stack(np.unravel_index(flat, within)) + np.array([[side.start] for side in box])
    return Elements.at(np.ravel_multi_index(tuple(places), shape).astype(np.int64), codes, shape)


def _triangles(elements: Elements, spacing_mm: Spacing, planar: bool) -> Floats:
    """All triangles (M, 3, 3) of a surface, in mm."""
    corners, counts = surface_triangles(2 if planar else 3)
    of_each = counts[elements.codes]
    which: Ints = np.arange(int(of_each.sum())) - np.repeat(np.cumsum(of_each) - of_each, of_each)
    triangles = corners[np.repeat(elements.codes, of_each), which]
    triangles = triangles + np.repeat(elements.places(), of_each, axis=0)[:, None]
    return np.asarray(triangles * np.asarray(spacing_mm))


def _areas(triangles: Floats) -> Floats:
    """Areas, or lengths of what has no area."""
    u, v = triangles[:, 1] - triangles[:, 0], triangles[:, 2] - triangles[:, 0]
    square = _square(np.cross(u, v))
    return np.asarray(np.where(square > FLAT * _square(u) * _square(v), np.sqrt(square) / 2, np.sqrt(_square(u))))


def _square(vectors: Floats) -> Floats:
    return np.asarray((vectors * vectors).sum(axis=-1))


def _to_triangles(points: Floats, triangles: Floats) -> Floats:
    """Distance from points (..., 3) to triangles (..., 3, 3), or to segments where they have no area."""
    a, b, c = (triangles[..., n, :] - points for n in range(3))
    normal = np.cross(b - a, c - a)
    flat = _square(normal) <= FLAT * _square(b - a) * _square(c - a)
    square = np.where(flat, 1.0, _square(normal))
    of_b = (np.cross(-a, c - a) * normal).sum(axis=-1) / square
    of_c = (np.cross(b - a, -a) * normal).sum(axis=-1) / square
    above = (of_b >= 0) & (of_c >= 0) & (of_b + of_c <= 1) & ~flat
    height = np.abs((a * normal).sum(axis=-1)) / np.sqrt(square)
    edges = np.minimum(np.minimum(_to_segments(a, b), _to_segments(b, c)), _to_segments(c, a))
    return np.asarray(np.where(above, height, edges))


def _to_segments(a: Floats, b: Floats) -> Floats:
    """Distance from the origin."""
    along = b - a
    square = (along * along).sum(axis=-1)
    at = np.clip(-(a * along).sum(axis=-1) / np.where(square == 0, 1.0, square), 0.0, 1.0)
    return np.asarray(np.linalg.norm(a + at[..., None] * along, axis=-1))
