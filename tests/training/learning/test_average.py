from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from medseg.training.learning.average import Average, decay
from medseg.training.learning.loop import fit
from medseg.training.losses.table import build_loss
from tests.tiny import configuration
from tests.training.batches import batches, learner_for, straight


def test_the_average_reaches_back_a_share_of_the_schedule_however_many_steps_that_is() -> None:
    for steps in (200, 20_000):
        kept = math.prod(decay(0.1, step, 1 / steps) for step in range(steps - steps // 10, steps))
        assert kept == pytest.approx(math.exp(-1), rel=0.02)


def test_the_first_weights_are_soon_forgotten() -> None:
    kept = math.prod(decay(0.1, step, 1e-6) for step in range(1, 101))
    assert kept < 1e-9


def test_a_pause_of_the_clock_is_survived() -> None:
    assert 0 <= decay(0.1, 50, 30.0) < 1e-9
    assert decay(0.1, 10**6, -0.5) <= 1


def test_it_is_the_weighted_mean_of_all_weights() -> None:
    network = nn.Linear(1, 1, bias=False)
    average = Average(network, 0.5)
    average.restart(network)
    expected = network.weight.item()
    for step in range(1, 30):
        with torch.no_grad():
            network.weight.fill_(step)
        average.update(network, step, 1 / 30)
        keep = decay(0.5, step, 1 / 30)
        expected = keep * expected + (1 - keep) * step
    assert average.network.weight.item() == pytest.approx(expected, rel=1e-5)
    assert network.weight.item() == 29


def test_what_a_network_counts_beside_its_weights_is_copied() -> None:
    network = nn.BatchNorm1d(2)
    average = Average(network, 0.5)
    network(torch.tensor([[1.0, 2.0], [3.0, 5.0]]))
    average.update(network, 1, 0.01)
    assert torch.equal(average.network.running_mean, network.running_mean)  # type: ignore[arg-type]
    assert int(average.network.num_batches_tracked) == 1  # type: ignore[arg-type]


def test_training_evaluates_the_average_and_goes_on_with_the_weights() -> None:
    made = configuration(average_share=0.3, learning_rate=0.05)
    plan, learner = learner_for(made)
    list(fit(learner, batches(made), build_loss(plan), straight(6), 0))
    assert learner.evaluated() is not learner.network
    last, mean = learner.network.state_dict(), learner.evaluated().state_dict()
    assert any(not torch.equal(last[name], mean[name]) for name in last)
    assert not learner.evaluated().training
    assert all(not weight.requires_grad for weight in learner.evaluated().parameters())


def test_without_a_share_the_last_weights_are_kept() -> None:
    _, learner = learner_for(configuration())
    assert learner.average is None
    assert learner.evaluated() is learner.network


def test_weights_that_were_brought_along_are_what_the_average_begins_with() -> None:
    made = configuration(average_share=0.9, learning_rate=1e-12, weight_decay=0.0)
    plan, learner = learner_for(made)
    with torch.no_grad():
        for weight in learner.network.parameters():
            weight.fill_(0.125)
    list(fit(learner, batches(made), build_loss(plan), straight(1), 0))
    for weight in learner.evaluated().parameters():
        torch.testing.assert_close(weight, torch.full_like(weight, 0.125), atol=1e-6, rtol=0)
