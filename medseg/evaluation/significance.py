"""Tests of paired differences: Wilcoxon's signed ranks, and Holm's adjustment for many tests.

Wilcoxon, "Individual comparisons by ranking methods", 1945, with Pratt's way with differences of zero, 1959; Holm 1979.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from medseg.evaluation.statistics import FEWEST, Floats

MOST_EXACT = 50  # differences; of more, the normal distribution is as good


def signed_rank_p(differences: Floats) -> float | None:
    """Wilcoxon's two-sided p of finite or infinite differences; zeros are ranked, then left out (Pratt).

    Up to 50 differences it is exact, also with ties: the share of all signs that the same ranks could have. Infinite
    ones rank highest. None of fewer than 5, of which no p below 0.05 can come.
    """
    if len(differences) < FEWEST:
        return None
    if not differences.any():
        return 1.0
    if len(differences) <= MOST_EXACT:
        return _exact_p(differences)
    from scipy.stats import wilcoxon

    finite = np.abs(differences[np.isfinite(differences)])
    farthest = 1.0 + float(finite.max(initial=0.0))
    return float(wilcoxon(np.clip(differences, -farthest, farthest), zero_method="pratt").pvalue)


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Holm's adjusted p values; None is no test."""
    tests = sorted((p, at) for at, p in enumerate(p_values) if p is not None)
    found: list[float | None] = [None] * len(p_values)
    highest = 0.0
    for done, (p, at) in enumerate(tests):
        highest = max(highest, min(1.0, (len(tests) - done) * p))
        found[at] = highest
    return found


def places(values: Floats) -> Floats:
    """Ranks along the last axis, 1 for the lowest value; what is equal shares the mean of its places."""
    lower = (values[..., :, None] > values[..., None, :]).sum(axis=-1)
    alike = (values[..., :, None] == values[..., None, :]).sum(axis=-1)
    found: Floats = lower + (alike + 1) / 2
    return found


def _exact_p(differences: Floats) -> float:
    """By counting the ways to each sum of positive ranks, rank by rank."""
    doubled = np.rint(2 * places(np.abs(differences))).astype(np.intp)  # ties have half ranks
    ranks = doubled[differences != 0]
    chance = np.zeros(int(ranks.sum()) + 1)
    chance[0] = 1.0
    for rank in ranks.tolist():
        with_it = np.zeros_like(chance)
        with_it[rank:] = chance[:-rank]
        chance = (chance + with_it) / 2
    positive = int(doubled[differences > 0].sum())
    return float(min(1.0, 2 * min(chance[: positive + 1].sum(), chance[positive:].sum())))
