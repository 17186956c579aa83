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
        str,
        typer.Option(
            metavar="MM,MM|FILE",
            help="Tolerances of NSD and boundary F1, the main one first; or a YAML file with those of each structure.",
        ),
    ] = "1,2,3",
    surface: Annotated[
        str, typer.Option(metavar="MODE", help="surfel (DeepMind), voxel (MONAI) or mesh (0.5-isosurface).")
    ] = "surfel",
    tubular: Annotated[
        list[str] | None,
        typer.Option(metavar="NAMES", help="Structures with a centreline: also clDice.", show_default=False),
    ] = None,
    instances: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAMES",
            help="Structures of several lesions: also detection and panoptic quality.",
            show_default=False,
        ),
    ] = None,
    min_lesion: Annotated[float, typer.Option(metavar="MM3", help="Smaller lesions count on neither side.")] = 0.0,
    fov_faces: Annotated[
        str, typer.Option(metavar="count|exclude", help="Surface where the image ends counts, or is left out.")
    ] = "count",
    both_empty: Annotated[
        str, typer.Option(metavar="exclude|perfect", help="A structure in neither map is left out, or scores 1.")
    ] = "exclude",
    resample: Annotated[
        bool, typer.Option("--resample", help="Bring predictions on other grids onto the reference's (nearest voxel).")
    ] = False,
    metadata: Annotated[
        Path | None,
        typer.Option(metavar="CSV", help="A row for each case (columns: case, patient, others).", show_default=False),
    ] = None,
    by: Annotated[
        list[str] | None,
        typer.Option(metavar="COLUMN", help="Break scores down by this column of the CSV.", show_default=False),
    ] = None,
    scans: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="The scans, which the report shows beneath the labels.", show_default=False),
    ] = None,
    report: Annotated[bool, typer.Option("--report/--no-report", help="Write report.html.")] = True,
    all_viewers: Annotated[
        bool, typer.Option("--all-viewers", help="Write a page with a viewer for every case, into cases/.")
    ] = False,
    prefer: options.Prefer = "",
    on: options.Place = "local",
    jobs: options.Jobs = None,
    slurm: options.Slurm = "",
    interface: options.Interface = "",
    tls: options.Tls = None,
    insecure: options.Insecure = False,
    part: options.Share = "0/1",
    json: options.Json = False,
) -> None:
    """Score labels: Dice, Hausdorff, surface distances, boundary F1 per structure, and a report. Failures count.

    Interrupt it at any time and give the same command again: it goes on.

    Example: `medseg evaluate predictions references -o scores --scans scans`
    """
    from medseg.cli import console
    from medseg.errors import CasesFailed
    from medseg.evaluation.asked import settings_from
    from medseg.kept import PartDone
    from medseg.pipeline import steps
    from medseg.report.evaluation import scores_table

    lists = (tubular or (), instances or ())
    settings = settings_from(tolerance, surface, *lists, min_lesion, fov_faces, both_empty, resample)
    evaluation = console.follow(
        steps.evaluate(
            predictions,
            references,
            out,
            settings,
            steps.read_options(prefer=prefer),
            metadata,
            by or (),
            scans,
            report,
            all_viewers,
            options.place(on, jobs, slurm, interface, tls, insecure),
            part,
        )
    )
    if isinstance(evaluation, PartDone):
        console.say(evaluation.words)
    elif json:
        console.show_json(evaluation.scores.model_dump(mode="json"))
    else:
        console.show(scores_table(evaluation.scores))
        console.say(f"written to {evaluation.csv} and {evaluation.json}")
    if evaluation.failed:
        raise CasesFailed(dict(evaluation.failed))
