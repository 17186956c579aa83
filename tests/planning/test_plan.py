from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from pydantic import ValidationError

from medseg.errors import InputError
from medseg.files import read_record, write_record
from medseg.planning.cost import Machine, Measured
from medseg.planning.decide import Decided, decide
from medseg.planning.plan import EPOCH_STEPS, Budget, Plan, Request, Structure, budget_from
from tests.planning.build import alike, sketch


@pytest.mark.parametrize(
    ("text", "budget"),
    [
        ("90s", Budget(seconds=90)),
        ("20min", Budget(seconds=1200)),
        ("20 min", Budget(seconds=1200)),
        ("1.5h", Budget(seconds=5400)),
        ("2D", Budget(seconds=172_800)),
        ("3000steps", Budget(steps=3000)),
        ("1 step", Budget(steps=1)),
        ("4epochs", Budget(steps=4 * EPOCH_STEPS)),
        ("0.001 epochs", Budget(steps=1)),
    ],
)
def test_budgets(text, budget):
    assert budget_from(text) == budget


@pytest.mark.parametrize("text", ["", "20", "min", "-5min", "0s", "0 steps", "0.4 steps", "5 weeks", "inf h", "1e3s"])
def test_other_budgets_are_refused(text):
    with pytest.raises(InputError, match="--budget"):
        budget_from(text)


def test_a_request_is_read_strictly():
    request = Request(spacing="median", budget=Budget(steps=5))
    assert Request.model_validate_json(request.model_dump_json()) == request
    with pytest.raises(ValidationError):
        Request.model_validate_json('{"spacing": "median", "colour": "red"}')


def plans() -> dict[str, Plan]:
    """Plans that hold every kind of configuration and every kind of reason."""
    large = {"spacing": (0.75, 0.75, 3), "shape": (512, 512, 150), "channels": (sketch(), sketch())}
    asked = {
        "cpu": Request(budget=Budget(seconds=600)),
        "cuda": Request(device="cuda"),
        "memory": Request(memory_gb=8, device="cuda", spacing="median", network="resenc-m"),
        "2d": Request(dims="2d", budget=Budget(steps=10)),
    }
    structures = (Structure(value=1, name="liver"), Structure(value=2, name="left kidney"))
    made = {}
    for name, request in asked.items():
        seen = alike(**large)
        decided = decide(seen, structures, ("CT", "MR"), request, Machine(lambda *_: Measured(0.1, 1e9), lambda: 24e9))
        made[name] = Plan(
            medseg="0",
            dataset="d",
            channels=("CT", "MR"),
            structures=structures,
            cases=10,
            fingerprint=seen.digest,
            request=request,
            **{field: getattr(decided, field) for field in Decided.__dataclass_fields__},
        )
    return made


PLANS = plans()


def dumped_leaves(values: dict[str, Any], before: str = "") -> Iterator[str]:
    for name, value in values.items():
        if isinstance(value, dict):
            yield from dumped_leaves(value, f"{before}{name}.")
        else:
            yield before + name


@pytest.mark.parametrize("name", PLANS)
def test_every_decision_of_a_plan_is_named_by_a_reason(name):
    """From the file itself, so that a field that is added later must be given a reason, or be named a fact here."""
    plan = PLANS[name]
    said = json.loads(plan.model_dump_json())
    configurations = said.pop("configurations")
    facts = ("version", "medseg", "dataset", "cases", "fingerprint", "request", "reasons", "alternatives")
    whole = set(dumped_leaves({k: v for k, v in said.items() if k not in facts}))
    decided = {"chosen", "budget.seconds", "budget.steps", "channels", "structures", "regions", "ignore"}
    assert whole == decided
    shared = {field for reason in plan.reasons for field in reason.fields}
    assert whole <= shared
    assert set(configurations) == {"3d", "3d_lowres", "3d_cascade", "2d"}
    for configuration, values in configurations.items():
        own = {f for reason in plan.configurations[configuration].reasons for f in reason.fields}
        decisions = set(dumped_leaves({k: v for k, v in values.items() if k not in ("name", "cost", "reasons")}))
        assert decisions >= {"patch", "schedule.mirror_axes", "window.step", "preprocessing.crop", "previous"}
        assert decisions <= own | shared, decisions - own - shared
        assert own | (shared - whole) <= decisions  # no reason names what is not there


@pytest.mark.parametrize("name", PLANS)
def test_reasons_hold_numbers_and_no_two_decide_the_same(name):
    plan = PLANS[name]
    for configuration in plan.configurations.values():
        reasons = (*plan.reasons, *configuration.reasons)
        fields = [field for reason in reasons for field in reason.fields if field != "preprocessing.channels"]
        assert len(fields) == len(set(fields))
        for topic in ("spacing", "patch", "network", "depth", "batch", "optimiser", "dimensions", "data", "crop"):
            assert all(reason.numbers for reason in reasons if reason.topic == topic), topic
    assert plan.alternatives


@pytest.mark.parametrize("name", PLANS)
def test_every_configuration_is_told_what_it_costs(name):
    for configuration in PLANS[name].configurations.values():
        cost = configuration.cost
        assert 0 < cost.training_gb < 100
        assert 0 < cost.preparing_gb < 20
        assert 0 < cost.cache_gb < 10
        assert (cost.step_s is None) == (cost.inference_s is None)
    chosen = PLANS[name].configuration.cost
    assert chosen.measured is (name == "cuda")
    assert (chosen.step_s is None) is (name in ("memory", "2d"))
    assert (chosen.hours is None) is (name == "2d")


def test_a_plan_is_read_back_as_it_was(tmp_path):
    for plan in PLANS.values():
        write_record(tmp_path / "plan.json", plan)
        assert read_record(tmp_path / "plan.json", Plan) == plan


def test_a_plan_of_another_version_is_told_in_one_line(tmp_path):
    said = json.loads(PLANS["cpu"].model_dump_json())
    del said["configurations"]["3d"]["cost"], said["alternatives"]
    (tmp_path / "plan.json").write_text(json.dumps({**said, "version": 1}))
    with pytest.raises(InputError) as error:
        read_record(tmp_path / "plan.json", Plan)
    told = "is not a valid plan file (version: it is of version 1, which this medseg cannot read: plan again)"
    assert str(error.value) == f"{tmp_path / 'plan.json'}: {told}"
