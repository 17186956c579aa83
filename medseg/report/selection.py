"""What `medseg select` compared, as a table: a row a candidate, the winner last, after post-processing."""

from __future__ import annotations

from medseg.inference.records import Candidate, Selection
from medseg.report.table import Table, number


def selection_table(selection: Selection) -> Table:
    """Cross-validated Dice of each candidate: the mean, then each structure's."""
    names = tuple(dict.fromkeys(name for one in selection.candidates for name in one.structures))
    rows = [_row(one.words, one, names) for one in selection.candidates]
    best = " + ".join(selection.members)
    rows.append(_row(f"chosen: {best}" + (", cleaned" if selection.cleaning else ""), selection.cleaned, names))
    steps = [f"post-processing of {step.words}" for step in selection.cleaning]
    remarks = (
        f"Dice over {selection.cases} cases, each predicted by networks that were not trained on it",
        *(steps or ["no post-processing helps"]),
        selection.notice,
    )
    return Table("Selection", ("configuration", "mean", *names), tuple(rows), remarks)


def _row(what: str, one: Candidate, names: tuple[str, ...]) -> tuple[str, ...]:
    return (what, number(one.dice, 4), *(number(one.structures.get(name), 4) for name in names))
