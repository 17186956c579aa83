from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from medseg.errors import InputError
from medseg.networks.topology import NetworkSettings, forward_macs
from medseg.planning import decide as module
from medseg.planning import rules
from medseg.planning.decide import Decided, decide
from medseg.planning.fingerprint import Fingerprint
from medseg.planning.plan import Budget, Request, Structure
from tests.planning.build import alike, looked_at

LIVER = (Structure(value=1, name="liver"),)
HIPPOCAMPUS = (Structure(value=1, name="Anterior"), Structure(value=2, name="Posterior"))


def never(network: NetworkSettings, patch: tuple[int, ...], batch: int) -> float:
    raise AssertionError("nothing is to be measured")


def decided(
    request: Request | None = None,
    fingerprint: Fingerprint | None = None,
    structures: Sequence[Structure] = LIVER,
    channels: Sequence[str] = ("MR",),
    seconds_a_mac: float = 1e-10,
) -> Decided:
    def measure(network: NetworkSettings, patch: tuple[int, ...], batch: int) -> float:
        return seconds_a_mac * forward_macs(network, patch)

    return decide(fingerprint or alike(), structures, channels, request or Request(), measure)


def every_reason(made: Decided) -> list[tuple[str, str, str]]:
    all_ = [*made.reasons, *(reason for c in made.configurations.values() for reason in c.reasons)]
    return [(reason.topic, reason.choice, reason.why) for reason in all_]


@pytest.mark.parametrize(
    "request_",
    [
        Request(),
        Request(device="cuda"),
        Request(memory_gb=4, budget=Budget(steps=100)),
        Request(dims="2d", spacing="median", budget=Budget(seconds=600)),
        Request(spacing="2.5"),
    ],
)
def test_every_choice_has_a_reason(request_):
    made = decided(request_, channels=("CT", "MR"), fingerprint=alike(channels=(alike().cases[0].channels[0],) * 2))
    reasons = every_reason(made)
    assert all(all(part.strip() for part in reason) for reason in reasons)
    topics = {topic for topic, _, _ in reasons}
    assert topics >= {"dimensions", "mirroring", "budget", "spacing", "patch", "network", "optimiser"}
    assert {"intensities of CT", "intensities of MR"} <= topics


def test_patch_and_network_fit_each_other():
    for name, configuration in decided().configurations.items():
        assert configuration.name == name
        network = configuration.network
        assert (network.dims, network.in_channels, network.classes) == (3 if name == "3d" else 2, 1, 2)
        axes = [a for a in range(3) if a != configuration.slice_axis]
        for axis, own in zip(axes, zip(*network.strides, strict=True), strict=True):
            step = 1
            for stride in own:
                step *= stride
            assert configuration.patch[axis] % step == 0


def some_fingerprint(rng: np.random.Generator) -> Fingerprint:
    spacing = rng.uniform(0.2, 3, 3) * rng.choice([1, 1, 5, 15], 3)
    shape = 2 ** rng.uniform(0, 9.3, 3)
    cases = []
    for k in range(int(rng.integers(1, 8))):
        x, y, z = (float(s) for s in spacing * rng.uniform(0.7, 1.4, 3))
        a, b, c = (max(1, int(n)) for n in shape * rng.uniform(0.6, 1.5, 3))
        cases.append(looked_at(f"case{k}", (x, y, z), (a, b, c)))
    return Fingerprint(cases=tuple(cases))


def test_any_data_set_gets_a_plan_whose_patch_fits():
    rng = np.random.default_rng(0)
    for _ in range(200):
        seen = some_fingerprint(rng)
        spacing, device = str(rng.choice(["isotropic", "median", "1.5"])), rng.choice(["cpu", "cuda"])
        memory = float(rng.choice([1, 4, 24])) if rng.random() < 0.5 else None
        made = decided(Request(spacing=spacing, device=device, memory_gb=memory), seen)
        for configuration in made.configurations.values():
            axes = [a for a in range(3) if a != configuration.slice_axis]
            told = [configuration.preprocessing.spacing_mm[a] for a in axes]
            patch = [configuration.patch[a] for a in axes]
            shape = [configuration.median_shape[a] for a in axes]
            by = rules.divisors(configuration.network.strides)
            assert all(p % d == 0 for p, d in zip(patch, by, strict=True)), (seen, patch)
            widest = rules.divisors(rules.topology(told, rules.start_patch(told, shape))[1])
            assert all(p <= n for p, n in zip(patch, rules.padded(shape, widest), strict=True)), (seen, patch)
            assert configuration.schedule.batch >= 2


def test_a_2d_plan_leaves_the_slice_axis_alone():
    thick = alike(spacing=(0.7, 5, 0.7), shape=(300, 30, 300), channels=())
    configuration = decided(Request(dims="2d"), thick).configurations["2d"]
    assert configuration.slice_axis == 1
    assert configuration.preprocessing.spacing_mm == (0.7, None, 0.7)
    assert configuration.patch[1] == 1
    assert configuration.median_shape == (300, 30, 300)
    assert 1 not in configuration.schedule.mirror_axes
    assert set(configuration.schedule.mirror_axes) == {0, 2}


@pytest.mark.parametrize(
    ("shape", "dims", "chosen"),
    [((40, 40, 40), "auto", "3d"), ((40, 40, 7), "auto", "2d"), ((40, 40, 7), "3d", "3d"), ((40, 40, 40), "2d", "2d")],
)
def test_dimensions(shape, dims, chosen):
    assert decided(Request(dims=dims), alike(shape=shape)).chosen == chosen


@pytest.mark.parametrize("shape", [(90, 80, 1), (1, 90, 80), (7, 6, 5), (3, 3, 3)])
def test_scans_of_one_slice_or_few_voxels_get_a_plan(shape):
    made = decided(fingerprint=alike(shape=shape))
    assert made.chosen == "2d"
    configuration = made.configurations["2d"]
    assert configuration.patch[configuration.slice_axis] == 1
    if 1 in shape:
        assert shape[configuration.slice_axis] == 1


def test_the_2d_batch_counts_all_slices_of_the_data_set():
    hippocampus = alike(260, shape=(35, 50, 36))
    made = decided(Request(memory_gb=8), hippocampus, HIPPOCAMPUS)
    two, three = made.configurations["2d"], made.configurations["3d"]
    assert (three.patch, three.schedule.batch) == ((40, 56, 40), 9)
    assert (two.patch, two.schedule.batch) == ((40, 56, 1), 366)


def test_memory_asked_for_decides_instead_of_the_processor():
    made = decide(alike(shape=(200, 200, 200)), LIVER, ("MR",), Request(memory_gb=8), never)
    assert made.configurations["3d"].network.features[0] == 32
    larger = decide(alike(shape=(200, 200, 200)), LIVER, ("MR",), Request(memory_gb=40), never)
    assert sum(larger.configurations["3d"].patch) > sum(made.configurations["3d"].patch)


def test_a_gpu_needs_no_measuring():
    made = decide(alike(), LIVER, ("MR",), Request(device="cuda"), never)
    assert made.budget.seconds == module.DEFAULT_BUDGET_S["cuda"]
    assert made.configurations["3d"].schedule.optimiser == "sgd"


def steps_held(made: Decided, seconds: float, seconds_a_mac: float) -> float:
    """Steps of the configuration that was made within the share of `seconds` that trains."""
    configuration = made.configurations["3d"]
    macs = forward_macs(configuration.network, configuration.patch)
    return module.CPU_TRAINING_SHARE * seconds / (seconds_a_mac * macs)


@pytest.mark.parametrize("seconds", [60, 200, 600, 1200, 3600, 10_000, 100_000])
def test_a_processor_trains_the_widest_network_that_steps_often_enough(seconds):
    rate = 4e-10
    made = decided(Request(budget=Budget(seconds=seconds)), alike(shape=(64, 64, 64)), seconds_a_mac=rate)
    configuration = made.configurations["3d"]
    found = (configuration.network.features[0], configuration.patch[0])
    wanted = {(base, side): steps for base, side, steps in module.CPU_CHOICES}
    assert steps_held(made, seconds, rate) >= wanted[found]
    assert configuration.schedule.batch == module.CPU_BATCH


def test_a_longer_budget_is_never_spent_on_a_smaller_network():
    choices = []
    for seconds in (30, 100, 300, 1000, 3000, 10_000, 100_000):
        c = decided(Request(budget=Budget(seconds=seconds)), alike(shape=(64, 64, 64)), seconds_a_mac=4e-10)
        choices.append((c.configurations["3d"].network.features[0], c.configurations["3d"].patch[0]))
    assert choices == sorted(choices)
    assert choices[0] == module.CPU_CHOICES[-1][:2]
    assert choices[-1] == module.CPU_CHOICES[0][:2]


def test_a_budget_of_steps_needs_no_measuring():
    made = decide(alike(), LIVER, ("MR",), Request(budget=Budget(steps=500)), never)
    assert made.budget == Budget(steps=500)
    assert made.configurations["3d"].network.features[0] == 16


def test_no_more_structures_than_classes_can_be_kept():
    many = tuple(Structure(value=v, name=f"s{v}") for v in range(1, 257))
    with pytest.raises(InputError, match="256 structures"):
        decided(structures=many)
