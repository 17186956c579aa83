"""One pass over a label map finds the surface elements of every label.

Rows are compared as a whole, in vectors; only where neighbours differ is a place looked at. What is found is packed
into 64 bits (label, place, code), so that it takes 8 bytes an element and is brought into the order of labels by
counting.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from medseg.compiled import compiled

PLACE = 8  # bits of the code, below the place
LABEL = 48  # bits of code and place, below the label


@compiled()
def corners(labels: Any, begin: int, end: int, whole: int) -> Any:
    """Packed corners in the planes `begin` to `end` of the lattice, in raster order; outside is background.

    labels (I, J, K), read-only and contiguous, has corners (I + 1, J + 1, K + 1). whole: the code of a corner that lies
    inside, 255, or 15 where there is only one plane, of which only the lower corners are asked for.
    """
    nj, nk = labels.shape[1], labels.shape[2]
    rows = np.zeros((2, 2, nk + 2), labels.dtype)  # (plane below or above, row before or after), background at the ends
    differs = np.zeros(nk + 2, labels.dtype)
    mixed = np.zeros((nk + 8) // 8 * 8, labels.dtype)
    words, per_word = mixed.view(np.uint64), 8 // labels.itemsize
    found = np.empty(1 << 12, np.uint64)
    n = 0
    around = np.zeros(8, np.int64)
    for i in range(begin, end):
        rows[:] = 0
        for j in range(nj + 1):
            now = j & 1
            _take(labels, i - 1, j, rows[0, now])
            _take(labels, i, j, rows[1, now])
            a, b, c, d = rows[0, 1 - now], rows[0, now], rows[1, 1 - now], rows[1, now]
            for k in range(nk + 2):
                differs[k] = (a[k] ^ b[k]) | (a[k] ^ c[k]) | (a[k] ^ d[k])
            for k in range(nk + 1):
                mixed[k] = differs[k] | differs[k + 1] | (a[k] ^ a[k + 1])
            row = (i * (nj + 1) + j) * (nk + 1)
            for word in range(words.size):
                if words[word] == 0:
                    continue
                found = _with_room(found, n + 64)
                for k in range(word * per_word, min(word * per_word + per_word, nk + 1)):
                    if mixed[k] != 0:
                        around[0], around[1], around[2], around[3] = a[k], a[k + 1], b[k], b[k + 1]
                        around[4], around[5], around[6], around[7] = c[k], c[k + 1], d[k], d[k + 1]
                        n = _pack_corner(around, row + k, whole, found, n)
    return found[:n]


@compiled()
def _take(labels: Any, i: int, j: int, row: Any) -> None:
    """Copy a row of labels between the two ends of `row`, or background where there is none."""
    if 0 <= i < labels.shape[0] and 0 <= j < labels.shape[1]:
        row[1 : labels.shape[2] + 1] = labels[i, j]
    else:
        row[:] = 0


@compiled()
def _with_room(found: Any, n: int) -> Any:
    """The same array, or a larger copy that has room for n."""
    if n <= found.size:
        return found
    larger = np.empty(2 * found.size + 64, np.uint64)
    larger[: found.size] = found
    return larger


@compiled()
def _pack_corner(around: Any, place: int, whole: int, found: Any, n: int) -> int:
    """Add a corner once for each label among the 8 voxels around it; the new number of what was found."""
    for corner in range(8):
        label = around[corner]
        if label == 0:
            continue
        code = 0
        for other in range(8):
            if around[other] == label:
                if other < corner:  # its turn came before
                    code = whole
                    break
                code |= 128 >> other
        if code != whole:
            found[n] = np.uint64((label << LABEL) | (place << PLACE) | code)
            n += 1
    return n


@compiled()
def borders(labels: Any, begin: int, end: int, planar: bool) -> Any:
    """Packed border voxels in the planes `begin` to `end`, in raster order; `planar`: of a plane there is no above."""
    nj, nk = labels.shape[1], labels.shape[2]
    rows = np.zeros((5, nk + 2), labels.dtype)  # here, before, after, below, above; background at the ends
    here, before, after, below, above = rows[0], rows[1], rows[2], rows[3], rows[4]
    mixed = np.zeros((nk + 7) // 8 * 8, labels.dtype)
    words, per_word = mixed.view(np.uint64), 8 // labels.itemsize
    found = np.empty(1 << 12, np.uint64)
    n = 0
    for i in range(begin, end):
        for j in range(nj):
            _take(labels, i, j, here)
            _take(labels, i, j - 1, before)
            _take(labels, i, j + 1, after)
            _take(labels, i if planar else i - 1, j, below)
            _take(labels, i if planar else i + 1, j, above)
            for k in range(nk):
                at = here[k + 1]
                across = (at ^ before[k + 1]) | (at ^ after[k + 1]) | (at ^ below[k + 1]) | (at ^ above[k + 1])
                mixed[k] = across | (at ^ here[k]) | (at ^ here[k + 2])
            row = (i * nj + j) * nk
            for word in range(words.size):
                if words[word] == 0:
                    continue
                found = _with_room(found, n + 8)
                for k in range(word * per_word, min(word * per_word + per_word, nk)):
                    label = np.int64(here[k + 1])
                    if mixed[k] != 0 and label != 0:
                        code = _meets_another(labels, i, j, k)
                        found[n] = np.uint64((label << LABEL) | ((row + k) << PLACE) | code)
                        n += 1
    return found[:n]


@compiled()
def _meets_another(labels: Any, i: int, j: int, k: int) -> int:
    """1 if a neighbour in the image has another label, else 0."""
    ni, nj, nk = labels.shape
    at = labels[i, j, k]
    along = (k > 0 and labels[i, j, k - 1] != at) or (k < nk - 1 and labels[i, j, k + 1] != at)
    across = (j > 0 and labels[i, j - 1, k] != at) or (j < nj - 1 and labels[i, j + 1, k] != at)
    return int(along or across or (i > 0 and labels[i - 1, j, k] != at) or (i < ni - 1 and labels[i + 1, j, k] != at))


@compiled()
def by_label(packed: Any, counts: Any) -> Any:
    """The same in the order of labels, stable; `counts` (labels,) becomes where each label ends."""
    for one in packed:
        counts[one >> np.uint64(LABEL)] += 1
    total = 0
    for label in range(counts.size):
        begin = total
        total += counts[label]
        counts[label] = begin
    ordered = np.empty_like(packed)
    for one in packed:
        label = one >> np.uint64(LABEL)
        ordered[counts[label]] = one
        counts[label] += 1
    return ordered


@compiled()
def unpacked(packed: Any, flat: Any, codes: Any) -> None:
    """Places and codes of packed elements."""
    for n in range(packed.size):
        one = packed[n]
        flat[n] = np.int64((one >> np.uint64(PLACE)) & np.uint64((1 << (LABEL - PLACE)) - 1))
        codes[n] = np.uint8(one & np.uint64(255))
