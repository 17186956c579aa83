"""medseg train"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from medseg.cli import options

if TYPE_CHECKING:
    from medseg.pipeline.on_slurm import Submitted
    from medseg.training.run import Trained

NAME = "train"


def command(
    context: typer.Context,
    run: options.Run,
    fold: Annotated[
        str | None,
        typer.Option(help="Train this fold (0, 1, ...), or `all`: on every case.  [default: 0]", show_default=False),
    ] = None,
    folds: Annotated[
        int | None,
        typer.Option(
            metavar="N", help="Train all N folds of a cross-validation, and score them together.", show_default=False
        ),
    ] = None,
    budget: options.Budget = None,
    steps: Annotated[
        int | None, typer.Option(help="Train this many steps instead (an epoch is 250).", show_default=False)
    ] = None,
    configuration: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Train another prepared configuration than the plan's choice: 2d, 3d, lowres or cascade.",
            show_default=False,
        ),
    ] = None,
    init: Annotated[
        Path | None,
        typer.Option(
            metavar="MODEL", help="Begin with the weights of this model: a run, or a fold of one.", show_default=False
        ),
    ] = None,
    deterministic: Annotated[
        bool, typer.Option("--deterministic", help="The same steps give the same weights, to the last bit on a CPU.")
    ] = False,
    gpus: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            help="Train on N GPUs: one fold on all of them, several folds side by side; with --device cpu, in N "
            "processes; on each of the --nodes.  [default: 1]",
            show_default=False,
        ),
    ] = None,
    tensorboard: Annotated[
        bool, typer.Option("--tensorboard", help="Write TensorBoard's files too, beside the curves.")
    ] = False,
    device: options.Device = "auto",
    on: Annotated[
        str, typer.Option(metavar="WHERE", help="local, or slurm: each fold is a batch job there, with all the budget.")
    ] = "local",
    nodes: Annotated[
        int, typer.Option(metavar="N", help="Train a fold on N nodes of a Slurm cluster together.", show_default=False)
    ] = 1,
    slurm: Annotated[
        str | None,
        typer.Option(
            metavar="OPTIONS", help="Options for sbatch: '--partition=gpu --time=8:00:00'.", show_default=False
        ),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the batch scripts and submit nothing.")] = False,
    wait: Annotated[bool, typer.Option("--wait", help="Follow the jobs until they have ended.")] = False,
    interface: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="The network that the nodes talk over: ib0, eth1.", show_default=False),
    ] = None,
    job: Annotated[str | None, typer.Option(metavar="ID", hidden=True)] = None,
    json: options.Json = False,
) -> None:
    """Train the planned network until its budget is used up; run the same command again to go on.

    The number of steps is fitted to the budget while it runs. Curves and figures: RUN/folds/CONFIGURATION/FOLD.

    Example: `medseg train runs/hippocampus --folds 5 --budget 2h`
    """
    from medseg.cli import console
    from medseg.errors import InputError
    from medseg.pipeline import steps as verbs
    from medseg.pipeline.on_slurm import Asked, Scripts, Submitted, train_on_slurm

    if on not in ("local", "slurm"):
        raise InputError(f"--on {on} is no place to train", fix="give local or slurm")
    if on == "slurm":
        if job is not None:
            raise InputError("--job is for a command within that job", fix="leave out --on slurm")
        asked = Asked(
            *(fold, folds, budget, steps, device, configuration, init, deterministic, gpus, tensorboard),
            *(nodes, interface),
        )
        found = console.follow(train_on_slurm(run, asked, slurm or "", wait, dry_run))
        if isinstance(found, Scripts):
            console.show_text("\n".join(found.texts))
        elif isinstance(found, Submitted):
            _show_submitted(found, json)
        else:
            _show(found, run, json)
        return
    for option, given in {"--slurm": slurm is not None, "--dry-run": dry_run, "--wait": wait}.items():
        if given:
            raise InputError(f"{option} is for --on slurm", fix="add --on slurm, or leave it out")
    begun = (run, fold, folds, budget, steps, device, context.obj["started"])
    events = verbs.train(*begun, configuration, init, deterministic, gpus, tensorboard, nodes, job, interface)
    _show(console.follow(events), run, json)


def _show_submitted(submitted: Submitted, json: bool) -> None:
    """What is in the queue now, how to look at it, and how to go on."""
    from medseg.cli import console

    if json:
        console.show_json({"run": submitted.run.name, "jobs": submitted.jobs, "folds": submitted.folds})
        return
    ids = ",".join(submitted.jobs)
    console.say(f"submitted: job {' and '.join(submitted.jobs)}; logs: {submitted.logs}")
    console.say(f"to look at them: squeue -j {ids}; to end them: scancel {' '.join(submitted.jobs)}")
    console.say("the same command with --wait follows them; once they have ended, without it trains what is left")


def _show(trained: Trained, run: Path, json: bool) -> None:
    """The folds and their scores; ends in an error where some failed."""
    from medseg.cli import console
    from medseg.errors import SOME_FAILED
    from medseg.planning.explain import counted
    from medseg.report.evaluation import scores_table
    from medseg.report.training import crossvalidation_table

    if json:
        found = [
            {
                "fold": f.fold,
                "steps": f.steps,
                "seconds": round(f.seconds, 1),
                "known": f.known,
                "scores": f.scores and f.scores.model_dump(mode="json"),
            }
            for f in trained.folds
        ]
        joint = trained.crossvalidation and trained.crossvalidation.model_dump(mode="json")
        console.show_json({"run": run.name, "folds": found, "crossvalidation": joint, "failed": trained.failed})
    else:
        for f in trained.folds:
            console.say(f"fold {f.fold}: {counted(f.steps, 'step')} in {f.seconds:.0f} s; {f.folder}")
            if f.scores is not None:
                console.show(scores_table(f.scores, f"Validation of fold {f.fold}"))
            if f.known:
                cases = counted(f.known, "validation case")
                told = f"the model that fold {f.fold} began with was trained on {cases}: these scores are too good"
                console.say(told, "yellow")
        if trained.crossvalidation is not None:
            console.show(
                crossvalidation_table(trained.crossvalidation, f"Cross-validation, {len(trained.folds)} folds")
            )
    if trained.failed:
        console.say(f"failed: {', '.join(trained.failed)}; run the same command again for them", "red")
        raise typer.Exit(SOME_FAILED)
