"""From logits on the network's grid straight to labels on the scan's own: arg-max first, a vote only at borders.

Interpolating every class linearly and taking the largest (nnU-Net's way) costs time and memory for each class. Linear
interpolation gives each new voxel a mean of the eight old ones around it; where one class is the largest at all eight
it is so in every mean of them, so nothing need be interpolated there. Where they disagree, a class that lies below one
of their winners at all eight cannot win; the others alone are interpolated, in float64. So the result is that of
interpolating all, and it is made plane by plane, as the planes of logits come.
Overlapping outputs (regions) are the same: what counts is the last one above 0.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from medseg.compiled import compiled
from medseg.preprocessing.axis import Orders, Shape, pairs
from medseg.resources import available_cores

Logits = npt.NDArray[np.float32]
Classes = npt.NDArray[np.unsignedinteger[Any]]
Indices = npt.NDArray[np.intp]
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Cells:
    """The old voxels along one axis as cells between two neighbours, and the new voxels that lie in each.

    New voxels [begin[i], begin[i + 1]) lie between old voxels i and i + reach[i]; `weight` (new) is that of the upper.
    """

    begin: Indices
    reach: Indices
    weight: Floats


def cells(old: int, new: int, order: int) -> Cells:
    """The cells of an axis that is brought from `old` to `new` voxels, linearly (order 1) or by the nearest (0)."""
    axis = pairs(old, new, 1 if order else 0)
    begin = np.searchsorted(axis.lower, np.arange(old + 1)).astype(np.intp)
    total = axis.weight[0] + axis.weight[1]
    reach = np.zeros(old, np.intp)
    if axis.between:
        reach[:-1] = 1
    return Cells(begin, reach, axis.weight[1] / total)


class LogitVote:
    """Takes slabs of logits in their order and paints labels into `out`.

    out: a view (X, Y, Z) of the cropped scan in RAS axes, of whatever layout; shape: of the network's grid; table: the
    label value of each class (0 the background), or with `painted` of no region and of each region.
    """

    def __init__(
        self, out: Classes, shape: Shape, axis: int, table: Sequence[int], orders: Orders, painted: bool = False
    ) -> None:
        p, q, r = axis, *(other for other in range(3) if other != axis)
        self._out = out.transpose(p, q, r)
        self._along = cells(shape[p], out.shape[p], orders[p])
        self._across = [cells(shape[a], out.shape[a], orders[a]) for a in (q, r)]
        self._table = np.array(table, out.dtype)
        self._painted = painted
        self._paint = _voter(out.dtype.name)  # here, before threads ask for it: each would compile its own
        self._done = 0
        self._last: tuple[Logits, Classes] | None = None

    def take(self, start: int, logits_PQRL: Logits) -> None:
        """The next planes of logits, the first of them number `start`; they are not needed any longer afterwards.

        Raises:
            ValueError: planes are missing.
        """
        if start != self._done:
            raise ValueError(f"plane {self._done} is next, not {start}")
        with ThreadPoolExecutor(available_cores()) as threads:
            found = list(threads.map(self._winners, logits_PQRL))
            planes = list(zip(logits_PQRL, found, strict=True))
            if self._last is not None:
                planes.insert(0, self._last)
                start -= 1
            last = start + len(planes) - 1
            for _ in threads.map(lambda i: self._layer(start + i, planes[i : i + 2]), range(len(planes))):
                pass
        self._done = last + 1
        plane, winners = planes[-1]
        self._last = (plane.copy(), winners) if self._done < len(self._along.reach) else None

    def _winners(self, plane_QRL: Logits) -> Classes:
        """For each voxel the place in the table."""
        found = np.empty(plane_QRL.shape[:2], np.uint16)
        (_last_above if self._painted else _largest)(plane_QRL, found)
        return found

    def _layer(self, i: int, planes: Sequence[tuple[Logits, Classes]]) -> None:
        """The new planes between the old ones i and i + 1, unless the upper one is still to come."""
        first, stop = self._along.begin[i : i + 2]
        if first == stop or (self._along.reach[i] and len(planes) < 2):
            return
        low, high = planes[0], planes[int(self._along.reach[i])]
        q, r = self._across
        self._paint(
            *(low[0], high[0], low[1], high[1]),
            *(q.begin, q.reach, q.weight, r.begin, r.reach, r.weight),
            *(self._along.weight[first:stop], self._table, self._out[first:stop], self._painted),
        )


# Types are named, so that each function is compiled once, not anew for every layout that comes by.
_PLANE, _FOUND, _INDICES, _WEIGHTS = "float32[:, :, ::1]", "uint16[:, ::1]", "intp[::1]", "float64[::1]"
_AXIS = f"{_INDICES}, {_INDICES}, {_WEIGHTS}"


@compiled(f"({_PLANE}, {_FOUND})", fastmath={"nnan", "nsz"})
def _largest(plane_QRL: Any, found: Any) -> None:
    for j in range(plane_QRL.shape[0]):
        for k in range(plane_QRL.shape[1]):
            line = plane_QRL[j, k]
            best = line[0]
            for c in range(1, line.size):  # first the value alone: that runs in vectors
                best = max(best, line[c])
            at = 0
            while line[at] != best:
                at += 1
            found[j, k] = at


@compiled(f"({_PLANE}, {_FOUND})")
def _last_above(plane_QRL: Any, found: Any) -> None:
    for j in range(plane_QRL.shape[0]):
        for k in range(plane_QRL.shape[1]):
            last = 0
            for c in range(plane_QRL.shape[2]):
                if plane_QRL[j, k, c] > 0:
                    last = c + 1
            found[j, k] = last


@lru_cache
def _voter(kind: str) -> Callable[..., None]:
    """`_vote` for label maps of this type."""
    planes = f"{_PLANE}, {_PLANE}, {_FOUND}, {_FOUND}"
    signature = f"({planes}, {_AXIS}, {_AXIS}, {_WEIGHTS}, {kind}[::1], {kind}[:, :, :], boolean)"
    vote: Callable[..., None] = compiled(signature)(_vote)
    return vote


def _vote(
    low: Any, high: Any, low_found: Any, high_found: Any,
    q_begin: Any, q_reach: Any, q_weight: Any, r_begin: Any, r_reach: Any, r_weight: Any,
    p_weight: Any, table: Any, out: Any, painted: Any,
) -> None:  # fmt: skip
    """New voxels between the planes `low` and `high` (Q, R, L), cell by cell, along that axis of `out` first whose
    voxels lie nearer to each other: else writing them takes longer than finding them.
    """
    n = low.shape[2]
    corners, lines, ends = np.empty((n, 8), np.float64), np.empty((n, 4), np.float64), np.empty((n, 2), np.float64)
    exceeded, chosen, found = np.empty(n, np.int32), np.empty(n, np.int64), np.empty(8, np.int64)
    first_q = abs(out.strides[1]) < abs(out.strides[2])
    for cell in range(q_reach.size * r_reach.size):
        j, k = cell % q_reach.size, cell // q_reach.size
        if not first_q:
            j, k = cell // r_reach.size, cell % r_reach.size
        if q_begin[j] < q_begin[j + 1] and r_begin[k] < r_begin[k + 1]:
            jj, kk = j + q_reach[j], k + r_reach[k]
            box = out[:, q_begin[j] : q_begin[j + 1], r_begin[k] : r_begin[k + 1]]
            one = low_found[j, k]
            if _all_are(one, low_found, j, jj, k, kk) and _all_are(one, high_found, j, jj, k, kk):
                box[:] = table[one]
                continue
            found[0], found[1], found[2], found[3] = one, low_found[j, kk], low_found[jj, k], low_found[jj, kk]
            found[4], found[5] = high_found[j, k], high_found[j, kk]
            found[6], found[7] = high_found[jj, k], high_found[jj, kk]
            several = _candidates(low, high, j, jj, k, kk, painted, found, exceeded, chosen, corners)
            v, w = q_weight[q_begin[j] : q_begin[j + 1]], r_weight[r_begin[k] : r_begin[k + 1]]
            for x in range(p_weight.size):
                _between(corners, lines, several, p_weight[x])
                for y in range(v.size):
                    _between(lines, ends, several, v[y])
                    for z in range(w.size):
                        box[x, y, z] = table[_winner(ends, chosen, several, w[z], painted)]


@compiled()
def _all_are(one: Any, found: Any, j: Any, jj: Any, k: Any, kk: Any) -> Any:
    return one == found[j, k] and one == found[j, kk] and one == found[jj, k] and one == found[jj, kk]


@compiled()
def _candidates(
    low: Any, high: Any, j: Any, jj: Any, k: Any, kk: Any, painted: Any,
    found: Any, exceeded: Any, chosen: Any, corners: Any,
) -> Any:  # fmt: skip
    """How many classes can win within a cell; which, into `chosen`, and their eight values, into `corners`."""
    a, b, c, d = low[j, k], low[j, kk], low[jj, k], low[jj, kk]
    e, f, g, h = high[j, k], high[j, kk], high[jj, k], high[jj, kk]
    exceeded[:] = 0
    for at in range(1 if painted else 8):
        n, once = found[at], True
        for before in range(at):
            once = once and found[before] != n
        if painted:
            nought = np.float32(0)
            _exceeds(a, b, c, d, e, f, g, h, nought, nought, nought, nought, nought, nought, nought, nought, exceeded)
        elif once:
            _exceeds(a, b, c, d, e, f, g, h, a[n], b[n], c[n], d[n], e[n], f[n], g[n], h[n], exceeded)
    several = 0
    for n in range(a.size):
        if not exceeded[n]:
            chosen[several] = n
            to = corners[several]
            to[0], to[1], to[2], to[3], to[4], to[5], to[6], to[7] = a[n], b[n], c[n], d[n], e[n], f[n], g[n], h[n]
            several += 1
    return several


@compiled()
def _exceeds(
    a: Any, b: Any, c: Any, d: Any, e: Any, f: Any, g: Any, h: Any,
    a0: Any, b0: Any, c0: Any, d0: Any, e0: Any, f0: Any, g0: Any, h0: Any, exceeded: Any,
) -> None:  # fmt: skip
    """Mark the classes that lie below the eight values at all eight corners; simple enough to run in vectors."""
    for n in range(a.size):
        lower = (a[n] < a0) & (b[n] < b0) & (c[n] < c0) & (d[n] < d0)
        exceeded[n] |= lower & (e[n] < e0) & (f[n] < f0) & (g[n] < g0) & (h[n] < h0)


@compiled()
def _between(old: Any, new: Any, several: Any, weight: Any) -> None:
    """The first half of each row of `old` and its second half, which has `weight`, to one row of `new`."""
    half = new.shape[1]
    for m in range(several):
        for n in range(half):
            new[m, n] = (1 - weight) * old[m, n] + weight * old[m, half + n]


@compiled()
def _winner(ends: Any, chosen: Any, several: Any, weight: Any, painted: Any) -> Any:
    """The place in the table of a new voxel that lies between the two ends of a line."""
    best, winner = -np.inf, 0
    for m in range(several):
        value = (1 - weight) * ends[m, 0] + weight * ends[m, 1]
        if painted:
            if value > 0:
                winner = chosen[m] + 1
        elif value > best:
            best, winner = value, chosen[m]
    return winner
