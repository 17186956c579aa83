"""A small nnU-Net for the phantoms, trained for some CPU minutes by nnU-Net's own code (its environment).

    ENV/bin/python tests/benchmarks/nnunet_phantom.py WORK NUMBER --minutes 7 [--patch 64] [--features 16]

ENV holds nnunetv2. `WORK/raw/DatasetNUMBER_...` is a data set of `tests/benchmarks/phantoms.py` at the spacing that
the network shall work at; `WORK/results` gets the trained model, in the folders and the format of nnU-Net.
It plans, prepares, builds and saves with nnU-Net. The network is smaller than its plan's, and what a short training
must have otherwise is changed: Adam with a rate that decays over the CPU seconds, patches without augmentation read
within the process, cross-entropy of drawn voxels, a quarter of them in structures, and a last layer that begins with
the densities by which each structure is known, so that a hundred classes are learnt in some hundred steps. Its
checkpoint allows no mirroring, since none was trained.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

PLANS, CONFIGURATION, FOLD, HELD_OUT = "small", "3d_fullres", 0, 2
RATE, STAGES = 4e-3, 4
VOXELS = 8192
STEP_VOXELS = 1 << 17  # in the patches of a step; two patches at least, as torch is many times slower for one
FOREGROUND = 0.5  # the share of patches whose middle lies in a structure
GROUP, APART, STRENGTH = 4, 1.0, 4.0  # features for each layer of a structure; what a density adds to them; its weight


def say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def prepare(work: Path, number: int, patch: int, features: int) -> Path:
    """Plan and preprocess once, and put a small network into the plans; the folder of prepared cases."""
    name = next((work / "raw").glob(f"Dataset{number:03d}_*")).name
    ready = work / "preprocessed" / name
    if not (ready / "nnUNetPlans_3d_fullres").is_dir():
        binary = Path(sys.executable).parent / "nnUNetv2_plan_and_preprocess"
        subprocess.run([binary, "-d", str(number), "-c", CONFIGURATION, "-npfp", "2", "-np", "2"], check=True)
    plans = json.loads((ready / "nnUNetPlans.json").read_text())
    own = plans["configurations"][CONFIGURATION]
    own |= {"patch_size": [patch] * 3, "batch_size": 2}
    own["architecture"]["arch_kwargs"] |= {
        "n_stages": STAGES,
        "features_per_stage": [min(features << k, 320) for k in range(STAGES)],
        "kernel_sizes": [[3, 3, 3]] * STAGES,
        "strides": [[1, 1, 1], *[[2, 2, 2]] * (STAGES - 1)],
        "n_conv_per_stage": [2] * STAGES,
        "n_conv_per_stage_decoder": [2] * (STAGES - 1),
    }
    plans["configurations"] = {CONFIGURATION: own}
    plans["plans_name"] = PLANS
    (ready / f"{PLANS}.json").write_text(json.dumps(plans))
    return ready


def cases(trainer: Any) -> list[tuple[Any, Any, Any]]:
    """Image (C, Z, Y, X), classes (Z, Y, X) and the places of structures, of every case but those held out."""
    import numpy as np

    dataset = trainer.dataset_class(trainer.preprocessed_dataset_folder)
    found = []
    for name in sorted(dataset.identifiers)[:-HELD_OUT]:
        image, classes, *_ = dataset.load_case(name)
        image, classes = np.asarray(image[:], np.float32), np.asarray(classes[:])[0].clip(0)
        found.append((image, classes.astype(np.int64), np.argwhere(classes > 0)))
    return found


def patches(held: list[tuple[Any, Any, Any]], size: int, batch: int) -> Iterator[tuple[Any, Any]]:
    """Batches of patches (B, C, Z, Y, X) and their classes (B, Z, Y, X)."""
    import numpy as np
    import torch

    rng = np.random.default_rng(0)
    while True:
        drawn = []
        for _ in range(batch):
            image, classes, places = held[rng.integers(len(held))]
            free = np.array(classes.shape) - size
            start = rng.integers(0, free + 1)
            if rng.random() < FOREGROUND:
                middle = places[rng.integers(len(places))]
                start = np.clip(middle - rng.integers(size // 4, size - size // 4, 3), 0, free)
            box = tuple(slice(s, s + size) for s in start)
            drawn.append((image[(slice(None), *box)], classes[box]))
        yield torch.from_numpy(np.stack([d[0] for d in drawn])), torch.from_numpy(np.stack([d[1] for d in drawn]))


def begin_with_densities(head: Any, known_by: list[list[int]]) -> None:
    """Let the last layer (L, F) ask four features for the density of each of a structure's layers and the others for
    background: the nearest densities win, as -(f - d)^2 is 2 f d - d^2 but for what all have in common.
    """
    import torch

    with torch.no_grad():
        head.weight.mul_(0.1)
        head.bias.zero_()
        for k, numbers in enumerate(known_by, 1):
            for layer, number in enumerate(numbers):
                head.weight[k, GROUP * layer : GROUP * (layer + 1)] += STRENGTH * 2 * APART * number / GROUP
                head.bias[k] -= STRENGTH * (APART * number) ** 2
        head.weight[0, GROUP * len(known_by[0]) :] += STRENGTH


def drawn(classes_BZYX: Any) -> Any:
    """Places in a flat batch: `VOXELS` in structures and three times as many in the background, or all there are."""
    import torch

    inside = (classes_BZYX.flatten() > 0).nonzero()[:, 0]
    outside = (classes_BZYX.flatten() == 0).nonzero()[:, 0]
    return torch.cat([of[torch.randperm(len(of))[:n]] for of, n in ((inside, VOXELS), (outside, 3 * VOXELS))])


def train(ready: Path, number: int, minutes: float, sizes: Sequence[int], go_on: bool) -> None:
    """Train fold 0 for some CPU minutes, equally long on patches of each size, and save it as nnU-Net does."""
    import torch
    from nnunetv2.run.run_training import get_trainer_from_args
    from torch.nn import functional

    trainer = get_trainer_from_args(
        str(number), CONFIGURATION, FOLD, "nnUNetTrainer", PLANS, device=torch.device("cpu")
    )
    trainer.enable_deep_supervision = False
    trainer.initialize()
    folder = Path(trainer.output_folder)
    layers = trainer.network.decoder.seg_layers
    known_by = ready.parents[1] / "raw" / ready.name / "structures.json"
    begin_with_densities(layers[-1], json.loads(known_by.read_text()))
    if go_on:
        trained = torch.load(folder / "checkpoint_final.pth", weights_only=False)  # noqa: TID251 its own, of before
        trainer.network.load_state_dict(trained["network_weights"])
    head, layers[-1] = layers[-1], torch.nn.Identity()  # it is applied to the drawn voxels alone
    optimizer = trainer.optimizer = torch.optim.Adam([*trainer.network.parameters(), *head.parameters()], RATE)
    held = cases(trainer)
    batches = {size: patches(held, size, max(2, STEP_VOXELS // size**3)) for size in sizes}
    began, steps, shown = time.process_time(), 0, 0.0
    while (share := (time.process_time() - began) / (60 * minutes)) < 1:
        for group in optimizer.param_groups:
            group["lr"] = RATE * min(1, (steps + 1) / 20) * (0.5 + 0.5 * math.cos(math.pi * share))
        image, classes = next(batches[sizes[int(share * len(sizes))]])
        features_BFZYX = trainer.network.train()(image)
        at = drawn(classes)
        logits = functional.linear(features_BFZYX.movedim(1, -1).flatten(0, 3)[at], head.weight.flatten(1), head.bias)
        loss = functional.cross_entropy(logits, classes.flatten()[at])
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trainer.network.parameters(), 12)
        optimizer.step()
        steps += 1
        if time.monotonic() - shown > 20:
            shown = time.monotonic()
            say(f"step {steps}, {100 * share:.0f} %, loss {loss.item():.4f}, load {os.getloadavg()[0]:.1f}")
    layers[-1] = head
    trainer.save_checkpoint(str(folder / "checkpoint_final.pth"))
    shutil.copy(ready / f"{PLANS}.json", folder.parent / "plans.json")
    for name in ("dataset.json", "dataset_fingerprint.json"):
        shutil.copy(ready / name, folder.parent / name)
    say(f"{steps} steps in {time.process_time() - began:.0f} CPU-s")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("work", type=Path)
    parser.add_argument("number", type=int)
    parser.add_argument("--minutes", type=float, default=7.0, help="of CPU time")
    parser.add_argument("--patch", type=int, default=64)
    parser.add_argument("--train-patches", type=int, nargs="+", default=[32, 48], help="smaller than --patch: faster")
    parser.add_argument("--features", type=int, default=16)
    parser.add_argument("--go-on", action="store_true", help="from the weights that were saved before")
    parser.add_argument("--threads", type=int, default=1)
    asked = parser.parse_args()
    for name in ("raw", "preprocessed", "results"):
        os.environ[f"nnUNet_{name}"] = str(asked.work / name)
    os.environ |= {"nnUNet_compile": "0", "OMP_NUM_THREADS": str(asked.threads)}
    ready = prepare(asked.work, asked.number, asked.patch, asked.features)
    train(ready, asked.number, asked.minutes, asked.train_patches, asked.go_on)


if __name__ == "__main__":
    main()
