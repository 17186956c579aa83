"""medseg infer"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from medseg.cli import options

NAME = "infer"


def command(
    run: Annotated[
        Path, typer.Argument(metavar="RUN", help="A run folder, or a model file (.medseg).", show_default=False)
    ],
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
    quality: Annotated[
        str,
        typer.Option(
            help="fast, standard or max: how densely tiles lie, mirroring, folds.",
        ),
    ] = "standard",
    structures: Annotated[
        str,
        typer.Option(
            metavar="LIST", help="Only these in the results: liver,kidney. [default: all]", show_default=False
        ),
    ] = "",
    split: Annotated[bool, typer.Option("--split", help="A NIfTI file for each structure.")] = False,
    instances: Annotated[
        str,
        typer.Option(
            metavar="LIST",
            help="Number the separate parts of these structures (lesions): a file and a row in statistics.csv each.",
            show_default=False,
        ),
    ] = "",
    probabilities: Annotated[
        bool, typer.Option("--probabilities", help="Write the probability of every structure as well (large).")
    ] = False,
    uncertainty: Annotated[
        bool, typer.Option("--uncertainty", help="Write a map of how unsure each voxel is as well.")
    ] = False,
    min_volume: Annotated[
        list[str] | None,
        typer.Option(
            metavar="[NAME=]ML",
            help="Remove components below this volume: 0.5, or liver=2; once or more. "
            "[default for this and the next two: what training chose]",
            show_default=False,
        ),
    ] = None,
    largest: Annotated[
        list[str] | None,
        typer.Option(
            metavar="LIST", help="Keep only the largest component: of names, all or none.", show_default=False
        ),
    ] = None,
    fill: Annotated[
        list[str] | None,
        typer.Option(metavar="LIST", help="Fill holes: of names, all or none.", show_default=False),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Do finished cases again.")] = False,
    no_report: Annotated[
        bool, typer.Option("--no-report", help="Do not write report.html, the page to check the results with.")
    ] = False,
    device: options.Device = "auto",
    on: options.Place = "local",
    jobs: options.Jobs = None,
    slurm: options.Slurm = "",
    interface: options.Interface = "",
    tls: options.Tls = None,
    insecure: options.Insecure = False,
    part: options.Share = "0/1",
    json: options.Json = False,
) -> None:
    """Segment scans with all finished folds; labels on each scan's own grid. Finished cases are skipped.

    RUN is a run folder or a model file. The table tells volumes, the Dice to expect and what to look at first;
    `statistics.csv` holds measurements of every structure with their intervals, `report.html` pictures of the cases to
    look at first; it opens in any browser, without a network. Says before it starts how long it will
    take and how much memory and disk. Interrupt it at any time and give the same command again: it goes on. A scan that
    cannot be read is set aside, the others are done.

    Example: `medseg infer runs/hippocampus new_scans -o predictions --format nifti,seg,rtstruct`
    """
    from medseg.cli import console
    from medseg.errors import CasesFailed
    from medseg.pipeline import steps
    from medseg.report.inference import predictions_table

    inferred = console.follow(
        steps.infer(
            run,
            scans,
            out,
            device,
            _words(formats),
            series or (),
            codes,
            steps.read_options(allow_gaps=allow_gaps, prefer=prefer),
            overwrite=overwrite,
            part=part,
            quality=quality,
            structures=(structures,) if structures else (),
            split=split,
            instances=(instances,) if instances else (),
            probabilities=probabilities,
            uncertainty=uncertainty,
            min_volume=min_volume or (),
            largest=largest or (),
            fill=fill or (),
            report=not no_report,
            on=options.place(on, jobs, slurm, interface, tls, insecure),
        )
    )
    if json:
        console.show_json(inferred.predictions.model_dump(mode="json"))
    else:
        console.show(predictions_table(inferred.predictions))
        console.say(f"written to {out}")
    if inferred.failed:
        raise CasesFailed(inferred.failed)


def _words(text: str) -> tuple[str, ...]:
    """What stands between commas."""
    return tuple(word.strip() for word in text.split(",") if word.strip())
