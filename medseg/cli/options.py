"""Arguments and options that several verbs share."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from medseg.pipeline.where import On

_ELSEWHERE = "More than one machine"

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
Place = Annotated[
    str,
    typer.Option(
        "--on",
        metavar="PLACE",
        help="Where cases are worked on: local, slurm (worker jobs) or dask:tls://host:port (a cluster that runs).",
        rich_help_panel=_ELSEWHERE,
    ),
]
Jobs = Annotated[
    int | None,
    typer.Option(
        metavar="N",
        help="So many processes here, or worker jobs of Slurm.  [default: by cores and memory; 4 jobs]",
        show_default=False,
        rich_help_panel=_ELSEWHERE,
    ),
]
Slurm = Annotated[
    str,
    typer.Option(
        metavar="OPTIONS",
        help="Options of sbatch for the jobs: '--partition=gpu --gres=gpu:1 --time=2:00:00'.",
        show_default=False,
        rich_help_panel=_ELSEWHERE,
    ),
]
Interface = Annotated[
    str,
    typer.Option(
        metavar="NAME",
        help="With --on slurm: the network on which all sockets are, such as ib0.  [default: that of the route]",
        show_default=False,
        rich_help_panel=_ELSEWHERE,
    ),
]
Tls = Annotated[
    Path | None,
    typer.Option(
        metavar="DIR",
        help="With --on dask: ca.pem, cert.pem and key.pem to show there.  [default: what Dask is configured for]",
        show_default=False,
        rich_help_panel=_ELSEWHERE,
    ),
]
Insecure = Annotated[
    bool,
    typer.Option(
        "--insecure", help="Also use a dask:tcp:// address that is not encrypted.", rich_help_panel=_ELSEWHERE
    ),
]
Share = Annotated[
    str,
    typer.Option(
        "--part",
        metavar="I/N",
        help="Only part I (from 0) of N of the cases: start `--part 0/2` and `--part 1/2` with the same folder, on one "
        "machine or two. [default: all]",
        show_default=False,
        rich_help_panel=_ELSEWHERE,
    ),
]


def place(on: str, jobs: int | None, slurm: str, interface: str, tls: Path | None, insecure: bool) -> On:
    """What was typed, as a value, if it can be done.

    Raises:
        InputError: it cannot.
    """
    from medseg.pipeline.where import On

    return On(on, jobs, slurm, interface, tls, insecure).check()
