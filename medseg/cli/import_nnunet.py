"""medseg import-nnunet"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from medseg.cli import options

NAME = "import-nnunet"


def command(
    folder: Annotated[
        Path,
        typer.Argument(
            metavar="FOLDER",
            help="A model folder of nnU-Net v2 (TRAINER__PLANS__CONFIGURATION), or the zip that it exports.",
            show_default=False,
        ),
    ],
    out: Annotated[
        Path, typer.Option("-o", "--out", metavar="FILE.medseg", help="The model as one file.", show_default=False)
    ],
    folds: Annotated[
        str, typer.Option(metavar="LIST", help="Only these folds: 0,1 or all. [default: every one]", show_default=False)
    ] = "",
    checkpoint: Annotated[str, typer.Option(help="final or best.")] = "final",
    configuration: Annotated[
        str,
        typer.Option(metavar="NAME", help="3d_fullres and the like, where FOLDER holds several.", show_default=False),
    ] = "",
    licence: Annotated[str, typer.Option(help="The licence of the weights.", show_default=False)] = "",
    json: options.Json = False,
) -> None:
    """Convert a model that nnU-Net v2 trained into one file; `medseg infer` then predicts with it as nnU-Net does.

    Plain and residual-encoder U-Nets: 2D, 3D, low resolution, cascade. Checkpoints of nnU-Net are pickles: they are
    opened as numbers alone, and refused where they hold anything else.

    Example: `medseg import-nnunet Dataset004_Hippocampus/nnUNetTrainer__nnUNetPlans__3d_fullres -o hippocampus.medseg`
    """
    from medseg.cli import console
    from medseg.pipeline import steps

    named = tuple(word.strip() for word in folds.split(",") if word.strip())
    done = console.follow(steps.import_nnunet(folder, out, named, checkpoint, configuration, licence))
    if json:
        told = {"dataset": done.dataset, "trainer": done.trainer, "configurations": done.configurations}
        console.show_json({**told, "folds": done.folds, "dice": done.dice})
        return
    dice = f"; Dice in nnU-Net's validation {sum(done.dice.values()) / len(done.dice):.3f}" if done.dice else ""
    found = f"{' + '.join(done.configurations)}, folds {', '.join(done.folds)}"
    console.say(f"{out.name} written: {done.dataset}, {found}{dice}")
