from __future__ import annotations

import itertools
from typing import Any, Literal

import numpy as np
import pytest
import torch
from torch import nn

from medseg.errors import MedsegError
from medseg.networks.table import build_network
from medseg.training.loop import StepDone, build_optimiser, fit, learning_rate
from tests.tiny import CPU, configuration, loaded, loaded_blobs


def fitted(steps: int, seed: int = 0, **what: Any) -> tuple[list[StepDone], nn.Module]:
    made = configuration(**what)
    network = build_network(made.network)
    optimiser = build_optimiser(network, made.schedule)
    done = fit(network, optimiser, loaded_blobs(), made, lambda step: step / steps, (seed, 0), 0, CPU)
    return list(done), network


def test_the_learning_rate_warms_up_then_falls_to_zero() -> None:
    schedule = configuration(learning_rate=0.1, warm_up_share=0.1).schedule
    shares = np.linspace(0, 1, 101)
    rates = [learning_rate(schedule, s) for s in shares]
    assert max(rates) == rates[10] == pytest.approx(0.1)
    assert rates[0] > 0
    assert rates[-1] == 0
    assert rates[5] == pytest.approx(0.05)
    assert all(a < b for a, b in itertools.pairwise(rates[:11]))
    assert all(a > b for a, b in itertools.pairwise(rates[10:]))
    assert learning_rate(schedule, 1.5) == 0
    assert learning_rate(configuration(learning_rate=0.1, warm_up_share=0.0).schedule, 0.0) == pytest.approx(0.1)


@pytest.mark.parametrize("optimiser", ["adamw", "sgd"])
@pytest.mark.parametrize("dims", [2, 3])
def test_training_is_the_same_for_the_same_seed(dims: int, optimiser: Literal["adamw", "sgd"]) -> None:
    one, other, unlike = (fitted(3, seed, dims=dims, optimiser=optimiser) for seed in (1, 1, 2))
    assert one[0] == other[0]
    assert [d.loss for d in one[0]] != [d.loss for d in unlike[0]]
    for a, b in zip(one[1].state_dict().values(), other[1].state_dict().values(), strict=True):
        assert torch.equal(a, b)


def test_steps_are_counted_from_one_and_end_with_the_schedule() -> None:
    done, _ = fitted(4)
    assert [d.step for d in done] == [1, 2, 3, 4]
    assert [d.share for d in done] == [0, 0.25, 0.5, 0.75]


def test_it_learns() -> None:
    done, _ = fitted(40, mirror_axes=(0, 1, 2))
    assert np.mean([d.loss for d in done[-5:]]) < np.mean([d.loss for d in done[:5]]) - 0.5


def test_intensities_that_are_no_numbers_are_an_error() -> None:
    image = np.full((1, 8, 8, 8), np.nan, np.float32)
    case = loaded(np.ones_like(image), np.zeros((8, 8, 8), np.uint8))
    case = type(case)(case.name, image, case.classes_XYZ, case.foreground, case.spacing_mm, case.undo)
    made = configuration()
    network = build_network(made.network)
    steps = fit(network, build_optimiser(network, made.schedule), [case], made, lambda s: s / 9, (0,), 0, CPU)
    with pytest.raises(MedsegError, match="the loss became nan at step 1"):
        next(steps)
