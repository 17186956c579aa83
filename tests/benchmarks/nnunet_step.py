"""nnU-Net's own network, loss and training step on made-up data, a few steps at a time; run in an environment with it.

    python tests/benchmarks/nnunet_step.py '{"device": "cpu", "features": [16, 32], "patch": [8, 8, 8], ...}'

Nothing of medseg is needed, and of nnU-Net only `nnunetv2` and `dynamic_network_architectures`. It says that it is
ready, with its versions; for every number of steps that it then reads, it takes so many and tells what they took. As in
its trainer: on a GPU fp16 autocast, a scaler of gradients and torch.compile of network and Dice; on a CPU fp32, and
nothing compiled; SGD with Nesterov's momentum; the gradient's norm cut at 12; data come from the host; the loss is read
back every step. The targets of the coarser resolutions are made beforehand, as its data loaders do.
"""

from __future__ import annotations

import json
import sys
import time
from contextlib import nullcontext
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np
import torch
from dynamic_network_architectures.architectures.unet import PlainConvUNet
from nnunetv2.training.loss.compound_losses import DC_and_CE_loss
from nnunetv2.training.loss.deep_supervision import DeepSupervisionWrapper
from nnunetv2.training.loss.dice import MemoryEfficientSoftDiceLoss
from torch import nn


def network_of(asked: dict[str, Any]) -> nn.Module:
    """As its planner asks for it."""
    features, n = asked["features"], len(asked["features"])
    return PlainConvUNet(
        1, n, features, nn.Conv3d, [[3, 3, 3]] * n, [[1, 1, 1]] + [[2, 2, 2]] * (n - 1), [2] * n, asked["classes"],
        [2] * (n - 1), conv_bias=True, norm_op=nn.InstanceNorm3d, norm_op_kwargs={"eps": 1e-5, "affine": True},
        nonlin=nn.LeakyReLU, nonlin_kwargs={"inplace": True}, deep_supervision=True,
    )  # fmt: skip


def loss_of(scales: int, compiled: bool, batch_dice: bool) -> nn.Module:
    """Dice and cross-entropy; the coarsest resolution weighs nothing."""
    dice = {"batch_dice": batch_dice, "smooth": 1e-5, "do_bg": False, "ddp": False}
    loss = DC_and_CE_loss(
        dice, {}, weight_ce=1, weight_dice=1, ignore_label=None, dice_class=MemoryEfficientSoftDiceLoss
    )
    if compiled:
        loss.dc = torch.compile(loss.dc)
    weights = np.array([1 / 2**k for k in range(scales)])
    weights[-1] = 0
    return DeepSupervisionWrapper(loss, weights / weights.sum())


class Step:
    """Takes training steps."""

    def __init__(self, asked: dict[str, Any]) -> None:
        self.device, self.warm = torch.device(asked["device"]), False
        gpu = self.device.type == "cuda"
        if gpu:
            torch.backends.cudnn.benchmark = True
        network = network_of(asked).to(self.device)
        self.network = torch.compile(network) if gpu and asked["compile"] else network
        scales = len(asked["features"]) - 1
        self.loss = loss_of(scales, gpu and asked["compile"], asked["batch_dice"])
        self.optimiser = torch.optim.SGD(network.parameters(), 0.01, weight_decay=3e-5, momentum=0.99, nesterov=True)
        self.scaler = torch.amp.GradScaler("cuda") if gpu else None
        shape = (asked["batch"], 1, *asked["patch"])
        generator = torch.Generator().manual_seed(0)
        self.data = torch.randn(shape, generator=generator)
        whole = torch.randint(0, asked["classes"], shape, generator=generator).float()
        self.target = [whole[(..., *(slice(None, None, 2**k),) * 3)].contiguous() for k in range(scales)]
        if gpu:
            self.data, self.target = self.data.pin_memory(), [one.pin_memory() for one in self.target]

    def take(self) -> None:
        """One step."""
        data = self.data.to(self.device, non_blocking=True)
        target = [one.to(self.device, non_blocking=True) for one in self.target]
        self.optimiser.zero_grad(set_to_none=True)
        with torch.autocast("cuda") if self.scaler else nullcontext():
            loss = self.loss(self.network(data), target)
        if self.scaler is None:
            loss.backward()
            torch.nn.utils.clip_grad_norm_(self.network.parameters(), 12)
            self.optimiser.step()
        else:
            self.scaler.scale(loss).backward()
            self.scaler.unscale_(self.optimiser)
            torch.nn.utils.clip_grad_norm_(self.network.parameters(), 12)
            self.scaler.step(self.optimiser)
            self.scaler.update()
        loss.detach().cpu().numpy()

    def several(self, n: int) -> dict[str, float]:
        """Mean seconds of `n` steps, of the processor and by the clock; on a GPU also its peak memory."""
        wait = torch.cuda.synchronize if self.scaler else lambda: None
        wait()
        cpu, wall = time.process_time(), time.perf_counter()
        for _ in range(n):
            self.take()
        wait()
        told = {"cpu_s": (time.process_time() - cpu) / n, "wall_s": (time.perf_counter() - wall) / n}
        if self.scaler:
            told["peak_allocated"] = torch.cuda.max_memory_allocated()
            told["peak_reserved"] = torch.cuda.max_memory_reserved()
            if not self.warm:  # trying kernels takes memory that a step does not
                torch.cuda.empty_cache()
                torch.cuda.reset_peak_memory_stats()
        self.warm = True
        return told


def version_of(name: str) -> str:
    """Of a package, as far as it is installed and not merely found on the path."""
    try:
        return version(name)
    except PackageNotFoundError:
        return "on the path"


def say(told: object) -> None:
    """A line to whoever asked."""
    sys.stdout.write(json.dumps(told) + "\n")
    sys.stdout.flush()


def main() -> None:
    """Serve steps until there is no more line to read."""
    asked = json.loads(sys.argv[1])
    torch.set_num_threads(asked["threads"])
    step = Step(asked)
    names = "nnunetv2", "dynamic-network-architectures", "torch"
    say({name: version_of(name) for name in names})
    for line in sys.stdin:
        say(step.several(int(line)))


if __name__ == "__main__":
    main()
