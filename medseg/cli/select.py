"""medseg select"""

from __future__ import annotations

from medseg.cli import options

NAME = "select"


def command(run: options.Run, device: options.Device = "auto", json: options.Json = False) -> None:
    """Compare all trained configurations and their pairs by cross-validated Dice; choose one, and what cleans it up.

    `medseg infer` then uses the choice by itself. Train several configurations on all folds first:
    `medseg plan DATA -o RUN --also 2d`, `medseg train RUN --folds 5`, `medseg train RUN --configuration 2d --folds 5`.

    Example: `medseg select runs/hippocampus`
    """
    from medseg.cli import console
    from medseg.pipeline import steps
    from medseg.report.selection import selection_table

    selected = console.follow(steps.select(run, device))
    if json:
        console.show_json(selected.selection.model_dump(mode="json"))
        return
    console.show(selection_table(selected.selection))
    console.say(f"written to {run / 'selected.json'}; medseg infer {run} uses it")
