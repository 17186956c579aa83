"""medseg plan"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from medseg.cli import options

NAME = "plan"


def command(
    data: Annotated[
        Path,
        typer.Argument(
            metavar="DATA",
            help="Labelled scans: Medical Decathlon, nnU-Net raw, images/ + labels/, BIDS, a CSV or JSON manifest, "
            "or DICOM with SEG or RTSTRUCT.",
            show_default=False,
        ),
    ],
    run: Annotated[Path, typer.Option("-o", "--out", help="The run folder to make.", show_default=False)],
    spacing: Annotated[str, typer.Option(help="isotropic, median (nnU-Net's rule), or a number of mm.")] = "isotropic",
    dims: Annotated[str, typer.Option(help="auto, 2d or 3d.")] = "auto",
    memory: Annotated[float | None, typer.Option(help="GPU memory to plan for, in GB.", show_default=False)] = None,
    budget: options.Budget = None,
    labels: Annotated[
        str,
        typer.Option(
            metavar="LIST", help="The structures to train on: liver,kidney. [default: all]", show_default=False
        ),
    ] = "",
    series: options.Series = None,
    suv: Annotated[bool, typer.Option("--suv", help="Read PET as body-weight SUV.")] = False,
    allow_gaps: options.AllowGaps = False,
    prefer: options.Prefer = "",
    seed: Annotated[int, typer.Option(help="Seed of splits and training.")] = 0,
    device: options.Device = "auto",
    json: options.Json = False,
) -> None:
    """Look at the data; choose spacing, network, patch and schedule; say why; prepare the cache.

    Example: `medseg plan Task04_Hippocampus -o runs/hippocampus --budget 20min`
    """
    from medseg.cli import console
    from medseg.errors import CasesFailed
    from medseg.pipeline import steps
    from medseg.report.plan import plan_tables

    read = steps.read_options(allow_gaps, suv, prefer)
    wanted = [name.strip() for name in labels.split(",") if name.strip()]
    events = steps.plan(data, run, spacing, dims, memory, budget, seed, device, series or (), read, wanted)
    planned = console.follow(events)
    if json:
        console.show_json({"run": run.name, "plan": planned.plan.model_dump(mode="json"), "failed": planned.failed})
    else:
        for table in plan_tables(planned.plan):
            console.show(table)
        console.say(f"{planned.prepared} cases prepared in {run}; next: medseg train {run}")
    if planned.failed:
        raise CasesFailed(planned.failed)
