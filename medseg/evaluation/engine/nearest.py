"""Exact distances from places on a lattice to the nearest of others, compiled.

Targets are kept row by row: the row of a place is found by its first two indices, and within it places ascend. A query
visits rows in the order of their distance until none can be nearer. Most queries end in the first row or soon after.
What is left is far away: it goes on from row to row if that is little, and else through a distance transform that is
streamed plane by plane (Felzenszwalb and Huttenlocher 2012), which bounds the time by the size of the box and the
memory by that of a plane.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from medseg.compiled import compiled


@compiled()
def rows_of(flat: Any, shape: Any, low: Any, size: Any, start: Any, last: Any) -> None:
    """Where each row of a box begins: `start` (I * J + 1,) of a box at `low` of `size`; `last` (N,): index along k."""
    nj, nk = shape[1], shape[2]
    begin, at = (
        np.int64(-nk),
        np.int64(0),
    )  # of the row at hand: dividing anew for each place takes longer than the rest
    for n in range(flat.size):
        if flat[n] >= begin + nk:
            row = flat[n] // nk
            begin = row * nk
            at = (row // nj - low[0]) * size[1] + row % nj - low[1] + 1
        last[n] = flat[n] - begin
        start[at] += 1
    for row in range(start.size - 1):
        start[row + 1] += start[row]


@compiled()
def nearby(
    flat: Any,
    targets: Any,
    shape: Any,
    low: Any,
    size: Any,
    start: Any,
    last: Any,
    offsets: Any,
    across: Any,
    along: float,
    best: Any,
) -> None:
    """Squared distances from `flat` (N,) to the nearest target in the rows of `offsets` (M, 2) around; else infinite.

    flat and `targets` ascend: what stands in both is at no distance, and needs no search.
    across (M + 1,): the squared distance of each of these rows, ascending, and of the nearest one that is none of them;
    along: spacing of the last axis. A distance is exact, or infinite.
    """
    nj, nk = shape[1], shape[2]
    same = 0
    row_begin, i, j = np.int64(-nk), np.int64(0), np.int64(0)
    for n in range(flat.size):
        while same < targets.size and targets[same] < flat[n]:
            same += 1
        if same < targets.size and targets[same] == flat[n]:
            best[n] = 0.0
            continue
        if flat[n] >= row_begin + nk:
            row = flat[n] // nk
            row_begin, i, j = row * nk, row // nj - low[0], row % nj - low[1]
        k = flat[n] - row_begin
        nearest = np.inf
        at = 0
        while at < offsets.shape[0] and across[at] < nearest:
            p, q = i + offsets[at, 0], j + offsets[at, 1]
            if 0 <= p < size[0] and 0 <= q < size[1]:
                begin, end = start[p * size[1] + q], start[p * size[1] + q + 1]
                if begin < end:
                    away = _along(last, begin, end, k) * along
                    nearest = min(nearest, across[at] + away * away)
            at += 1
        if across[at] < nearest:  # a row that was not visited may hold a nearer one
            nearest = np.inf
        best[n] = nearest


@compiled()
def _along(last: Any, begin: int, end: int, k: int) -> Any:
    """How far the nearest of last[begin:end], which ascends, is from k."""
    low, high = begin, end
    while low < high:
        middle = (low + high) >> 1
        if last[middle] < k:
            low = middle + 1
        else:
            high = middle
    away = last[low] - k if low < end else k - last[end - 1]
    if low > begin:
        away = min(away, k - last[low - 1])
    return away


@compiled()
def row_by_row(flat: Any, shape: Any, low: Any, size: Any, start: Any, last: Any, spacing: Any, best: Any) -> None:
    """Squared distances from `flat` (N,) to the nearest target; planes and rows outwards until none can be nearer."""
    nj, nk = shape[1], shape[2]
    for n in range(flat.size):
        row, k = flat[n] // nk, flat[n] % nk
        i, j = row // nj - low[0], row % nj - low[1]
        nearest = np.inf
        first_i, first_j = min(max(i, 0), size[0] - 1), min(max(j, 0), size[1] - 1)
        for way_i in range(2):
            p = first_i - way_i
            step_i = 1 - 2 * way_i
            while 0 <= p < size[0]:
                plane = (p - i) * spacing[0]
                plane *= plane
                if plane >= nearest:
                    break
                for way_j in range(2):
                    q = first_j - way_j
                    step_j = 1 - 2 * way_j
                    while 0 <= q < size[1]:
                        across = (q - j) * spacing[1]
                        across = plane + across * across
                        if across >= nearest:
                            break
                        begin, end = start[p * size[1] + q], start[p * size[1] + q + 1]
                        if begin < end:
                            away = _along(last, begin, end, k) * spacing[2]
                            nearest = min(nearest, across + away * away)
                        q += step_j
                p += step_i
        best[n] = nearest


@compiled()
def plane_by_plane(flat: Any, shape: Any, low: Any, size: Any, start: Any, last: Any, spacing: Any, best: Any) -> None:
    """Squared distances from `flat` (N,), in raster order, to the nearest target, by a streamed distance transform."""
    nj, nk = shape[1], shape[2]
    row = flat // nk
    at_i, at_j, at_k = row // nj - low[0], row % nj - low[1], flat % nk
    first_j, first_k = at_j.min(), at_k.min()
    at_j -= first_j
    at_k -= first_k
    width = at_k.max() + 1
    along = np.empty((size[1], width))  # of each row that holds targets, squared
    rows = np.empty(size[1], np.int64)
    plane = np.empty((width, at_j.max() + 1))
    hull, border = np.empty(size[1], np.int64), np.empty(size[1] + 1)
    best[:] = np.inf
    for i in range(size[0]):
        count = 0
        for j in range(size[1]):
            begin, end = start[i * size[1] + j], start[i * size[1] + j + 1]
            if begin < end:
                _in_row(last[begin:end], first_k, spacing[2], along[count])
                rows[count] = j
                count += 1
        if count:
            for k in range(width):
                _envelope(along[:count, k], rows[:count], spacing[1], first_j, hull, border, plane[k])
            for n in range(flat.size):
                away = (at_i[n] - i) * spacing[0]
                away *= away
                if away < best[n]:
                    best[n] = min(best[n], away + plane[at_k[n], at_j[n]])


@compiled()
def _in_row(last: Any, first: int, spacing: float, out: Any) -> None:
    """Squared distances along a row from places `first` on to the nearest of `last`, which ascends."""
    at = 0
    for k in range(out.size):
        while at + 1 < last.size and abs(last[at + 1] - first - k) <= abs(last[at] - first - k):
            at += 1
        away = (last[at] - first - k) * spacing
        out[k] = away * away


@compiled()
def _envelope(heights: Any, rows: Any, spacing: float, first: int, hull: Any, border: Any, out: Any) -> None:
    """The least of heights[n] + (spacing * (j - rows[n]))^2 over n, for every j from `first` on: a lower envelope."""
    top = 0
    hull[0] = 0
    border[0] = -np.inf
    square = spacing * spacing
    for n in range(1, rows.size):
        crossing = _crossing(heights, rows, square, hull[top], n)
        while crossing <= border[top]:  # never at the bottom, whose border is -inf
            top -= 1
            crossing = _crossing(heights, rows, square, hull[top], n)
        top += 1
        hull[top], border[top] = n, crossing
    at = 0
    for j in range(out.size):
        while at < top and border[at + 1] < first + j:
            at += 1
        away = (first + j - rows[hull[at]]) * spacing
        out[j] = heights[hull[at]] + away * away


@compiled()
def _crossing(heights: Any, rows: Any, square: float, m: int, n: int) -> Any:
    """Where the parabola of row n falls below that of row m, which comes before it."""
    return (heights[n] - heights[m]) / (2 * square * (rows[n] - rows[m])) + (rows[n] + rows[m]) / 2
