"""medseg inspect"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from medseg.cli import options

NAME = "inspect"


def command(
    path: Annotated[Path, typer.Argument(metavar="PATH", help="A data set or scans.", show_default=False)],
    json: options.Json = False,
) -> None:
    """List what is found: cases or series, spacing, orientation, labels, problems.

    Example: `medseg inspect Task04_Hippocampus`
    """
    from medseg.cli import console
    from medseg.errors import SOME_FAILED
    from medseg.pipeline import steps
    from medseg.report.inspection import inspection_table

    found = steps.inspect(path)
    if json:
        console.show_json(found.model_dump(mode="json"))
    else:
        console.show(inspection_table(found))
    if any(look.problems for look in found.cases) or any(left.broken for left in found.left):
        raise typer.Exit(SOME_FAILED)
