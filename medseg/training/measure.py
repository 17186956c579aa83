"""How long a training step takes on a device: measured, then given to planning as an argument."""

from __future__ import annotations

import time

import torch

from medseg.compute import autocast, keep_freed_memory
from medseg.networks.table import build_network
from medseg.networks.topology import NetworkSettings
from medseg.training.losses import deep_loss

STEPS = 3


def measure_step(network: NetworkSettings, patch: tuple[int, ...], batch: int, device: torch.device) -> float:
    """Seconds of the fastest of three steps with made-up data, after one that warms up.

    On a CPU its time is the processor time that was spent, shared by the threads: what else the machine does just
    now shall not decide what network is planned.
    """
    keep_freed_memory()
    model = build_network(network).to(device).train()
    image = torch.zeros((batch, network.in_channels, *patch), device=device)
    image = image.contiguous(memory_format=torch.channels_last_3d if network.dims == 3 else torch.channels_last)
    target = torch.zeros((batch, *patch), dtype=torch.int64, device=device)
    times = []
    for _ in range(STEPS + 1):
        began = _spent(device)
        with autocast(device):
            logits = model(image)
        deep_loss(logits, target, batch_dice=False).backward()  # type: ignore[no-untyped-call]
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        times.append(_spent(device) - began)
    return min(times[1:])


def _spent(device: torch.device) -> float:
    if device.type == "cuda":
        return time.perf_counter()
    return time.process_time() / torch.get_num_threads()
