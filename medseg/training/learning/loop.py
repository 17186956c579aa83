"""The loop: a generator of steps. It computes and tells; who calls it draws batches, saves, validates and prints."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from medseg.compute import compute_reproducibly, grow_freed_memory, release_memory
from medseg.events import Note
from medseg.networks.table import build_network
from medseg.networks.topology import NetworkSettings
from medseg.planning.plan import Plan, Schedule
from medseg.training.learning.average import Average
from medseg.training.learning.distributed import least_of_ranks
from medseg.training.learning.faster import speed_up, ways_for
from medseg.training.learning.passes import Batch, Loss, Passes
from medseg.training.learning.watch import Watch, watch_on

POWER = 0.9
CLIP_NORM = 12.0
MOMENTUM = 0.99


@dataclass(frozen=True, slots=True)
class StepDone:
    """One step is done: its number from 1, the learning rate used, and the share of the schedule when it began.

    loss: on a CPU of this step; on a GPU of the last one that it has told of, a few steps back; None before the first.
    """

    step: int
    loss: float | None
    learning_rate: float
    share: float


@dataclass
class Learner:
    """A network and all that changes with it while it is trained.

    reproducible: the same steps give the same weights to the last bit, on a CPU. ways: faster ways through the network
    that are still to be tried. rehearses: whether ranks must first find what all their memories hold.
    """

    network: nn.Module
    optimiser: torch.optim.Optimizer
    average: Average | None
    schedule: Schedule
    device: torch.device
    passes: Passes
    watch: Watch
    reproducible: bool = False
    ways: tuple[str, ...] = ()
    rehearses: bool = False

    def evaluated(self) -> nn.Module:
        """What is validated and saved: the average of the weights where there is one."""
        return self.network if self.average is None else self.average.network

    def settle(self) -> None:
        """Wait until every step that was begun is done.

        Raises:
            MedsegError: one of them gave numbers that are not finite.
        """
        self.watch.settle()


def build_learner(
    plan: Plan, device: torch.device, ranks: int = 1, deterministic: bool = False, seconds: float | None = None
) -> Learner:
    """What the plan's chosen configuration trains, at its start; one of `ranks` processes that train together.

    All ranks call this together. Weights are drawn by the plan's seed. seconds: how long training will take, if known;
    a long one tries more to be fast.
    """
    made = plan.configuration
    return learner_of(made.network, made.schedule, device, plan.request.seed, ranks, deterministic, seconds)


def learner_of(
    settings: NetworkSettings,
    schedule: Schedule,
    device: torch.device,
    seed: int = 0,
    ranks: int = 1,
    deterministic: bool = False,
    seconds: float | None = None,
) -> Learner:
    """The same of a network and a schedule alone."""
    release_memory(device)
    grow_freed_memory(device)
    if deterministic:
        compute_reproducibly(device)
    network = build_network(settings, seed).to(device)
    together = network if ranks == 1 else _together(network, device)
    return Learner(
        network,
        build_optimiser(network, schedule),
        Average(network, schedule.average_share) if schedule.average_share > 0 else None,
        schedule,
        device,
        Passes(network, together, device),
        watch_on(device),
        deterministic,
        ways_for(device, seconds) if ranks == 1 and not deterministic else (),
        rehearses=ranks > 1,
    )


def _together(network: nn.Module, device: torch.device) -> DistributedDataParallel:
    """Each rank's gradients become the mean of all ranks'; every rank starts from the first one's weights."""
    at = [device] if device.type == "cuda" else None
    return DistributedDataParallel(network, at, gradient_as_bucket_view=True)


def build_optimiser(network: nn.Module, schedule: Schedule) -> torch.optim.Optimizer:
    """SGD with Nesterov momentum as nnU-Net's, or AdamW, which learns more in few steps."""
    rate, decay = schedule.learning_rate, schedule.weight_decay
    if schedule.optimiser == "sgd":
        return torch.optim.SGD(network.parameters(), rate, MOMENTUM, weight_decay=decay, nesterov=True, fused=True)
    return torch.optim.AdamW(network.parameters(), rate, weight_decay=decay, fused=True)


def learning_rate(schedule: Schedule, share: float) -> float:
    """Linear warm-up, then polynomial decay to zero at the end of the schedule (share 1)."""
    warm = schedule.warm_up_share
    if share < warm:
        return schedule.learning_rate * max(share / warm, 0.01)
    left = max(1.0 - (share - warm) / (1.0 - warm), 0.0)
    return float(schedule.learning_rate * left**POWER)


def fit(
    learner: Learner, batches: Iterable[Batch], loss: Loss, share_done: Callable[[int], float], first_step: int
) -> Iterator[StepDone | Note]:
    """Train until `share_done(step)`, the share of the schedule that is used up, reaches 1.

    `batches` goes on with that of `first_step`. Whoever asks for the next step may have changed nothing of the
    learner, but may have evaluated or saved it.

    Raises:
        MedsegError: the loss or its gradients are no longer finite; the weights are not to be kept.
        ResourceError: the memory does not hold a step with one patch.
    """
    network, optimiser, average = learner.network, learner.optimiser, learner.average
    weights = list(network.parameters())
    step, drawn = first_step, iter(batches)
    if average is not None and first_step == 0:
        average.restart(network)
    while (share := share_done(step)) < 1.0:
        batch = next(drawn)
        network.train()
        yield from _prepare(learner, batch, loss)
        rate = learning_rate(learner.schedule, share)
        for group in optimiser.param_groups:
            group["lr"] = rate
        optimiser.zero_grad(set_to_none=True)
        value, logits = yield from learner.passes.gradients(batch, loss)
        norm = nn.utils.clip_grad_norm_(weights, CLIP_NORM)
        step += 1
        learner.watch.send(step, rate, batch, value, norm, logits)
        optimiser.step()
        if average is not None:
            average.update(network, step, share_done(step) - share)
        yield StepDone(step, learner.watch.loss, rate, share)
    learner.settle()


def _prepare(learner: Learner, batch: Batch, loss: Loss) -> Iterator[Note]:
    """Once, with the first batch: find how it goes through the network. No weight changes."""
    if learner.rehearses:
        yield from learner.passes.rehearse(batch, lambda most: least_of_ranks(most, learner.device))
    if learner.ways:
        yield from speed_up(learner.passes, batch, loss, learner.ways)
    learner.rehearses, learner.ways = False, ()
