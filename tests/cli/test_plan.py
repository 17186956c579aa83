"""What `medseg plan` offers besides its defaults: families, folds, comparing, and lines that fit a terminal."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from medseg.cli.app import run_command
from medseg.files import read_record
from medseg.planning.plan import Plan, Splits
from tests.preprocessing.build import write_dataset

pytestmark = pytest.mark.usefixtures("one_thread")


def plan(data: Path, run: Path, *options: Any) -> int:
    said = ["plan", data, "-o", run, "--device", "cpu", "--memory", "2", *options]
    return run_command([str(word) for word in said])


def test_a_family_of_networks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = write_dataset(tmp_path / "data", n=3)
    assert plan(data, tmp_path / "run", "--network", "resenc-m") == 0
    made = read_record(tmp_path / "run" / "plan.json", Plan)
    assert (made.request.network, made.configuration.network.kind) == ("resenc-m", "resenc")
    assert "U-Net with residual encoder (resenc-m)" in capsys.readouterr().out


def test_folds_of_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = write_dataset(tmp_path / "data", n=3)
    (tmp_path / "mine.json").write_text(json.dumps([{"train": ["case0", "case1"], "val": ["case2"]}]))
    assert plan(data, tmp_path / "run", "--splits", tmp_path / "mine.json") == 0
    said = capsys.readouterr()
    assert "folds: the 1 of mine.json" in said.err
    assert "warning: 2 case(s) are validated in none of the given folds" in said.err
    assert "as the user gave them" in said.out
    assert len(read_record(tmp_path / "run" / "splits.json", Splits).folds) == 1
    assert run_command(["train", str(tmp_path / "run"), "--folds", "3"]) == 2
    assert "has 1 folds that were given; leave --folds out" in capsys.readouterr().err


def test_a_loss_and_weights(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = write_dataset(tmp_path / "data", n=3)
    assert plan(data, tmp_path / "run", "--loss", "dice-focal", "--class-weights", "volume") == 0
    made = read_record(tmp_path / "run" / "plan.json", Plan).configuration
    assert (made.schedule.loss, len(made.schedule.class_weights)) == ("dice_focal", 3)
    assert any("focal loss; weights background 1, liver 1, lesion" in reason.choice for reason in made.reasons)
    capsys.readouterr()
    assert plan(data, tmp_path / "other", "--loss", "best") == 2
    assert "--loss best is no loss; give one of dice_ce, dice_focal" in capsys.readouterr().err
    assert plan(data, tmp_path / "other", "--class-weights", "liver") == 2
    assert "give even, volume, or names with numbers above 0" in capsys.readouterr().err
    assert not (tmp_path / "other").exists()


def test_two_plans_are_compared(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = write_dataset(tmp_path / "data", n=3)
    assert plan(data, tmp_path / "one", "--budget", "10steps") == 0
    capsys.readouterr()
    other = tmp_path / "one" / "plan.json"
    assert plan(data, tmp_path / "two", "--budget", "20steps", "--spacing", "2", "--compare", other) == 0
    out = capsys.readouterr().out
    assert "differences from the other plan" in out
    for field in ("request.spacing", "budget.steps", "preprocessing.spacing_mm (3D)", "patch (3D)"):
        assert field in out
    assert plan(data, tmp_path / "one", "--budget", "10steps", "--compare", tmp_path / "one", "--json") == 0
    assert json.loads(capsys.readouterr().out)["differences"] == []
    assert plan(data, tmp_path / "two", "--budget", "20steps", "--spacing", "2", "--compare", other, "--json") == 0
    found = {d["field"]: d for d in json.loads(capsys.readouterr().out)["differences"]}
    assert (found["budget.steps"]["ours"]["value"], found["budget.steps"]["other"]["value"]) == (20, 10)
    assert found["preprocessing.spacing_mm"]["ours"] == {"value": [2.0, 2.0, 2.0], "why": "as asked"}


def test_low_resolution_is_refused_where_it_has_no_use(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert plan(write_dataset(tmp_path / "data", n=3), tmp_path / "run", "--dims", "lowres") == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith("medseg: --dims lowres has no use: a patch holds ")
    assert line.endswith("% of the median scan at full resolution; give 3d or auto")


def test_what_comes_next_can_be_done(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "run"
    assert plan(write_dataset(tmp_path / "three", n=3), run) == 0
    assert capsys.readouterr().err.splitlines()[-1].endswith(f"next: medseg train {run}")
    assert plan(write_dataset(tmp_path / "one", n=1), tmp_path / "alone") == 0
    said = " ".join(capsys.readouterr().err.split())
    assert said.endswith(f"1 case prepared in {tmp_path}/alone; next: medseg train {tmp_path}/alone --fold all")
    assert "reading 1 case, " in said


def test_the_page_ends_where_it_began(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert plan(write_dataset(tmp_path / "data", n=3), tmp_path / "run") == 0
    out = capsys.readouterr().out
    assert len(out.splitlines()) <= 50
    for heading in (
        "Plan for data: 60 min on a CPU",
        "Configurations, and what they take",
        "Not chosen",
        "Research use",
    ):
        assert heading in out
