from __future__ import annotations

import io
import re
import time
from collections.abc import Iterator
from typing import Any

import pytest
from rich.console import Console

from medseg.cli import console
from medseg.events import Advanced, Note, Stage
from medseg.report.evaluation import scores_table
from medseg.report.table import Table
from tests.pipeline.test_expect import scores

EVENTS = [
    Stage("train", 4, "about 4 s"),
    Advanced(1, "one [/bold] thing"),
    Note("a note [red]with brackets"),
    Note("a warning", warning=True),
    Advanced(4, "all"),
    Stage("nothing", 0, ""),
    Advanced(0, "none"),
    "the summary",
]


def test_events_become_lines_where_no_terminal_is(capsys: pytest.CaptureFixture[str]) -> None:
    assert console.follow(EVENTS) == "the summary"
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.splitlines() == [
        "train: about 4 s",
        "a note [red]with brackets",
        "warning: a warning",
        "  train 100 %, 0:00 left: all",
        "nothing: ",
    ]


def test_a_line_comes_also_while_nothing_ends(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(console, "LINE_EVERY_S", 0.05)

    def events() -> Iterator[Any]:
        yield Stage("infer", 6, "about 4 s")
        time.sleep(0.2)
        yield Advanced(1, "case1 (2 workers)")
        time.sleep(0.2)
        yield Advanced(6, "case6")
        time.sleep(0.2)
        yield Stage("nothing", 0, "")
        time.sleep(0.2)

    console.follow(events())
    lines = capsys.readouterr().err.splitlines()
    assert lines.count("  infer 0 %: nothing has ended yet") >= 2
    told = [line for line in lines if "case1" in line]
    assert len(told) >= 2
    assert all(re.fullmatch(r"  infer 17 %, \S+/min, 0:0\d left: case1 \(2 workers\)", line) for line in told)
    assert lines[-2:] == ["  infer 100 %, 0:00 left: case6", "nothing: "]


def test_a_terminal_gets_a_bar(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(console.err, "_force_terminal", True)
    assert console.follow(EVENTS) == "the summary"
    err = capsys.readouterr().err
    assert "a note [red]with brackets" in err
    assert "4/4" in err


def test_a_table_is_shown_whole(capsys: pytest.CaptureFixture[str]) -> None:
    console.show(Table("Title", ("name", "why"), (("a[b]", "long " * 60), ("x", "[red]")), ("remark [i]",)))
    out = capsys.readouterr().out
    assert out.count("long") == 60
    for text in ("Title", "a[b]", "[red]", "remark [i]"):
        assert text in out


def shown(table: Table, width: int, monkeypatch: pytest.MonkeyPatch) -> str:
    terminal = Console(highlight=False, width=width)
    monkeypatch.setattr(console, "out", terminal)
    with terminal.capture() as captured:
        console.show(table)
    assert max(map(len, captured.get().splitlines())) <= width
    return captured.get()


@pytest.mark.parametrize(("width", "left"), [(120, ""), (80, "BF1"), (60, "HD95 mm, ASSD mm, NSD, BF1")])
def test_numbers_are_never_broken_apart(width: int, left: str, monkeypatch: pytest.MonkeyPatch) -> None:
    table = scores_table(scores(("liver", 0.777), ("left kidney", 0.7), ("lesion", None)))
    told = shown(table, width, monkeypatch)
    (row,) = [line.split() for line in told.splitlines() if line.startswith(" liver")]
    headings = len(table.columns) - len(left.split(", ") if left else [])
    assert row == list(table.rows[0][:headings])
    assert (f"not shown, for want of room: {left} (see" in " ".join(told.split())) is bool(left)


@pytest.mark.parametrize("width", [80, 60])
def test_numbers_within_text_are_not_broken_apart_either(width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    interval = "100.25 (100.125 to 100.375)"
    columns = ("structure", "cases", "Dice", "HD95 mm", "NSD", "BF1")
    table = Table("", columns, (("a_long_name_of_a_structure", "6", *[interval] * 4),))
    numbers = re.findall(r"\d*\.\d*", shown(table, width, monkeypatch))
    assert sorted(numbers) == sorted(["100.25", "100.125", "100.375"] * 4)


@pytest.mark.parametrize("width", [80, 60])
def test_the_live_line_keeps_percentage_and_time_left(width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Console(file=io.StringIO(), force_terminal=True, width=width, highlight=False, color_system=None)
    monkeypatch.setattr(console, "err", terminal)
    bar = console._Bar()
    bar.show(Stage("train fold 0", 100, ""))
    now = 0.0
    bar.progress.get_time = bar.progress.tasks[0]._get_time = lambda: now
    words = "step 2 of 12, loss 1.312, liver 0.08, lesion 0.05, 1.36 steps/s"
    for now, done in enumerate((10.4, 15.4, 25.4)):  # noqa: B007 - the clock reads it
        bar.show(Advanced(done, words))
    with terminal.capture() as captured:
        terminal.print(bar.progress.get_renderable())
    (line,) = captured.get().splitlines()
    assert len(line) <= width
    assert re.match("train fold 0 ━+.* 25 % 0:00:[01]\\d step 2", line), line
    assert line.rstrip().endswith("…")


def test_a_pipe_is_told_no_time_left_before_it_is_known(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = iter((0.0, 20.0, 40.0))  # stage, then each event
    monkeypatch.setattr("time.monotonic", lambda: next(clock))
    monkeypatch.setattr(console, "LINE_EVERY_S", 10.0)
    lines = console._Lines()
    lines.stage = Stage("train", 100)
    next(clock)
    for done in (25, 50):
        lines.show(Advanced(done, "so far"))
    told = capsys.readouterr().err.splitlines()
    assert told == ["  train 25 %: so far", "  train 50 %, 0:40 left: so far"]


def test_json_is_one_document_without_nan(capsys: pytest.CaptureFixture[str]) -> None:
    console.show_json({"a": 1})
    assert capsys.readouterr().out == '{\n "a": 1\n}\n'
    with pytest.raises(ValueError, match="not JSON compliant"):
        console.show_json(float("nan"))


@pytest.mark.parametrize(("seconds", "text"), [(0.4, "0:00"), (65, "1:05"), (3600, "1:00:00"), (3725.6, "1:02:06")])
def test_clock(seconds: float, text: str) -> None:
    assert console._clock(seconds) == text
