from __future__ import annotations

from pathlib import Path

import pytest

from medseg.errors import InputError, ResourceError
from medseg.files import read_record
from medseg.planning.adopt import decide_like
from medseg.planning.compare import decisions, reason_for
from medseg.planning.cost import Machine, Measured
from medseg.planning.decide import decide
from medseg.planning.plan import Budget, Plan, Request, Structure, Window
from tests.planning.build import alike, looked_at
from tests.tiny import configuration, plan_of

LIVER = (Structure(value=1, name="liver"),)
BOTH = (Structure(value=1, name="spleen"), Structure(value=2, name="liver"))
SEEN: list[tuple[object, ...]] = []


def machine(seconds: float | None = 0.01) -> Machine:
    SEEN.clear()

    def measure(*given: object) -> Measured | None:
        SEEN.append(given)
        return Measured(seconds) if seconds else None

    return Machine(measure, lambda: 16e9)


def model(dims: int = 3, kind: str = "ct") -> Plan:
    """Of a tiny network that sees CT clipped to 0..10 at 1.5 mm."""
    made = configuration(dims=dims, slice_axis=0, patch=(16, 24, 8), batch=5, step=0.7)
    how = made.preprocessing.channels[0].model_copy(update={"kind": kind, "upper": 10.0})
    settings = made.preprocessing.model_copy(
        update={"spacing_mm": (1.5 if dims == 3 else None, 1.5, 1.5), "channels": (how,), "crop": "body"}
    )
    return plan_of(made.model_copy(update={"preprocessing": settings})).model_copy(update={"channels": ("CT",)})


@pytest.mark.parametrize("dims", [2, 3])
def test_what_is_the_models_and_what_is_the_data_sets(dims: int) -> None:
    theirs = model(dims).configuration
    data = alike(6, centres={1: (0.5, 0.5, 0.5), 2: (0.2, 0.5, 0.5)})
    found = decide_like(data, BOTH, ("ct",), Request(budget=Budget(steps=100)), machine(), model(dims))
    name = "3d" if dims == 3 else "2d"
    assert (found.chosen, list(found.configurations)) == (name, [name])
    made = found.configurations[found.chosen]
    assert made.network == theirs.network.model_copy(update={"classes": 3})
    assert (made.patch, made.slice_axis) == (theirs.patch, theirs.slice_axis)
    assert made.preprocessing == theirs.preprocessing
    assert made.window == Window(step=0.7)
    assert made.median_shape == ((27, 27, 27) if dims == 3 else (40, 27, 27))
    own = decide(data, BOTH, ("ct",), Request(budget=Budget(steps=100)), machine()).configurations[found.chosen]
    assert made.schedule.learning_rate == own.schedule.learning_rate
    assert made.schedule.warm_up_share == 0.1
    assert made.schedule.batch == 2  # on a CPU
    assert made.schedule.foreground_share == 0.5
    assert made.schedule.optimiser == own.schedule.optimiser
    assert made.cost.measured
    assert made.cost.steps == 100
    gpu = decide_like(data, BOTH, ("ct",), Request(device="cuda"), machine(), model(dims))
    assert gpu.configurations[gpu.chosen].schedule.batch == 5
    patch = tuple(n for axis, n in enumerate(theirs.patch) if axis != theirs.slice_axis)
    assert [(made.network, patch, 5)] == SEEN  # nothing but the step that will be trained is tried out


@pytest.mark.parametrize(("seconds", "optimiser"), [(0.5, "adamw"), (0.01, "sgd")])
def test_the_optimiser_is_that_for_the_steps_that_the_budget_holds(seconds: float, optimiser: str) -> None:
    asked = Request(device="cuda", budget=Budget(seconds=480.0))
    found = decide_like(alike(6), LIVER, ("ct",), asked, machine(seconds), model())
    assert found.configurations[found.chosen].schedule.optimiser == optimiser


def test_every_decision_is_named_by_a_reason() -> None:
    data = alike(6)
    found = decide_like(data, LIVER, ("CT",), Request(), machine(), model())
    made = Plan(
        medseg="0", dataset="d", channels=("CT",), structures=LIVER, cases=6, fingerprint="", request=Request(),
        budget=found.budget, configurations=found.configurations, chosen=found.chosen, reasons=found.reasons,
    )  # fmt: skip
    for field in decisions(made):
        assert reason_for(made, field) is not None, field
    for field in decisions(made.configuration):
        assert reason_for(made, field, made.chosen) is not None, field
    taken = ("patch", "network.features", "network.strides", "preprocessing.spacing_mm", "chosen")
    for field in (*taken, "preprocessing.channels", "window.step", "slice_axis"):
        reason = reason_for(made, field, made.chosen)
        assert reason is not None
        assert reason.why == "that of the model that training begins with", field
    optimiser = reason_for(made, "schedule.learning_rate", made.chosen)
    assert optimiser is not None
    assert "the rate is reached slowly" in optimiser.why


def test_a_channel_that_the_model_does_not_know_is_seen_as_the_data_set_tells() -> None:
    two = alike(6, channels=(looked_at().channels[0],) * 2)
    found = decide_like(two, LIVER, ("PET", "CT"), Request(), machine(), model())
    made = found.configurations["3d"]
    assert [how.kind for how in made.preprocessing.channels] == ["zscore", "ct"]
    assert made.preprocessing.channels[1].upper == 10.0
    assert made.network.in_channels == 2


def test_what_cannot_be_fine_tuned() -> None:
    cascade = model().configuration.model_copy(update={"name": "3d_cascade", "previous": "3d_lowres"})
    staged = model().model_copy(update={"configurations": {"3d_cascade": cascade}, "chosen": "3d_cascade"})
    with pytest.raises(InputError, match="--init names the second stage of a cascade, which cannot be fine-tuned"):
        decide_like(alike(6), LIVER, ("CT",), Request(), machine(), staged)
    with pytest.raises(ResourceError, match="the memory does not suffice for a training step of the model"):
        decide_like(alike(6), LIVER, ("CT",), Request(), machine(None), model())


def test_a_plan_survives_the_disk(tmp_path: Path) -> None:
    found = decide_like(alike(6), LIVER, ("CT",), Request(init="abc"), machine(), model())
    (tmp_path / "c.json").write_text(found.configurations["3d"].model_dump_json())
    assert read_record(tmp_path / "c.json", type(found.configurations["3d"])) == found.configurations["3d"]
