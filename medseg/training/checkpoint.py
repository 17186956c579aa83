"""Checkpoints: weights and optimiser state as safetensors, all else as JSON in the same file's header."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from medseg.errors import RunError
from medseg.files import Record, written_whole

VERSION = 1


class Progress(Record):
    """Where training stands. Patches are drawn from (seed, fold, step), so no random state need be kept."""

    version: int = VERSION
    plan: str  # digest of the configuration that is trained
    step: int = 0
    elapsed_s: float = 0.0
    loss: float | None = None


def save_checkpoint(path: Path, network: nn.Module, optimiser: torch.optim.Optimizer, progress: Progress) -> None:
    """Write everything that going on needs, whole or not at all."""
    tensors = {f"network.{name}": tensor for name, tensor in network.state_dict().items()}
    for index, state in optimiser.state_dict()["state"].items():
        tensors |= {f"optimiser.{index}.{name}": value for name, value in state.items() if isinstance(value, Tensor)}
    whole = save({k: v.contiguous() for k, v in tensors.items()}, {"progress": progress.model_dump_json()})
    with written_whole(path) as beside:
        beside.write_bytes(whole)  # by Python, whose errors tell a full disk from others


def load_checkpoint(path: Path, network: nn.Module, optimiser: torch.optim.Optimizer, plan: str) -> Progress | None:
    """Go on from `path` where it stands, else None.

    Raises:
        RunError: the checkpoint is damaged or belongs to another plan.
    """
    if not path.is_file():
        return None
    fix = "delete it to train this fold from the start"
    try:
        with safe_open(path, framework="pt") as file:
            progress = Progress.model_validate_json(file.metadata()["progress"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
    except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
        raise RunError("the checkpoint cannot be read", path, fix) from error
    if progress.plan != plan:
        raise RunError("the checkpoint belongs to another plan", path, fix)
    network.load_state_dict({k.removeprefix("network."): v for k, v in tensors.items() if k.startswith("network.")})
    weights = [weight for group in optimiser.param_groups for weight in group["params"]]
    state: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        if name.startswith("optimiser."):
            _, index, key = name.split(".", 2)
            state.setdefault(int(index), {})[key] = _laid_out_as(weights[int(index)], tensor)
    optimiser.load_state_dict({"state": state, "param_groups": optimiser.state_dict()["param_groups"]})
    return progress


def _laid_out_as(weight: Tensor, tensor: Tensor) -> Tensor:
    """The tensor in the memory layout of its weight: fused optimisers walk through both by address."""
    return torch.empty_like(weight).copy_(tensor) if tensor.shape == weight.shape else tensor
