"""Differences, tests and ranks against scipy, definitions and brute force."""

from __future__ import annotations

import math
from itertools import combinations, product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from medseg.evaluation.cohort import summarise
from medseg.evaluation.common import in_common
from medseg.evaluation.paired import by_patient, differences
from medseg.evaluation.ranking import kendall, rankings
from medseg.evaluation.significance import MOST_EXACT, holm, places, signed_rank_p
from tests.evaluation.test_cohort import row

p_values = st.lists(st.one_of(st.none(), st.floats(0, 1)), max_size=12)


@given(p_values)
def test_holm_by_its_definition(ps):
    found = holm(ps)
    tests = sorted(p for p in ps if p is not None)
    for p, adjusted in zip(ps, found, strict=True):
        if p is None:
            assert adjusted is None
            continue
        steps = [min(1.0, (len(tests) - k) * other) for k, other in enumerate(tests) if other <= p]
        assert adjusted == max(steps)
        assert adjusted >= p


@given(p_values)
def test_holm_keeps_the_order(ps):
    pairs = sorted((p, q) for p, q in zip(ps, holm(ps), strict=True) if p is not None)
    assert [q for _, q in pairs] == sorted(q for _, q in pairs)


def test_the_signed_rank_test():
    d = np.random.default_rng(0).normal(0.5, 1, 30)
    assert signed_rank_p(d) == pytest.approx(stats.wilcoxon(d, method="exact").pvalue)
    assert signed_rank_p(d) == signed_rank_p(-d)
    assert signed_rank_p(np.arange(1.0, 7)) == pytest.approx(2 / 64)
    assert signed_rank_p(np.zeros(8)) == 1
    assert signed_rank_p(np.arange(4.0)) is None
    many = np.r_[np.zeros(10), d, d]
    assert len(many) > MOST_EXACT
    assert signed_rank_p(many) == pytest.approx(stats.wilcoxon(many, zero_method="pratt").pvalue)
    assert signed_rank_p(np.r_[many, np.inf]) == signed_rank_p(np.r_[many, 99])


def test_infinite_differences_rank_highest():
    d = np.array([1.0, -2, 3, 4, -5, 6, 7])
    far = np.where(d == 7, np.inf, d)
    assert signed_rank_p(far) == signed_rank_p(d)
    assert signed_rank_p(np.full(6, np.inf)) == pytest.approx(signed_rank_p(np.ones(6)))


@pytest.mark.parametrize("n", range(5, 11))
@pytest.mark.parametrize("zeros", [0, 1, 4])
def test_ties_and_zeros_are_exact(n, zeros):
    """Against all signs that the ranks could have; zeros are ranked, then left out."""
    rng = np.random.default_rng(n)
    d = np.r_[np.zeros(zeros), rng.integers(1, 4, n - zeros) * rng.choice([-1.0, 1.0], n - zeros)]
    ranks = stats.rankdata(np.abs(d))[d != 0]
    signs = np.array(list(product([0, 1], repeat=len(ranks))))
    sums, own = signs @ ranks, ranks[d[d != 0] > 0].sum()
    assert signed_rank_p(d) == pytest.approx(min(1, 2 * min((sums <= own).mean(), (sums >= own).mean())))


def test_values_of_a_patient():
    inf, nan = math.inf, math.nan
    values, whose = np.array([1, 3, inf, 2, inf, -inf, nan, 5, inf, -inf]), np.array([0, 0, 1, 1, 2, 2, 3, 4, 4, 4])
    assert by_patient(values, whose).tolist() == [2, inf, 0, 5]


def two(first, second, patients=None):
    """Scores of two methods in the liver, None where it is missed."""
    made = {}
    for name, dices in (("first", first), ("second", second)):
        rows = [
            row(f"c{k:02}", status="missed" if d is None else "scored", dice=d or 0.0, distance=10 * (1 - (d or 0)))
            for k, d in enumerate(dices)
        ]
        made[name] = summarise(rows, {f"c{k:02}": 40.0 for k in range(len(rows))}, patients=patients or {})
    return in_common(made, ["dice", "hd95_mm"])


def test_a_difference_by_hand():
    first, second = [0.9, 0.8, 0.7, 0.6, None, None], [0.8, 0.8, 0.5, 0.7, 0.4, None]
    dice, hd = differences(two(first, second))
    assert (dice.wins, dice.ties, dice.losses) == (2, 2, 2)
    assert (hd.wins, hd.ties, hd.losses) == (2, 2, 2)
    assert dice.difference == pytest.approx((0.1 + 0 + 0.2 - 0.1 - 0.4 + 0) / 6)
    assert hd.difference == pytest.approx((-1 + 0 - 2 + 1 + (40 - 6) + 0) / 6)
    assert hd.p == signed_rank_p(np.array([-1, 0, -2, 1, math.inf, 0]))


def test_the_interval_is_that_of_the_differences():
    rng = np.random.default_rng(4)
    first, second = rng.uniform(0.5, 1, (2, 40))
    dice, _ = differences(two(first, second))
    theirs = stats.bootstrap((first - second,), np.mean, method="percentile", rng=0).confidence_interval
    assert (dice.low, dice.high) == pytest.approx(tuple(theirs), abs=0.004)


def test_swapped_methods_differ_by_sign():
    rng = np.random.default_rng(5)
    first, second = rng.uniform(0.5, 1, (2, 12))
    for one, other in zip(differences(two(first, second)), differences(two(second, first)), strict=True):
        assert (one.difference, one.low, one.high) == pytest.approx((-other.difference, -other.high, -other.low))
        assert (one.wins, one.losses, one.p) == (other.losses, other.wins, pytest.approx(other.p))


@given(st.lists(st.lists(st.sampled_from([0.0, 1.0, 2.0, math.inf]), min_size=3, max_size=3), min_size=1, max_size=9))
def test_places_are_ranks(values):
    table = np.array(values)
    assert places(table).tolist() == stats.rankdata(table, axis=1).tolist()


@given(st.permutations(range(4)), st.lists(st.integers(0, 3), min_size=4, max_size=4))
@settings(deadline=None)
def test_kendall_is_that_of_scipy(first, second):
    theirs = stats.kendalltau(first, second).statistic if len(set(second)) > 1 else 0.0
    assert kendall(np.array(first, float), np.array([second], float))[0] == pytest.approx(theirs)


def methods(seed=0, n=9, patients=None):
    """Three methods in two structures: the first is best in most, the last misses the spleen at times."""
    rng = np.random.default_rng(seed)
    made = {}
    for name, good in (("x", 0.8), ("y", 0.75), ("z", 0.74)):
        rows = []
        for k in range(n):
            for structure in ("liver", "spleen"):
                dice = round(float(good + rng.normal(0, 0.06)), 2)
                missed = (name == "z" and structure == "spleen" and k % 4 == 0) or (name == "y" and k == 4)
                rows.append(row(f"c{k:02}", structure, "missed" if missed else "scored", dice, 10 * (1 - dice)))
        made[name] = summarise(rows, {f"c{k:02}": 40.0 for k in range(n)}, patients=patients or {})
    return made


def test_ranks_by_brute_force():
    """As challengeR has it: a rank in each case and structure, the mean of them, again in each bootstrap sample."""
    patients = {"c00": 1, "c01": 1, "c02": 2, "c03": 2}
    common = in_common(methods(patients=patients), ["dice"])
    (ranking,) = rankings(common)
    table = np.stack([common.values["dice"][m] for m in range(3)])  # methods, cases, structures
    ranks = stats.rankdata(-table, axis=0)
    means = ranks.mean(axis=(1, 2))
    order = np.argsort(means)
    assert [one.name for one in ranking.ranks] == [common.names[m] for m in order]
    assert [one.mean_rank for one in ranking.ranks] == pytest.approx(means[order])
    rng, drawn = np.random.default_rng(9), []
    groups = [np.flatnonzero(common.whose == p) for p in range(common.whose.max() + 1)]
    for _ in range(1500):
        chosen = np.concatenate([groups[p] for p in rng.integers(len(groups), size=len(groups))])
        drawn.append(stats.rankdata(ranks[:, chosen].mean(axis=(1, 2)).round(9)))
    own = stats.rankdata(means)
    taus = [stats.kendalltau(own, one).statistic for one in drawn]
    assert ranking.tau == pytest.approx(np.nanmean(taus), abs=0.045)
    drawn = np.array(drawn)
    for one in ranking.ranks:
        column = drawn[:, common.names.index(one.name)]
        best = drawn == drawn.min(axis=1, keepdims=True)
        shared = ((column == drawn.min(axis=1)) / best.sum(axis=1)).mean()
        assert one.first == pytest.approx(shared, abs=0.045)
        assert (one.low, one.high) == tuple(np.quantile(column, [0.025, 0.975]))


def test_all_metrics_together():
    common = in_common(methods(), ["dice", "hd95_mm"])
    by_dice, by_hd, together = rankings(common)
    assert (by_dice.metric, by_hd.metric, together.metric) == ("dice", "hd95_mm", None)
    assert together.n == by_dice.n + by_hd.n == 36
    of = {one.name: one.mean_rank for one in together.ranks}
    for ranking in (by_dice, by_hd):
        assert sum(one.mean_rank for one in ranking.ranks) == pytest.approx(6)
    for one in by_dice.ranks:
        other = next(two for two in by_hd.ranks if two.name == one.name)
        assert of[one.name] == pytest.approx((one.mean_rank + other.mean_rank) / 2)
    assert sum(one.first for one in together.ranks) == pytest.approx(1)


def test_the_order_of_cases_changes_nothing():
    made = methods()
    turned = {name: summarise(list(reversed(scores.scores)), scores.diagonals_mm) for name, scores in made.items()}
    one, other = (in_common(of, ["dice"]) for of in (made, turned))
    firsts, seconds = list(differences(one)), list(differences(other))
    for first, (a, b) in ((d, (d.first, d.second)) for d in firsts):
        second = next(d for d in seconds if (d.structure, d.first, d.second) == (first.structure, a, b))
        assert (first.low, first.high, first.p) == pytest.approx((second.low, second.high, second.p))
    (ranks,), (of_turned,) = rankings(one), rankings(other)
    assert [(r.name, r.place, r.low, r.high) for r in ranks.ranks] == [
        (r.name, r.place, r.low, r.high) for r in of_turned.ranks
    ]
    assert ranks.tau == pytest.approx(of_turned.tau)
    assert len(firsts) == 3 * len(list(combinations(range(3), 2)))
