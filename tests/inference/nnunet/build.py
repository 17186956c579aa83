"""nnU-Net's own kept models, copied to be changed, and checkpoints made up in its form."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from medseg.inference.nnunet.checkpoint import Checkpoint, open_checkpoint
from medseg.inference.nnunet.plans import Told, told_by

KEPT = Path(__file__).parents[2] / "oracles" / "nnunet_models"
NAME = "nnUNetTrainer__nnUNetPlans__3d_fullres"


def checkpoint_of(weights: Mapping[str, Any], **other: Any) -> dict[str, Any]:
    """As nnU-Net's trainer writes it."""
    told: dict[str, Any] = {
        "network_weights": weights,
        "optimizer_state": {},
        "logging": {},
        "current_epoch": 2,
        "init_args": {"configuration": "3d_fullres", "fold": 0, "device": torch.device("cpu")},
        "trainer_name": "nnUNetTrainer",
        "inference_allowed_mirroring_axes": (0, 1, 2),
    }
    return told | other


def copied(folder: Path, case: str = "plain", name: str = NAME) -> Path:
    """A kept model that may be changed."""
    shutil.copytree(KEPT / case / name, folder / name)
    return folder / name


def changed(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change a JSON file in its place."""
    told = json.loads(path.read_text())
    change(told)
    path.write_text(json.dumps(told))


def opened(model: Path) -> tuple[Told, Checkpoint]:
    checkpoint = open_checkpoint(model / "fold_0" / "checkpoint_final.pth")
    return told_by(model, checkpoint.configuration), checkpoint
