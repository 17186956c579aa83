"""Voxel counts and sums over surfaces, compiled."""

from __future__ import annotations

from typing import Any

import numpy as np

from medseg.compiled import compiled

BINS = 1024


@compiled()
def joint(words_r: Any, words_p: Any, bits: int, index_r: Any, index_p: Any, counts: Any) -> None:
    """Add the voxels of two maps to their joint histogram; a word holds several voxels of `bits` bits each.

    Words mostly repeat, so runs of the same pair of words are counted as one.
    """
    mask = np.uint64((1 << bits) - 1)
    begin, n = 0, words_r.size
    while begin < n:
        r, p = words_r[begin], words_p[begin]
        end = begin + 1
        while end < n and words_r[end] == r and words_p[end] == p:
            end += 1
        for shift in range(0, 64, bits):
            at_r = index_r[(r >> np.uint64(shift)) & mask]
            at_p = index_p[(p >> np.uint64(shift)) & mask]
            counts[at_r, at_p] += end - begin
        begin = end


@compiled()
def sums(distances_mm: Any, sizes: Any, limits_mm: Any, within: Any) -> Any:
    """Size, size times distance and largest distance of a surface; adds to `within` the size within each limit."""
    size, moment, largest = 0.0, 0.0, 0.0
    for n in range(distances_mm.size):
        d, s = distances_mm[n], sizes[n]
        size += s
        moment += s * d
        largest = max(largest, d)
        for at in range(limits_mm.size):
            if d <= limits_mm[at]:
                within[at] += s
    return size, moment, largest


@compiled()
def percentile_mm(distances_mm: Any, sizes: Any, share: float) -> float:
    """The smallest distance that at least this share of the surface does not exceed.

    The surface is first summed in bins of distance, so that only the one that holds the percentile is sorted.
    """
    largest = 0.0
    for d in distances_mm:
        largest = max(largest, d)
    if largest == 0.0 or np.isinf(largest):
        return largest
    binned = np.zeros(BINS + 1)
    per_mm = BINS / largest
    total = 0.0
    for n in range(distances_mm.size):
        binned[int(distances_mm[n] * per_mm)] += sizes[n]
        total += sizes[n]
    wanted, below, at = share * total, 0.0, 0
    while at < BINS and below + binned[at] < wanted:
        below += binned[at]
        at += 1
    here = np.empty(distances_mm.size)
    weights = np.empty(distances_mm.size)
    m = 0
    for n in range(distances_mm.size):
        if int(distances_mm[n] * per_mm) == at:
            here[m], weights[m] = distances_mm[n], sizes[n]
            m += 1
    found = largest
    for n in np.argsort(here[:m]):
        found = here[n]
        below += weights[n]
        if below >= wanted:
            break
    return found
