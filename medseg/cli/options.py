"""Arguments and options that several verbs share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Run = Annotated[Path, typer.Argument(metavar="RUN", help="The run folder that `medseg plan` made.", show_default=False)]
Device = Annotated[str, typer.Option(help="auto, cpu or cuda.")]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON, for machines.")]
Budget = Annotated[
    str | None, typer.Option(help="Wall time of the training command: 20min, 8h; or 500epochs.", show_default=False)
]
