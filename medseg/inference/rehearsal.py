"""One timed forward pass: how long this very device takes for a tile, before the work begins."""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch
from torch import nn

from medseg.compute import autocast, memory_gave_out, release_memory
from medseg.inference.need import tile_shape
from medseg.inference.tiles import tiles_a_forward
from medseg.planning.plan import Configuration

AGAIN_BELOW_S = 1.0  # the first pass also sets things up; where it is short, the second one counts


@dataclass(frozen=True, slots=True)
class Timed:
    """Seconds that one network takes for one tile, and on a GPU the most memory that torch held for the pass."""

    seconds: float
    gpu_bytes: float | None


@torch.inference_mode()
def timed(network: nn.Module, configuration: Configuration, device: torch.device, most: int) -> Timed:
    """Time a forward pass of as many tiles of noise as the window gives at once, but no more than `most`, which a scan
    has, and fewer where memory gives out.

    Raises:
        RuntimeError: not even one tile fits.
    """
    tiles = max(1, min(tiles_a_forward(configuration.patch, device.type), most))
    while True:
        try:
            return _timed(network, configuration, device, tiles)
        except RuntimeError as error:
            if not memory_gave_out(error) or tiles == 1:
                raise
        release_memory(device)
        tiles //= 2


def _timed(network: nn.Module, configuration: Configuration, device: torch.device, tiles: int) -> Timed:
    shape = tile_shape(configuration)
    layout = torch.channels_last_3d if len(shape) == 3 else torch.channels_last
    noise = torch.randn(
        (tiles, configuration.network.in_channels, *shape), generator=torch.Generator().manual_seed(0)
    ).to(device, memory_format=layout)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    taken = _seconds(network, noise, device)
    if taken < AGAIN_BELOW_S or device.type == "cuda":
        taken = _seconds(network, noise, device)
    held = float(torch.cuda.max_memory_allocated(device)) if device.type == "cuda" else None
    return Timed(taken / tiles, held)


def _seconds(network: nn.Module, tiles: torch.Tensor, device: torch.device) -> float:
    began = time.perf_counter()
    with autocast(device):
        network(tiles)
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - began
