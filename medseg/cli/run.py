"""medseg run"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from medseg.cli import options

NAME = "run"


def command(
    recipe: Annotated[
        Path, typer.Argument(metavar="RECIPE", help="A recipe, such as pipelines/quickstart.yaml.", show_default=False)
    ],
    out: Annotated[Path, typer.Option("-o", "--out", help="Where everything is written.", show_default=False)],
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", help="Replace a setting: data=FOLDER, budget=1h, ...", show_default=False),
    ] = None,
    json: options.Json = False,
) -> None:
    """Run a recipe from plan to scores and check what it promises; exit code 1 where a promise is missed.

    Example: `medseg run pipelines/hippocampus.yaml -o out --set data=Task04_Hippocampus`
    """
    from medseg.cli import console
    from medseg.errors import DONE, SOME_FAILED
    from medseg.pipeline.expect import outcomes_table
    from medseg.pipeline.recipe import read_recipe, run_recipe
    from medseg.report.evaluation import scores_table

    ran = console.follow(run_recipe(read_recipe(recipe, settings or ()), out))
    if json:
        console.show_json(
            {
                "met": ran.met,
                "outcomes": [o.model_dump() for o in ran.outcomes],
                "failed": ran.failed,
                "scores": {name: scores.model_dump(mode="json") for name, scores in ran.scores},
            }
        )
    else:
        for name, scores in ran.scores:
            console.show(scores_table(scores, f"Scores: {name}"))
        if ran.outcomes:
            console.show(outcomes_table(ran.outcomes))
        console.say(f"done in {ran.seconds:.0f} s; everything is in {out}")
    if not ran.met or ran.failed:
        console.say("not as promised" if not ran.met else f"{len(ran.failed)} case(s) failed", "red")
        raise typer.Exit(SOME_FAILED)
    raise typer.Exit(DONE)
