from __future__ import annotations

import pytest

from medseg.cli import console
from medseg.events import Advanced, Note, Stage
from medseg.report.table import Table

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


def test_json_is_one_document_without_nan(capsys: pytest.CaptureFixture[str]) -> None:
    console.show_json({"a": 1})
    assert capsys.readouterr().out == '{\n "a": 1\n}\n'
    with pytest.raises(ValueError, match="not JSON compliant"):
        console.show_json(float("nan"))


@pytest.mark.parametrize(("seconds", "text"), [(0.4, "0:00"), (65, "1:05"), (3600, "1:00:00"), (3725.6, "1:02:06")])
def test_clock(seconds: float, text: str) -> None:
    assert console._clock(seconds) == text
