"""Training steps in turn: medseg's loop in this process, and nnU-Net's own step in another (`nnunet_step.py`)."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import repeat
from pathlib import Path
from typing import Any

import torch
from torch import nn

from medseg.networks.topology import NetworkSettings
from medseg.networks.unet import EPSILON, InstanceNorm
from medseg.planning.plan import Schedule
from medseg.training.learning.faster import WAYS
from medseg.training.learning.loop import Learner, fit, learner_of
from medseg.training.learning.measure import MadeUp
from medseg.training.learning.passes import Batch
from medseg.training.losses.table import deep_loss

PEER = Path(__file__).with_name("nnunet_step.py")


@dataclass(frozen=True)
class Size:
    """What a step is measured of, and how: `rounds` turns of `steps` steps each, after one that warms up."""

    features: tuple[int, ...]
    patch: tuple[int, int, int]
    batch: int = 2
    classes: int = 3
    steps: int = 1
    rounds: int = 5

    @property
    def network(self) -> NetworkSettings:
        """The plain U-Net of these features."""
        n = len(self.features)
        return NetworkSettings(
            kind="unet",
            dims=3,
            in_channels=1,
            classes=self.classes,
            features=self.features,
            kernels=((3, 3, 3),) * n,
            strides=((1, 1, 1),) + ((2, 2, 2),) * (n - 1),
            convs_encoder=(2,) * n,
            convs_decoder=(2,) * (n - 1),
        )

    @property
    def schedule(self) -> Schedule:
        """nnU-Net's."""
        return Schedule(
            batch=self.batch,
            optimiser="sgd",
            learning_rate=0.01,
            weight_decay=3e-5,
            warm_up_share=0.0,
            foreground_share=1 / 3,
            batch_dice=False,
            mirror_axes=(0, 1, 2),
        )


class Ours:
    """medseg's loop on a batch that stays the same, or on `source`; a turn is `steps` steps."""

    def __init__(self, size: Size, device: torch.device, source: Iterator[Batch] | None = None, **how: Any) -> None:
        self.size, self.device, self._warm = size, device, False
        self.learner = _learner(size, device, **how)
        self._steps = fit(self.learner, source or repeat(_batch(size, device, how)), _loss, lambda _: 0.0, 0)

    def turn(self, steps: int) -> dict[str, float]:
        """Mean seconds of a step, of the processor and by the clock; on a GPU also the peak of memory."""
        self._settle()
        cpu, wall = time.process_time(), time.perf_counter()
        for _ in range(steps):
            next(self._steps)
        self._settle()
        told = {"cpu_s": (time.process_time() - cpu) / steps, "wall_s": (time.perf_counter() - wall) / steps}
        if self.device.type == "cuda":
            told["peak_allocated"] = torch.cuda.max_memory_allocated(self.device)
            told["peak_reserved"] = torch.cuda.max_memory_reserved(self.device)
            if not self._warm:  # trying kernels takes memory that a step does not
                torch.cuda.empty_cache()
                torch.cuda.reset_peak_memory_stats(self.device)
        self._warm = True
        return told

    def _settle(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


def _loss(logits: Any, classes: torch.Tensor) -> torch.Tensor:
    return deep_loss(logits, classes, batch_dice=False)


def _learner(size: Size, device: torch.device, way: str = "", norm: str = "", last: bool = True) -> Learner:
    """A learner that goes one `way`; with another form of the norm, or not in channels-last layout, as asked."""
    learner = learner_of(size.network, size.schedule, device)
    learner.ways = ()
    if norm:
        _use_norm(learner.network, NORMS[norm])
    if not last:
        learner.network.to(memory_format=torch.contiguous_format)
    if way:
        learner.passes.forward = WAYS[way](learner.network.train(), _batch(size, device, {"last": last}).image)
    return learner


class FlatNorm(InstanceNorm):
    """The same over a map whose last two axes are one: torch knows channels-last in four dimensions better."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x.flatten(3)).unflatten(3, x.shape[3:])


NORMS: dict[str, Callable[[int], nn.Module]] = {
    "torch's": lambda features: nn.InstanceNorm3d(features, eps=EPSILON, affine=True),
    "flat": FlatNorm,
}


def _use_norm(module: nn.Module, make: Callable[[int], nn.Module]) -> None:
    for name, child in list(module.named_children()):
        if isinstance(child, InstanceNorm):
            norm = make(len(child.weight))
            norm.weight, norm.bias = child.weight, child.bias  # the optimiser's own
            setattr(module, name, norm)
        else:
            _use_norm(child, make)


def _batch(size: Size, device: torch.device, how: Mapping[str, Any]) -> MadeUp:
    generator = torch.Generator().manual_seed(0)
    shape = (size.batch, 1, *size.patch)
    layout = torch.channels_last_3d if how.get("last", True) else torch.contiguous_format
    image = torch.empty(shape, device=device, memory_format=layout).copy_(torch.randn(shape, generator=generator))
    classes = torch.randint(0, size.classes, (size.batch, *size.patch), generator=generator, dtype=torch.uint8)
    return MadeUp(image, classes.to(device))


class Theirs:
    """nnU-Net's step in a process of its own.

    Raises:
        RuntimeError: that Python lacks it, or it failed.
    """

    def __init__(self, size: Size, device: torch.device, python: Path, path: Path | None, threads: int) -> None:
        asked = {"device": device.type, "features": size.features, "patch": size.patch, "batch": size.batch}
        asked |= {"classes": size.classes, "threads": threads, "compile": True, "batch_dice": False}
        environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
        environment |= _with_path(path)
        self._process = subprocess.Popen(
            [python, PEER, json.dumps(asked)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )
        self.versions: dict[str, str] = self._told()

    def turn(self, steps: int) -> dict[str, float]:
        """As `Ours.turn`."""
        if self._process.stdin is not None:
            self._process.stdin.write(f"{steps}\n")
            self._process.stdin.flush()
        return self._told()

    def _told(self) -> dict[str, Any]:
        line = self._process.stdout.readline() if self._process.stdout is not None else ""
        if not line:
            raise RuntimeError(f"nnU-Net's step ended with {self._process.wait()}")
        told: dict[str, Any] = json.loads(line)
        return told

    def close(self) -> None:
        """End the process."""
        self._process.communicate()


@dataclass(frozen=True)
class Peer:
    """How nnU-Net is reached: a Python that has it, or a folder that holds it."""

    python: Path
    path: Path | None = None

    @property
    def is_there(self) -> bool:
        """Whether it can be imported."""
        code = "import nnunetv2, dynamic_network_architectures"
        tried = subprocess.run(
            [self.python, "-c", code], capture_output=True, text=True, env={**os.environ, **_with_path(self.path)}
        )
        if tried.returncode:
            sys.stderr.write(f"nnU-Net cannot be imported: {tried.stderr.strip().splitlines()[-1]}\n")
        return tried.returncode == 0


def _with_path(path: Path | None) -> dict[str, str]:
    """The environment in which Python looks there first."""
    there = [str(path)] if path else []
    before = [os.environ["PYTHONPATH"]] if "PYTHONPATH" in os.environ else []
    return {"PYTHONPATH": os.pathsep.join(there + before)} if there or before else {}


def in_turn(size: Size, turns: Mapping[str, Callable[[int], dict[str, float]]]) -> dict[str, dict[str, float]]:
    """The best turn of each, by processor seconds on a CPU and by the clock on a GPU, after one that warms up."""
    for turn in turns.values():
        turn(max(size.steps, 2))
    found: dict[str, list[dict[str, float]]] = {name: [] for name in turns}
    for _ in range(size.rounds):
        for name, turn in turns.items():
            found[name].append(turn(size.steps))
    by = "wall_s" if any("peak_reserved" in f[0] for f in found.values()) else "cpu_s"
    return {name: min(told, key=lambda one: one[by]) for name, told in found.items()}


@contextmanager
def beside(size: Size, device: torch.device, peer: Peer | None, threads: int) -> Iterator[Theirs | None]:
    """nnU-Net's step, or None where it is missing."""
    if peer is None or not peer.is_there:
        yield None
        return
    theirs = Theirs(size, device, peer.python, peer.path, threads)
    try:
        yield theirs
    finally:
        theirs.close()
