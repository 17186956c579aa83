"""The command line: one typer application, one small file a verb, errors as one line and an exit code."""

from __future__ import annotations

import atexit
import gc
import os
import signal
import sys
import time
from importlib.metadata import version
from typing import Annotated

STARTED = time.monotonic()  # a training budget counts from here

import typer  # noqa: E402

from medseg.cli import (  # noqa: E402
    compare,
    convert,
    doctor,
    evaluate,
    export,
    import_nnunet,
    infer,
    inspect,
    plan,
    run,
    select,
    train,
)
from medseg.errors import DONE, INTERRUPTED, WRONG_USE, MedsegError, explained  # noqa: E402

# click's own, or typer's copy of it
UseError: type[Exception] = next(c for c in typer.BadParameter.__mro__ if c.__name__ == "ClickException")

app = typer.Typer(
    name="medseg",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _show_version(asked: bool) -> None:
    if asked:
        from medseg.files import RESEARCH_USE

        sys.stdout.write(f"medseg {version('medseg')}. {RESEARCH_USE}\n")
        raise typer.Exit


@app.callback()
def _medseg(
    context: typer.Context,
    _version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version.")
    ] = False,
    _debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    """From labelled CT and MR scans to a trustworthy segmentation model.

    plan DATA -o RUN, train RUN, infer RUN SCANS -o OUT, evaluate OUT REFERENCES -o DIR; or run RECIPE -o DIR for all.

    Research use only.
    """
    context.obj = {"started": STARTED}


for verb in (plan, train, select, infer, evaluate, compare, export, import_nnunet, run, inspect, convert, doctor):
    app.command(verb.NAME)(verb.command)


def main(arguments: list[str] | None = None) -> None:
    """Run a verb and leave with its exit code: 0 done, 1 some cases failed, 2 wrong use or input, 130 interrupted."""
    # Read by libgomp when torch is loaded: a waiting thread spins for microseconds, not milliseconds. Beside one other
    # busy process a training step of two threads takes half the time and half the processor time by it (measured:
    # 0.6 s and 0.6 CPU-s against 1.6 s and 1.6 CPU-s at a count of 20000); alone it costs an eighth.
    os.environ.setdefault("GOMP_SPINCOUNT", "2000")
    # `kill`, and a computer that shuts down, end a command as Ctrl-C does: what it unpacked of scans does not stay.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    # Importing torch makes half a million objects, which Python would look through for cycles again and again while
    # they are made, and once more in the end: 0.7 of the 2.4 s of a command that imports and leaves.
    gc.set_threshold(100_000, 20, 100)
    atexit.register(gc.freeze)
    sys.exit(run_command(sys.argv[1:] if arguments is None else arguments))


def run_command(arguments: list[str]) -> int:
    """Run a verb; its exit code. Users' mistakes and the machine's limits are one line on standard error."""
    debug, arguments = "--debug" in arguments, [a for a in arguments if a != "--debug"]  # wherever it stands
    try:
        with explained(""):
            code = app(arguments or ["--help"], prog_name="medseg", standalone_mode=False)
        if code == INTERRUPTED:  # typer's way of telling of a Ctrl-C
            raise KeyboardInterrupt
        return code if isinstance(code, int) else DONE
    except MedsegError as error:
        if debug:
            raise
        _complain(str(error))
        return error.exit_code
    except UseError as error:
        _complain(f"{_words(error)}; see {_verb(error)} --help")
        return WRONG_USE
    except MemoryError:
        _complain("the memory of this machine is used up; nothing half-written stays")
        return WRONG_USE
    except (KeyboardInterrupt, typer.Abort):
        _complain("interrupted; run the same command again to go on")
        return INTERRUPTED


def _complain(text: str) -> None:
    sys.stderr.write(f"medseg: {' '.join(text.splitlines())}\n")


def _words(error: Exception) -> str:
    said = error.format_message() if hasattr(error, "format_message") else str(error)
    return str(said).rstrip(".")


def _verb(error: Exception) -> str:
    context = getattr(error, "ctx", None)
    return context.command_path if context else "medseg"
