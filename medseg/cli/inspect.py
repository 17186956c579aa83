"""medseg inspect"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from medseg.cli import options

NAME = "inspect"


def command(
    path: Annotated[
        Path, typer.Argument(metavar="PATH", help="A data set or scans; DICOM in any form.", show_default=False)
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            "-o",
            "--out",
            help="Write the same as JSON into this file, and beside it a private map of where each DICOM volume lies.",
            show_default=False,
        ),
    ] = None,
    headers: Annotated[
        bool,
        typer.Option("--headers", help="Look at headers only, not at every voxel: then no data set is checked."),
    ] = False,
    allow_gaps: options.AllowGaps = False,
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
    """List what is found: cases, or a row for each DICOM volume with its verdict; geometry, labels, problems.

    The cases of a data set are checked: damage, duplicates, patients, empty labels, stray voxels, swapped sides, HU,
    outliers. Exit code 1 if anything is unusable or suspect.

    Example: `medseg inspect hospital_export -o export.json`
    """
    from medseg.cli import console
    from medseg.errors import SOME_FAILED
    from medseg.kept import PartDone
    from medseg.pipeline import steps
    from medseg.report.inspection import findings_table, inspection_table

    read = steps.read_options(allow_gaps, prefer=prefer)
    inspected = console.follow(
        steps.inspect(path, read, headers, out, options.place(on, jobs, slurm, interface, tls, insecure), part)
    )
    if isinstance(inspected, PartDone):
        console.say(inspected.words)
        return
    found = inspected.inspection
    if json:
        console.show_json(found.model_dump(mode="json"))
    else:
        for table in (inspection_table(found), findings_table(found)):
            if table is not None:
                console.show(table)
    if not found.is_fine:
        raise typer.Exit(SOME_FAILED)
