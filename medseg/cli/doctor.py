"""medseg doctor"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from medseg.cli import options

NAME = "doctor"


def command(
    folder: Annotated[Path, typer.Option(help="The folder whose free disk space is looked at.")] = Path(),
    json: options.Json = False,
) -> None:
    """Say what this machine can do: versions, devices, memory, disk, DICOM codecs, known faults.

    Example: `medseg doctor`
    """
    from medseg.cli import console
    from medseg.errors import SOME_FAILED
    from medseg.pipeline.doctor import doctor
    from medseg.report.table import Table

    health = doctor(folder)
    if json:
        console.show_json(health.model_dump(mode="json"))
    else:
        console.show(
            Table("medseg doctor", ("", "found", ""), tuple((f.what, f.found, f.state) for f in health.findings))
        )
    if any(f.state == "bad" for f in health.findings):
        raise typer.Exit(SOME_FAILED)
