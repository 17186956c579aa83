"""Watching the loss without waiting for a GPU: numbers are read back a few steps later, and must be finite."""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, field

import torch
from torch import Tensor

from medseg.errors import MedsegError
from medseg.training.learning.passes import Batch

IN_FLIGHT = 3  # on a GPU: enough that it is never idle, few enough that the clock tells the truth


@dataclass(frozen=True)
class _Step:
    number: int
    rate: float
    batch: Batch
    numbers: Tensor  # loss, norm of the gradients, sum of the logits
    read: torch.cuda.Event | None


@dataclass
class Watch:
    """The steps that were sent to a device, and the loss of the last one that came back.

    in_flight: how many steps the device may be behind; a CPU never is.
    """

    device: torch.device
    in_flight: int
    loss: float | None = None
    _sent: deque[_Step] = field(default_factory=deque)

    def send(self, number: int, rate: float, batch: Batch, loss: Tensor, norm: Tensor, logits: Tensor) -> None:
        """Have the numbers of a step brought back.

        Raises:
            MedsegError: those of this step or, on a GPU, of one shortly before are not finite.
        """
        numbers, event = torch.stack([value.to(torch.float32) for value in (loss, norm, logits)]), None
        if self.device.type == "cuda":
            numbers = torch.empty(3, pin_memory=True).copy_(numbers, non_blocking=True)
            event = torch.cuda.Event()  # type: ignore[no-untyped-call]
            event.record()
        self._sent.append(_Step(number, rate, batch, numbers, event))
        self._read(self.in_flight)

    def settle(self) -> None:
        """Wait for all that was sent.

        Raises:
            MedsegError: a number is not finite.
        """
        self._read(0)

    def _read(self, left: int) -> None:
        while len(self._sent) > left:
            step = self._sent.popleft()
            if step.read is not None:
                step.read.synchronize()
            loss, norm, logits = step.numbers.tolist()
            if not all(map(math.isfinite, (loss, norm, logits))):
                raise _diagnosis(step, loss, norm, logits)
            self.loss = loss


def watch_on(device: torch.device) -> Watch:
    """The watch for a device."""
    return Watch(device, IN_FLIGHT if device.type == "cuda" else 0)


def _diagnosis(step: _Step, loss: float, norm: float, logits: float) -> MedsegError:
    """What went wrong first, on the way from the input to the gradients."""
    when = f"at step {step.number} (learning rate {step.rate:.2g})"
    names = step.batch.names
    bad = [k for k, image in enumerate(step.batch.image) if not bool(torch.isfinite(image).all())]
    if bad:
        which = ", ".join(sorted({names[k] for k in bad})) if names else f"patch {bad[0] + 1} of the batch"
        return MedsegError(
            f"the input holds values that are no numbers {when}",
            which,
            "look at the case with medseg inspect, and plan without it",
        )
    where = ", ".join(sorted(set(names)))
    first = "network's output" if not math.isfinite(logits) else "loss" if not math.isfinite(loss) else "gradient"
    value = {"network's output": logits, "loss": loss, "gradient": norm}[first]
    return MedsegError(
        f"the {first} became {value} {when}, though the input is finite",
        where,
        "give schedule.learning_rate in plan.json a lower value and run the same command again: it goes on from the "
        "last checkpoint",
    )
