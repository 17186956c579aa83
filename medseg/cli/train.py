"""medseg train"""

from __future__ import annotations

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
        int | None, typer.Option(help="Train all N folds of an N-fold cross-validation.", show_default=False)
    ] = None,
    budget: options.Budget = None,
    steps: Annotated[
        int | None, typer.Option(help="Train this many steps instead (an epoch is 250).", show_default=False)
    ] = None,
    device: options.Device = "auto",
    json: options.Json = False,
) -> None:
    """Train the planned network with Dice + cross-entropy; run the same command again to go on.

    Example: `medseg train runs/hippocampus --fold 0 --budget 20min`
    """
    from medseg.cli import console
    from medseg.pipeline import steps as verbs
    from medseg.report.evaluation import scores_table

    trained = console.follow(verbs.train(run, fold, folds, budget, steps, device, context.obj["started"]))
    if json:
        found = [
            {
                "fold": f.fold,
                "steps": f.steps,
                "seconds": round(f.seconds, 1),
                "scores": f.scores and f.scores.model_dump(mode="json"),
            }
            for f in trained.folds
        ]
        console.show_json({"run": run.name, "folds": found})
        return
    for f in trained.folds:
        console.say(f"fold {f.fold}: {f.steps} steps in {f.seconds:.0f} s; {f.folder}")
        if f.scores is not None:
            console.show(scores_table(f.scores, f"Validation of fold {f.fold}"))
