"""Scores on disk: a tidy table, one record of everything, and the paragraph for a paper."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path

from medseg.evaluation.records import Scores
from medseg.evaluation.score import StructureScore, measured
from medseg.files import write_record, write_text


def as_csv(scores: Sequence[StructureScore]) -> str:
    """One line for each case and structure; `inf` where missed or spurious, empty where there is nothing to measure."""
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    columns = [*StructureScore.model_fields, *(one.name for one in measured(scores))]
    columns = list(dict.fromkeys(columns))
    table.writerow(columns)
    for score in scores:
        values = (getattr(score, column, None) for column in columns)
        table.writerow([repr(value) if isinstance(value, float) else value for value in values])
    return text.getvalue()


def write_scores(folder: Path, scores: Scores) -> tuple[Path, Path]:
    """Write `scores.csv` (a row for each case and structure), `scores.json` (everything) and `methods.txt`.

    Each stands whole or not at all; the paths of the first two are returned.

    Raises:
        ResourceError: the folder cannot be written to.
    """
    table, everything = folder / "scores.csv", folder / "scores.json"
    write_text(table, as_csv(scores.scores))
    write_text(folder / "methods.txt", scores.methods + "\n")
    write_record(everything, scores)
    return table, everything
