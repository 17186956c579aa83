"""The command line: one typer application, one small file a verb, errors as one line and an exit code."""

from __future__ import annotations

import sys
import time
from importlib.metadata import version
from typing import Annotated

STARTED = time.monotonic()  # a training budget counts from here

import click  # noqa: E402
import typer  # noqa: E402

from medseg.cli import doctor, evaluate, infer, inspect, plan, run, train  # noqa: E402
from medseg.errors import DONE, INTERRUPTED, WRONG_USE, MedsegError, explained  # noqa: E402

NOTICE = "Research use only; not for diagnosis or treatment."

app = typer.Typer(
    name="medseg",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _show_version(asked: bool) -> None:
    if asked:
        sys.stdout.write(f"medseg {version('medseg')}. {NOTICE}\n")
        raise typer.Exit


@app.callback()
def _medseg(
    context: typer.Context,
    _version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    """From labelled CT and MR scans to a trustworthy segmentation model.

    plan DATA -o RUN, train RUN, infer RUN SCANS -o OUT, evaluate OUT REFERENCES -o DIR; or run RECIPE -o DIR for all.

    Research use only.
    """
    context.obj = {"debug": debug, "started": STARTED}


for verb in (plan, train, infer, evaluate, run, inspect, doctor):
    app.command(verb.NAME)(verb.command)


def main(arguments: list[str] | None = None) -> None:
    """Run a verb and leave with its exit code: 0 done, 1 some cases failed, 2 wrong use or input, 130 interrupted."""
    sys.exit(run_command(sys.argv[1:] if arguments is None else arguments))


def run_command(arguments: list[str]) -> int:
    """Run a verb; its exit code. Users' mistakes and the machine's limits are one line on standard error."""
    try:
        with explained(""):
            code = app(arguments, standalone_mode=False)
        return code if isinstance(code, int) else DONE
    except MedsegError as error:
        if "--debug" in arguments:
            raise
        sys.stderr.write(f"medseg: {error}\n")
        return error.exit_code
    except click.ClickException as error:
        error.show()
        return WRONG_USE
    except (KeyboardInterrupt, click.Abort):
        sys.stderr.write("medseg: interrupted; run the same command again to go on\n")
        return INTERRUPTED
