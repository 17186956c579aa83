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
Series = Annotated[
    list[str] | None,
    typer.Option(
        "--series",
        metavar="RULE",
        help="Which DICOM volume of a study: 'Modality=CT, ConvolutionKernel=B3*, SliceThickness=0.5..2'; "
        "'all' takes each; once for each channel of the model.",
        show_default=False,
    ),
]
AllowGaps = Annotated[bool, typer.Option("--allow-gaps", help="Fill missing slices by interpolation, and say where.")]
Prefer = Annotated[
    str,
    typer.Option(metavar="FORM", help="sform or qform, where a NIfTI file's two disagree.", show_default=False),
]
