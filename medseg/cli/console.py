"""The only place that prints: events become progress, summaries become tables or JSON."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterable
from typing import Any

from rich import box
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Table as RichTable
from rich.text import Text

from medseg.events import Advanced, Event, Note, Stage, StepBegins
from medseg.report.table import Table

LINE_EVERY_S = 10.0  # where no terminal is watching, a line now and then

WIDTH_OF_A_PIPE = 120

out = Console(highlight=False, width=None if sys.stdout.isatty() else WIDTH_OF_A_PIPE)
err = Console(stderr=True, highlight=False, soft_wrap=True)


def say(text: str, style: str = "") -> None:
    """One line to standard error, where progress goes; results alone go to standard output."""
    err.print(Text(text, style=style), soft_wrap=True)


def show(table: Table) -> None:
    """A table to standard output."""
    drawn = RichTable(title=table.title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False)
    for index, column in enumerate(table.columns):
        drawn.add_column(column, overflow="fold", no_wrap=index == 0)
    for row in table.rows:
        drawn.add_row(*(Text(cell) for cell in row))
    out.print(drawn)
    for remark in table.remarks:
        out.print(Text(f"  {remark}"))


def show_json(values: Any) -> None:
    """One JSON document to standard output."""
    sys.stdout.write(json.dumps(values, indent=1, allow_nan=False) + "\n")


def follow(events: Iterable[Any]) -> Any:
    """Show a front door's events as they come; return its summary, which is its last yield."""
    summary: Any = None
    view = _Bar() if err.is_terminal else _Lines()
    with view:
        for event in events:
            if isinstance(event, Event):
                view.show(event)
            else:
                summary = event
    return summary


class _Lines:
    """Plain lines for logs and pipes: every stage and note, progress every ten seconds."""

    def __init__(self) -> None:
        self.stage, self.began, self.shown = Stage("", 0), 0.0, 0.0
        self.first: float | None = None  # what was done before, in an earlier run

    def __enter__(self) -> _Lines:
        return self

    def __exit__(self, *error: object) -> None:
        return None

    def show(self, event: Event) -> None:
        match event:
            case Stage():
                self.stage, self.began, self.shown, self.first = event, time.monotonic(), time.monotonic(), None
                say(f"{event.name}: {event.expect}")
            case Note():
                _say_note(event)
            case StepBegins():
                say(f"[{event.number}/{event.total}] medseg {event.words}", "bold")
            case Advanced():
                now = time.monotonic()
                if self.first is None:
                    self.first = event.done if event.done > 1 else 0.0
                if now - self.shown >= LINE_EVERY_S or (event.done >= self.stage.total and self.stage.total):
                    self.shown = now
                    here = event.done - self.first
                    left = (now - self.began) / here * (self.stage.total - event.done) if here > 0 else 0.0
                    share = f"{100 * event.done / max(self.stage.total, 1):.0f} %"
                    say(f"  {self.stage.name} {share}, {_clock(left)} left: {event.what}")


class _Bar:
    """A live bar for a terminal."""

    def __init__(self) -> None:
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[what]}"),
        )
        self.progress, self.task = Progress(*columns, console=err), TaskID(-1)

    def __enter__(self) -> _Bar:
        self.progress.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.progress.stop()

    def show(self, event: Event) -> None:
        match event:
            case Stage():
                say(f"{event.name}: {event.expect}")
                self.task = self.progress.add_task(event.name, total=event.total, what="")
            case Note():
                _say_note(event)
            case StepBegins():
                say(f"[{event.number}/{event.total}] medseg {event.words}", "bold")
            case Advanced():
                self.progress.update(self.task, completed=round(event.done), what=event.what)


def _say_note(note: Note) -> None:
    say(("warning: " if note.warning else "") + note.text, "yellow" if note.warning else "")


def _clock(seconds: float) -> str:
    whole = round(seconds)
    return (
        f"{whole // 3600}:{whole % 3600 // 60:02d}:{whole % 60:02d}"
        if whole >= 3600
        else f"{whole // 60}:{whole % 60:02d}"
    )
