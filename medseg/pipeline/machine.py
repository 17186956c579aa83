"""The machine as planning sees it: its device, and what is measured on it. Torch is imported only where it must be."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Literal

from medseg.errors import InputError
from medseg.networks.topology import NetworkSettings
from medseg.planning.cost import Machine, Measured
from medseg.preprocessing.resample import ON_CPU, Resampler
from medseg.resources import available_memory_bytes

Kind = Literal["cpu", "cuda"]

# What the drivers of NVIDIA (also under Windows' Linux) and AMD put there; without them torch can find no GPU.
DRIVERS = ("/proc/driver/nvidia", "/dev/nvidiactl", "/dev/dxg", "/dev/kfd")


def may_have_gpu() -> bool:
    """False only where it is certain, without torch, that there is none."""
    return sys.platform != "linux" or any(Path(driver).exists() for driver in DRIVERS)


def kind_of(asked: str, memory_gb: float | None) -> Kind:
    """The device to plan for; with a memory a GPU need not be here, since nothing is measured.

    Raises:
        InputError: `asked` is none of auto, cpu and cuda, or torch sees no GPU where one is asked for.
    """
    if asked == "cpu" or (asked == "auto" and not may_have_gpu()):
        return "cpu"
    if asked == "cuda" and memory_gb is not None:
        return "cuda"
    if asked == "cuda" and not may_have_gpu():
        fix = "give --memory GB of the GPU that will train, or --device cpu"
        raise InputError("there is no GPU here whose memory could be measured", fix=fix)
    from medseg.compute import device_kind

    return device_kind(asked)


def machine(kind: Kind) -> Machine:
    """What planning may ask: time and memory of a training step, and the memory that is free."""
    return Machine(lambda network, patch, batch: _measured(kind, network, patch, batch), lambda: _free_bytes(kind))


def _measured(kind: Kind, network: NetworkSettings, patch: tuple[int, ...], batch: int) -> Measured | None:
    from medseg.compute import choose_device
    from medseg.training.learning.measure import measure_step

    return measure_step(network, patch, batch, choose_device(kind))


def _free_bytes(kind: Kind) -> float:
    if kind == "cpu":
        return float(available_memory_bytes())
    import torch

    free, _ = torch.cuda.mem_get_info()
    return float(free)


def resampler(kind: Kind) -> Resampler:
    """Where cases are resampled while they are prepared: on the GPU if the plan is for one and it is here."""
    if kind == "cuda" and may_have_gpu():
        import torch

        from medseg.preprocessing.on_device import on_device

        if torch.cuda.is_available():
            return on_device(torch.device("cuda"))
    return ON_CPU
