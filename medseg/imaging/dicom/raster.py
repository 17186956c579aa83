"""Polygons to pixels: which pixel centres lie inside, by the even-odd rule."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Points = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]

_AT_ONCE = 1 << 22  # crossings of edges with lines of pixels that are held in memory at a time


def fill(polygons: Sequence[Points], shape: tuple[int, int]) -> Mask:
    """The pixels (X, Y) whose centres lie inside an odd number of times of closed polygons (n, 2) in pixel indices.

    Pixel (x, y) has its centre at exactly (x, y). The last point joins the first. So polygons inside others are holes,
    a channel of no width ("keyhole") leaves no trace, and what two polygons share is outside. A centre exactly on an
    edge belongs to what lies on the side of higher x; on an edge along x, of higher y: areas that share an edge share
    no pixel and leave none between them. Method: scanline parity (Foley et al., Computer Graphics, 3.6).
    """
    inside: Mask = np.zeros(shape, bool)
    low, high = (np.concatenate(ends) if polygons else np.zeros((0, 2)) for ends in _edges(polygons))
    if not len(low):
        return inside
    ends = np.clip(np.ceil([low[:, 0], high[:, 0]]), 0, shape[0])
    x0, x1 = int(ends.min()), int(ends.max())
    first = np.clip(np.ceil(low[:, 1]), 0, shape[1]).astype(np.int64)
    last = np.clip(np.ceil(high[:, 1]), 0, shape[1]).astype(np.int64)  # half-open: an edge meets lines low <= y < high
    y0, y1 = int(first.min()), int(last.max())
    toggles = np.zeros((x1 - x0 + 1, y1 - y0), np.int32)
    n = last - first
    for part in _parts(n):
        edge = np.repeat(np.arange(len(n))[part], n[part])
        line = np.arange(len(edge)) - np.repeat(np.cumsum(n[part]) - n[part], n[part]) + first[edge]
        rise, run = (high - low)[edge, 1], (high - low)[edge, 0]
        crossing = low[edge, 0] + (line - low[edge, 1]) * (run / rise)
        x = np.clip(np.ceil(crossing), x0, x1).astype(np.int64)
        flat = np.bincount((x - x0) * (y1 - y0) + line - y0, minlength=toggles.size)
        toggles += flat.reshape(toggles.shape).astype(np.int32)
    inside[x0:x1, y0:y1] = np.cumsum(toggles[:-1], axis=0) % 2 == 1
    return inside


def _edges(polygons: Sequence[Points]) -> tuple[list[Points], list[Points]]:
    """The ends of all edges that are not along x: the lower in y first, so that an edge is one number both ways."""
    lows, highs = [], []
    for polygon in polygons:
        start = np.asarray(polygon, np.float64)
        end = np.roll(start, -1, axis=0)
        up = (start[:, 1] <= end[:, 1])[:, None]
        slanted = start[:, 1] != end[:, 1]
        lows.append(np.where(up, start, end)[slanted])
        highs.append(np.where(up, end, start)[slanted])
    return lows, highs


def _parts(n: npt.NDArray[np.int64]) -> list[slice]:
    """Pieces of the edges whose crossings fit into memory."""
    pieces = np.cumsum(n) // _AT_ONCE
    ends = np.flatnonzero(np.diff(pieces)) + 1
    return [slice(int(a), int(b)) for a, b in zip([0, *ends], [*ends, len(n)], strict=True)]
