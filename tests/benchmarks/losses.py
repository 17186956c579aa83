"""What Dice + cross-entropy costs as classes grow: medseg's beside MONAI's, alone and as part of a training step.

    python -m tests.benchmarks.losses [--device cpu|cuda] [--threads 1] [--times 5] [--out FILE]

Logits and labels are made up: a batch of two patches of 48^3 on a CPU, 128^3 on a GPU. `loss` is forward and backward
of the loss alone, at one resolution; `step` a whole step of a plain U-Net of 32 to 256 features with deep supervision.
MONAI's gets its logits contiguous, medseg's as the network gives them, channels last. Both take turns, the best turn
counts: processor seconds on a CPU, wall seconds and the most memory held on a GPU.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from monai.losses import DiceCELoss
from torch import Tensor

from medseg.compute import autocast, choose_device, describe, keep_freed_memory
from medseg.networks.table import build_network
from medseg.networks.topology import NetworkSettings
from medseg.training.losses.table import deep_loss

CLASSES = (2, 10, 25, 50, 105)
SIDES = {"cpu": 48, "cuda": 128}
FEATURES = (32, 64, 128, 256)
Loss = Callable[[Any, Tensor], Tensor]


def monai_deep(loss: DiceCELoss) -> Loss:
    """MONAI's loss at each resolution, halved from one to the next, as medseg's is."""

    def of(logits: Any, classes_BXYZ: Tensor) -> Tensor:
        scales = [logits] if isinstance(logits, Tensor) else list(logits)
        halves = [0.5**n for n in range(len(scales))]
        total = scales[0].new_zeros(())
        for half, scale in zip(halves, scales, strict=True):
            step = classes_BXYZ.shape[1] // scale.shape[2]
            target = (
                classes_BXYZ[:, step // 2 :: step, step // 2 :: step, step // 2 :: step] if step > 1 else classes_BXYZ
            )
            total = total + half / sum(halves) * loss(scale.float(), target.unsqueeze(1).long())
        return total

    return of


def losses() -> dict[str, Loss]:
    theirs = DiceCELoss(include_background=False, to_onehot_y=True, softmax=True, batch=True)
    return {"medseg": lambda logits, classes: deep_loss(logits, classes, True), "monai": monai_deep(theirs)}


def spent(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        return time.perf_counter()
    return time.process_time()


def best(turns: dict[str, Callable[[], None]], device: torch.device, times: int) -> dict[str, dict[str, float]]:
    """The least seconds of each, in turn; on a GPU the most memory that its turns held."""
    found: dict[str, dict[str, float]] = {name: {"seconds": float("inf")} for name in turns}
    for turn in range(times + 1):
        for name, work in turns.items():
            if device.type == "cuda":
                torch.cuda.reset_peak_memory_stats(device)
            began = spent(device)
            work()
            took = spent(device) - began
            if turn:  # the first warms up
                found[name]["seconds"] = min(found[name]["seconds"], took)
            if device.type == "cuda":
                found[name]["peak_gb"] = torch.cuda.max_memory_allocated(device) / 1e9
    return found


def alone(classes: int, device: torch.device, times: int) -> dict[str, dict[str, float]]:
    side = SIDES[device.type]
    generator = torch.Generator().manual_seed(0)
    target = torch.randint(classes, (2, side, side, side), generator=generator, dtype=torch.uint8).to(device)
    drawn = torch.randn((2, classes, side, side, side), generator=generator).to(device)
    layouts = {"medseg": drawn.contiguous(memory_format=torch.channels_last_3d), "monai": drawn}

    def turn(name: str, loss: Loss) -> Callable[[], None]:
        logits = layouts[name].clone().requires_grad_()

        def both_ways() -> None:
            torch.autograd.grad(loss(logits, target), logits)

        return both_ways

    return best({name: turn(name, loss) for name, loss in losses().items()}, device, times)


def in_a_step(classes: int, device: torch.device, times: int) -> dict[str, dict[str, float]]:
    side = SIDES[device.type]
    settings = NetworkSettings(
        kind="unet",
        dims=3,
        in_channels=1,
        classes=classes,
        features=FEATURES,
        kernels=((3, 3, 3),) * 4,
        strides=((1, 1, 1),) + ((2, 2, 2),) * 3,
        convs_encoder=(2, 2, 2, 2),
        convs_decoder=(2, 2, 2),
    )
    network = build_network(settings).to(device).to(memory_format=torch.channels_last_3d).train()
    image = torch.randn((2, 1, side, side, side), device=device).contiguous(memory_format=torch.channels_last_3d)
    target = torch.randint(classes, (2, side, side, side), device=device, dtype=torch.uint8)

    def turn(loss: Loss) -> Callable[[], None]:
        def step() -> None:
            network.zero_grad(set_to_none=True)
            with autocast(device):
                logits = network(image)
            loss(logits, target).backward()

        return step

    return best({name: turn(loss) for name, loss in losses().items()}, device, times)


def main() -> None:
    parser = argparse.ArgumentParser(description="The cost of the loss by the number of classes.")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--times", type=int, default=5)
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args()
    device = choose_device(asked.device)
    torch.set_num_threads(asked.threads)
    keep_freed_memory()
    found: dict[str, Any] = {
        "command": f"python -m tests.benchmarks.losses {' '.join(sys.argv[1:])}".strip(),
        "date": datetime.now(UTC).date().isoformat(),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "device": describe(device),
        "torch": torch.__version__,
        "loss": {},
        "step": {},
    }
    for name, measure in (("loss", alone), ("step", in_a_step)):
        for classes in CLASSES:
            row = measure(classes, device, asked.times)
            found[name][str(classes)] = row
            sys.stdout.write(f"{name} {classes} classes: {json.dumps(row)}\n")
            sys.stdout.flush()
        few, many = (found[name][str(k)] for k in (CLASSES[0], CLASSES[-1]))
        found[f"{name}_grows"] = {who: round(many[who]["seconds"] / few[who]["seconds"], 2) for who in few}
        found[f"{name}_times_fewer"] = round(many["monai"]["seconds"] / many["medseg"]["seconds"], 2)
    sys.stdout.write(json.dumps({k: v for k, v in found.items() if "_" in k}) + "\n")
    if asked.out:
        asked.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
