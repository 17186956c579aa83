"""medseg compare"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from medseg.cli import options

NAME = "compare"


def command(
    scores: Annotated[
        list[Path],
        typer.Argument(
            metavar="A B [C...]", help="Evaluations of the same cases: folders with scores.json.", show_default=False
        ),
    ],
    out: Annotated[
        Path,
        typer.Option("-o", "--out", help="Where comparison.csv and comparison.json are written.", show_default=False),
    ],
    metric: Annotated[
        str, typer.Option(metavar="NAME,NAME", help="Metrics: one of overlap and one of boundaries, chosen beforehand.")
    ] = "dice,nsd",
    names: Annotated[
        str, typer.Option(metavar="A,B", help="What to call them, else by their folders.", show_default=False)
    ] = "",
    json: options.Json = False,
) -> None:
    """Compare methods by their scores in the same cases: paired differences with intervals, tests, and ranks.

    Example: `medseg compare scores/unet scores/resenc -o comparison --metric dice,nsd`
    """
    from medseg.cli import console
    from medseg.pipeline import steps
    from medseg.report.comparison import comparison_tables

    comparison = console.follow(steps.compare(scores, out, metric, names))
    if json:
        console.show_json(comparison.model_dump(mode="json"))
        return
    for table in comparison_tables(comparison):
        console.show(table)
    console.say(f"written to {out / 'comparison.csv'} and {out / 'comparison.json'}")
