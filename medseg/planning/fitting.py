"""Patch, network and batch for where training will run: a memory that was asked for, a GPU, or a CPU and a budget."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Protocol

from medseg.errors import ResourceError
from medseg.networks.work import activations, forward_macs
from medseg.planning.architecture import Fitted, divisors, fit, network_for, start_patch
from medseg.planning.cost import GB, TRAINING_SHARE, Machine, Measured, gpu_bytes, step_macs, training_bytes, within
from medseg.planning.families import UNET, Family
from medseg.planning.plan import Budget

TRIALS = 3
USABLE = 0.9  # of the memory that is free; what is left is for scans that are predicted, and for other programs
FIRST = 0.5  # of that is what the first trial is for, so that it fits where nnU-Net's figure is too small by half
ROUNDS = 20  # of the rule; most give a step that was tried already
AIM = 0.95  # of that, since a step down in patch is easier to foresee than a step up
ENOUGH = 1.25  # a patch and batch that could grow by less than this are left as they are
MOST_SEEN = UNET.dataset_share  # of all voxels in a step, where a GPU holds more than a family was made for
GPU_STEPS = 25_000  # a tenth of nnU-Net's: a budget that holds fewer is not spent on larger patches than nnU-Net's own

# A CPU does a hundredth of a GPU's steps in the same time: there, many small steps win. On the hippocampus set
# nnU-Net's own plan (batch 7, 300 steps) reached Dice 0.44, batch 2 with 1200 steps 0.84. Of 600 CPU-seconds there, 480
# steps of 16 features and patches of 40x56x40 made Dice 0.875, 3160 steps of 8 features and patches of 32x32x32 0.890.
CPU_BATCH = 2
CPU_STEPS = 3000
CPU_CHOICES = ((32, 64), (16, 64), (16, 48), (16, 40), (16, 32), (8, 32))  # features, patch side in 3D
SHORT = "; as small as allowed, for the budget is short"
CPU_MEASURED = 1  # which of them is timed, and taken where a budget of steps says nothing of time
SIDE_2D = 4  # a 2D patch is this many times as long: it costs less than a 3D one even so


@dataclass(frozen=True)
class Question:
    """What a network is to be fitted to; spacing (mm) and shape (median, not rounded) are of the network's axes.

    classes: background included. dataset_voxels: of all training scans at this spacing.
    """

    spacing: tuple[float, ...]
    shape: tuple[float, ...]
    channels: int
    classes: int
    dataset_voxels: float
    family: Family

    def fit(self, memory_gb: float) -> Fitted:
        """By nnU-Net's rule."""
        asked = (self.spacing, self.shape, self.channels, self.classes, self.dataset_voxels)
        return fit(*asked, memory_gb, self.family)


@dataclass(frozen=True)
class Fit:
    """A network that fits, and what a step takes; `measured` if that was read at exactly this patch and batch.

    how: why patch and batch are these. why: why the network is as wide as it is. capped: the memory holds more patches.
    """

    fitted: Fitted
    step_s: float | None
    memory_bytes: float
    measured: bool
    how: str
    why: str
    numbers: dict[str, float]
    capped: bool = False


class Fitter(Protocol):
    """Fits networks to questions."""

    def fit(self, question: Question) -> Fit:
        """The network for a question, from what is known."""
        ...

    def trial(self, question: Question) -> Fit:
        """The same for the question that training will ask: it may be tried out."""
        ...


@dataclass(frozen=True)
class ForMemory:
    """nnU-Net's rule for a GPU memory that was asked for; nothing is measured, so any machine will do."""

    memory_gb: float
    device: str

    def fit(self, question: Question) -> Fit:
        """See the class."""
        fitted = question.fit(self.memory_gb)
        step = fitted.network, fitted.patch, fitted.batch
        needed = training_bytes(*step) if self.device == "cpu" else gpu_bytes(fitted, question.family)
        how = f"the most that fits {self.memory_gb:g} GB of GPU memory (as asked) by nnU-Net's rule"
        return Fit(fitted, None, needed, False, how, _width(question), {"GB asked": self.memory_gb, **_numbers(fitted)})

    trial = fit


@dataclass
class ForGpu:
    """nnU-Net's rule for the GPU that is there, set right by trial steps.

    nnU-Net's figures are those of its own code and precision. So a step is measured, the memory that the rule is told
    is scaled by what was found, and the step for that is measured in turn: three at most.
    """

    machine: Machine
    budget: Budget
    _gb: float = field(default=0.0, init=False)  # what the rule is told
    _off: float = field(default=1.0, init=False)  # measured memory over nnU-Net's figure
    _mac_s: float | None = field(default=None, init=False)  # seconds a multiply-add

    @cached_property
    def usable(self) -> float:
        """Bytes that a training step may take."""
        return USABLE * self.machine.free_bytes()

    def fit(self, question: Question) -> Fit:
        """By what the last trial found."""
        gb = self._gb or self.usable / GB
        fitted = _not_all_at_once(question, gb)
        needed = self._off * gpu_bytes(fitted, question.family)
        seconds = self._mac_s * step_macs(fitted) if self._mac_s else None
        how = "the most that fits the GPU by nnU-Net's rule" + (", set right by a trial step" if self._gb else "")
        return Fit(fitted, seconds, needed, False, how, _width(question), _numbers(fitted), fitted != question.fit(gb))

    def trial(self, question: Question) -> Fit:
        """By steps on the GPU.

        Raises:
            ResourceError: the GPU has too little free memory for any step.
        """
        gb, best_gb = FIRST * self.usable / GB, 0.0
        tried: dict[tuple[tuple[int, ...], int], Measured | None] = {}
        fits: list[tuple[float, float, Fitted, Measured]] = []  # room, what the rule was told, and what came of it
        for _ in range(ROUNDS):
            fitted = _not_all_at_once(question, gb)
            step = fitted.patch, fitted.batch
            if step not in tried:
                if len(tried) == TRIALS:
                    break
                tried[step] = self.machine.measure(fitted.network, *step)
            elif gb >= best_gb > 0:
                break  # what fits grows no more
            measured = tried[step]
            if measured is None:
                gb = (gb + best_gb) / 2
                continue
            room = self._room(measured, gb, question.family)
            if (measured.memory_bytes or 0.0) <= self.usable:
                fits.append((room, gb, fitted, measured))
                best_gb = max(best_gb, gb)
            if 1 <= room < ENOUGH:
                break
            gb *= AIM * room
        if not fits:
            what = f"the GPU has {self.usable / USABLE / GB:.1f} GB of memory free, too little for a training step"
            raise ResourceError(what, fix="end what else uses it, or plan with a smaller --memory")
        _, self._gb, fitted, measured = max(fits, key=_worth)
        return self._found(question, fitted, measured, list(tried.values()))

    def _room(self, measured: Measured, gb: float, family: Family) -> float:
        """How many times larger the step might be: bounded by memory, and beyond nnU-Net's own size by the budget."""
        room = self.usable / (measured.memory_bytes or self.usable)
        if self.budget.seconds is None:
            return room
        in_time = TRAINING_SHARE * self.budget.seconds / GPU_STEPS / measured.seconds
        return min(room, max(in_time, family.gb / gb))

    def _found(self, question: Question, fitted: Fitted, measured: Measured, tried: list[Measured | None]) -> Fit:
        needed = measured.memory_bytes or gpu_bytes(fitted, question.family)
        self._off = needed / gpu_bytes(fitted, question.family)
        self._mac_s = measured.seconds / step_macs(fitted)
        _, steps = within(self.budget, measured.seconds)
        how = f"by nnU-Net's rule, set right by {len(tried)} trial step(s) on this GPU: {needed / GB:.1f} of the "
        how += f"{self.usable / GB:.1f} GB that may be used"
        if too_large := tried.count(None):
            how += f"; {too_large} did not fit"
        if needed * ENOUGH < self.usable and steps is not None and steps < ENOUGH * GPU_STEPS:
            how += f"; not larger, since the budget holds {steps} steps of it"
        numbers = {"GB that may be used": self.usable / GB, "GB measured": needed / GB, "trial steps": len(tried)}
        numbers |= {"seconds a step": measured.seconds, **_numbers(fitted)}
        capped = fitted != question.fit(self._gb)
        return Fit(fitted, measured.seconds, needed, True, how, _width(question), numbers, capped)


@dataclass
class ForCpu:
    """The widest network on the largest patch for which the budget holds enough steps, and the RAM suffices."""

    machine: Machine
    budget: Budget
    _mac_s: dict[int, float] = field(default_factory=dict, init=False)  # dimensions -> seconds a multiply-add

    @cached_property
    def usable(self) -> float:
        """Bytes that a training step may take."""
        return USABLE * self.machine.free_bytes()

    def fit(self, question: Question) -> Fit:
        """See the class."""
        made = [_small(question, base, side) for base, side in CPU_CHOICES]
        needed = [training_bytes(f.network, f.patch, f.batch) for f in made]
        fits = [k for k, n in enumerate(needed) if n <= self.usable] or [len(made) - 1]
        taken = max(CPU_MEASURED, fits[0])
        why, how, numbers = "a CPU trains this width in reasonable time", _beside_the_scan(made[taken], question), {}
        step_s: float | None = None
        if self.budget.seconds:
            mac_s = self._speed(made[taken])
            held = [TRAINING_SHARE * self.budget.seconds / (mac_s * step_macs(f)) for f in made]
            taken = next((k for k in fits if held[k] >= CPU_STEPS), len(made) - 1)
            step_s = mac_s * step_macs(made[taken])
            how = _beside_the_scan(made[taken], question)
            how += f"; leaves {CPU_STEPS} steps or more in the budget" if held[taken] >= CPU_STEPS else SHORT
            why = f"the budget holds about {held[taken]:.0f} steps of it on this CPU"
            why += f" ({held[0]:.0f} with {CPU_CHOICES[0][0]} features)" if taken else ""
            numbers = {"steps in the budget": held[taken], "steps of the largest": held[0]}
        if taken == fits[0] > 0:
            how += f"; a larger one needs {needed[taken - 1] / GB:.1f} GB of RAM, {self.usable / GB:.1f} may be used"
            numbers["RAM GB that may be used"] = self.usable / GB
        numbers |= {"RAM GB": needed[taken] / GB, **_numbers(made[taken])}
        return Fit(made[taken], step_s, needed[taken], False, how, why, numbers)

    trial = fit

    def _speed(self, fitted: Fitted) -> float:
        """Seconds a multiply-add, timed once for 2D and once for 3D."""
        dims = fitted.network.dims
        if dims not in self._mac_s:
            measured = self.machine.measure(fitted.network, fitted.patch, fitted.batch)
            if measured is None:
                raise ResourceError("the memory does not suffice for a training step", fix="end what else uses it")
            self._mac_s[dims] = measured.seconds / step_macs(fitted)
        return self._mac_s[dims]


def _not_all_at_once(question: Question, gb: float) -> Fitted:
    """By nnU-Net's rule; a batch larger than the family's own, for more memory than its own, stays within MOST_SEEN.

    nnU-Net lets its residual networks see a whole small data set in a step, which their own memory keeps them from.
    """
    fitted = question.fit(gb)
    if gb <= question.family.gb:
        return fitted
    share = round(MOST_SEEN * question.dataset_voxels / math.prod(fitted.patch))
    own = question.fit(question.family.gb).batch
    return replace(fitted, batch=min(fitted.batch, max(own, share)))


def _worth(trial: tuple[float, float, Fitted, Measured]) -> tuple[bool, float]:
    """The largest step for which there is room in memory and budget; without any the smallest."""
    room, _, fitted, _ = trial
    return (True, step_macs(fitted)) if room >= 1 else (False, -step_macs(fitted))


def _small(question: Question, base: int, side: int) -> Fitted:
    """A network of `base` features for a patch of about `side` voxels along each axis (in 2D more)."""
    dims = len(question.shape)
    volume = (side if dims == 3 else SIDE_2D * side) ** dims
    start = start_patch(question.spacing, question.shape, volume)
    network, patch = network_for(question.spacing, start, question.channels, question.classes, question.family, base)
    return Fitted(network, patch, CPU_BATCH, activations(network, patch), math.inf)


def _beside_the_scan(fitted: Fitted, question: Question) -> str:
    """Why a patch is no larger; and where it is larger than the median scan, why that."""
    if all(n <= math.ceil(whole) for n, whole in zip(fitted.patch, question.shape, strict=True)):
        return "at most the median scan"
    fewest = math.prod(divisors(fitted.network.strides))
    if question.family.widths and math.prod(fitted.patch) <= 2 * fewest:  # one axis doubled, see `network_for`
        return f"the smallest that {question.family.title} can take, which is larger than the median scan"
    return "the median scan, rounded up to what the network can halve"


def _width(question: Question) -> str:
    return "nnU-Net's width" if question.family.kind in ("unet", "resenc") else "the width that is usual for it"


def _numbers(fitted: Fitted) -> dict[str, float]:
    return {
        "million values of convolutions a patch": fitted.activations / 1e6,
        "million multiply-adds a patch": forward_macs(fitted.network, fitted.patch) / 1e6,
    }
