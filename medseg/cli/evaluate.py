"""medseg evaluate"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from medseg.cli import options

NAME = "evaluate"


def command(
    predictions: Annotated[
        Path, typer.Argument(metavar="PREDICTIONS", help="Predicted labels: a folder, or one file.", show_default=False)
    ],
    references: Annotated[
        Path, typer.Argument(metavar="REFERENCES", help="Reference labels, paired by case name.", show_default=False)
    ],
    out: Annotated[Path, typer.Option("-o", "--out", help="Where scores and report are written.", show_default=False)],
    tolerance: Annotated[
        str, typer.Option(metavar="MM,MM", help="Tolerances of NSD and boundary F1 in mm, the main one first.")
    ] = "1,2,3",
    scans: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="The scans, which the report shows beneath the labels.", show_default=False),
    ] = None,
    report: Annotated[bool, typer.Option("--report/--no-report", help="Write report.html.")] = True,
    all_viewers: Annotated[
        bool, typer.Option("--all-viewers", help="Write a page with a viewer for every case, into cases/.")
    ] = False,
    prefer: options.Prefer = "",
    json: options.Json = False,
) -> None:
    """Score labels: Dice, Hausdorff, surface distances, boundary F1 per structure, and a report. Failures count.

    Example: `medseg evaluate predictions references -o scores --scans scans`
    """
    from medseg.cli import console
    from medseg.errors import CasesFailed
    from medseg.pipeline import steps
    from medseg.report.evaluation import scores_table

    evaluation = console.follow(
        steps.evaluate(
            predictions, references, out, tolerance, steps.read_options(prefer=prefer), scans, report, all_viewers
        )
    )
    if json:
        console.show_json(evaluation.scores.model_dump(mode="json"))
    else:
        console.show(scores_table(evaluation.scores))
        console.say(f"written to {evaluation.csv} and {evaluation.json}")
    if evaluation.failed:
        raise CasesFailed(dict(evaluation.failed))
