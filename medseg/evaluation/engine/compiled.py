"""The compiled engine: the kernels beside this file, put together."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from medseg.evaluation.cells import surface_triangles
from medseg.evaluation.engine import bands, counting, nearest, sweep, triangles
from medseg.evaluation.engine.values import ROUNDING, Bands, Elements, Floats, Labels, Shape, Spacing, Sums
from medseg.evaluation.overlap import Overlap, count_overlaps
from medseg.imaging.volume import distinct

ROWS = 100  # around a query that are searched first
FEW = 256  # queries that tell whether searching near by is worth while
MOST_PAIRS = 1 << 24  # of labels, in a joint histogram

Array = npt.NDArray[Any]


class CompiledEngine:
    """See `values.Engine`."""

    name = "compiled"

    def overlaps(self, reference: Labels, prediction: Labels) -> dict[int, Overlap]:
        """From the joint histogram of both maps, in one pass over them."""
        r, p = _frozen(reference).reshape(-1), _frozen(prediction).reshape(-1)
        values_r, values_p = _values(r), _values(p)
        if len(values_r) * len(values_p) > MOST_PAIRS:
            return count_overlaps(reference, prediction)  # the histogram would take more than a label map
        counts = np.zeros((len(values_r), len(values_p)), np.int64)
        whole = r.size // (8 // r.itemsize) * (8 // r.itemsize)
        index_r, index_p = _index(values_r, r), _index(values_p, p)
        words = (part[:whole].view(np.uint64) for part in (r, p))
        counting.joint(*words, 8 * r.itemsize, index_r, index_p, counts)
        np.add.at(counts, (index_r[r[whole:]], index_p[p[whole:]]), 1)
        sums_r = dict(zip(values_r.tolist(), counts.sum(axis=1).tolist(), strict=True))
        sums_p = dict(zip(values_p.tolist(), counts.sum(axis=0).tolist(), strict=True))
        both = {v: int(counts[index_r[v], index_p[v]]) for v in sums_r.keys() & sums_p.keys()}
        found = sorted(v for v in {*sums_r, *sums_p} if v and (sums_r.get(v) or sums_p.get(v)))
        return {v: Overlap(sums_r.get(v, 0), sums_p.get(v, 0), both.get(v, 0)) for v in found}

    def corners(self, labels: Labels, planar: bool, threads: int) -> Mapping[int, Elements]:
        """By `sweep.corners`, over slabs of planes."""
        ni, nj, nk = labels.shape
        frozen = _frozen(labels)
        planes, whole = (1, 15) if planar else (ni + 1, 255)
        parts = _in_slabs(lambda begin, end: sweep.corners(frozen, begin, end, whole), planes, threads)
        return _elements(parts, (ni + 1, nj + 1, nk + 1))

    def borders(self, labels: Labels, planar: bool, threads: int) -> Mapping[int, Elements]:
        """By `sweep.borders`, over slabs of planes."""
        frozen = _frozen(labels)
        parts = _in_slabs(lambda begin, end: sweep.borders(frozen, begin, end, planar), len(labels), threads)
        ni, nj, nk = labels.shape
        return _elements(parts, (ni, nj, nk))

    def nearest_mm(self, queries: Elements, targets: Elements, spacing_mm: Spacing) -> Floats:
        """Near by in rows around each query; what is left row by row or plane by plane, whichever is less work."""
        rows = _Rows(targets)
        spacing = np.asarray(spacing_mm, np.float64)
        best = np.full(len(queries), np.inf)
        sample = queries.flat[:: len(queries) // FEW + 1]
        if np.isfinite(_near(sample, rows, spacing)).mean() >= 0.5:
            best = _near(queries.flat, rows, spacing)
        far = np.flatnonzero(np.isinf(best))
        if far.size:
            flat = queries.flat if far.size == len(queries) else np.ascontiguousarray(queries.flat[far])
            found = np.empty(far.size)
            search = nearest.row_by_row if _by_rows(flat, rows) else nearest.plane_by_plane
            search(flat, *rows.arguments, spacing, found)
            best[far] = found
        distances: Floats = np.sqrt(best)
        return distances

    def triangles_mm(
        self, queries: Elements, targets: Elements, spacing_mm: Spacing, planar: bool
    ) -> tuple[Floats, Floats]:
        """By `triangles.squared`."""
        spacing = np.asarray(spacing_mm, np.float64)
        corners, counts = surface_triangles(2 if planar else 3)
        n = int(counts[queries.codes].sum())
        places, areas, best = np.empty((n, 3)), np.empty(n), np.empty(n)
        shape = np.asarray(queries.shape, np.int64)
        triangles.centres(queries.flat, queries.codes, shape, corners, counts, places, areas, spacing)
        rows = _Rows(targets)
        triangles.squared(places, *rows.arguments[1:], targets.codes, corners, counts, spacing, best)
        return areas, np.sqrt(best)

    def sums(self, distances_mm: Floats, sizes: Floats, limits_mm: Sequence[float]) -> Sums:
        """By `counting.sums`."""
        within = np.zeros(len(limits_mm))
        size, moment, largest = counting.sums(distances_mm, sizes, np.asarray(limits_mm, np.float64), within)
        return Sums(size, moment, largest, tuple(within.tolist()))

    def percentile_mm(self, distances_mm: Floats, sizes: Floats, share: float) -> float:
        """By `counting.percentile_mm`."""
        return float(counting.percentile_mm(distances_mm, sizes, share - ROUNDING))

    def bands(
        self,
        labels: tuple[Labels, Labels],
        borders: tuple[Elements, Elements],
        value: int,
        depth_mm: float,
        spacing_mm: Spacing,
    ) -> Bands:
        """By marking all voxels around border voxels in a box around both structures."""
        boxes = [_box(one) for one in borders]
        low = np.minimum(boxes[0][0], boxes[1][0])
        size = np.maximum(*(begin + size for begin, size in boxes)) - low
        reach = _reach(depth_mm, spacing_mm)
        near = np.zeros(tuple(size), np.uint8)
        for bit, array, border in zip((1, 2), labels, borders, strict=True):
            bands.mark(_frozen(array), value, border.flat, reach, low, near, bit)
        return Bands(*bands.counts(near))

    def warm_up(self) -> None:
        """Both ways to what is far away."""
        place = Elements.at(np.array([3]), np.array([1], np.uint8), (2, 2, 2))
        for search in (nearest.row_by_row, nearest.plane_by_plane):
            search(place.flat, *_Rows(place).arguments, np.ones(3), np.empty(1))


class _Rows:
    """Targets by the rows of their box, as the kernels want them."""

    def __init__(self, targets: Elements) -> None:
        self.low, self.size = _box(targets)
        self.start = np.zeros(int(self.size[0] * self.size[1]) + 1, np.int64)
        self.last = np.empty(len(targets), np.int32)
        self.shape = np.asarray(targets.shape, np.int64)
        self.flat = targets.flat
        nearest.rows_of(targets.flat, self.shape, self.low, self.size, self.start, self.last)

    @property
    def arguments(self) -> tuple[Array, ...]:
        """Lattice, box and rows."""
        return self.shape, self.low, self.size, self.start, self.last


def _near(flat: Array, rows: _Rows, spacing: Floats) -> Floats:
    best = np.empty(len(flat))
    offsets, across = _around(float(spacing[0]), float(spacing[1]))
    nearest.nearby(np.ascontiguousarray(flat), rows.flat, *rows.arguments, offsets, across, float(spacing[2]), best)
    return best


def _by_rows(flat: Array, rows: _Rows) -> bool:
    """Whether going from row to row costs less than a distance transform of the box of queries and targets."""
    shape = rows.shape
    row = flat // shape[2]
    j, k = row % shape[1], flat % shape[2]
    across, along = int(np.ptp(j)) + 1, int(np.ptp(k)) + 1
    box = int(rows.size[0]) * along * (int(rows.size[1]) + across)
    return len(flat) * (int(rows.size[0] * rows.size[1]) / 4 - int(rows.size[0])) < box


@lru_cache(maxsize=64)
def _around(first: float, second: float) -> tuple[Array, Floats]:
    """Offsets (M, 2) of the nearest rows, ascending by distance, and squared distances (M + 1,), of one more."""
    reach = [math.ceil(math.sqrt(ROWS * first * second / math.pi) / mm) + 1 for mm in (first, second)]
    i, j = (np.arange(-n, n + 1) for n in reach)
    squares = np.add.outer((i * first) ** 2, (j * second) ** 2)
    beyond = min(((reach[0] + 1) * first) ** 2, ((reach[1] + 1) * second) ** 2)  # what lies outside of this rectangle
    order = np.argsort(squares, axis=None, kind="stable")
    order = order[: min(ROWS, np.count_nonzero(squares < beyond))]
    at_i, at_j = np.unravel_index(order, squares.shape)
    visited = squares.ravel()[order]
    left = np.delete(squares.ravel(), order)
    offsets = np.stack([i[at_i], j[at_j]], axis=1).astype(np.int64)
    return offsets, np.append(visited, min(beyond, left.min(initial=np.inf)))


@lru_cache(maxsize=64)
def _reach(depth_mm: float, spacing_mm: Spacing) -> Array:
    """Rows (M, 3) of the ball of this radius: offsets along two axes, and how far it goes along the last."""
    limit = (depth_mm + 1e-6 * max(1.0, depth_mm)) ** 2
    most = [int(math.sqrt(limit) / mm) for mm in spacing_mm]
    rows = []
    for i in range(-most[0], most[0] + 1):
        for j in range(-most[1], most[1] + 1):
            left = limit - (i * spacing_mm[0]) ** 2 - (j * spacing_mm[1]) ** 2
            if left >= 0:
                rows.append((i, j, int(math.sqrt(left) / spacing_mm[2])))
    return np.array(rows, np.int64)


def _box(elements: Elements) -> tuple[Array, Array]:
    """Lowest indices (3,) and size (3,) of the box around all elements."""
    low = np.array(elements.low, np.int64)
    return low, np.array(elements.high, np.int64) - low + 1


def _frozen(labels: Labels) -> Labels:
    """Contiguous and read-only: kernels are compiled for this kind of array alone."""
    view = np.ascontiguousarray(labels).view()
    view.flags.writeable = False
    return view


def _values(flat: Labels) -> npt.NDArray[np.int64]:
    """What may occur: every value of 8 bits, or what is found."""
    return np.arange(256) if flat.itemsize == 1 else distinct(flat).astype(np.int64)


def _index(values: npt.NDArray[np.int64], flat: Labels) -> npt.NDArray[np.int64]:
    table = np.zeros(1 << (8 * flat.itemsize), np.int64)
    table[values] = np.arange(len(values))
    return table


def _in_slabs(work: Callable[[int, int], Array], planes: int, threads: int) -> list[Array]:
    """The parts of planes [0, planes), in their order."""
    ends = np.linspace(0, planes, min(max(1, threads), planes) + 1).astype(int)
    if len(ends) == 2:
        return [work(0, planes)]
    with ThreadPoolExecutor(len(ends) - 1) as pool:
        return list(pool.map(lambda ends: work(*ends), pairwise(ends.tolist())))


def _elements(parts: Sequence[Array], shape: Shape) -> dict[int, Elements]:
    packed = parts[0] if len(parts) == 1 else np.concatenate(parts)
    if not packed.size:
        return {}
    ends = np.zeros(int(packed.max() >> np.uint64(sweep.LABEL)) + 1, np.int64)
    packed = sweep.by_label(packed, ends)
    found = {}
    for label in np.flatnonzero(np.diff(ends, prepend=0)).tolist():
        of_it = packed[0 if label == 0 else ends[label - 1] : ends[label]]
        flat, codes, box = np.empty(len(of_it), np.int64), np.empty(len(of_it), np.uint8), np.empty((2, 3), np.int64)
        sweep.unpacked(of_it, np.asarray(shape, np.int64), flat, codes, box)
        (i, j, k), (last_i, last_j, last_k) = box.tolist()
        found[label] = Elements(flat, codes, shape, (i, j, k), (last_i, last_j, last_k))
    return found
