"""Faster ways of a whole batch through the network on a GPU: each is tried, timed, and taken where it pays."""

from __future__ import annotations

import sys
from collections.abc import Callable, Generator, Sequence
from contextlib import AbstractContextManager, nullcontext
from time import perf_counter

import torch
from torch import Tensor, nn

from medseg.compute import memory_gave_out, precision, release_memory
from medseg.events import Note
from medseg.training.learning.passes import Batch, Logits, Loss, Passes

Forward = Callable[[Tensor], Logits]
WARM, TIMED = 3, 5  # passes of each way
ROOM = 1.2  # times the memory of a plain pass: what a way needs beside all else
GAIN = 0.97  # of the plain way's time: what is not faster than this is not worth its risks
COMPILED_FROM_S = 2 * 3600.0  # compiling takes a minute or two, and gains a tenth


def graph(network: nn.Module, image: Tensor) -> Forward:
    """Kernels of forward and backward captured once, then sent together: a small network waits for their sending."""
    half: AbstractContextManager[object] = nullcontext()
    if precision(image.device) == "bf16":  # casts of weights are captured too: none may be kept from pass to pass
        half = torch.autocast("cuda", dtype=torch.bfloat16, cache_enabled=False)
    sample = torch.empty_like(image).copy_(image)  # the graph's own input: later batches are copied into it
    with half:
        return torch.cuda.make_graphed_callables(_Apart(network).train(), (sample,))  # type: ignore[return-value]


class _Apart(nn.Module):
    """The same weights in a module of its own: capturing replaces a module's `forward`."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, image: Tensor) -> Logits:
        return self.network(image)  # type: ignore[no-any-return]


def compiled(network: nn.Module, _: Tensor) -> Forward:
    """Norms and activations fused by torch's compiler."""
    return torch.compile(network, dynamic=False)


WAYS: dict[str, Callable[[nn.Module, Tensor], Forward]] = {"a CUDA graph": graph, "torch.compile": compiled}


def ways_for(device: torch.device, seconds: float | None) -> tuple[str, ...]:
    """What is tried for a training of so many seconds (None: unknown); on a CPU nothing pays."""
    if device.type != "cuda":
        return ()
    long = seconds is not None and seconds >= COMPILED_FROM_S and sys.platform == "linux"
    return tuple(WAYS) if long else ("a CUDA graph",)


def speed_up(passes: Passes, batch: Batch, loss: Loss, ways: Sequence[str]) -> Generator[Note, None, None]:
    """Let whole batches go the fastest way; no weight changes. A way that fails is left, and a note says so."""
    plain, before = passes.forward, _held(passes.device)
    best = first = _seconds(passes, plain, batch, loss)
    if first is None:  # no whole batch goes through at all: training itself finds how many patches do
        return
    needs = ROOM * (_most_held(passes.device) - before)
    for name in ways:
        _free(passes)
        if _free_bytes(passes.device) < needs:  # a capture that memory ends leaves torch's allocator damaged
            yield Note(f"{name} is not tried: the GPU has no room for it beside the data")
            continue
        way = None
        try:
            way = WAYS[name](passes.network, batch.image)
            seconds = _seconds(passes, way, batch, loss)
        except RuntimeError as error:
            yield Note(f"{name} cannot be used here ({str(error).strip().splitlines()[0]}): training goes without it")
            continue
        if seconds is not None and best is not None and seconds < GAIN * best:
            best, passes.forward = seconds, way
            yield Note(f"{name} is used: forward and backward in {1000 * seconds:.1f} instead of {1000 * first:.1f} ms")
        del way  # with all its memory, unless it was taken
    _free(passes)


def _seconds(passes: Passes, forward: Forward, batch: Batch, loss: Loss) -> float | None:
    """Of a forward and backward pass of the whole batch, or None if memory gives out.

    The mean of several that are sent one after another, as in training, where sending hides behind computing.
    """
    once = Passes(passes.network, forward, passes.device, may_split=False)
    try:
        for number in range(WARM + TIMED):
            if number == WARM:
                _wait(passes.device)
                began = perf_counter()
            once.forget()
            for _note in once.gradients(batch, loss):
                pass
        _wait(passes.device)
    except RuntimeError as error:
        if not memory_gave_out(error):
            raise
        return None
    return (perf_counter() - began) / TIMED


def _free(passes: Passes) -> None:
    """So that ways do not hold memory beside each other."""
    passes.forget()
    release_memory(passes.device)


def _held(device: torch.device) -> float:
    """Bytes of the GPU that tensors take; the most is counted from here on."""
    if device.type != "cuda":
        return 0.0
    torch.cuda.reset_peak_memory_stats(device)
    return float(torch.cuda.memory_allocated(device))


def _most_held(device: torch.device) -> float:
    return float(torch.cuda.max_memory_allocated(device)) if device.type == "cuda" else 0.0


def _free_bytes(device: torch.device) -> float:
    return float(torch.cuda.mem_get_info(device)[0]) if device.type == "cuda" else 0.0


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
