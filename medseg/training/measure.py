"""What a training step takes on a device, time and memory: measured, then given to planning as an argument."""

from __future__ import annotations

import gc
import time

import torch
from torch import nn

from medseg.compute import autocast, keep_freed_memory
from medseg.networks.table import build_network
from medseg.networks.topology import NetworkSettings
from medseg.planning.cost import Measured
from medseg.training.loop import CLIP_NORM, MOMENTUM
from medseg.training.losses import deep_loss

STEPS = 3


def measure_step(network: NetworkSettings, patch: tuple[int, ...], batch: int, device: torch.device) -> Measured | None:
    """Seconds of the fastest of three whole steps with made-up data, after one that warms up; None if memory gave out.

    On a GPU also the most memory that torch held for it. On a CPU time is the processor time that was spent, shared by
    the threads: what else the machine does just now shall not decide what network is planned.
    """
    keep_freed_memory()
    if device.type == "cuda":
        gc.collect()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
    try:
        seconds = _steps(network, patch, batch, device)
    except RuntimeError as error:
        if not _memory_gave_out(error):
            raise
        return None
    finally:
        if device.type == "cuda":
            held = float(torch.cuda.max_memory_reserved(device))
            gc.collect()
            torch.cuda.empty_cache()
    return Measured(seconds, held if device.type == "cuda" else None)


def _steps(network: NetworkSettings, patch: tuple[int, ...], batch: int, device: torch.device) -> float:
    model = build_network(network).to(device).train()
    optimiser = _optimiser(model, device)
    image = torch.zeros((batch, network.in_channels, *patch), device=device)
    image = image.contiguous(memory_format=torch.channels_last_3d if network.dims == 3 else torch.channels_last)
    target = torch.zeros((batch, *patch), dtype=torch.int64, device=device)
    times = []
    for _ in range(STEPS + 1):
        began = _spent(device)
        with autocast(device):
            logits = model(image)
        loss = deep_loss(logits, target, batch_dice=False)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(model.parameters(), CLIP_NORM)
        optimiser.step()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        times.append(_spent(device) - began)
    return min(times[1:])


def _optimiser(model: nn.Module, device: torch.device) -> torch.optim.Optimizer:
    """What planning chooses for the device; its rate is zero, since nothing is to be learnt."""
    if device.type == "cuda":
        return torch.optim.SGD(model.parameters(), 0.0, MOMENTUM, nesterov=True)
    return torch.optim.AdamW(model.parameters(), 0.0, fused=True)


def _memory_gave_out(error: RuntimeError) -> bool:
    """torch has an error of its own for its allocator; libraries below it, and the CPU's allocator, tell by words."""
    words = "out of memory", "ALLOC_FAILED", "can't allocate memory"
    return isinstance(error, torch.OutOfMemoryError) or any(word in str(error) for word in words)


def _spent(device: torch.device) -> float:
    if device.type == "cuda":
        return time.perf_counter()
    return time.process_time() / torch.get_num_threads()
