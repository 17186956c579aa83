from __future__ import annotations

import copy
import itertools
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from medseg.errors import MedsegError, ResourceError
from medseg.events import Note
from medseg.training.learning.loop import Learner, StepDone, fit, learning_rate
from medseg.training.losses.table import build_loss
from tests.tiny import configuration
from tests.training.batches import batches, learner_for, made, straight


def fitted(steps: int, seed: int = 0, **what: Any) -> tuple[list[StepDone | Note], Learner]:
    wanted = configuration(**what)
    plan, learner = learner_for(wanted)
    return list(fit(learner, batches(wanted, seed=seed), build_loss(plan), straight(steps), 0)), learner


def steps_of(events: list[StepDone | Note]) -> list[StepDone]:
    return [event for event in events if isinstance(event, StepDone)]


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
def test_training_is_the_same_for_the_same_batches(dims: int, optimiser: Literal["adamw", "sgd"]) -> None:
    one, other, unlike = (fitted(3, seed, dims=dims, optimiser=optimiser) for seed in (1, 1, 2))
    assert one[0] == other[0]
    assert one[0] != unlike[0]
    for a, b in zip(one[1].network.state_dict().values(), other[1].network.state_dict().values(), strict=True):
        assert torch.equal(a, b)


def test_steps_are_counted_from_one_and_end_with_the_schedule() -> None:
    done = steps_of(fitted(4)[0])
    assert [d.step for d in done] == [1, 2, 3, 4]
    assert [d.share for d in done] == [0, 0.25, 0.5, 0.75]


def test_it_learns() -> None:
    losses = [d.loss or 0 for d in steps_of(fitted(40)[0])]
    assert np.mean(losses[-5:]) < np.mean(losses[:5]) - 0.5


def test_gradients_are_clipped() -> None:
    wanted = configuration(optimiser="sgd", learning_rate=1.0, warm_up_share=0.0)
    plan, learner = learner_for(wanted)
    before = copy.deepcopy(learner.network)
    loss = build_loss(plan)

    def steep(logits: Any, classes: Tensor) -> Tensor:
        return 1e6 * loss(logits, classes)

    next(iter(fit(learner, batches(wanted), steep, straight(9), 0)))
    moved = [a - b for a, b in zip(before.parameters(), learner.network.parameters(), strict=True)]
    length = float(torch.linalg.vector_norm(torch.cat([m.detach().flatten() for m in moved])))
    assert length == pytest.approx(12 * 1.99, rel=1e-3)  # Nesterov's first step is 1 + 0.99 gradients long


class Small(nn.Module):
    """A network whose memory holds so many patches at once."""

    def __init__(self, network: nn.Module, most: int) -> None:
        super().__init__()
        self.network, self.most, self.seen = network, most, list[int]()

    def forward(self, image: Tensor) -> Any:
        self.seen.append(len(image))
        if len(image) > self.most and torch.is_grad_enabled():
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")
        return self.network(image)


def in_small_memory(learner: Learner, most: int) -> Small:
    small = Small(learner.network, most)
    learner.network = learner.passes.network = learner.passes.forward = small
    return small


@pytest.mark.parametrize("supervised", [True, False])
@pytest.mark.parametrize("batch_dice", [True, False])
def test_a_batch_that_memory_does_not_hold_goes_in_parts_with_the_same_gradients(
    batch_dice: bool, supervised: bool
) -> None:
    wanted = configuration(batch=5, batch_dice=batch_dice)
    wanted = wanted.model_copy(update={"network": wanted.network.model_copy(update={"deep_supervision": supervised})})
    gradients = []
    for most in (5, 2):
        plan, learner = learner_for(wanted)
        learner.network.double()
        small = in_small_memory(learner, most)
        batch = replace(made(wanted, 0), image=made(wanted, 0).image.double())
        events = list(fit(learner, itertools.repeat(batch), build_loss(plan), straight(1), 0))
        notes = [event.text for event in events if isinstance(event, Note)]
        assert len(steps_of(events)) == 1
        if most == 5:
            assert small.seen == [5]
            assert not notes
        else:
            # whole; 3 at a time, without gradients, then with them; the same 2 at a time
            assert small.seen == [5, 3, 2, 3, 2, 2, 1, 2, 2, 1]
            assert "does not hold 5 patches at once: 3 at a time" in notes[0]
            assert "does not hold 3 patches at once: 2 at a time" in notes[1]
        gradients.append([weight.grad for weight in learner.network.parameters()])
    for whole, parts in zip(*gradients, strict=True):
        torch.testing.assert_close(parts, whole, rtol=1e-9, atol=1e-12)


def test_parts_once_found_stay() -> None:
    wanted = configuration(batch=2)
    plan, learner = learner_for(wanted)
    small = in_small_memory(learner, 1)
    events = list(fit(learner, batches(wanted), build_loss(plan), straight(3), 0))
    assert [type(event) for event in events] == [Note, StepDone, StepDone, StepDone]
    assert small.seen == [2] + 3 * [1, 1, 1, 1]


def test_a_patch_that_memory_does_not_hold_is_an_error() -> None:
    wanted = configuration()
    plan, learner = learner_for(wanted)
    in_small_memory(learner, 0)
    with pytest.raises(ResourceError, match="does not hold a training step of one patch; plan with a smaller --memory"):
        list(fit(learner, batches(wanted), build_loss(plan), straight(3), 0))


def test_other_errors_are_not_taken_for_memory() -> None:
    wanted = configuration()
    plan, learner = learner_for(wanted)

    def broken(_: Tensor) -> Tensor:
        raise RuntimeError("shapes do not match")

    learner.passes.forward = broken
    with pytest.raises(RuntimeError, match="shapes do not match"):
        list(fit(learner, batches(wanted), build_loss(plan), straight(3), 0))


def test_input_that_is_no_number_is_named_by_its_case() -> None:
    wanted = configuration()
    plan, learner = learner_for(wanted)
    good = made(wanted, 0)
    image = good.image.clone()
    image[1, 0, 2, 3, 4] = torch.inf
    bad = replace(good, image=image)
    steps = fit(learner, iter([good, bad]), build_loss(plan), straight(9), 0)
    assert isinstance(next(steps), StepDone)
    before = copy.deepcopy(learner.network.state_dict())
    with pytest.raises(MedsegError, match=r"other: the input holds values that are no numbers at step 2 \(learning"):
        next(steps)
    for name, weight in learner.network.state_dict().items():
        assert torch.equal(weight, before[name])


@pytest.mark.parametrize(
    ("what", "where"),
    [("network's output became nan", "logits"), ("loss became inf", "loss"), ("gradient became", "gradients")],
)
def test_what_is_no_longer_finite_first_is_told(what: str, where: str) -> None:
    wanted = configuration()
    plan, learner = learner_for(wanted)
    true_loss = build_loss(plan)
    if where == "logits":
        next(learner.network.parameters()).data.fill_(torch.nan)

    def loss(logits: Any, classes: Tensor) -> Tensor:
        value = true_loss(logits, classes)
        if where == "loss":
            return value * torch.inf
        if where == "gradients":  # a root's slope at zero
            return value + (0 * value).sqrt()
        return value

    with pytest.raises(MedsegError, match=f"one, other: the {what}.* at step 1 .*goes on from the last checkpoint"):
        list(fit(learner, batches(wanted), loss, straight(9), 0))
