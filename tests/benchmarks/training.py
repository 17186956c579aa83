"""A training step: medseg's beside nnU-Net v2's own network and step, in turn, in one call.

    python -m tests.benchmarks.training gpu [--nnunet ENV | --nnunet-path DIR]
    python -m tests.benchmarks.training cpu [--nnunet ENV | --nnunet-path DIR] [--threads 1]

`gpu` is the standard step (plain U-Net of 32 to 320 features, patch 128^3, batch 2) with medseg's ways through the
network one by one, what augmentation adds, how busy the GPU is, memory, and patches a second. `cpu` is the step of the
hippocampus plan (patch 40 x 56 x 40, batch 2) with 16 to 128 and 32 to 256 features: processor seconds, fp32, and bf16
where the processor has it.

nnU-Net runs in a process of its own: with ENV/bin/python, or with this Python and DIR, a folder that holds `nnunetv2`
and `dynamic_network_architectures`, on its path; with neither, with this Python, if it has them. Both take turns, so
that a busy machine is busy for both, and the best turn of each counts. Steps of both are whole: loss, deep supervision,
clipping and SGD included. Data are made up: for augmentation two cases, which lie on the device.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import platform
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch

from medseg.compute import choose_device, describe, keep_freed_memory, precision
from medseg.networks.work import forward_macs
from medseg.planning.plan import Configuration, Cost, Window
from medseg.preprocessing.cache import LoadedCase
from medseg.preprocessing.settings import Normalisation, PreprocessingSettings
from medseg.training.data.patches import batches
from medseg.training.data.sources import place
from medseg.training.learning import passes
from tests.benchmarks.steps_in_turn import Ours, Peer, Size, Theirs, beside, in_turn

RESULTS = Path(__file__).parent / "results"
AUGMENTATION_SHARE, BUSY_SHARE, TIMES_FASTER, MEMORY_SHARE = 0.1, 0.9, 2.0, 1.0  # what is aimed at


STANDARD = Size((32, 64, 128, 256, 320, 320), (128, 128, 128), steps=20)
HIPPOCAMPUS = {
    "features 16 to 128": Size((16, 32, 64, 128), (40, 56, 40)),
    "features 32 to 256": Size((32, 64, 128, 256), (40, 56, 40)),
}


VARIANTS: dict[str, dict[str, Any]] = {
    "contiguous, torch's norm": {"norm": "torch's", "last": False},
    "channels last, torch's norm": {"norm": "torch's"},
    "channels last, own norm over a flat map": {"norm": "flat"},
    "channels last, own norm": {},
    "the same, a CUDA graph": {"way": "a CUDA graph"},
    "the same, torch.compile": {"way": "torch.compile"},
}


def on_cpu(size: Size, peer: Peer | None, threads: int) -> dict[str, Any]:
    """Processor seconds a step, in fp32 and in bf16 where there is such."""
    device = torch.device("cpu")
    torch.set_num_threads(threads)
    has_bf16 = precision(device) == "bf16"
    single, half = Ours(size, device), Ours(size, device) if has_bf16 else None

    def in_fp32(steps: int) -> dict[str, float]:
        with patch.object(passes, "autocast", _no_autocast):
            return single.turn(steps)

    turns: dict[str, Callable[[int], dict[str, float]]] = {"medseg, fp32": in_fp32}
    if half is not None:
        turns["medseg, bf16"] = half.turn
    with beside(size, device, peer, threads) as theirs:
        if theirs is not None:
            turns["nnunet, fp32"] = theirs.turn
        found = in_turn(size, turns)
    told: dict[str, Any] = {"steps": found, "bf16": "measured" if has_bf16 else "skipped: this processor has none"}
    told["peer"] = theirs.versions if theirs is not None else "nnU-Net is not installed here"
    if theirs is not None:
        spent = found["nnunet, fp32"]["cpu_s"]
        told["times_fewer"] = {n: round(spent / f["cpu_s"], 2) for n, f in found.items() if n.startswith("medseg")}
    return told


def _no_autocast(_: torch.device) -> AbstractContextManager[object]:
    return nullcontext()


def on_device(size: Size, device: torch.device, peer: Peer | None, threads: int) -> dict[str, Any]:
    """The standard step in all variants, each beside nnU-Net's; then with augmentation, and the use of the GPU."""
    found: dict[str, Any] = {}
    with beside(size, device, peer, threads) as theirs:
        for name, how in VARIANTS.items():
            found[name] = _variant(size, device, how, theirs)
    medseg = {name: told["medseg"] for name, told in found.items() if "medseg" in told}
    best = min(medseg, key=lambda name: medseg[name]["wall_s"])
    told: dict[str, Any] = {"variants": found, "best": best, **_with_data(size, device, VARIANTS[best])}
    step = medseg[best]["wall_s"]
    told["patches_per_s"] = size.batch / step
    told["tflops"] = 6 * size.batch * forward_macs(size.network, size.patch) / step / 1e12
    told["peer"] = theirs.versions if theirs is not None else "nnU-Net is not installed here"
    if theirs is not None:
        peers = [one["nnunet"] for one in found.values() if "nnunet" in one]
        told["times_faster"] = min(one["wall_s"] for one in peers) / step
        if device.type == "cuda":
            told["memory_share"] = medseg[best]["peak_reserved"] / max(one["peak_reserved"] for one in peers)
    return told


def _variant(size: Size, device: torch.device, how: Mapping[str, Any], theirs: Theirs | None) -> dict[str, Any]:
    """A variant's best turn and nnU-Net's between its turns; what a device cannot do is told."""
    if device.type == "cuda":
        gc.collect()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
    try:
        turns = {"medseg": Ours(size, device, **how).turn}
        return in_turn(size, turns if theirs is None else {**turns, "nnunet": theirs.turn})
    except RuntimeError as error:
        return {"cannot": str(error).strip().splitlines()[0]}


def _with_data(size: Size, device: torch.device, how: Mapping[str, Any]) -> dict[str, Any]:
    """What drawing and augmenting batches on the device adds to a step, and how much of the time the device is busy."""
    made = _configuration(size)
    cases = [_case(size, seed) for seed in range(2)]
    placed = place(cases, device)
    still, real = (Ours(size, device, source, **how) for source in (None, batches(placed, made, (0, 0), 0)))
    found = in_turn(size, {"still": still.turn, "real": real.turn})
    by = "wall_s" if device.type == "cuda" else "cpu_s"
    share = max(1 - found["still"][by] / found["real"][by], 0.0)
    told: dict[str, Any] = {"with_augmentation": found["real"], "augmentation_share": share, "tier": placed.tier}
    if device.type == "cuda":
        told["busy_share"] = busy_share(real, size.steps)
    return told


def busy_share(ours: Ours, steps: int) -> float | None:
    """The share of the time between the first and the last kernel in which at least one runs; None if none is seen."""
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CUDA]) as seen:
        ours.turn(steps)
    kernels = [e.time_range for e in seen.events() or [] if e.device_type == torch.autograd.DeviceType.CUDA]
    return covered([(k.start, k.end) for k in kernels]) if kernels else None


def covered(spans: Sequence[tuple[float, float]]) -> float:
    """The share of the whole stretch that at least one span covers."""
    if not spans:
        return 0.0
    ordered = sorted(spans)
    reached, total = ordered[0][0], 0.0
    for start, end in ordered:
        total += max(end - max(start, reached), 0.0)
        reached = max(reached, end)
    return total / max(reached - ordered[0][0], 1e-12)


def _configuration(size: Size) -> Configuration:
    nothing = Cost(
        hours=None,
        steps=None,
        step_s=None,
        training_gb=0,
        preparing_gb=0,
        inference_s=None,
        cache_gb=0,
        measured=False,
    )
    return Configuration(
        name="3d",
        slice_axis=None,
        preprocessing=PreprocessingSettings(spacing_mm=(1.0, 1.0, 1.0), channels=(Normalisation(kind="zscore"),)),
        patch=size.patch,
        network=size.network,
        schedule=size.schedule,
        window=Window(),
        median_shape=size.patch,
        cost=nothing,
        reasons=(),
    )


def _case(size: Size, seed: int) -> LoadedCase:
    """Half as large again as a patch along each axis; nothing is predicted, so nothing need be undone."""
    shape = tuple(3 * n // 2 for n in size.patch)
    rng = np.random.default_rng(seed)
    image = rng.standard_normal((1, *shape), dtype=np.float32).astype(np.float16)
    classes = np.zeros(shape, np.uint8)
    for k in range(1, size.classes):
        classes[tuple(slice(n // (k + 2), n // (k + 1)) for n in shape)] = k
    listed = {k: np.flatnonzero(classes == k)[:1000] for k in range(1, size.classes)}
    return LoadedCase(f"case{seed}", image, classes, listed, (1.0, 1.0, 1.0), undo=None)  # type: ignore[arg-type]


def judged(told: Mapping[str, Any]) -> dict[str, bool]:
    """Whether what was aimed at on a GPU is reached, as far as it was measured."""
    aims = {
        "times_faster": lambda x: x >= TIMES_FASTER,
        "memory_share": lambda x: x <= MEMORY_SHARE,
        "augmentation_share": lambda x: x < AUGMENTATION_SHARE,
        "busy_share": lambda x: x >= BUSY_SHARE,
    }
    return {name: bool(aim(told[name])) for name, aim in aims.items() if told.get(name) is not None}


def header(device: torch.device, threads: int) -> dict[str, Any]:
    """Where and when."""
    cudnn = torch.backends.cudnn.version() if device.type == "cuda" else None
    return {
        "when": datetime.now(UTC).strftime("%Y-%m-%d"),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}",
        "device": describe(device),
        "threads": threads,
        "load_before": [round(x, 2) for x in os.getloadavg()],
        "versions": {"torch": torch.__version__, "cudnn": cudnn},
    }


def main() -> None:
    """See above."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("what", choices=["gpu", "cpu"])
    options.add_argument("--nnunet", type=Path, metavar="ENV")
    options.add_argument("--nnunet-path", type=Path, metavar="DIR")
    options.add_argument("--threads", type=int, default=1)
    options.add_argument("--rounds", type=int, default=5)
    options.add_argument("--out", type=Path)
    given = options.parse_args()
    python = given.nnunet / "bin" / "python" if given.nnunet else Path(sys.executable)
    peer = Peer(python, given.nnunet_path)
    device = choose_device("cuda" if given.what == "gpu" else "cpu")
    torch.set_num_threads(given.threads)
    keep_freed_memory()
    result = header(device, given.threads)
    if given.what == "gpu":
        size = replace(STANDARD, rounds=given.rounds)
        result["standard step"] = told = on_device(size, device, peer, given.threads)
        result["reached"] = judged(told)
    else:
        result["steps of the hippocampus plan"] = {
            name: on_cpu(replace(size, rounds=given.rounds), peer, given.threads) for name, size in HIPPOCAMPUS.items()
        }
    out = given.out or RESULTS / f"training_{given.what}.json"
    text = json.dumps(result, indent=1) + "\n"
    out.write_text(text, encoding="utf-8")
    sys.stdout.write(text)


if __name__ == "__main__":
    main()
