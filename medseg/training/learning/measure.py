"""What a training step takes on a device, time and memory: measured, then given to planning as an argument."""

from __future__ import annotations

import itertools
import time
from dataclasses import dataclass

import torch
from torch import Tensor

from medseg.compute import keep_freed_memory, memory_gave_out, release_memory
from medseg.networks.topology import NetworkSettings
from medseg.planning.cost import Measured
from medseg.planning.plan import Schedule
from medseg.training.learning.loop import StepDone, fit, learner_of
from medseg.training.losses.table import deep_loss

STEPS = 3


@dataclass(frozen=True)
class MadeUp:
    """A batch of nothing."""

    image: Tensor
    classes: Tensor
    names: tuple[str, ...] = ()


def measure_step(network: NetworkSettings, patch: tuple[int, ...], batch: int, device: torch.device) -> Measured | None:
    """Seconds of the fastest of three whole steps with made-up data, after one that warms up; None if memory gave out.

    On a GPU also the most memory that torch held for it. On a CPU time is the processor time that was spent, shared by
    the threads: what else the machine does just now shall not decide what network is planned.
    """
    keep_freed_memory()
    try:
        seconds = _steps(network, patch, batch, device)
    except RuntimeError as error:
        if not memory_gave_out(error):
            raise
        return None
    finally:
        if device.type == "cuda":
            held = float(torch.cuda.max_memory_reserved(device))
            release_memory(device)
    return Measured(seconds, held if device.type == "cuda" else None)


def _steps(network: NetworkSettings, patch: tuple[int, ...], batch: int, device: torch.device) -> float:
    """The loop's own steps, the network a new one each time; memory that gives out is an error."""
    learner = learner_of(network, _schedule(batch, device), device)
    learner.passes.may_split = False
    image = torch.zeros((batch, network.in_channels, *patch), device=device)
    image = image.contiguous(memory_format=torch.channels_last_3d if network.dims == 3 else torch.channels_last)
    made_up = MadeUp(image, torch.zeros((batch, *patch), dtype=torch.uint8, device=device))
    times, began = [], _spent(device)
    for event in fit(
        learner,
        itertools.repeat(made_up),
        lambda logits, classes: deep_loss(logits, classes, batch_dice=False),
        lambda step: step / (STEPS + 1),
        0,
    ):
        if isinstance(event, StepDone):
            learner.settle()
            times.append(_spent(device) - began)
            if len(times) == 1 and device.type == "cuda":  # what trying kernels took is no part of a step
                release_memory(device)
                torch.cuda.reset_peak_memory_stats(device)
            began = _spent(device)
    return min(times[1:])


def _schedule(batch: int, device: torch.device) -> Schedule:
    """With the optimiser that planning chooses for the device."""
    return Schedule(
        batch=batch,
        optimiser="sgd" if device.type == "cuda" else "adamw",
        learning_rate=1e-9,
        weight_decay=0.0,
        warm_up_share=0.0,
        foreground_share=0.0,
        batch_dice=False,
        mirror_axes=(),
    )


def _spent(device: torch.device) -> float:
    if device.type == "cuda":
        return time.perf_counter()
    return time.process_time() / torch.get_num_threads()
