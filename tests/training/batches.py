"""Endless small batches: bright cubes on noise, drawn by a seed and the step alone, as training's own are."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from medseg.planning.plan import Configuration, Plan
from medseg.training.learning.loop import Learner, build_learner
from tests.tiny import CPU, plan_of

SIDE = 8


@dataclass(frozen=True)
class Made:
    """A batch as `fit` takes it."""

    image: Tensor
    classes: Tensor
    names: Sequence[str] = ("one", "other")


def made(configuration: Configuration, step: int, seed: int = 0, part: tuple[int, int] = (0, 1)) -> Made:
    """The batch of one step, or a rank's share of it."""
    rng = np.random.default_rng((seed, step))
    batch, dims = configuration.schedule.batch, configuration.network.dims
    classes = np.zeros((batch, *(SIDE,) * dims), np.uint8)
    for one in classes:
        for k in range(1, configuration.network.classes):
            at = rng.integers(0, SIDE - 3, dims)
            one[tuple(slice(a, a + 3) for a in at)] = k
    image = classes[:, None] + 0.3 * rng.standard_normal((batch, 1, *(SIDE,) * dims))
    mine = slice(part[0] * batch // part[1], (part[0] + 1) * batch // part[1])
    return Made(torch.from_numpy(image[mine].astype(np.float32)), torch.from_numpy(classes[mine]))


def batches(configuration: Configuration, first_step: int = 0, seed: int = 0) -> Iterator[Made]:
    """From `first_step` on, without end."""
    return (made(configuration, step, seed) for step in itertools.count(first_step))


def learner_for(configuration: Configuration) -> tuple[Plan, Learner]:
    """A plan of the configuration, and its learner on a CPU."""
    plan = plan_of(configuration)
    return plan, build_learner(plan, CPU)


def straight(steps: int) -> Callable[[int], float]:
    """The schedule of so many steps."""
    return lambda step: step / steps
