"""What a comparison allows one to say, and what not, in plain words."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from medseg.evaluation.comparison import Difference, Ranking
from medseg.evaluation.metrics import Metric, metric
from medseg.evaluation.statistics import CONFIDENCE, FEWEST

ROUGH = 50  # patients, below which intervals by resampling hold the truth less often than they say
STABLE = 0.95  # share of the samples in which the same method is first
_SIGNIFICANT = 1 - CONFIDENCE


def conclusions(differences: Sequence[Difference], rankings: Sequence[Ranking], patients: int) -> Iterator[str]:
    """Each pair by each metric over all structures, each ranking, and how far the number of patients carries."""
    single = len({one.structure for one in differences if one.structure is not None}) == 1
    for one in differences:
        known = metric(one.metric)
        if known is not None and (one.structure is None or single):
            yield _of_pair(one, known, [] if single else _of_structures(differences, one))
    for ranking in rankings:
        if ranking.tau is not None:
            yield _of_ranking(ranking)
    if FEWEST <= patients < ROUGH:
        yield f"{patients} patients are few: intervals from less than {ROUGH} hold the truth less often than 95 %"


def _of_pair(one: Difference, known: Metric, of_structures: Sequence[Difference]) -> str:
    unit = f" {known.unit}" if known.unit else ""
    if one.difference is None or one.low is None or one.high is None:
        return f"{known.label}: {one.n_patients} patient(s) are too few to tell {one.first} from {one.second}"
    digits = 2 if known.unit == "mm" else 4
    between = f"({one.low:+.{digits}f} to {one.high:+.{digits}f}{unit})"
    said = f"{known.label}, {one.first} - {one.second}: {one.difference:+.{digits}f} {between}"
    if one.low <= 0 <= one.high:
        most = max(-one.low, one.high)
        said += f"; it includes 0: no difference is shown, and one of up to {most:.{digits}f}{unit} is not ruled out"
    else:
        better = one.first if (one.difference > 0) == (known.better == "higher") else one.second
        said += f"; {better} is better"
        if one.p_holm is not None and one.p_holm >= _SIGNIFICANT:
            said += f", but not by the signed-rank test (p = {one.p_holm:.3f} after Holm)"
    if of_structures:
        shown = [of.structure for of in of_structures if of.p_holm is not None and of.p_holm < _SIGNIFICANT]
        said += f"; {len(shown)} of {len(of_structures)} structures differ by the test after Holm"
    return said


def _of_structures(differences: Sequence[Difference], over: Difference) -> list[Difference]:
    pair = (over.metric, over.first, over.second)
    return [of for of in differences if of.structure is not None and (of.metric, of.first, of.second) == pair]


def _of_ranking(ranking: Ranking) -> str:
    known = metric(ranking.metric) if ranking.metric is not None else None
    by = known.label if known is not None else "all metrics together"
    best, *others = ranking.ranks
    if others and others[0].place == best.place:
        return f"ranks by {by}: there is no first, the best are equal"
    share = f"first in {100 * (best.first or 0):.0f} % of bootstrap samples, mean Kendall tau {ranking.tau:.2f}"
    if (best.first or 0) < STABLE:
        holds = "another choice of cases may turn it"
    elif any(one.low != one.high for one in others):
        holds = "the first place holds, others may turn with the choice of cases"
    else:
        holds = "the ranking holds"
    return f"ranks by {by}: {best.name} is {share}; {holds}"
