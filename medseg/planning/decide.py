"""From a fingerprint and what the user asked to configurations with reasons: the rules, put in order."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from medseg.errors import InputError
from medseg.networks.topology import NetworkSettings, forward_macs
from medseg.planning import rules
from medseg.planning.fingerprint import Fingerprint
from medseg.planning.plan import Budget, Configuration, Reason, Request, Schedule, Structure, Window
from medseg.preprocessing.settings import Normalisation, PreprocessingSettings

Name = Literal["2d", "3d"]
Measure = Callable[[NetworkSettings, tuple[int, ...], int], float]  # (network, patch, batch) -> seconds a step

DEFAULT_BUDGET_S = {"cpu": 3600.0, "cuda": 8 * 3600.0}
DEFAULT_MEMORY_GB = 8.0
MOST_STRUCTURES = 255  # classes are kept as bytes
FEWEST_SLICES = 8  # a 3D network cannot halve fewer

# A CPU does a hundredth of a GPU's steps in the same time: there, many small steps win. On the hippocampus set
# nnU-Net's own plan (batch 7, 300 steps) reached Dice 0.44, batch 2 with 1200 steps 0.84; on the sample data a budget
# of 200 CPU-seconds found no lesion with patches of 56x48x40 and found it (Dice 0.77) with patches of 32x32x32.
CPU_BATCH = 2
CPU_CHOICES = (  # (features, patch side in 3D, steps that the budget must hold); the first that fits is taken
    (32, 64, 3000),
    (16, 64, 600),
    (16, 48, 600),
    (16, 40, 600),
    (16, 32, 600),
    (8, 32, 0),
)
SIDE_2D = 4  # a 2D patch is this many times as long: it costs less than a 3D one even so
CPU_TRAINING_SHARE = 0.9  # of the budget; the rest is start and final validation


@dataclass(frozen=True)
class Decided:
    """All configurations by name, the one chosen, and the reasons that concern them all."""

    configurations: dict[str, Configuration]
    chosen: Name
    budget: Budget
    reasons: tuple[Reason, ...]


def decide(
    fingerprint: Fingerprint,
    structures: Sequence[Structure],
    channels: Sequence[str],
    request: Request,
    measure: Measure,
) -> Decided:
    """Configurations for a data set; `measure` tells how long a step takes on the device that will train.

    Raises:
        InputError: an option cannot be used, or the data set holds nothing to learn.
    """
    if len(structures) > MOST_STRUCTURES:
        fix = f"plan for at most {MOST_STRUCTURES} of them"
        raise InputError(f"there are {len(structures)} structures, too many for one network", fix=fix)
    budget, budget_reason = _budget(request)
    common = [rules.normalisation(fingerprint, k, name) for k, name in enumerate(channels)]
    mirror, mirror_reason = rules.mirror_axes(fingerprint, structures)
    made: dict[str, Configuration] = {}
    channels_how = tuple(how for how, _ in common)
    maker = _Maker(fingerprint, structures, request, budget, measure)
    names: tuple[Name, Name] = ("3d", "2d")
    for name in names:
        made[name] = maker.make(name, channels_how, mirror)
    chosen, dims_reason = _choose(made, request)
    reasons = (dims_reason, *(reason for _, reason in common), mirror_reason, budget_reason)
    return Decided(made, chosen, budget, reasons)


def _budget(request: Request) -> tuple[Budget, Reason]:
    if request.budget.seconds or request.budget.steps:
        asked = request.budget
        choice = f"{asked.steps} steps" if asked.steps else f"{(asked.seconds or 0) / 60:g} min"
        return asked, Reason(topic="budget", choice=choice, why="as asked")
    seconds = DEFAULT_BUDGET_S[request.device]
    why = f"the default on a {'GPU' if request.device == 'cuda' else 'CPU'}; --budget sets another"
    return Budget(seconds=seconds), Reason(topic="budget", choice=f"{seconds / 60:g} min", why=why)


def _choose(made: dict[str, Configuration], request: Request) -> tuple[Name, Reason]:
    shape = made["3d"].median_shape
    if request.dims == "auto":
        chosen: Name = "3d" if min(shape) >= FEWEST_SLICES else "2d"
        why = f"the median scan has {' x '.join(map(str, shape))} voxels at the target spacing, "
        why += "enough along every axis for 3D" if chosen == "3d" else f"fewer than {FEWEST_SLICES} along an axis"
    else:
        chosen, why = request.dims, "as asked"
    return chosen, Reason(topic="dimensions", choice=chosen.upper(), why=why)


@dataclass(frozen=True)
class _Maker:
    fingerprint: Fingerprint
    structures: Sequence[Structure]
    request: Request
    budget: Budget
    measure: Measure

    def make(self, name: Name, channels: tuple[Normalisation, ...], mirror: tuple[int, ...]) -> Configuration:
        """One configuration with its own reasons."""
        axis = rules.coarsest_axis(self.fingerprint) if name == "2d" else None
        plane = [a for a in range(3) if a != axis]
        spacing, spacing_reason = rules.target_spacing(self.fingerprint, self.request.spacing, plane)
        target = tuple(None if a == axis else s for a, s in enumerate(spacing))
        shape = rules.median_shape(self.fingerprint, target)
        voxels = len(self.fingerprint.cases) * math.prod(shape)  # of whole scans in 2D too: every slice teaches
        network, patch, batch, reasons = self._network(
            [spacing[a] for a in plane], [shape[a] for a in plane], len(channels), voxels
        )
        full = dict(zip(plane, patch, strict=True))
        x, y, z = (full.get(a, 1) for a in range(3))
        mirrored = tuple(a for a in mirror if a != axis)
        schedule, schedule_reason = _schedule(self.request.device, batch, mirrored)
        return Configuration(
            name=name,
            slice_axis=axis,
            preprocessing=PreprocessingSettings(spacing_mm=(target[0], target[1], target[2]), channels=channels),
            patch=(x, y, z),
            network=network,
            schedule=schedule,
            window=Window(),
            median_shape=shape,
            reasons=(spacing_reason, *reasons, schedule_reason),
        )

    def _network(
        self, spacing: Sequence[float], shape: Sequence[int], channels: int, voxels: int
    ) -> tuple[NetworkSettings, tuple[int, ...], int, list[Reason]]:
        classes = len(self.structures) + 1
        if self.request.device == "cpu" and self.request.memory_gb is None:
            return self._for_cpu(spacing, shape, channels, classes)
        memory = self.request.memory_gb or DEFAULT_MEMORY_GB
        network, patch = rules.fit_to_memory(spacing, shape, channels, classes, memory)
        batch = rules.batch_size(network, patch, memory, voxels)
        asked = "as asked" if self.request.memory_gb else "the default; --memory sets another"
        why = f"nnU-Net's rule for {memory:g} GB of GPU memory ({asked}), patch at most the median scan"
        return network, patch, batch, [_patch_reason(patch, why), _network_reason(network, batch, why)]

    def _for_cpu(
        self, spacing: Sequence[float], shape: Sequence[int], channels: int, classes: int
    ) -> tuple[NetworkSettings, tuple[int, ...], int, list[Reason]]:
        """The widest network on the largest patch for which the budget holds enough steps."""
        dims = len(shape)
        made = []
        for base, side, wanted in CPU_CHOICES:
            volume = (side if dims == 3 else SIDE_2D * side) ** dims
            made.append(
                (*rules.unet(spacing, rules.start_patch(spacing, shape, volume), channels, classes, base), wanted)
            )
        network, patch, _ = made[1]
        why, patch_why = "a CPU trains this width in reasonable time", "at most the median scan"
        if self.budget.seconds:
            rate = self.measure(network, patch, CPU_BATCH) / forward_macs(network, patch)
            held = [CPU_TRAINING_SHARE * self.budget.seconds / (rate * forward_macs(n, p)) for n, p, _ in made]
            taken = next(k for k, (_, _, wanted) in enumerate(made) if held[k] >= wanted)
            network, patch, wanted = made[taken]
            why = f"on this CPU the budget holds about {held[taken]:.0f} steps of this network"
            why += f" ({held[0]:.0f} of one with 32 features)" if taken else ""
            patch_why += (
                f" and as large as leaves {wanted} steps or more in the budget"
                if wanted
                else ("; as small as allowed, for the budget is short")
            )
        return network, patch, CPU_BATCH, [_patch_reason(patch, patch_why), _network_reason(network, CPU_BATCH, why)]


def _patch_reason(patch: Sequence[int], why: str) -> Reason:
    return Reason(topic="patch", choice=" x ".join(map(str, patch)) + " voxels", why=why)


def _network_reason(network: NetworkSettings, batch: int, why: str) -> Reason:
    features = ", ".join(map(str, network.features))
    choice = f"U-Net of {len(network.features)} stages, features {features}; batch {batch}"
    return Reason(topic="network", choice=choice, why=why)


def _schedule(device: str, batch: int, mirror: tuple[int, ...]) -> tuple[Schedule, Reason]:
    shared = {"batch": batch, "foreground_share": 1 / 3 if batch > 2 else 0.5, "mirror_axes": mirror}
    if device == "cuda":
        schedule = Schedule(
            optimiser="sgd", learning_rate=0.01, weight_decay=3e-5, warm_up_share=0.0, batch_dice=False, **shared
        )
        why = "nnU-Net's recipe for long training"
        return schedule, Reason(topic="optimiser", choice="SGD, momentum 0.99, rate 0.01", why=why)
    schedule = Schedule(
        optimiser="adamw", learning_rate=3e-3, weight_decay=1e-2, warm_up_share=0.03, batch_dice=False, **shared
    )
    why = "learns more than SGD in the few steps a CPU can take"
    return schedule, Reason(topic="optimiser", choice="AdamW, rate 0.003, short warm-up", why=why)
