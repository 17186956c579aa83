"""Scans that are in a data set twice: the same voxels, the same scan in another form, or the same label on two scans.

A scan that is trained on and validated with makes scores too good; a label on two scans is wrong on one of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from medseg.imaging.finding import Finding, HowBad
from medseg.planning.fingerprint import CaseFingerprint
from medseg.planning.scan_values import thumbnail_of

SAME = 0.99  # correlation of the ranks of 512 voxels; other scans of a patient have other noise, and stay below 0.95
FEWEST_SHOWN = 16  # voxels besides the background that must be alike
ROWS = 512  # of the table of all pairs, at a time
FEWEST_VOXELS = 20  # smaller labels may be alike by chance
_KEEP_ONE = "keep one of the two"

Floats = npt.NDArray[np.float64]
Twins = tuple[CaseFingerprint, CaseFingerprint, str, str]  # two cases, what they share, and what to do


def duplicates(cases: Sequence[CaseFingerprint]) -> Iterator[Finding]:
    """One finding for each case that is, in part or whole, another case before it by name."""
    ordered = sorted(cases, key=lambda c: c.case)
    told: set[tuple[str, bool]] = set()
    for one, other, what, todo in [*_same_voxels(ordered), *_same_look(ordered), *_same_label(ordered)]:
        key = (other.case, one is other)
        if key not in told:
            told.add(key)
            yield Finding(case=other.case, code="duplicate", what=what, how_bad=_how_bad(one, other), todo=todo)


def _how_bad(one: CaseFingerprint, other: CaseFingerprint) -> HowBad:
    """Cases that are told to be of one patient stay in the same part of every fold."""
    return "note" if one.patient and one.patient == other.patient else "suspect"


def _same_voxels(cases: Sequence[CaseFingerprint]) -> Iterator[Twins]:
    first: dict[str, tuple[CaseFingerprint, int]] = {}
    for case in cases:
        for channel, whole in enumerate(case.whole):
            if whole.low == whole.high:
                continue
            before, its_channel = first.setdefault(whole.digest, (case, channel))
            if before is case and its_channel != channel:
                what = f"its channels {its_channel} and {channel} hold the same voxels"
                yield before, case, what, "give each channel its own scan"
            elif before is not case:
                whole_scan = [w.digest for w in case.whole] == [w.digest for w in before.whole]
                of = "" if whole_scan else f"channel {channel} of it "
                label = "the same label" if case.labels == before.labels else "another label"
                yield before, case, f"{of}holds the same voxels as {before.case}, with {label}", _KEEP_ONE


def _same_look(cases: Sequence[CaseFingerprint]) -> Iterator[Twins]:
    """Scans that correlate as only the same scan does: rescaled, resampled, or mirrored."""
    seen = [c for c in cases if c.whole and c.whole[0].low < c.whole[0].high]
    if not seen:
        return
    thumbnails = np.array([thumbnail_of(case.whole[0]) for case in seen])
    straight, mirrored = _standardised(thumbnails), _standardised(thumbnails[:, ::-1])
    for start in range(0, len(seen), ROWS):
        for turned, how in ((straight, "looks like {} in other numbers"), (mirrored, "looks like {} mirrored")):
            alike = straight[start : start + ROWS] @ turned.T > SAME
            for row, column in zip(*np.nonzero(alike), strict=True):
                one, other = int(column), int(row) + start
                if one < other and _more_than_an_outline(straight[other], turned[one]):
                    yield seen[one], seen[other], how.format(seen[one].case), _KEEP_ONE


def _standardised(thumbnails: Floats) -> Floats:
    """Thumbnails as rows of mean 0 and length 1."""
    rows = thumbnails.reshape(len(thumbnails), -1)
    centred = rows - rows.mean(axis=1, keepdims=True)
    return np.asarray(centred / np.maximum(np.linalg.norm(centred, axis=1, keepdims=True), 1e-9))


def _more_than_an_outline(one: Floats, other: Floats) -> bool:
    """True if two thumbnails are alike where neither has its background, which scans may share that were masked."""
    shown = (one != _commonest(one)) & (other != _commonest(other))
    if shown.sum() < FEWEST_SHOWN:
        return False
    both = np.array([one[shown], other[shown]])
    both -= both.mean(axis=1, keepdims=True)
    lengths = np.linalg.norm(both, axis=1)
    return bool(both[0] @ both[1] > SAME * lengths[0] * lengths[1])


def _commonest(thumbnail: Floats) -> float:
    values, counts = np.unique(thumbnail, return_counts=True)
    return float(values[np.argmax(counts)])


def _same_label(cases: Sequence[CaseFingerprint]) -> Iterator[Twins]:
    first: dict[str, CaseFingerprint] = {}
    for case in cases:
        if not case.labels or sum(s.voxels for s in case.structures) < FEWEST_VOXELS:
            continue
        before = first.setdefault(case.labels, case)
        if before is not case and not (before.patient and before.patient == case.patient):
            what = f"has the same label as {before.case}, but another scan"
            yield before, case, what, "give each scan its own label"
