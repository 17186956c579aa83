"""Which method is better, by ranks in each case and structure, and how far the ranking depends on the cases.

Wiesenfarth et al., "Methods and open-source toolkit for analyzing and visualizing challenge results", Sci Rep 2021.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import combinations

import numpy as np

from medseg.evaluation.common import Common
from medseg.evaluation.comparison import Rank, Ranking
from medseg.evaluation.metrics import Metric
from medseg.evaluation.significance import places
from medseg.evaluation.statistics import FEWEST, Floats, Integers, drawn_means

_ROUNDED = 9  # digits of a mean rank: sums in another order are the same


def rankings(common: Common) -> Iterator[Ranking]:
    """By each metric, and where there are several by all together; over the structures that count."""
    found = [_ranked(common, metric) for metric in common.metrics]
    for metric, (ranks, whose) in zip(common.metrics, found, strict=True):
        yield _ranking(metric.name, common.names, ranks, whose)
    if len(found) > 1:
        ranks, whose = (np.concatenate(parts) for parts in zip(*found, strict=True))
        yield _ranking(None, common.names, ranks, whose)


def kendall(ranking: Floats, others: Floats) -> Floats:
    """Kendall's tau (b) between one ranking (methods) and each of others (n, methods); 0 where all are equal."""
    pairs = np.array(list(combinations(range(len(ranking)), 2)))
    ours = np.sign(ranking[pairs[:, 0]] - ranking[pairs[:, 1]])
    theirs = np.sign(others[:, pairs[:, 0]] - others[:, pairs[:, 1]])
    size = np.sqrt(np.abs(ours).sum() * np.abs(theirs).sum(axis=1))
    found: Floats = theirs @ ours / np.where(size, size, 1.0)
    return found


def _ranked(common: Common, metric: Metric) -> tuple[Floats, Integers]:
    """The ranks of the methods (cases and structures, methods), and whose case each row is."""
    values = common.values[metric.name][:, :, common.counted]
    whose = np.repeat(common.whose, values.shape[2])
    table = values.reshape(len(values), -1).T
    there = ~np.isnan(table).any(axis=1)
    return places(-table[there] if metric.better == "higher" else table[there]), whose[there]


def _ranking(metric: str | None, names: Sequence[str], ranks: Floats, whose: Integers) -> Ranking:
    if not len(ranks):
        return Ranking(metric=metric, n=0, ranks=())
    means = ranks.mean(axis=0)
    own = places(means.round(_ROUNDED))
    order = sorted(range(len(names)), key=lambda at: (own[at], names[at]))
    if len(np.unique(whose)) < FEWEST:
        alone = (Rank(name=names[at], mean_rank=float(means[at]), place=float(own[at])) for at in order)
        return Ranking(metric=metric, n=len(ranks), ranks=tuple(alone))
    drawn = drawn_means(ranks, whose)
    drawn = places(drawn[:, ~np.isnan(drawn[0])].T.round(_ROUNDED))
    best = drawn == drawn.min(axis=1, keepdims=True)
    first = (best / best.sum(axis=1, keepdims=True)).mean(axis=0)  # equal ones share it
    bounds = np.quantile(drawn, [0.025, 0.975], axis=0)
    return Ranking(
        metric=metric,
        n=len(ranks),
        ranks=tuple(
            Rank(
                name=names[at],
                mean_rank=float(means[at]),
                place=float(own[at]),
                low=float(bounds[0, at]),
                high=float(bounds[1, at]),
                first=float(first[at]),
            )
            for at in order
        ),
        tau=float(kendall(own, drawn).mean()),
    )
