"""How a batch goes through the network and back: whole, or in parts where memory does not hold it whole."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.parallel import DistributedDataParallel

from medseg.compute import autocast, memory_gave_out, release_memory
from medseg.errors import ResourceError
from medseg.events import Note

Logits = Tensor | Sequence[Tensor]
Loss = Callable[[Logits, Tensor], Tensor]


class Batch(Protocol):
    """Images (B, C, X, Y[, Z]) and classes (B, X, Y[, Z]) on the device, and of which cases they are, if known."""

    @property
    def image(self) -> Tensor:
        """Of the network's input channels."""
        ...

    @property
    def classes(self) -> Tensor:
        """Of the cache's numbering."""
        ...

    @property
    def names(self) -> Sequence[str]:
        """One for each patch, or none."""
        ...


@dataclass
class Passes:
    """Forward and backward of a batch.

    forward: the network itself, compiled, or shared by ranks. at_once: the most patches that go through it together;
    None for all. may_split: whether parts are tried where memory gives out.
    """

    network: nn.Module
    forward: Callable[[Tensor], Logits]
    device: torch.device
    at_once: int | None = None
    may_split: bool = True

    def gradients(self, batch: Batch, loss: Loss) -> Generator[Note, None, tuple[Tensor, Tensor]]:
        """Leave the gradients of the batch's loss in the weights; the loss, and the sum of the finest logits.

        Raises:
            ResourceError: memory does not even hold one patch.
        """
        while True:
            parts = self.at_once
            try:
                if parts is None or parts >= len(batch.image):
                    return self._whole(batch, loss)
                return self._in_parts(batch, loss, parts)
            except RuntimeError as error:
                if not self.may_split or not memory_gave_out(error):
                    raise
            # out of the handler, whose traceback holds on to what the failed pass had allocated
            yield self._smaller(len(batch.image))

    def _whole(self, batch: Batch, loss: Loss) -> tuple[Tensor, Tensor]:
        with autocast(self.device):
            logits = self.forward(batch.image)
        value = loss(logits, batch.classes)
        value.backward()  # type: ignore[no-untyped-call]
        return value.detach(), _sum(logits)

    def _in_parts(self, batch: Batch, loss: Loss, parts: int) -> tuple[Tensor, Tensor]:
        """The same gradients with the activations of `parts` patches at a time.

        The batch's logits come first, without gradients; the loss of them all gives the gradient at every logit; then
        each part goes forward again and back from there. So a loss may pool over the batch as it likes; the price is a
        second forward pass. No network here mixes the patches of a batch or draws random numbers. (As Gao et al. 2021
        do for contrastive losses.)
        """
        images = torch.split(batch.image, parts)
        with torch.no_grad(), autocast(self.device):
            found = [_listed(self.network(image)) for image in images]
        scales = [torch.cat(scale).requires_grad_() for scale in zip(*found, strict=True)]
        del found
        value = loss(scales if len(scales) > 1 else scales[0], batch.classes)
        value.backward()  # type: ignore[no-untyped-call]
        starts = zip(*(torch.split(_gradient(scale), parts) for scale in scales), strict=True)
        for number, (image, gradients) in enumerate(zip(images, starts, strict=True), 1):
            with self._alone(number < len(images)):
                with autocast(self.device):
                    again = _listed(self.forward(image))
                torch.autograd.backward(again, list(gradients))
        return value.detach(), _sum(scales)

    def _alone(self, yes: bool) -> AbstractContextManager[None]:
        """Ranks add up their gradients once a step, with the last part."""
        if yes and isinstance(self.forward, DistributedDataParallel):
            return self.forward.no_sync()
        return nullcontext()

    def rehearse(self, batch: Batch, least: Callable[[int], int]) -> Iterator[Note]:
        """Find how many patches every rank's memory holds: one that ran out in a step would leave the others waiting.

        least: the smallest of all ranks' numbers; all call it together. What is rehearsed is the network alone, with
        cross-entropy, so the steps themselves may still need a little more.
        """
        alone = Passes(self.network, self.network, self.device)
        for _ in alone.gradients(batch, _rough):
            pass
        alone.forget()
        n = len(batch.image)
        if (most := least(alone.at_once or n)) < n:
            self.at_once = most
            yield _in_parts_of(n, most)

    def forget(self) -> None:
        """Let go of all gradients."""
        for weight in self.network.parameters():
            weight.grad = None

    def _smaller(self, batch: int) -> Note:
        before = min(self.at_once or batch, batch)
        self.forget()
        if isinstance(self.forward, DistributedDataParallel) or before == 1:
            what = "one patch" if before == 1 else "a rank's share of the batch"
            raise ResourceError(
                f"the memory does not hold a training step of {what}", fix="plan with a smaller --memory"
            )
        self.at_once = (before + 1) // 2
        # a captured graph is of the whole batch, holds its memory, and its gradients cannot be added up over parts
        # (pytorch #181723)
        self.forward = self.network
        release_memory(self.device)
        return _in_parts_of(before, self.at_once)


def _in_parts_of(before: int, now: int) -> Note:
    told = f"the memory does not hold {before} patches at once: {now} at a time, with the batch's gradients as before"
    return Note(f"{told}; a step takes about a third longer", warning=True)


def _rough(logits: Logits, _: Tensor) -> Tensor:
    """Cross-entropy, at what it takes of memory: the truth does not matter."""
    return torch.stack([-functional.log_softmax(one.float(), 1)[:, 0].mean() for one in _listed(logits)]).sum()


def _listed(logits: Logits) -> list[Tensor]:
    return [logits] if isinstance(logits, Tensor) else list(logits)


def _gradient(scale: Tensor) -> Tensor:
    return torch.zeros_like(scale) if scale.grad is None else scale.grad


def _sum(logits: Logits) -> Tensor:
    """Of the finest ones: finite only if each of them is."""
    return _listed(logits)[0].detach().sum(dtype=torch.float32)
