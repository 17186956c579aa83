"""Fitting with made-up machines: linear in what convolutions put out with an offset, out of memory above a limit."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest

from medseg.errors import ResourceError
from medseg.networks.topology import NetworkSettings
from medseg.networks.work import activations, forward_macs
from medseg.planning import fitting as module
from medseg.planning.cost import GB, Machine, Measured, training_bytes
from medseg.planning.families import FAMILIES, UNET, Family
from medseg.planning.fitting import Fit, ForCpu, ForGpu, ForMemory, Question
from medseg.planning.plan import Budget

NNUNET = 8e9 / (2 * 5.6e8)  # bytes that its rule allows each value
LONG = Budget(seconds=8 * 3600.0)


def question(shape: tuple[float, ...] = (500, 500, 400), family: Family = UNET, cases: int = 100) -> Question:
    return Question((1.0,) * len(shape), shape, 1, 3, cases * math.prod(shape), family)


class Gpu:
    """Remembers what was measured on it."""

    def __init__(
        self, free_gb: float, a_value: float = NNUNET, offset_gb: float = 0.8, mac_s: float = 1e-14, limit_gb: float = 0
    ) -> None:
        self.free, self.limit = free_gb * GB, (limit_gb or free_gb) * GB
        self.a_value, self.offset, self.mac_s = a_value, offset_gb * GB, mac_s
        self.tried: list[tuple[tuple[int, ...], int]] = []

    def needs(self, network: NetworkSettings, patch: tuple[int, ...], batch: int) -> float:
        return self.offset + self.a_value * batch * activations(network, patch)

    def measure(self, network: NetworkSettings, patch: tuple[int, ...], batch: int) -> Measured | None:
        self.tried.append((patch, batch))
        needed = self.needs(network, patch, batch)
        if needed > self.limit:
            return None
        return Measured(self.mac_s * batch * forward_macs(network, patch), needed)

    @property
    def machine(self) -> Machine:
        return Machine(self.measure, lambda: self.free)


def check(found: Fit, gpu: Gpu) -> None:
    """Whatever is told was measured at exactly that patch and batch, and it fits."""
    fitted = found.fitted
    assert found.measured
    assert (fitted.patch, fitted.batch) in gpu.tried
    assert found.memory_bytes == gpu.needs(fitted.network, fitted.patch, fitted.batch)
    assert found.memory_bytes <= module.USABLE * gpu.free
    assert len(gpu.tried) <= module.TRIALS
    assert len(set(gpu.tried)) == len(gpu.tried)


@pytest.mark.parametrize("free_gb", [6, 8, 11, 24, 48, 80, 140])
@pytest.mark.parametrize("a_value", [0.4 * NNUNET, NNUNET, 1.5 * NNUNET, 3 * NNUNET])
def test_the_gpu_is_filled_by_at_most_three_trials(free_gb, a_value):
    gpu = Gpu(free_gb, a_value)
    found = ForGpu(gpu.machine, LONG).trial(question())
    check(found, gpu)
    assert found.memory_bytes > 0.55 * gpu.free  # patches change in large steps


def test_a_step_that_does_not_fit_counts_as_too_large():
    gpu = Gpu(24, limit_gb=14)  # what is free cannot be had in one piece
    found = ForGpu(gpu.machine, LONG).trial(question())
    check(found, gpu)
    assert found.memory_bytes < 14e9
    assert "2 did not fit" in found.how


def test_nothing_fits():
    gpu = Gpu(1.5, offset_gb=2)
    with pytest.raises(ResourceError, match=r"the GPU has 1\.5 GB of memory free, too little for a training step"):
        ForGpu(gpu.machine, LONG).trial(question())
    assert len(gpu.tried) <= module.TRIALS


def test_a_small_scan_needs_one_trial():
    gpu = Gpu(80)
    found = ForGpu(gpu.machine, LONG).trial(question((36, 50, 35), cases=260))
    check(found, gpu)
    assert len(gpu.tried) == 1
    assert (found.fitted.patch, found.fitted.batch) == ((40, 56, 40), 9)


def test_a_gpu_larger_than_the_familys_own_does_not_show_a_step_the_whole_data_set():
    small, family = (36, 50, 35), FAMILIES["resenc-m"]
    asked = question(small, family, cases=260)
    own = asked.fit(family.gb).batch
    assert asked.fit(100.0).batch > 3 * own
    found = ForGpu(Gpu(140).machine, LONG).trial(asked)
    assert found.fitted.batch == own
    assert found.capped
    many = question(small, family, cases=26_000)
    found = ForGpu(Gpu(140, mac_s=1e-16).machine, LONG).trial(many)
    assert found.fitted.batch > 3 * own
    assert found.fitted.batch * math.prod(found.fitted.patch) <= 1.01 * module.MOST_SEEN * many.dataset_voxels


def test_a_short_budget_is_not_spent_on_a_larger_patch_than_nnunets_own():
    slow = 2e-13
    for seconds, larger in ((1200.0, False), (30 * 24 * 3600.0, True)):
        gpu = Gpu(80, mac_s=slow)
        found = ForGpu(gpu.machine, Budget(seconds=seconds)).trial(question())
        check(found, gpu)
        assert (found.memory_bytes > 16e9) is larger
        if not larger:
            assert found.memory_bytes > 3e9
            assert "since the budget holds" in found.how


def test_a_budget_of_steps_takes_what_the_memory_holds():
    gpu = Gpu(40, mac_s=1.0)
    found = ForGpu(gpu.machine, Budget(steps=10)).trial(question())
    assert found.memory_bytes > 0.55 * gpu.free


def test_other_networks_are_told_by_what_the_trial_found():
    gpu = Gpu(24, 2 * NNUNET)
    fitter = ForGpu(gpu.machine, LONG)
    before = fitter.fit(question((200, 200, 200)))
    assert (before.measured, before.step_s) == (False, None)
    fitter.trial(question())
    tried = list(gpu.tried)
    after = fitter.fit(question((200, 200, 200)))
    assert gpu.tried == tried
    assert not after.measured
    fitted = after.fitted
    assert after.memory_bytes == pytest.approx(gpu.needs(fitted.network, fitted.patch, fitted.batch), rel=0.1)
    assert after.step_s == pytest.approx(gpu.mac_s * fitted.batch * forward_macs(fitted.network, fitted.patch))
    assert fitted.activations < before.fitted.activations


def test_any_gpu_and_scan_ends_in_a_measured_plan():
    rng = np.random.default_rng(0)
    for _ in range(60):
        shape = tuple(float(n) for n in rng.integers(8, 400, 3))
        gpu = Gpu(float(rng.uniform(4, 140)), NNUNET * float(rng.uniform(0.3, 2)), float(rng.uniform(0, 2)))
        family = FAMILIES[str(rng.choice(list(FAMILIES)))]
        check(ForGpu(gpu.machine, LONG).trial(question(shape, family, int(rng.integers(2, 300)))), gpu)


# --- a memory that was asked for -------------------------------------------------------------------------------------


def test_memory_asked_for_is_nnunets_rule_and_asks_nobody():
    found = ForMemory(8, "cuda").trial(question())
    assert (found.fitted.patch, found.fitted.batch, found.step_s, found.measured) == ((128, 128, 128), 2, None, False)
    assert 5e9 < found.memory_bytes < 8.2e9
    on_cpu = ForMemory(8, "cpu").fit(question())
    assert on_cpu.fitted == found.fitted
    assert on_cpu.memory_bytes == training_bytes(on_cpu.fitted.network, (128, 128, 128), 2)


# --- a CPU -----------------------------------------------------------------------------------------------------------


def cpu(mac_s: float = 2e-10, ram_gb: float = 32, counted: list[int] | None = None) -> Machine:
    def measure(network: NetworkSettings, patch: tuple[int, ...], batch: int) -> Measured:
        if counted is not None:
            counted.append(network.dims)
        return Measured(mac_s * batch * forward_macs(network, patch))

    return Machine(measure, lambda: ram_gb * GB)


def chosen(found: Fit) -> tuple[int, int]:
    return found.fitted.network.features[0], found.fitted.patch[0]


@pytest.mark.parametrize("seconds", [60, 200, 600, 1200, 3600, 10_000, 100_000])
def test_a_processor_trains_the_widest_network_that_steps_often_enough(seconds):
    found = ForCpu(cpu(), Budget(seconds=seconds)).fit(question((64, 64, 64)))
    assert chosen(found) in module.CPU_CHOICES
    held = module.TRAINING_SHARE * seconds / (found.step_s or 0)
    assert held >= module.CPU_STEPS or chosen(found) == module.CPU_CHOICES[-1]
    assert ("as small as allowed" in found.how) is (held < module.CPU_STEPS)
    assert found.fitted.batch == module.CPU_BATCH
    assert found.numbers["steps in the budget"] == pytest.approx(held)


def test_a_longer_budget_is_never_spent_on_a_smaller_network():
    budgets = (30, 100, 300, 1000, 3000, 10_000, 100_000)
    choices = [chosen(ForCpu(cpu(), Budget(seconds=s)).fit(question((64, 64, 64)))) for s in budgets]
    assert choices == sorted(choices)
    assert choices[0] == module.CPU_CHOICES[-1]
    assert choices[-1] == module.CPU_CHOICES[0]


def test_a_step_is_timed_once_for_2d_and_once_for_3d():
    counted: list[int] = []
    fitter = ForCpu(cpu(counted=counted), LONG)
    for shape in ((64, 64, 64), (200, 200, 100), (300, 300), (64, 64)):
        fitter.trial(question(tuple(map(float, shape))))
    assert counted == [3, 2]


@pytest.mark.parametrize("budget", [Budget(seconds=100_000.0), Budget(steps=500)])
def test_little_ram_makes_smaller_patches(budget):
    needs: list[float] = []
    for ram_gb in (32, 1.5, 0.6, 0.2, 0.01):
        found = ForCpu(cpu(ram_gb=ram_gb), budget).fit(question())
        needs.append(found.memory_bytes)
        assert found.memory_bytes <= module.USABLE * ram_gb * GB or chosen(found) == module.CPU_CHOICES[-1]
    assert needs == sorted(needs, reverse=True)
    assert "GB of RAM" in ForCpu(cpu(ram_gb=0.6), budget).fit(question()).how


@pytest.mark.parametrize("budget", [LONG, Budget(steps=5)])
@pytest.mark.parametrize(
    ("name", "shape", "patch", "how"),
    [
        ("swin-unetr", (24, 24, 20), (64, 32, 32), "the smallest that Swin UNETR can take, which is larger than the"),
        ("unet", (36, 50, 35), (40, 56, 40), "the median scan, rounded up to what the network can halve"),
        ("unet", (200, 200, 200), (64, 64, 64), "at most the median scan"),
        ("swin-unetr", (300, 300, 300), (64, 64, 64), "at most the median scan"),
    ],
)
def test_why_a_processor_takes_no_larger_patch(budget, name, shape, patch, how):
    found = ForCpu(cpu(mac_s=1e-12), budget).fit(question(shape, FAMILIES[name]))
    assert found.fitted.patch == patch
    assert found.how.startswith(how)


def test_memory_that_does_not_matter_does_not_change_the_plan():
    found = [ForCpu(cpu(ram_gb=ram_gb), LONG).fit(question()) for ram_gb in (16, 32)]
    assert found[0] == found[1]


def without_memory(*_: object) -> None:
    return None


def test_a_processor_without_memory_is_told():
    measure: Callable[..., None] = without_memory
    with pytest.raises(ResourceError, match="the memory does not suffice"):
        ForCpu(Machine(measure, lambda: GB), LONG).fit(question())
