"""The loop: a generator of steps. It draws, computes and tells; who calls it saves, validates and prints."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from medseg.compute import autocast
from medseg.errors import MedsegError
from medseg.planning.plan import Configuration, Schedule
from medseg.preprocessing.cache import LoadedCase
from medseg.training.losses import deep_loss
from medseg.training.patches import make_batch, pick_batch

POWER = 0.9
CLIP_NORM = 12.0
MOMENTUM = 0.99


@dataclass(frozen=True, slots=True)
class StepDone:
    """One step is done: its number from 1, its loss, the learning rate used, and the share of the schedule done."""

    step: int
    loss: float
    learning_rate: float
    share: float


def build_optimiser(network: nn.Module, schedule: Schedule) -> torch.optim.Optimizer:
    """SGD with Nesterov momentum as nnU-Net's, or AdamW, which learns more in few steps."""
    rate, decay = schedule.learning_rate, schedule.weight_decay
    if schedule.optimiser == "sgd":
        return torch.optim.SGD(network.parameters(), rate, MOMENTUM, weight_decay=decay, nesterov=True)
    return torch.optim.AdamW(network.parameters(), rate, weight_decay=decay, fused=True)


def learning_rate(schedule: Schedule, share: float) -> float:
    """Linear warm-up, then polynomial decay to zero at the end of the schedule (share 1)."""
    warm = schedule.warm_up_share
    if share < warm:
        return schedule.learning_rate * max(share / warm, 0.01)
    left = max(1.0 - (share - warm) / (1.0 - warm), 0.0)
    return float(schedule.learning_rate * left**POWER)


def fit(
    network: nn.Module,
    optimiser: torch.optim.Optimizer,
    cases: Sequence[LoadedCase],
    configuration: Configuration,
    share_done: Callable[[int], float],
    seed: tuple[int, ...],
    first_step: int,
    device: torch.device,
) -> Iterator[StepDone]:
    """Train until `share_done(step)`, the share of the schedule that is used up, reaches 1.

    Raises:
        MedsegError: the loss is no longer finite.
    """
    step, network = first_step, network.train()
    schedule = configuration.schedule
    layout = torch.channels_last_3d if configuration.network.dims == 3 else torch.channels_last
    while (share := share_done(step)) < 1.0:
        rng = np.random.default_rng((*seed, step))
        image, classes = make_batch(cases, pick_batch(cases, configuration, rng, schedule.augment), configuration)
        rate = learning_rate(schedule, share)
        for group in optimiser.param_groups:
            group["lr"] = rate
        with autocast(device):
            logits = network(image.to(device, memory_format=layout))
        loss = deep_loss(logits, classes.to(device), schedule.batch_dice)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(network.parameters(), CLIP_NORM)
        optimiser.step()
        step += 1
        value = float(loss.detach())
        if not np.isfinite(value):
            raise MedsegError(
                f"the loss became {value} at step {step}",
                fix="look at the intensities with medseg inspect, then plan again",
            )
        yield StepDone(step, value, rate, share)
