"""medseg train"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from medseg.cli import options

NAME = "train"


def command(
    context: typer.Context,
    run: options.Run,
    fold: Annotated[
        str | None,
        typer.Option(help="Train this fold (0, 1, ...), or `all`: on every case.  [default: 0]", show_default=False),
    ] = None,
    folds: Annotated[
        int | None,
        typer.Option(
            metavar="N", help="Train all N folds of a cross-validation, and score them together.", show_default=False
        ),
    ] = None,
    budget: options.Budget = None,
    steps: Annotated[
        int | None, typer.Option(help="Train this many steps instead (an epoch is 250).", show_default=False)
    ] = None,
    configuration: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Train another prepared configuration than the plan's choice: 2d, 3d, lowres or cascade.",
            show_default=False,
        ),
    ] = None,
    init: Annotated[
        Path | None,
        typer.Option(
            metavar="MODEL", help="Begin with the weights of this model: a run, or a fold of one.", show_default=False
        ),
    ] = None,
    deterministic: Annotated[
        bool, typer.Option("--deterministic", help="The same steps give the same weights, to the last bit on a CPU.")
    ] = False,
    gpus: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            help="Train on N GPUs: one fold on all of them, several folds side by side; with --device cpu, in N "
            "processes.  [default: 1]",
            show_default=False,
        ),
    ] = None,
    tensorboard: Annotated[
        bool, typer.Option("--tensorboard", help="Write TensorBoard's files too, beside the curves.")
    ] = False,
    device: options.Device = "auto",
    json: options.Json = False,
) -> None:
    """Train the planned network until its budget is used up; run the same command again to go on.

    The number of steps is fitted to the budget while it runs. Curves and figures: RUN/folds/CONFIGURATION/FOLD.

    Example: `medseg train runs/hippocampus --folds 5 --budget 2h`
    """
    from medseg.cli import console
    from medseg.errors import SOME_FAILED
    from medseg.pipeline import steps as verbs
    from medseg.planning.explain import counted
    from medseg.report.evaluation import scores_table
    from medseg.report.training import crossvalidation_table

    begun = (run, fold, folds, budget, steps, device, context.obj["started"])
    trained = console.follow(verbs.train(*begun, configuration, init, deterministic, gpus, tensorboard))
    if json:
        found = [
            {
                "fold": f.fold,
                "steps": f.steps,
                "seconds": round(f.seconds, 1),
                "known": f.known,
                "scores": f.scores and f.scores.model_dump(mode="json"),
            }
            for f in trained.folds
        ]
        joint = trained.crossvalidation and trained.crossvalidation.model_dump(mode="json")
        console.show_json({"run": run.name, "folds": found, "crossvalidation": joint, "failed": trained.failed})
    else:
        for f in trained.folds:
            console.say(f"fold {f.fold}: {counted(f.steps, 'step')} in {f.seconds:.0f} s; {f.folder}")
            if f.scores is not None:
                console.show(scores_table(f.scores, f"Validation of fold {f.fold}"))
            if f.known:
                cases = counted(f.known, "validation case")
                told = f"the model that fold {f.fold} began with was trained on {cases}: these scores are too good"
                console.say(told, "yellow")
        if trained.crossvalidation is not None:
            console.show(
                crossvalidation_table(trained.crossvalidation, f"Cross-validation, {len(trained.folds)} folds")
            )
    if trained.failed:
        console.say(f"failed: {', '.join(trained.failed)}; run the same command again for them", "red")
        raise typer.Exit(SOME_FAILED)
