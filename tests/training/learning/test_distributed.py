from __future__ import annotations

import gc
import itertools
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from unittest.mock import patch

import pytest
import torch
from torch import Tensor, nn

from medseg.errors import InputError
from medseg.networks.table import build_network
from medseg.planning.plan import Configuration
from medseg.training.learning import loop
from medseg.training.learning.checkpoint import Progress, load_checkpoint, save_checkpoint
from medseg.training.learning.distributed import (
    STARTED_BY,
    Ranks,
    check_batch,
    from_first_rank,
    started,
    sum_over_ranks,
)
from medseg.training.learning.loop import Learner, build_learner, fit
from medseg.training.losses.table import build_loss
from tests.tiny import CPU, configuration, plan_of
from tests.training.batches import Made, made, straight

ROOT = Path(__file__).parents[3]
STEPS = 10
ALONE = Ranks(0, 1, CPU)
KINDS = {
    "batch": configuration(batch=4, batch_dice=True, average_share=0.3),
    "sample": configuration(batch=4, batch_dice=False, optimiser="sgd"),
    "three": configuration(batch=6, batch_dice=True, average_share=0.3),
}


def shares(wanted: Configuration, part: tuple[int, int]) -> Iterator[Made]:
    """The batches of a rank, in double precision."""
    for step in itertools.count():
        batch = made(wanted, step, part=part)
        yield replace(batch, image=batch.image.double())


def build(wanted: Configuration, ranks: Ranks) -> Learner:
    """A learner whose network is of double precision from the start, as the ranks' gradients then are."""
    with patch.object(loop, "build_network", lambda settings, seed: build_network(settings, seed).double()):
        return build_learner(plan_of(wanted), ranks.device, ranks.ranks)


def train(wanted: Configuration, ranks: Ranks, small: bool = False) -> tuple[Learner, float | None]:
    """Some steps, and the loss of the last; in a `small` memory only one patch goes through the network at once."""
    plan = plan_of(wanted)
    check_batch(wanted.schedule.batch, ranks.ranks)
    learner = build(wanted, ranks)
    if small:
        learner.network.register_forward_pre_hook(one_at_a_time)
    steps = list(fit(learner, shares(wanted, ranks.part), build_loss(plan, sum_over_ranks), straight(STEPS), 0))
    return learner, steps[-1].loss  # type: ignore[union-attr]


def one_at_a_time(_: nn.Module, images: tuple[Tensor]) -> None:
    if len(images[0]) > 1 and torch.is_grad_enabled():
        raise torch.OutOfMemoryError("CUDA out of memory")


def one_of_three(folder: Path) -> None:
    """What each of three processes does."""
    torch.set_num_threads(1)
    with started(CPU) as ranks:
        learner, loss = train(KINDS["three"], ranks)
        save_checkpoint(folder / f"three{ranks.rank}.safetensors", learner, Progress(plan="this", loss=loss))
    del learner
    gc.collect()


def one_of_two(folder: Path) -> None:
    """What each of two processes does."""
    torch.set_num_threads(1)
    with started(CPU) as ranks:
        for name in ("batch", "sample"):
            learner, loss = train(KINDS[name], ranks)
            save_checkpoint(folder / f"{name}{ranks.rank}.safetensors", learner, Progress(plan="this", loss=loss))
        learner, loss = train(KINDS["batch"], ranks, small=ranks.rank == 1)
        save_checkpoint(folder / f"small{ranks.rank}.safetensors", learner, Progress(plan="this", loss=loss))
        value = torch.tensor([1.0 + ranks.rank, 0.5], dtype=torch.float64, requires_grad=True)
        total = sum_over_ranks(value)
        ((ranks.rank + 1) * total**2).sum().backward()
        told = [*total.tolist(), *value.grad.tolist(), from_first_rank(7.0 + ranks.rank, CPU)]  # type: ignore[union-attr]
        (folder / f"sums{ranks.rank}").write_text(repr(told))
    del learner, value, total  # gloo's threads may hold tensors, which abort a process that ends meanwhile
    gc.collect()


def together(folder: Path, ranks: int, what: str) -> Path:
    """The folder that so many processes wrote to; `what` each of them does is a function above."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    code = f"from tests.training.learning.test_distributed import *; {what}(Path({str(folder)!r}))"
    told = {"WORLD_SIZE": str(ranks), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", code], cwd=ROOT, env={**os.environ, **told, "RANK": str(k), "LOCAL_RANK": str(k)}
        )
        for k in range(ranks)
    ]
    try:
        assert [process.wait(300) for process in processes] == [0] * ranks
    finally:
        for process in processes:
            process.kill()
    return folder


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that two processes wrote to."""
    return together(tmp_path_factory.mktemp("ranks"), 2, one_of_two.__name__)


@pytest.mark.parametrize(("name", "file"), [("batch", "batch"), ("sample", "sample"), ("batch", "small")])
def test_two_ranks_take_the_steps_of_one_process(both: Path, name: str, file: str) -> None:
    """Also where the memory of one of them holds but one patch."""
    as_one_process(name, [both / f"{file}{rank}.safetensors" for rank in range(2)])


def test_so_do_three(tmp_path: Path) -> None:
    folder = together(tmp_path, 3, one_of_three.__name__)
    as_one_process("three", [folder / f"three{rank}.safetensors" for rank in range(3)])


@cache
def one_process(name: str) -> tuple[Learner, float | None]:
    return train(KINDS[name], ALONE)


def as_one_process(name: str, checkpoints: list[Path]) -> None:
    """Every rank's weights, and their average, are those of one process, in double precision to 1e-12."""
    alone, loss = one_process(name)
    for checkpoint in checkpoints:
        learner = build(KINDS[name], ALONE)
        progress = load_checkpoint(checkpoint, learner, "this")
        assert progress is not None
        assert progress.loss == pytest.approx(loss, abs=1e-6)  # told in single precision
        for mine, theirs in zip(alone.network.parameters(), learner.network.parameters(), strict=True):
            torch.testing.assert_close(theirs, mine, rtol=0, atol=1e-12)
        for mine, theirs in zip(alone.evaluated().parameters(), learner.evaluated().parameters(), strict=True):
            torch.testing.assert_close(theirs, mine, rtol=0, atol=1e-12)


def test_without_the_sums_they_would_not(both: Path) -> None:
    """Each rank's own Dice is another loss: that the test above can fail."""
    wanted = KINDS["batch"]
    plan = plan_of(wanted)
    apart = plan_of(configuration(batch=4, batch_dice=False, average_share=0.3))
    learners = [build(wanted, ALONE) for _ in range(2)]
    for learner, one in zip(learners, (plan, apart), strict=True):
        list(fit(learner, shares(wanted, (0, 1)), build_loss(one), straight(STEPS), 0))
    far = [
        (a - b).abs().max().item()
        for a, b in zip(learners[0].network.parameters(), learners[1].network.parameters(), strict=True)
    ]
    assert max(far) > 1e-6


def test_sums_go_forward_and_back(both: Path) -> None:
    # totals 3 and 1; the slopes 2 t and 4 t of the two ranks' losses go to both
    assert [(both / f"sums{rank}").read_text() for rank in range(2)] == [repr([3.0, 1.0, 18.0, 6.0, 7.0])] * 2


def test_alone_there_is_nothing_to_add(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RANK", raising=False)
    value = torch.ones(3)
    assert sum_over_ranks(value) is value
    assert from_first_rank(2.5, CPU) == 2.5
    with started(CPU) as ranks:
        assert ranks == Ranks(0, 1, CPU)
        assert ranks.writes
        assert ranks.part == (0, 1)


def test_a_rank_that_fails_does_not_wait_for_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[str] = []
    for name in STARTED_BY:
        monkeypatch.setenv(name, "0")
    for name in ("init_process_group", "barrier", "destroy_process_group", "get_rank", "get_world_size"):
        monkeypatch.setattr(torch.distributed, name, lambda *_, name=name, **__: called.append(name) or 0)
    begin = ["init_process_group", "get_rank", "get_world_size"]
    with pytest.raises(InputError), started(CPU):
        raise InputError("something is wrong")
    assert called == begin
    called.clear()
    with started(CPU):
        assert called == begin
    assert called == [*begin, "barrier", "destroy_process_group"]


def test_a_batch_that_cannot_be_split_evenly_is_an_error() -> None:
    """No other batch is uneven: patches are drawn for ever, so that there is no last one."""
    check_batch(6, 3)
    with pytest.raises(InputError, match="a batch of 6 cannot be split over 4 GPUs; give 1 or 2 or 3 or 6"):
        check_batch(6, 4)
    with pytest.raises(InputError, match="a batch of 4 cannot be split over 3 GPUs; give 1 or 2 or 4"):
        train(KINDS["batch"], replace(ALONE, ranks=3))
