"""Several processes that train one network together, a rank each, as torchrun starts them.

Whatever a loss sums over a batch it sums over the ranks too, with `sum_over_ranks`; what it takes means of, each rank
takes over its own part, and the ranks' gradients are averaged. So n ranks take the same step as one process does.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
from torch import Tensor, distributed

from medseg.errors import InputError

STARTED_BY = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")  # what torchrun tells its processes
PATIENCE = timedelta(days=7)  # while the first rank validates; torchrun ends all ranks where one has died


@dataclass(frozen=True)
class Ranks:
    """Which of how many processes this is, and its device."""

    rank: int
    ranks: int
    device: torch.device

    @property
    def writes(self) -> bool:
        """Files and messages are the first rank's business."""
        return self.rank == 0

    @property
    def part(self) -> tuple[int, int]:
        """Which share of a batch is this rank's: (rank, ranks)."""
        return self.rank, self.ranks


@contextmanager
def started(device: torch.device) -> Iterator[Ranks]:
    """Join the other ranks if torchrun started this process, else be the only one; all leave together at the end.

    On GPUs a rank computes on the one of its number, and they talk by NCCL; on a CPU by gloo. torchrun tells a process
    its rank by environment variables: there is no other way.

    A rank that meets an error does not leave: on GPUs that waits for all ranks, and they may be waiting for this one
    (pytorch #141510). Its process must end at once (`os._exit`); then torchrun ends the others.
    """
    if any(name not in os.environ for name in STARTED_BY):
        yield Ranks(0, 1, device)
        return
    if device.type == "cuda":
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(device)
        distributed.init_process_group("nccl", device_id=device, timeout=PATIENCE)
    else:
        distributed.init_process_group("gloo", timeout=PATIENCE)
    yield Ranks(distributed.get_rank(), distributed.get_world_size(), device)
    distributed.barrier()  # the first rank validates; the others wait here, not while they leave
    distributed.destroy_process_group()


def check_batch(batch: int, ranks: int) -> None:
    """Every rank must have as many patches as the others.

    Raises:
        InputError: the batch cannot be split evenly.
    """
    if batch % ranks:
        fitting = [str(n) for n in range(1, batch + 1) if batch % n == 0]
        raise InputError(f"a batch of {batch} cannot be split over {ranks} GPUs", fix=f"give {' or '.join(fitting)}")


def sum_over_ranks(tensor: Tensor) -> Tensor:
    """The sum of every rank's tensor, on every rank; gradients go back to all. Alone, the tensor itself."""
    return _Sum.apply(tensor) if _together() else tensor  # type: ignore[no-untyped-call]


def from_first_rank(value: float, device: torch.device) -> float:
    """The first rank's value, on every rank: what they must agree on, such as when to stop."""
    if not _together():
        return value
    told = torch.tensor(value, dtype=torch.float64, device=device)
    distributed.broadcast(told, 0)
    return float(told)


def least_of_ranks(value: int, device: torch.device) -> int:
    """The smallest of all ranks' values, on every rank."""
    if not _together():
        return value
    told = torch.tensor(value, device=device)
    distributed.all_reduce(told, distributed.ReduceOp.MIN)
    return int(told)


def _together() -> bool:
    return distributed.is_available() and distributed.is_initialized()


class _Sum(torch.autograd.Function):
    """Each rank's loss depends on the sum, so the gradient of a rank's part is the sum of all ranks' gradients."""

    @staticmethod
    def forward(_: Any, tensor: Tensor) -> Tensor:
        return _summed(tensor)

    @staticmethod
    def backward(_: Any, gradient: Tensor) -> Tensor:
        return _summed(gradient)


def _summed(tensor: Tensor) -> Tensor:
    total = tensor.clone(memory_format=torch.contiguous_format)
    distributed.all_reduce(total)
    return total
