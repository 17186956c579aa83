"""Voxels of a structure that lie near its own border, compiled: what Boundary IoU counts."""

from __future__ import annotations

from typing import Any

from medseg.compiled import compiled


@compiled()
def mark(labels: Any, value: int, flat: Any, reach: Any, low: Any, near: Any, bit: int) -> None:
    """Set `bit` in `near` where a voxel equal to `value` lies around one of the border voxels `flat`.

    reach (M, 3): offsets along the first two axes, and how far the ball reaches along the last. near: of the box at
    `low`, which holds all these voxels.
    """
    ni, nj, nk = labels.shape
    end = 0
    while end < flat.size:
        begin = end
        row, k = flat[begin] // nk, flat[begin] % nk
        end += 1
        while end < flat.size and flat[end] == flat[end - 1] + 1 and k + end - begin < nk:  # a run along the row
            end += 1
        i, j = row // nj, row % nj
        for at in range(reach.shape[0]):
            p, q = i + reach[at, 0], j + reach[at, 1]
            if not (0 <= p < ni and 0 <= q < nj):
                continue
            if not (0 <= p - low[0] < near.shape[0] and 0 <= q - low[1] < near.shape[1]):
                continue
            first = max(k - reach[at, 2], low[2])
            last = min(k + end - begin + reach[at, 2], low[2] + near.shape[2])
            near_row, row_of = near[p - low[0], q - low[1]], labels[p, q]
            for r in range(first, last):  # without a branch
                near_row[r - low[2]] |= bit * (row_of[r] == value)


@compiled()
def counts(near: Any) -> Any:
    """How many voxels bear the bit 1, the bit 2, and both."""
    first, second, both = 0, 0, 0
    for mark in near.ravel():
        first += mark & 1
        second += mark >> 1
        both += mark == 3
    return first, second, both
