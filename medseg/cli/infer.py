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
            help="NIfTI, NRRD or MHA files, DICOM (folders of any depth, zip), or a folder of all.",
            show_default=False,
        ),
    ],
    out: Annotated[Path, typer.Option("-o", "--out", help="Where labels are written.", show_default=False)],
    formats: Annotated[
        str,
        typer.Option(
            "--format",
            metavar="LIST",
            help="Of nifti, seg, labelmap (a much smaller SEG that fewer can read), rtstruct, nrrd, sr. "
            "[default: nifti, and seg for DICOM]",
            show_default=False,
        ),
    ] = "",
    series: options.Series = None,
    codes: Annotated[
        Path | None, typer.Option(help="JSON or TOML with your own codes of structures, for SEG.", show_default=False)
    ] = None,
    allow_gaps: options.AllowGaps = False,
    prefer: options.Prefer = "",
    device: options.Device = "auto",
    json: options.Json = False,
) -> None:
    """Segment scans with all finished folds; labels on each scan's own grid. Finished cases are skipped.

    Example: `medseg infer runs/hippocampus new_scans -o predictions --format nifti,seg,rtstruct`
    """
    from medseg.cli import console
    from medseg.errors import CasesFailed
    from medseg.pipeline import steps
    from medseg.report.inference import predictions_table

    wanted = tuple(word.strip() for word in formats.split(",") if word.strip())
    read = steps.read_options(allow_gaps=allow_gaps, prefer=prefer)
    inferred = console.follow(steps.infer(run, scans, out, device, wanted, series or (), codes, read))
    if json:
        console.show_json(inferred.predictions.model_dump(mode="json"))
    else:
        console.show(predictions_table(inferred.predictions))
        console.say(f"written to {out}")
    if inferred.failed:
        raise CasesFailed(inferred.failed)
