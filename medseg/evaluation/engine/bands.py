"""Voxels of a structure that lie near its own border, compiled: what Boundary IoU counts."""

from __future__ import annotations

from typing import Any

from medseg.compiled import compiled


@compiled()
def mark(labels: Any, value: int, flat: Any, reach: Any, low: Any, near: Any, bit: int) -> int:
    """Set `bit` in `near` where a voxel equal to `value` lies around one of the border voxels `flat`; how many are new.

    reach (M, 3): offsets along the first two axes, and how far the ball reaches along the last. near: of the box at
    `low`, which holds all these voxels.
    """
    ni, nj, nk = labels.shape
    count = 0
    for n in range(flat.size):
        row, k = flat[n] // nk, flat[n] % nk
        i, j = row // nj, row % nj
        for at in range(reach.shape[0]):
            p, q = i + reach[at, 0], j + reach[at, 1]
            if not (0 <= p < ni and 0 <= q < nj):
                continue
            if not (0 <= p - low[0] < near.shape[0] and 0 <= q - low[1] < near.shape[1]):
                continue
            begin = max(k - reach[at, 2], low[2])
            end = min(k + reach[at, 2] + 1, low[2] + near.shape[2])
            for r in range(begin, end):
                if labels[p, q, r] == value and near[p - low[0], q - low[1], r - low[2]] & bit == 0:
                    near[p - low[0], q - low[1], r - low[2]] |= bit
                    count += 1
    return count


@compiled()
def in_both(near: Any) -> int:
    """How many voxels bear both bits."""
    count = 0
    for mark in near.ravel():
        count += mark == 3
    return count
