"""The only place that prints: events become progress, summaries become tables or JSON."""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Callable, Iterable
from typing import Any

from rich import box
from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TaskID, TimeRemainingColumn
from rich.table import Column
from rich.table import Table as RichTable
from rich.text import Text

from medseg.cli.layout import layout
from medseg.events import Advanced, Event, Note, Stage, StepBegins
from medseg.report.table import Table

LINE_EVERY_S = 10.0  # where no terminal is watching, a line now and then

WIDTH_OF_A_PIPE = 120
BAR_PART = 6  # of the terminal's width is the bar's
SPEED_OVER_S = 600.0  # the time left is told from the speed in so long; of a long training little is done in seconds

out = Console(highlight=False, width=None if sys.stdout.isatty() else WIDTH_OF_A_PIPE)
err = Console(stderr=True, highlight=False, soft_wrap=True)


def say(text: str, style: str = "") -> None:
    """One line to standard error, where progress goes; results alone go to standard output."""
    err.print(Text(text, style=style), soft_wrap=True)


def show(table: Table) -> None:
    """A table to standard output; of more columns of numbers than there is room for, the last are left out."""
    laid = layout(table, out.width)
    drawn = RichTable(
        title=table.title,
        title_justify="left",
        title_style="bold",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        padding=(0, 1, 0, 0),
    )
    for k, width in laid.items():
        drawn.add_column(table.columns[k], overflow="fold", width=width)
    for row in table.rows:
        drawn.add_row(*(Text(row[k]) for k in laid))
    out.print(drawn)
    left = [name for k, name in enumerate(table.columns) if k not in laid]
    more = (f"not shown, for want of room: {', '.join(left)} (see {table.whole})",) if left else ()
    for remark in (*more, *table.remarks):
        out.print(Text(f"  {remark}"))


def show_json(values: Any) -> None:
    """One JSON document to standard output."""
    sys.stdout.write(json.dumps(values, indent=1, allow_nan=False) + "\n")


def show_text(text: str) -> None:
    """A text to standard output, as it is."""
    sys.stdout.write(text)


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
    """Plain lines for logs and pipes: every stage and note, and how far it is every ten seconds, with what was done
    last, how fast it goes and how long it will take; also while nothing ends.
    """

    def __init__(self) -> None:
        self.stage, self.began, self.shown = Stage("", 0), 0.0, 0.0
        self.first: float | None = None  # what was done before, in an earlier run
        self.last: Advanced | None = None
        self.at_work = False
        self._turn, self._end = threading.Lock(), threading.Event()
        self._clock = threading.Thread(target=self._tick, daemon=True)

    def __enter__(self) -> _Lines:
        self._clock.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._end.set()
        self._clock.join()

    def _tick(self) -> None:
        while not self._end.wait(LINE_EVERY_S / 10):
            with self._turn:
                if self.at_work and time.monotonic() - self.shown >= LINE_EVERY_S:
                    self._line(self.last or Advanced(0, "nothing has ended yet"), time.monotonic())

    def show(self, event: Event) -> None:
        with self._turn:
            self._show(event)

    def _show(self, event: Event) -> None:
        match event:
            case Stage():
                self.stage, self.began, self.shown, self.first = event, time.monotonic(), time.monotonic(), None
                self.last, self.at_work = None, event.total > 0
                say(f"{event.name}: {event.expect}")
            case Note():
                _say_note(event)
            case StepBegins():
                self.at_work = False
                say(f"[{event.number}/{event.total}] medseg {event.words}", "bold")
            case Advanced():
                now = time.monotonic()
                if self.first is None and event.done > 1:
                    self.first, self.began = event.done, now
                elif self.first is None:
                    self.first = 0.0
                self.last = event
                is_done = event.done >= self.stage.total > 0
                self.at_work = not is_done
                if now - self.shown >= LINE_EVERY_S or is_done:
                    self._line(event, now)

    def _line(self, event: Advanced, now: float) -> None:
        self.shown = now
        share = f"{100 * event.done / max(self.stage.total, 1):.0f} %"
        left = self._left(event.done, self.first or 0.0, now)
        say(f"  {self.stage.name} {share}{left}: {event.what}")

    def _left(self, done: float, first: float, now: float) -> str:
        """The speed and the time left, once they are known."""
        if done >= self.stage.total:
            return ", 0:00 left"
        here, seconds = done - first, now - self.began
        if here <= 0 or seconds <= 0:
            return ""
        # stages of hundredths are of no cases
        rate = f", {60 * here / seconds:.3g}/min" if self.stage.total % 100 else ""
        return f"{rate}, {_clock(seconds / here * (self.stage.total - done))} left"


class _Told(ProgressColumn):
    """Words that give way, so that the other columns stay."""

    def __init__(self, what: Callable[[Task], str]) -> None:
        super().__init__(Column(no_wrap=False))  # the table shortens such columns alone
        self._what = what

    def render(self, task: Task) -> Text:
        return Text(self._what(task), no_wrap=True, overflow="ellipsis")


class _Share(ProgressColumn):
    """`3/20 15 %`; of stages that are counted in hundredths, one or several, the percentage alone."""

    max_refresh = 0.1

    def __init__(self) -> None:
        super().__init__(Column(no_wrap=True))

    def render(self, task: Task) -> Text:
        count = f"{int(task.completed)}/{task.total:.0f} " if task.total and task.total % 100 else ""
        return Text(f"{count}{task.percentage:.0f} %")


class _Bar:
    """A live bar for a terminal."""

    def __init__(self) -> None:
        columns = (
            _Told(lambda task: task.description),
            BarColumn(err.width // BAR_PART, table_column=Column(no_wrap=True)),
            _Share(),
            TimeRemainingColumn(table_column=Column(no_wrap=True)),
            _Told(lambda task: str(task.fields["what"])),
        )
        self.progress, self.task = Progress(*columns, console=err, speed_estimate_period=SPEED_OVER_S), TaskID(-1)

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
                self.progress.update(self.task, completed=event.done, what=event.what)


def _say_note(note: Note) -> None:
    say(("warning: " if note.warning else "") + note.text, "yellow" if note.warning else "")


def _clock(seconds: float) -> str:
    whole = round(seconds)
    return (
        f"{whole // 3600}:{whole % 3600 // 60:02d}:{whole % 60:02d}"
        if whole >= 3600
        else f"{whole // 60}:{whole % 60:02d}"
    )
