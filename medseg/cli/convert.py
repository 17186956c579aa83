"""medseg convert"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from medseg.cli import options

NAME = "convert"


def command(
    source: Annotated[Path, typer.Argument(metavar="IN", help="A scan, labels, or a data set.", show_default=False)],
    target: Annotated[Path, typer.Argument(metavar="OUT", help="What to write.", show_default=False)],
    to: Annotated[
        str,
        typer.Option(
            metavar="FORM",
            help="nifti, nrrd, mha, dicom, seg, labelmap, rtstruct, seg.nrrd, nnunet, decathlon. "
            "[default: by the name of OUT]",
            show_default=False,
        ),
    ] = "",
    like: Annotated[
        Path | None, typer.Option(help="The DICOM series that the labels belong to.", show_default=False)
    ] = None,
    names: Annotated[
        str, typer.Option(metavar="LIST", help="Names of label values: '1=liver, 2=kidney'.", show_default=False)
    ] = "",
    modality: Annotated[str, typer.Option(help="CT or MR, for a DICOM series.", show_default=False)] = "",
    series: Annotated[
        str, typer.Option(metavar="RULE", help="Which volume, where DICOM holds several.", show_default=False)
    ] = "",
    suv: Annotated[bool, typer.Option("--suv", help="Read PET as body-weight SUV.")] = False,
    allow_gaps: options.AllowGaps = False,
    prefer: options.Prefer = "",
    on: options.Place = "local",
    jobs: options.Jobs = None,
    slurm: options.Slurm = "",
    interface: options.Interface = "",
    tls: options.Tls = None,
    insecure: options.Insecure = False,
    part: options.Share = "0/1",
    json: options.Json = False,
) -> None:
    """Convert scans, labels and data sets; says how far anything moved, after reading it back.

    A data set appears whole at the end; interrupt it at any time and give the same command again: it goes on.

    Example: `medseg convert liver.nii.gz liver.seg.dcm --like CT_series --names '1=liver'`
    """
    from medseg.cli import console
    from medseg.errors import CasesFailed
    from medseg.kept import PartDone
    from medseg.pipeline import steps

    read = steps.read_options(allow_gaps, suv, prefer)
    where = options.place(on, jobs, slurm, interface, tls, insecure)
    done = console.follow(steps.convert(source, target, to, like, names, modality, series, read, where, part))
    if isinstance(done, PartDone):
        console.say(done.words)
        if done.failed:
            raise CasesFailed(dict(done.failed))
        return
    if json:
        paths = [path.name for path in done.paths]
        console.show_json({"form": done.form, "files": paths, "deviation_mm": done.deviation_mm, "notes": done.notes})
        return
    for note in done.notes:
        console.say(f"note: {note}", "yellow")
    files = f"{len(done.paths)} files" if len(done.paths) > 1 else done.paths[0].name
    console.say(f"{done.form} written: {files}; read back, largest deviation {done.deviation_mm:.2g} mm")
