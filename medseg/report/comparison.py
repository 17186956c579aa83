"""A comparison of methods as tables: their differences by each metric, and their ranks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from medseg.evaluation.comparison import OVER_STRUCTURES, Comparison, Difference, Ranking
from medseg.report.table import Table, number

MOST_ROWS = 40
WHOLE = "comparison.csv"


def comparison_tables(comparison: Comparison) -> tuple[Table, ...]:
    """A table of differences for each metric, and one of ranks with what can be concluded."""
    return (*_of_metrics(comparison), _ranks(comparison))


def _of_metrics(comparison: Comparison) -> Iterator[Table]:
    two = len(comparison.names) == 2
    for name, of in comparison.metrics.items():
        own = [one for one in comparison.differences if one.metric == name]
        shown = _shown(own)
        unit = f" {of.unit}" if of.unit else ""
        heads = comparison.names if two else ("pair", "first", "second")
        columns = ("structure", "cases", *heads, f"difference{unit} (95 %)", "better / tie / worse", "p", "p Holm")
        left = len(own) - len(shown)
        remarks = (
            f"{of.label}: {of.better} is better; the difference is {'first' if not two else comparison.names[0]} - "
            f"{'second' if not two else comparison.names[1]}, its interval a paired bootstrap over patients",
            *((f"not shown: {left} rows of larger p (see {WHOLE})",) if left else ()),
        )
        yield Table(
            of.label, columns, tuple(_row(one, two, 2 if of.unit == "mm" else 3) for one in shown), remarks, WHOLE
        )


def _shown(own: Sequence[Difference]) -> list[Difference]:
    """Of many rows those over structures, and of the others those of lowest p."""
    if len(own) <= MOST_ROWS:
        return list(own)
    lowest = sorted(own, key=lambda one: (one.structure is not None, 2.0 if one.p is None else one.p))[:MOST_ROWS]
    return [one for one in own if one in lowest]


def _row(one: Difference, two: bool, digits: int) -> tuple[str, ...]:
    pair = () if two else (f"{one.first} - {one.second}",)
    return (
        OVER_STRUCTURES if one.structure is None else one.structure,
        str(one.n),
        *pair,
        number(one.mean_first, digits),
        number(one.mean_second, digits),
        _with_interval(one, digits),
        f"{one.wins}/{one.ties}/{one.losses}",
        _p(one.p),
        _p(one.p_holm),
    )


def _with_interval(one: Difference, digits: int) -> str:
    if one.difference is None:
        return "-"
    told = f"{one.difference:+.{digits}f}"
    return f"{told} ({one.low:+.{digits}f} to {one.high:+.{digits}f})" if one.low is not None else f"{told} (-)"


def _p(value: float | None) -> str:
    return "<0.001" if value is not None and value < 0.001 else number(value)


def _ranks(comparison: Comparison) -> Table:
    labels = {name: of.label for name, of in comparison.metrics.items()}
    rows = tuple(row for ranking in comparison.rankings for row in _of_ranking(ranking, labels))
    columns = ("ranks by", "method", "mean rank", "place", "95 %", "first in")
    patients = f" of {comparison.patients} patients" if comparison.patients < comparison.cases else ""
    remarks = (
        f"ranked in each of {comparison.cases} cases{patients} and each structure; 1 is the best",
        *comparison.conclusions,
        comparison.notice,
    )
    return Table("Ranks", columns, rows, remarks, "comparison.json")


def _of_ranking(ranking: Ranking, labels: dict[str, str]) -> Iterator[tuple[str, ...]]:
    for one in ranking.ranks:
        yield (
            labels[ranking.metric] if ranking.metric is not None else "all together",
            one.name,
            number(one.mean_rank, 2),
            f"{one.place:g}",
            f"{one.low:g} to {one.high:g}" if one.low is not None and one.high is not None else "-",
            f"{100 * one.first:.0f} %" if one.first is not None else "-",
        )
