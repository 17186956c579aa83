from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from medseg.events import Note
from medseg.training.learning import faster
from medseg.training.learning.faster import WAYS, speed_up, ways_for
from medseg.training.learning.loop import Learner, StepDone, fit
from medseg.training.losses.table import build_loss
from tests.tiny import CPU, configuration
from tests.training.batches import batches, learner_for, made, straight

MADE = configuration()
ELAPSED = [0.0]  # seconds, by the tests' own clock
Way = Callable[[nn.Module, Tensor], Callable[[Tensor], Any]]


def chosen(monkeypatch: pytest.MonkeyPatch, ways: dict[str, Way]) -> tuple[list[str], Learner, list[Tensor]]:
    """What is told, the learner, and its weights before; the plain way is slow."""
    monkeypatch.setattr(faster, "perf_counter", lambda: ELAPSED[0])
    ELAPSED[0] = 0.0
    monkeypatch.setattr(faster, "WAYS", ways)
    monkeypatch.setattr(faster, "TIMED", 2)
    plan, learner = learner_for(MADE)
    learner.passes.forward = slow(learner.network, None)
    before = [weight.detach().clone() for weight in learner.network.parameters()]
    notes = list(speed_up(learner.passes, made(MADE, 0), build_loss(plan), tuple(ways)))
    return [note.text for note in notes], learner, before


def slow(network: nn.Module, _: Any) -> Callable[[Tensor], Any]:
    def forward(image: Tensor) -> Any:
        ELAPSED[0] += 0.05
        return network(image)

    return forward


def fast(network: nn.Module, _: Any) -> Callable[[Tensor], Any]:
    def forward(image: Tensor) -> Any:
        ELAPSED[0] += 0.02
        return network(image)

    return forward


def broken(network: nn.Module, _: Any) -> Callable[[Tensor], Any]:
    raise RuntimeError("no compiler here\nmore of it")


def full(network: nn.Module, _: Any) -> Callable[[Tensor], Any]:
    def forward(image: Tensor) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory")

    return forward


def test_the_fastest_way_is_taken_and_told_and_no_weight_moves(monkeypatch: pytest.MonkeyPatch) -> None:
    told, learner, before = chosen(monkeypatch, {"slow": slow, "fast": fast})
    assert told == ["fast is used: forward and backward in 20.0 instead of 50.0 ms"]
    assert learner.passes.forward.__qualname__.startswith("fast")
    for weight, was in zip(learner.network.parameters(), before, strict=True):
        assert torch.equal(weight, was)
        assert weight.grad is None


def test_what_does_not_work_is_told_and_left(monkeypatch: pytest.MonkeyPatch) -> None:
    told, learner, _ = chosen(monkeypatch, {"broken": broken, "full": full, "fast": fast})
    assert told[0] == "broken cannot be used here (no compiler here): training goes without it"
    assert "fast is used" in told[1]
    told, learner, _ = chosen(monkeypatch, {"broken": broken, "full": full})
    assert len(told) == 1
    assert learner.passes.forward.__qualname__.startswith("slow")


def test_what_memory_has_no_room_for_is_not_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(faster, "_most_held", lambda _: 10.0)
    monkeypatch.setattr(faster, "_free_bytes", lambda _: 11.0)
    told, learner, _ = chosen(monkeypatch, {"fast": fast})
    assert told == ["fast is not tried: the GPU has no room for it beside the data"]
    assert learner.passes.forward.__qualname__.startswith("slow")


def test_where_memory_gives_out_training_itself_finds_how_many_patches_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(faster, "WAYS", {"fast": fast})
    plan, learner = learner_for(MADE)
    learner.passes.forward = full(learner.network, None)
    learner.ways = ("fast",)
    events = list(fit(learner, batches(MADE), build_loss(plan), straight(1), 0))
    assert [type(event) for event in events] == [Note, StepDone]
    assert learner.passes.at_once == 1


def test_only_gpus_have_faster_ways_and_only_long_trainings_compile() -> None:
    gpu = torch.device("cuda")
    assert ways_for(CPU, 1e9) == ()
    assert ways_for(gpu, 600) == ways_for(gpu, None) == ("a CUDA graph",)
    assert set(ways_for(gpu, 1e6)) <= set(WAYS)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of torch's own compiler
def test_a_compiled_network_learns_the_same() -> None:
    plan, learner = learner_for(MADE)
    learner.passes.forward = WAYS["torch.compile"](learner.network, made(MADE, 0).image)
    _, plain = learner_for(MADE)
    for one in (learner, plain):
        list(fit(one, batches(MADE), build_loss(plan), straight(2), 0))
    for a, b in zip(learner.network.parameters(), plain.network.parameters(), strict=True):
        torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-3)
