from __future__ import annotations

from typing import Any

import pytest

from medseg.planning.compare import Difference, compare, decisions, reason_for
from medseg.planning.plan import Plan, Reason
from tests.planning.test_plan import PLANS
from tests.tiny import configuration, plan_of


def changed(plan: Plan, name: str, **what: Any) -> Plan:
    """The same with another field in a configuration; `a__b` stands for `a.b`."""
    made = plan.configurations[name]  # type: ignore[index]
    for path, value in what.items():
        head, _, tail = path.partition("__")
        made = made.model_copy(update={head: getattr(made, head).model_copy(update={tail: value}) if tail else value})
    return plan.model_copy(update={"configurations": {**plan.configurations, name: made}})


def by_field(differences: list[Difference]) -> dict[str, Difference]:
    assert len({d.field for d in differences}) == len(differences)
    return {d.field: d for d in differences}


@pytest.mark.parametrize("name", PLANS)
def test_a_plan_does_not_differ_from_itself(name):
    assert compare(PLANS[name], PLANS[name]) == []
    assert compare(PLANS[name], Plan.model_validate_json(PLANS[name].model_dump_json())) == []


def test_every_decision_that_differs_is_told_with_both_reasons():
    ours, other = PLANS["cpu"], PLANS["cuda"]
    found = by_field(compare(ours, other))
    assert (found["request.device"].ours.value, found["request.device"].other.value) == ("cpu", "cuda")
    assert (found["budget.seconds"].ours.value, found["budget.seconds"].other.value) == (600.0, 28800.0)
    assert found["budget.seconds"].ours.why == "as asked"
    assert found["budget.seconds"].other.why.startswith("the default on a GPU")
    patch = found["patch"]
    assert patch.ours.value == list(ours.configurations["3d"].patch)
    assert patch.other.value == list(other.configurations["3d"].patch)
    assert patch.configurations == ("3d",)
    assert "trial step" in patch.other.why
    assert patch.ours.why != patch.other.why
    assert all(side.why for d in found.values() for side in (d.ours, d.other))


def test_a_single_field_is_a_single_difference():
    ours = PLANS["cpu"]
    (found,) = compare(ours, changed(ours, "3d", schedule__batch=9))
    assert (found.field, found.ours.value, found.other.value) == ("schedule.batch", 2, 9)
    (found,) = compare(ours, changed(ours, "3d", patch=(1, 2, 3)))
    assert (found.field, found.other.value) == ("patch", [1, 2, 3])
    assert compare(ours, changed(ours, "2d", patch=(1, 2, 3))) == []  # nobody trains it


def test_plans_that_chose_differently_are_compared_in_both_configurations():
    flat = PLANS["cpu"].model_copy(update={"chosen": "2d"})
    both = changed(changed(flat, "3d", window__step=0.8), "2d", window__step=0.8)
    found = by_field(compare(PLANS["cpu"], both))
    assert found["chosen"].ours.value == "3d"
    assert found["window.step"].configurations == ("3d", "2d")


def test_a_configuration_that_one_plan_lacks_is_told():
    ours = plan_of(configuration())
    other = plan_of(configuration(dims=2))
    chosen, *lacking = compare(ours, other)
    assert (chosen.field, chosen.ours.value, chosen.other.value) == ("chosen", "3d", "2d")
    assert [(d.field, d.configurations, d.ours.value, d.other.value) for d in lacking] == [
        ("configurations", ("3d",), "there", "none"),
        ("configurations", ("2d",), "none", "there"),
    ]


def test_reasons_are_found_by_field():
    plan = PLANS["cuda"]
    assert reason_for(plan, "chosen") in plan.reasons
    assert reason_for(plan, "preprocessing.channels", "3d") in plan.reasons
    found = reason_for(plan, "patch", "2d")
    assert isinstance(found, Reason)
    assert found in plan.configurations["2d"].reasons
    assert reason_for(plan, "colour", "3d") is None


def test_decisions_are_no_facts():
    budget = {"budget.seconds", "budget.steps"}
    assert set(decisions(PLANS["cpu"])) == {"chosen", "channels", "structures", "regions", "ignore"} | budget
    of = decisions(PLANS["cpu"].configurations["3d"])
    assert {"patch", "network.strides", "schedule.batch", "preprocessing.spacing_mm", "slice_axis"} <= set(of)
    assert not {"name", "reasons"} & set(of)
    assert not any(field.startswith("cost") for field in of)
