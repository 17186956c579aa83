"""What a plan will cost: time, memory and disk, from what was measured of a training step or by a formula.

A step's memory on a GPU is measured. Otherwise it is nnU-Net's figure for the family on a GPU, and on a CPU
`training_bytes`: its two constants are the peak of resident memory over seven networks (8 to 32 features, patches of
32 to 64 voxels, 2 and 60 structures, 2D and 3D), which they meet within a sixth from 0.5 GB up.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from medseg.networks.topology import Kind, NetworkSettings
from medseg.networks.work import activations, forward_macs, weights
from medseg.planning.architecture import Fitted
from medseg.planning.families import Family
from medseg.planning.fingerprint import Fingerprint
from medseg.planning.plan import Budget, Cost
from medseg.preprocessing.cache import FOREGROUND_VOXELS, HALF_UP_TO, predicted_bytes
from medseg.preprocessing.prepare import resampled_shape
from medseg.preprocessing.settings import Normalisation

GB = 1e9
TRAINING_SHARE = 0.9  # of the budget; the rest is start and final validation
FORWARD_SHARE = 1 / 3  # of a training step
BYTES_A_VALUE = 16.0  # that a convolution puts out, on a CPU: itself, its norm, and their gradients, as float32
BYTES_OF: Mapping[Kind, float] = {  # the same where there are more norms and sums, or fewer
    "attention_unet": 24.0,
    "unetpp": 21.0,
    "fcn": 19.0,
    "segresnet": 12.0,
    "unetr": 11.0,
    "swin_unetr": 11.0,
    "mednext": 10.5,
}
BYTES_A_WEIGHT = 16.0  # itself, its gradient, and two of the optimiser
BASE_BYTES = 1e8  # what a CPU's kernels take for themselves
PROCESS_BYTES = 4e8  # of the training command itself on a CPU: interpreter, libraries, validation
INDEX_BYTES = 4  # of a voxel kept in a list


@dataclass(frozen=True)
class Measured:
    """One training step as it was measured; `memory_bytes` is its peak on a GPU, None on a CPU, where nothing tells."""

    seconds: float
    memory_bytes: float | None = None


Measure = Callable[[NetworkSettings, tuple[int, ...], int], Measured | None]


@dataclass(frozen=True)
class Machine:
    """What planning asks the machine that will train, and only where it must.

    measure: time and memory of a step for (network, patch, batch); None where the memory does not suffice.
    free_bytes: memory that a step may use: of the GPU, or of a CPU's RAM.
    """

    measure: Measure
    free_bytes: Callable[[], float]


def training_bytes(network: NetworkSettings, patch: tuple[int, ...], batch: int) -> float:
    """RAM that a training step on a CPU needs, beside what the process holds anyway."""
    values = BYTES_OF.get(network.kind, BYTES_A_VALUE) * batch * activations(network, patch)
    return BASE_BYTES + values + BYTES_A_WEIGHT * weights(network)


def gpu_bytes(fitted: Fitted, family: Family) -> float:
    """nnU-Net's figure for a step on a GPU: the family's memory, in proportion to what convolutions put out."""
    dims = fitted.network.dims
    whole = family.reference[dims] * family.reference_batch[dims]
    return GB * family.gb * fitted.activations * fitted.batch / whole


def step_macs(fitted: Fitted) -> float:
    """Multiply-adds of one forward pass of a batch: what a step's time is nearly proportional to."""
    return fitted.batch * forward_macs(fitted.network, fitted.patch)


def tiles(size: int, patch: int, step: float) -> int:
    """How many patches the sliding window lays along an axis."""
    if patch == 1:
        return size
    return 1 if size <= patch else min(math.ceil((size - patch) / (patch * step)), size - patch) + 1


def inference_s(step_s: float, batch: int, shape: Sequence[int], patch: Sequence[int], step: float) -> float:
    """Seconds that one network takes for a scan of `shape`, if a forward pass is a third of a training step."""
    windows = math.prod(tiles(n, p, step) for n, p in zip(shape, patch, strict=True))
    return FORWARD_SHARE * step_s / batch * windows


def cache_bytes(
    fingerprint: Fingerprint,
    spacing_mm: Sequence[float | None],
    channels: Sequence[Normalisation],
    classes: int,
) -> float:
    """Disk for all prepared cases: images, classes and lists of foreground voxels, without the labels as given."""
    voxels = sum(math.prod(resampled_shape(c.cropped, c.spacing_mm, spacing_mm)) for c in fingerprint.cases)
    listed = sum(min(s.voxels, FOREGROUND_VOXELS) for c in fingerprint.cases for s in c.structures)
    image = sum(map(_stored_bytes, channels))
    return voxels * (image + (1 if classes <= 256 else 2)) + INDEX_BYTES * listed


def _stored_bytes(how: Normalisation) -> float:
    """Of a voxel: two or four by how far values lie from the mean, which only the CT window tells beforehand."""
    if how.kind != "ct":
        return 3.0
    far = max(how.mean - how.lower, how.upper - how.mean) / max(how.sd, 1e-8)
    return 4.0 if far > HALF_UP_TO else 2.0


def preparing_bytes(fingerprint: Fingerprint, spacing_mm: Sequence[float | None], channels: int) -> float:
    """RAM to prepare the case that needs most."""
    shapes = [(c.shape, resampled_shape(c.cropped, c.spacing_mm, spacing_mm)) for c in fingerprint.cases]
    return max((predicted_bytes(shape, target, channels) for shape, target in shapes), default=0.0)


def within(budget: Budget, step_s: float | None) -> tuple[float | None, int | None]:
    """Hours and steps of training that a budget allows, where `step_s`, the seconds of a step, tells."""
    if budget.steps is not None:
        return (budget.steps * step_s / 3600 if step_s else None), budget.steps
    seconds = budget.seconds or 0.0
    return seconds / 3600, (int(TRAINING_SHARE * seconds / step_s) if step_s else None)


def cost(
    budget: Budget,
    step_s: float | None,
    training: float,
    preparing: float,
    predicting_s: float | None,
    disk: float,
    measured: bool,
) -> Cost:
    """The record of a configuration; `training`, `preparing` and `disk` in bytes."""
    hours, steps = within(budget, step_s)
    return Cost(
        hours=hours,
        steps=steps,
        step_s=step_s,
        training_gb=training / GB,
        preparing_gb=preparing / GB,
        inference_s=predicting_s,
        cache_gb=disk / GB,
        measured=measured,
    )
