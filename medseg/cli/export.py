"""medseg export"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from medseg.cli import options

NAME = "export"


def command(
    run: Annotated[
        Path,
        typer.Argument(metavar="RUN", help="A run with trained folds; or a model file.", show_default=False),
    ],
    out: Annotated[
        Path | None,
        typer.Option("-o", "--out", metavar="FILE.medseg", help="The model as one file.", show_default=False),
    ] = None,
    onnx: Annotated[
        Path | None, typer.Option(metavar="FILE.onnx", help="Its networks as ONNX.", show_default=False)
    ] = None,
    openvino: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Its networks for OpenVINO.", show_default=False)
    ] = None,
    monai_bundle: Annotated[
        Path | None, typer.Option(metavar="DIR", help="The mean of its folds as a MONAI bundle.", show_default=False)
    ] = None,
    folds: Annotated[
        str, typer.Option(metavar="LIST", help="Only these folds: 0,1 or all. [default: every one]", show_default=False)
    ] = "",
    licence: Annotated[str, typer.Option(help="The licence of the weights.", show_default=False)] = "",
    notes: Annotated[str, typer.Option(help="A word to whoever uses the model.", show_default=False)] = "",
    json: options.Json = False,
) -> None:
    """Write a trained model as one file for `medseg infer`, and its networks for other runtimes.

    ONNX and OpenVINO hold a network a file: of several folds each has its own. Each is compared with torch.

    Example: `medseg export runs/hippocampus -o hippocampus.medseg --licence CC-BY-4.0`
    """
    from medseg.cli import console
    from medseg.pipeline import steps
    from medseg.report.export import export_table

    named = [word.strip() for word in folds.split(",") if word.strip()]
    exported = console.follow(steps.export(run, out, onnx, openvino, monai_bundle, named, licence, notes))
    if json:
        console.show_json(exported.summary.model_dump(mode="json"))
    else:
        console.show(export_table(exported.summary))
