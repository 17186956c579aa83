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
    dims: Annotated[
        str,
        typer.Option(
            help="auto, 2d, 3d, lowres (coarser voxels, so that a patch sees more of a large scan), or cascade: full "
            "resolution that also reads what the low one found."
        ),
    ] = "auto",
    network: Annotated[
        str,
        typer.Option(
            help="unet; with residual encoder, nnU-Net's larger ones: resenc-m, resenc-l, resenc-xl; or "
            "attention-unet, unet++, segresnet, unetr, swin-unetr, mednext, deeplab, fcn.",
        ),
    ] = "unet",
    memory: Annotated[
        float | None,
        typer.Option(
            help="GPU memory to plan for by nnU-Net's rule, in GB, on any machine.  "
            "[default: what a trial step on the GPU here, or the budget on a CPU, allows]",
            show_default=False,
        ),
    ] = None,
    budget: options.Budget = None,
    labels: Annotated[
        str,
        typer.Option(
            metavar="LIST", help="The structures to train on: liver,kidney. [default: all]", show_default=False
        ),
    ] = "",
    splits: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Folds as nnU-Net writes them.  [default: DATA/splits_final.json if it is there, else 5 by patient]",
            show_default=False,
        ),
    ] = None,
    also: Annotated[
        str,
        typer.Option(
            metavar="LIST",
            help="Configurations to prepare besides, of 2d,3d,lowres,cascade, so that medseg select can compare them.",
            show_default=False,
        ),
    ] = "",
    loss: Annotated[
        str,
        typer.Option(
            help="What training makes small: dice_ce, dice_focal, tversky, focal_tversky, iou or boundary (Dice and "
            "cross-entropy, and errors by their distance from the border)."
        ),
    ] = "dice_ce",
    class_weights: Annotated[
        str,
        typer.Option(
            metavar="WEIGHTS",
            help="What each structure weighs in the loss: even, volume (small ones more), or liver=1,tumour=4.",
        ),
    ] = "even",
    init: Annotated[
        Path | None,
        typer.Option(
            metavar="MODEL",
            help="Fine-tune this model, a run or a fold of one: its network, patch, spacing and intensities are taken.",
            show_default=False,
        ),
    ] = None,
    compare: Annotated[
        Path | None,
        typer.Option(
            metavar="PLAN", help="Show where this plan differs from another run's plan.json.", show_default=False
        ),
    ] = None,
    series: options.Series = None,
    suv: Annotated[bool, typer.Option("--suv", help="Read PET as body-weight SUV.")] = False,
    allow_gaps: options.AllowGaps = False,
    prefer: options.Prefer = "",
    seed: Annotated[int, typer.Option(help="Seed of splits and training.")] = 0,
    device: options.Device = "auto",
    on: options.Place = "local",
    jobs: options.Jobs = None,
    slurm: options.Slurm = "",
    interface: options.Interface = "",
    tls: options.Tls = None,
    insecure: options.Insecure = False,
    part: options.Share = "0/1",
    json: options.Json = False,
) -> None:
    """Look at the data; choose spacing, network, patch and schedule; say why; prepare the cache.

    Example: `medseg plan Task04_Hippocampus -o runs/hippocampus --budget 20min`
    """
    from medseg.cli import console
    from medseg.errors import CasesFailed
    from medseg.pipeline import steps
    from medseg.planning.compare import compare as differences_between
    from medseg.planning.explain import counted
    from medseg.report.plan import differences_table, plan_tables

    read = steps.read_options(allow_gaps, suv, prefer)
    wanted = [name.strip() for name in labels.split(",") if name.strip()]
    other = steps.read_plan(compare) if compare is not None else None
    asked = (spacing, dims, memory, budget, seed, device, series or (), read, wanted, network, splits)
    besides = [name.strip() for name in also.split(",") if name.strip()]
    planned = console.follow(
        steps.plan(
            data,
            run,
            *asked,
            also=besides,
            init=init,
            loss=loss,
            class_weights=class_weights,
            on=options.place(on, jobs, slurm, interface, tls, insecure),
            part=part,
        )
    )
    differences = differences_between(planned.plan, other) if other is not None else []
    if json:
        found = {"run": run.name, "plan": planned.plan.model_dump(mode="json"), "failed": planned.failed}
        if other is not None:
            found["differences"] = [d.model_dump(mode="json") for d in differences]
        console.show_json(found)
    else:
        for table in plan_tables(planned.plan, planned.fingerprint, planned.splits):
            console.show(table)
        if other is not None:
            console.show(differences_table(differences))
        first, folds = planned.plan.configuration.previous, len(planned.splits.folds)
        then = f"medseg train {run}" + (f" --configuration {first}" if first else "")
        then += " --fold all" if not folds else f" --folds {folds}" if first else ""
        console.say(f"{counted(planned.prepared, 'case')} prepared in {run}; next: {then}")
    if planned.failed:
        raise CasesFailed(planned.failed)
