from __future__ import annotations

import pytest
from rich.console import Console

from medseg.cli import console
from medseg.files import RESEARCH_USE
from medseg.planning.compare import compare
from medseg.planning.fingerprint import Fingerprint
from medseg.planning.plan import Fold, Splits, Structure
from medseg.planning.splits import split
from medseg.report.plan import differences_table, plan_tables
from medseg.report.table import Table
from tests.planning.build import alike, looked_at
from tests.planning.test_plan import PLANS
from tests.tiny import configuration, plan_of

LARGE = alike(spacing=(0.75, 0.75, 3), shape=(512, 512, 150))
FOLDS = split(LARGE, 0)


def cells(*tables: Table) -> str:
    for table in tables:
        assert all(len(row) == len(table.columns) for row in table.rows)
        assert all(isinstance(cell, str) and cell for row in table.rows for cell in row)
    return "\n".join("|".join(row) for table in tables for row in table.rows)


@pytest.mark.parametrize("name", PLANS)
def test_a_plan_tells_data_choices_costs_and_what_was_not_chosen(name: str) -> None:
    plan = PLANS[name]
    choices, sizes, others = plan_tables(plan, LARGE, FOLDS)
    told = cells(choices, sizes, others)
    assert "10 cases, CT, MR" in told
    assert "median 512 x 512 x 150 voxels of 0.75 x 0.75 x 3 mm" in told
    assert "liver: 0.1 ml (0.1 to 0.1); left kidney: in no case" in told
    assert "5, 2 cases validated in each|by patient" in told
    for topic in ("dimensions", "spacing", "intensities of CT", "intensities of MR", "patch", "network", "mirroring"):
        assert f"{topic}|" in told
    assert len(sizes.columns) == 1 + len(plan.configurations)
    assert sum("(chosen)" in heading for heading in sizes.columns) == 1
    assert len(others.rows) == len(plan.alternatives)
    assert RESEARCH_USE in others.remarks[-1]


def test_a_loss_regions_and_voxels_to_ignore_are_told_where_they_are_not_as_usual() -> None:
    plan = PLANS["cpu"]
    assert "\nloss|" not in cells(plan_tables(plan, LARGE, FOLDS)[0])
    assert "\ndata|" not in cells(plan_tables(plan, LARGE, FOLDS)[0])
    asked = plan.model_copy(update={"request": plan.request.model_copy(update={"loss": "tversky"}), "ignore": 5})
    told = cells(plan_tables(asked, LARGE, FOLDS)[0])
    assert "\nloss|Dice of each patch" in told
    assert "\ndata|" in told


def test_what_it_takes_stands_at_the_head() -> None:
    heads = {name: plan_tables(plan, LARGE, FOLDS)[0].title for name, plan in PLANS.items()}
    assert heads["cpu"] == "Plan for d: 10 min on a CPU, 1.5 GB of RAM, 9.4 GB on disk"
    assert heads["cuda"].startswith("Plan for d: 8 h on a GPU, 1 GB of GPU memory")
    assert heads["2d"].startswith("Plan for d: 10 steps on a CPU")


def test_what_is_empty_is_left_out() -> None:
    tables = plan_tables(PLANS["cpu"].model_copy(update={"alternatives": ()}), LARGE, FOLDS)
    assert [table.title for table in tables][1:] == ["Configurations, and what they take"]
    assert RESEARCH_USE in tables[-1].remarks[-1]


def test_a_cascade_takes_the_budget_of_its_first_stage_too() -> None:
    title = plan_tables(PLANS["cuda"].model_copy(update={"chosen": "3d_cascade"}), LARGE, FOLDS)[0].title
    assert title.startswith("Plan for d: 8 h on a GPU a fold, after as much for each fold at low resolution, ")


def columns(table: Table) -> dict[str, dict[str, str]]:
    """Heading -> topic -> text."""
    return {heading: {row[0]: row[k] for row in table.rows} for k, heading in enumerate(table.columns) if heading}


def test_estimates_are_marked_and_unknowns_are_told() -> None:
    measured = columns(plan_tables(PLANS["cuda"], LARGE, FOLDS)[1])
    assert measured["3D (chosen)"]["steps"] == "259200 of 0.1 s"
    assert measured["3D (chosen)"]["memory to train"] == "1 GB"
    assert measured["2D"]["memory to train"].startswith("~")
    for told in columns(plan_tables(PLANS["memory"], LARGE, FOLDS)[1]).values():
        assert (told["steps"], told["to predict a scan"]) == ("not measured", "?")
        assert told["memory to train"].startswith("~")


@pytest.mark.parametrize("width", [120, 80])
def test_it_fits_a_page(width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Console(highlight=False, width=width)
    monkeypatch.setattr(console, "out", terminal)
    with terminal.capture() as captured:
        for table in plan_tables(PLANS["cuda"], LARGE, FOLDS):
            console.show(table)
    lines = captured.get().splitlines()
    assert max(len(line) for line in lines) <= width
    assert len(lines) <= (62 if width == 120 else 105)


def test_many_structures_and_channels_are_cut_short() -> None:
    structures = tuple(Structure(value=k, name=f"s{k}") for k in range(1, 31))
    plan = plan_of(configuration()).model_copy(update={"structures": structures})
    seen = Fingerprint(cases=tuple(looked_at(f"c{k}", centres={1: (0.5, 0.5, 0.5)}) for k in range(3)))
    told = cells(plan_tables(plan, seen, Splits(seed=0, folds=()))[0])
    assert "structures|30|s1: 0.1 ml (0.1 to 0.1); s2: in no case; s3: in no case" in told
    assert "and 25 more" in told
    assert "folds|none|there is one patient only" in told


def test_several_cases_of_a_patient_and_given_folds_are_told() -> None:
    cases = [c.model_copy(update={"patient": f"p{k // 2}"}) for k, c in enumerate(alike(6).cases)]
    given = Splits(seed=0, folds=(Fold(train=("a",), validation=("b", "c")), Fold(train=("b",), validation=("a",))))
    seen = Fingerprint(cases=tuple(cases))
    told = cells(plan_tables(plan_of(configuration()), seen, given.model_copy(update={"given": True}))[0])
    assert "6 cases of 3 patients" in told
    assert "2, 1 to 2 cases validated in each|as the user gave them" in told


def test_differences_are_told_field_by_field() -> None:
    table = differences_table(compare(PLANS["cpu"], PLANS["cuda"]))
    told = cells(table)
    assert table.title == f"{len(table.rows)} differences from the other plan"
    assert "budget.seconds|600|28800|here: as asked; there: the default on a GPU" in told
    assert "schedule.learning_rate (3D)|0.003|0.01|as above" in told
    assert "patch (3D)|[64, 64, 64]|" in told
    none = differences_table(compare(PLANS["cpu"], PLANS["cpu"]))
    assert (none.title, none.rows) == ("No difference from the other plan", ())
