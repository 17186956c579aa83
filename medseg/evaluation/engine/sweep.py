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
    per_word, step = 8 // labels.itemsize, np.uint64(8 * labels.itemsize)
    back, ones = np.uint64(64) - step, ~np.uint64(0)
    planes = _planes(labels, 2)
    _take(labels, begin - 1, planes[(begin - 1) & 1])
    words = planes.shape[2] // per_word
    differs, mixed = np.zeros(words, np.uint64), np.zeros(words - 1, np.uint64)
    found = np.empty(1 << 12, np.uint64)
    n = 0
    for i in range(begin, end):
        _take(labels, i, planes[i & 1])
        low, high = planes[(i - 1) & 1], planes[i & 1]
        low_words, high_words = low.view(np.uint64), high.view(np.uint64)
        for j in range(nj + 1):
            if not _corners_of_row(
                low_words[j], low_words[j + 1], high_words[j], high_words[j + 1], step, differs, mixed
            ):
                continue
            for word in range(mixed.size):
                here = mixed[word]
                if here == 0:
                    continue
                found = _with_room(found, n + 64)
                for k in range(word * per_word, word * per_word + per_word):
                    one, here = here & (ones >> back), here >> step
                    if one == 0:
                        continue
                    below = (low[j, k], low[j, k + 1], low[j + 1, k], low[j + 1, k + 1])
                    above = (high[j, k], high[j, k + 1], high[j + 1, k], high[j + 1, k + 1])
                    n = _pack_corner(below, above, (i * (nj + 1) + j) * (nk + 1) + k, whole, found, n)
    return found[:n]


@compiled()
def _corners_of_row(a: Any, b: Any, c: Any, d: Any, step: Any, differs: Any, mixed: Any) -> Any:
    """Bits of `mixed` are set where the 8 voxels around a corner are not alike; whether any is set.

    a, b, c, d: the four rows around; the voxels one further are shifted beside the first ones. In two plain loops,
    which run in vectors.
    """
    back = np.uint64(64) - step
    for word in range(differs.size):
        differs[word] = (a[word] ^ b[word]) | (a[word] ^ c[word]) | (a[word] ^ d[word])
    some = np.uint64(0)
    for word in range(mixed.size):
        along = a[word] ^ ((a[word] >> step) | (a[word + 1] << back))
        mixed[word] = differs[word] | (differs[word] >> step) | (differs[word + 1] << back) | along
        some |= mixed[word]
    return some != 0


@compiled()
def _planes(labels: Any, n: int) -> Any:
    """Empty planes, each with room for background all around one of `labels`; rows are whole 64-bit words, one more."""
    per_word = 8 // labels.itemsize
    words = (labels.shape[2] + 2 + per_word - 1) // per_word + 1
    return np.zeros((n, labels.shape[1] + 2, words * per_word), labels.dtype)


@compiled()
def _take(labels: Any, i: int, plane: Any) -> None:
    """Copy a plane of labels into the middle of `plane`, or background where there is none."""
    if not 0 <= i < labels.shape[0]:
        plane[:] = 0
        return
    for j in range(labels.shape[1]):
        row, into = labels[i, j], plane[j + 1]
        for k in range(labels.shape[2]):  # in vectors, many times as fast as assigning the slice
            into[k + 1] = row[k]


@compiled()
def _with_room(found: Any, n: int) -> Any:
    """The same array, or a larger copy that has room for n."""
    if n <= found.size:
        return found
    larger = np.empty(2 * found.size + 64, np.uint64)
    larger[: found.size] = found
    return larger


@compiled()
def _pack_corner(below: Any, above: Any, place: int, whole: int, found: Any, n: int) -> int:
    """Add a corner once for each label among the 8 voxels around it; the new number of what was found."""
    highest = max(
        max(max(below[0], below[1]), max(below[2], below[3])), max(max(above[0], above[1]), max(above[2], above[3]))
    )
    code = _code(below, above, highest)
    if code != whole:
        found[n] = _packed(highest, place, code)
        n += 1
    rest = 255 & ~(code | _code(below, above, 0))
    while rest:  # other labels, seldom
        at = 0
        while not rest & (128 >> at):
            at += 1
        label = below[at] if at < 4 else above[at - 4]
        code = _code(below, above, label)
        found[n] = _packed(label, place, code)
        n += 1
        rest &= ~code
    return n


@compiled()
def _code(below: Any, above: Any, label: Any) -> Any:
    """Which of the 8 voxels have a label, the first in the highest bit."""
    first = (below[0] == label) << 3 | (below[1] == label) << 2 | (below[2] == label) << 1 | (below[3] == label)
    return (
        first << 4
        | (above[0] == label) << 3
        | (above[1] == label) << 2
        | (above[2] == label) << 1
        | (above[3] == label)
    )


@compiled()
def _packed(label: Any, place: int, code: int) -> Any:
    return (np.uint64(label) << np.uint64(LABEL)) | np.uint64((place << PLACE) | code)


@compiled()
def borders(labels: Any, begin: int, end: int, planar: bool) -> Any:
    """Packed border voxels in the planes `begin` to `end`, in raster order; `planar`: of a plane there is no above."""
    nj, nk = labels.shape[1], labels.shape[2]
    per_word, step = 8 // labels.itemsize, np.uint64(8 * labels.itemsize)
    back, ones = np.uint64(64) - step, ~np.uint64(0)
    planes = _planes(labels, 3)
    _take(labels, begin - 1, planes[(begin + 2) % 3])
    _take(labels, begin, planes[begin % 3])
    mixed = np.zeros(planes.shape[2] // per_word - 1, np.uint64)
    found = np.empty(1 << 12, np.uint64)
    n = 0
    for i in range(begin, end):
        _take(labels, i + 1, planes[(i + 1) % 3])
        here = planes[i % 3]
        words, low, high = (
            here.view(np.uint64),
            planes[(i + 2) % 3].view(np.uint64),
            planes[(i + 1) % 3].view(np.uint64),
        )
        if planar:
            low, high = words, words
        for j in range(1, nj + 1):
            row = words[j]
            if not _borders_of_row(row, words[j - 1], words[j + 1], low[j], high[j], step, mixed):
                continue
            for word in range(mixed.size):
                there, at = mixed[word], row[word]
                if there == 0 or at == 0:
                    continue
                found = _with_room(found, n + 8)
                for k in range(word * per_word - 1, word * per_word + per_word - 1):
                    one, there, label, at = there & (ones >> back), there >> step, at & (ones >> back), at >> step
                    if one == 0 or label == 0:
                        continue
                    code = 1
                    if k in (0, nk - 1) or j in (1, nj) or i in (0, len(labels) - 1):
                        code = _meets_another(labels, i, j - 1, k)
                    found[n] = (label << np.uint64(LABEL)) | np.uint64((((i * nj + j - 1) * nk + k) << PLACE) | code)
                    n += 1
    return found[:n]


@compiled()
def _borders_of_row(row: Any, before: Any, after: Any, low: Any, high: Any, step: Any, mixed: Any) -> Any:
    """Bits of `mixed` are set where a voxel of `row` differs from any of its 6 neighbours; whether any is set."""
    back = np.uint64(64) - step
    some = np.uint64(0)
    at = row[0]
    mixed[0] = (at ^ before[0]) | (at ^ after[0]) | (at ^ low[0]) | (at ^ high[0])
    mixed[0] |= (at ^ (at << step)) | (at ^ ((at >> step) | (row[1] << back)))
    for word in range(1, mixed.size):
        at = row[word]
        across = (at ^ before[word]) | (at ^ after[word]) | (at ^ low[word]) | (at ^ high[word])
        left, right = (at << step) | (row[word - 1] >> back), (at >> step) | (row[word + 1] << back)
        mixed[word] = across | (at ^ left) | (at ^ right)
        some |= mixed[word]
    return (some | mixed[0]) != 0


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
def unpacked(packed: Any, shape: Any, flat: Any, codes: Any, box: Any) -> None:
    """Places and codes of packed elements, and the corners (2, 3) of the box around them, both within it."""
    nj, nk = shape[1], shape[2]
    first_j, first_k = nj, nk
    last_j, last_k, row, j, begin = np.int64(-1), np.int64(-1), np.int64(-1), np.int64(0), np.int64(0)
    for n in range(packed.size):
        one = packed[n]
        place = np.int64((one >> np.uint64(PLACE)) & np.uint64((1 << (LABEL - PLACE)) - 1))
        flat[n] = place
        codes[n] = np.uint8(one & np.uint64(255))
        if place >= begin + nk or row < 0:
            row = place // nk
            begin, j = row * nk, row % nj
            first_j, last_j = min(first_j, j), max(last_j, j)
        first_k, last_k = min(first_k, place - begin), max(last_k, place - begin)
    box[0, 0], box[0, 1], box[0, 2] = flat[0] // nk // nj, first_j, first_k
    box[1, 0], box[1, 1], box[1, 2] = row // nj, last_j, last_k
