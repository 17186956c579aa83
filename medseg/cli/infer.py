"""medseg infer"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from medseg.cli import options

NAME = "infer"


def command(
    run: options.Run,
    scans: Annotated[
        Path,
        typer.Argument(
            metavar="SCANS",
            help="A NIfTI file, a folder of them, a DICOM series folder, or a folder of such.",
            show_default=False,
        ),
    ],
    out: Annotated[Path, typer.Option("-o", "--out", help="Where labels are written.", show_default=False)],
    device: options.Device = "auto",
    json: options.Json = False,
) -> None:
    """Segment scans with all finished folds; labels on each scan's own grid. Finished cases are skipped.

    Example: `medseg infer runs/hippocampus new_scans -o predictions`
    """
    from medseg.cli import console
    from medseg.errors import CasesFailed
    from medseg.pipeline import steps
    from medseg.report.inference import predictions_table

    inferred = console.follow(steps.infer(run, scans, out, device))
    if json:
        console.show_json(inferred.predictions.model_dump(mode="json"))
    else:
        console.show(predictions_table(inferred.predictions))
        console.say(f"written to {out}")
    if inferred.failed:
        raise CasesFailed(inferred.failed)
