"""Outlines of a mask drawn on one slice: closed polygons that rasterise back to exactly the same pixels.

The outline runs half-way between the centres of a mask's pixels and those of their neighbours (marching squares at
0.5), so no pixel centre is nearer to it than 0.35 pixels, and any even-odd rule at pixel centres gives the mask back,
whatever the rounding. Outlines along the edges of pixels would be as exact, but diagonal neighbours touch in them, and
they have half as many points again. The price: the area inside is half a pixel less for every outer ring, and half a
pixel more for every hole.

Holes are joined to their outer ring by a channel of no width ("keyhole"): the only form that DICOM has for a
CLOSED_PLANAR contour with a hole (PS3.3 C.8.8.6.3), and the only one that readers understand which fill every contour
on its own; those that combine contours by exclusive-or see the same. The channel runs between columns of pixels
through the mask, so it passes no pixel centre either.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Mask = npt.NDArray[np.bool_]
Points = npt.NDArray[np.float64]
Index = npt.NDArray[np.int64]

# Places are counted in half pixels. A cell has four pixels as corners, of weights 1, 2, 4 and 8: (0, 0), (2, 0),
# (2, 2), (0, 2). By the sum of those in the mask: the ways through the cell between the middles of its sides, the mask
# always on the same hand. Pixels that touch by a corner alone belong to different outlines.
_LEFT, _TOP, _RIGHT, _BOTTOM = (0, 1), (1, 0), (2, 1), (1, 2)
_WAYS = {
    1: ((_LEFT, _TOP),),
    2: ((_TOP, _RIGHT),),
    3: ((_LEFT, _RIGHT),),
    4: ((_RIGHT, _BOTTOM),),
    5: ((_LEFT, _TOP), (_RIGHT, _BOTTOM)),
    6: ((_TOP, _BOTTOM),),
    7: ((_LEFT, _BOTTOM),),
    8: ((_BOTTOM, _LEFT),),
    9: ((_BOTTOM, _TOP),),
    10: ((_TOP, _RIGHT), (_BOTTOM, _LEFT)),
    11: ((_BOTTOM, _RIGHT),),
    12: ((_RIGHT, _LEFT),),
    13: ((_RIGHT, _TOP),),
    14: ((_TOP, _LEFT),),
}


def outlines(mask: Mask) -> list[Points]:
    """The polygons (n, 2) around the pixels of a mask (X, Y), in pixel indices; empty for an empty mask.

    Pixel (x, y) has its centre at exactly (x, y). A polygon closes from its last point to its first, has at least four
    points and none on a straight line between its neighbours. Polygons do not overlap: filling each alone and uniting
    them, and combining them by exclusive-or, give the same.
    """
    occupied = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not len(occupied[0]):
        return []
    low, high = (np.array([line[end] for line in occupied]) for end in (0, -1))
    padded = np.pad(mask[low[0] : high[0] + 1, low[1] : high[1] + 1], 1)
    rings = _Rings(padded)
    return [_simple(rings.points[nodes]) / 2 - 1 + low for nodes in rings.joined()]


def filled(polygons: Sequence[Points], shape: tuple[int, int]) -> Mask:
    """Pixels (X, Y) whose centres lie inside an odd number of polygons (n, 2), each in pixel indices.

    Along each line of centres, every edge that crosses it turns outside into inside, or back. Nothing here knows how
    the polygons were made, so that it can check `outlines`.
    """
    ends = np.concatenate(polygons)
    starts = np.concatenate([np.roll(polygon, 1, axis=0) for polygon in polygons])
    first = np.ceil(np.minimum(starts[:, 1], ends[:, 1])).astype(np.int64).clip(0, shape[1])
    after = np.ceil(np.maximum(starts[:, 1], ends[:, 1])).astype(np.int64).clip(0, shape[1])
    n = after - first
    edge = np.repeat(np.arange(len(n)), n)
    line = first[edge] + np.arange(len(edge)) - np.repeat(np.cumsum(n) - n, n)
    (x0, y0), (x1, y1) = starts[edge].T, ends[edge].T
    crossing = x0 + (line - y0) * (x1 - x0) / (y1 - y0)
    turns = np.zeros((shape[0] + 1, shape[1]), np.uint8)
    np.add.at(turns, (np.ceil(crossing).astype(np.int64).clip(0, shape[0]), line), 1)
    inside: Mask = np.cumsum(turns, axis=0, dtype=np.uint8)[:-1] % 2 == 1
    return inside


class _Rings:
    """The rings around a padded mask (X, Y) as linked nodes: `points` (n, 2) in half pixels, and what follows each."""

    def __init__(self, padded: Mask) -> None:
        self.mask = padded
        starts, ends = _segments(padded)
        size = np.array(padded.shape) * 2
        self.node = np.full(size, -1, np.int64)  # by place
        self.node[starts[:, 0], starts[:, 1]] = np.arange(len(starts))
        self.points: Index = starts
        self.follows: list[int] = self.node[ends[:, 0], ends[:, 1]].tolist()

    def joined(self) -> list[list[int]]:
        """The nodes of each polygon in order, holes joined to the ring around them."""
        rings = self._walk(range(len(self.follows)))
        areas = [_area(self.points[ring]) for ring in rings]
        outer = [ring[0] for ring, area in zip(rings, areas, strict=True) if area > 0]
        holes = [self.points[ring] for ring, area in zip(rings, areas, strict=True) if area < 0]
        if not holes:
            return rings
        channels = [self._channel(hole) for hole in holes]
        more = [place for channel in channels for place in (channel[0], channel[1], channel[1])]
        first_new = len(self.points)
        self.points = np.concatenate([self.points, np.array(more)])
        self.follows += [-1] * len(more)
        for i, (start, end) in enumerate(channels):
            self._open(start, end, first_new + 3 * i)
        return self._walk(outer)

    def _walk(self, starts: range | list[int]) -> list[list[int]]:
        seen = bytearray(len(self.follows))
        rings = []
        for start in starts:
            ring, node = [], start
            while not seen[node]:
                seen[node] = 1
                ring.append(node)
                node = self.follows[node]
            if ring:
                rings.append(ring)
        return rings

    def _channel(self, hole: Index) -> tuple[tuple[int, int], tuple[int, int]]:
        """From a hole's first row up between two columns, through the mask, to the next ring; in half pixels.

        The ring reached begins in an earlier row, so that following ring after ring ends at an outer one.
        """
        top = hole[:, 1].min()
        right = int(hole[hole[:, 1] == top, 0].min()) // 2  # the hole's first pixel in its first row ...
        row = (int(top) + 1) // 2
        pair = self.mask[right - 1 : right + 1]  # ... and left of it one of the mask; in the row above, both are of it
        ends = int(np.flatnonzero(~pair[:, : row - 1].all(axis=0))[-1])
        one = bool(pair[:, ends].any())
        return (2 * right - 1, 2 * row), (2 * right - 1, 2 * ends if one else 2 * ends + 1)

    def _open(self, start: tuple[int, int], end: tuple[int, int], new: int) -> None:
        """Lead the ring at `end` through the ring at `start` and back, over three new nodes from `new` on."""
        node, there = int(self.node[start]), int(self.node[end])
        if there < 0:  # the middle of a straight way, which gets a node of its own
            there = new + 1
            before, after = (int(self.node[end[0] + side, end[1]]) for side in (-1, 1))
            if self.follows[before] != after:
                before, after = after, before
            self.follows[before], self.follows[there] = there, after
            self.node[end] = there
        again_start, again_end = new, new + 2
        self.follows[again_start], self.follows[again_end] = self.follows[node], self.follows[there]
        self.follows[there], self.follows[node] = again_start, again_end


def _segments(padded: Mask) -> tuple[Index, Index]:
    """Where each piece of the outline starts and ends (n, 2), in half pixels."""
    m = padded.astype(np.uint8)
    code = m[:-1, :-1] + 2 * m[1:, :-1] + 4 * m[1:, 1:] + 8 * m[:-1, 1:]
    x, y = np.nonzero((code > 0) & (code < 15))
    cells, codes = 2 * np.stack([x, y], axis=1), code[x, y]
    starts, ends = [], []
    for which, ways in _WAYS.items():
        here = cells[codes == which]
        for start, end in ways:
            starts.append(here + start)
            ends.append(here + end)
    return np.concatenate(starts), np.concatenate(ends)


def _area(ring: Index) -> float:
    """Twice the signed area: positive where the ring has the mask inside."""
    x, y = ring.T
    return float(np.sum(np.roll(x, -1) * y - x * np.roll(y, -1)))


def _simple(ring: Index) -> Points:
    """Without the points at which the ring goes straight on; where it turns back (a channel's end) they stay."""
    came, goes = ring - np.roll(ring, 1, axis=0), np.roll(ring, -1, axis=0) - ring
    straight = came[:, 0] * goes[:, 1] == came[:, 1] * goes[:, 0]
    kept: Points = ring[~straight | ((came * goes).sum(axis=1) < 0)].astype(np.float64)
    return kept
