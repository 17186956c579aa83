"""Checkpoints: weights, optimiser, average and random state as safetensors, all else as JSON in the file's header."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from medseg.errors import RunError
from medseg.files import Record, written_whole
from medseg.inference.model import Origin
from medseg.training.learning.loop import Learner

VERSION = 3
_CPU, _GPU = "random.cpu", "random.gpu"


class Progress(Record):
    """Where training stands. Patches are drawn from (seed, fold, step), so the step is the sampler's position.

    plan: digest of what is trained. total_steps: to which the schedule was fitted, once it was. share: of the schedule
    that is used up. origin: what the network saw and began with. threads: on which a CPU computed, which decides the
    order of sums.
    """

    version: int = VERSION
    plan: str
    step: int = 0
    share: float = 0.0
    total_steps: int | None = None
    elapsed_s: float = 0.0
    loss: float | None = None
    origin: Origin = Origin()
    threads: int | None = None


def save_checkpoint(path: Path, learner: Learner, progress: Progress) -> None:
    """Write everything that going on needs, whole or not at all.

    Raises:
        MedsegError: the weights are not finite; what stands at `path` stays.
        ResourceError: the disk is full.
    """
    learner.settle()
    tensors = {_CPU: torch.get_rng_state()}
    if learner.device.type == "cuda":
        tensors[_GPU] = torch.cuda.get_rng_state(learner.device)
    tensors |= {f"network.{name}": tensor for name, tensor in learner.network.state_dict().items()}
    if learner.average is not None:
        tensors |= {f"average.{name}": tensor for name, tensor in learner.average.network.state_dict().items()}
    for index, state in learner.optimiser.state_dict()["state"].items():
        tensors |= {f"optimiser.{index}.{name}": value for name, value in state.items() if isinstance(value, Tensor)}
    told = progress.model_copy(update={"threads": torch.get_num_threads()})
    whole = save({k: v.cpu().contiguous() for k, v in tensors.items()}, {"progress": told.model_dump_json()})
    with written_whole(path) as beside:
        beside.write_bytes(whole)  # by Python, whose errors tell a full disk from others


def load_checkpoint(path: Path, learner: Learner, plan_digest: str) -> Progress | None:
    """Go on from `path` where it stands, else None; a reproducible learner on as many threads as before.

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
    if progress.version != VERSION:
        raise RunError("the checkpoint is of another version of medseg", path, fix)
    if progress.plan != plan_digest:
        raise RunError("the checkpoint belongs to another plan", path, fix)
    try:
        _restore(learner, tensors)
    except (RuntimeError, KeyError, IndexError) as error:  # cut by hand, or by another version of medseg
        raise RunError("the checkpoint holds other weights than the network", path, fix) from error
    if learner.reproducible and progress.threads is not None:
        torch.set_num_threads(progress.threads)
    return progress


def _restore(learner: Learner, tensors: dict[str, Tensor]) -> None:
    learner.network.load_state_dict(_named(tensors, "network."))
    if learner.average is not None:
        learner.average.network.load_state_dict(_named(tensors, "average."))
    weights = [weight for group in learner.optimiser.param_groups for weight in group["params"]]
    state: dict[int, dict[str, Tensor]] = {}
    for name, tensor in _named(tensors, "optimiser.").items():
        index, key = name.split(".", 1)
        state.setdefault(int(index), {})[key] = _laid_out_as(weights[int(index)], tensor)
    groups = learner.optimiser.state_dict()["param_groups"]
    learner.optimiser.load_state_dict({"state": state, "param_groups": groups})
    torch.set_rng_state(tensors[_CPU])
    if learner.device.type == "cuda" and _GPU in tensors:
        torch.cuda.set_rng_state(tensors[_GPU], learner.device)


def _named(tensors: dict[str, Tensor], start: str) -> dict[str, Tensor]:
    return {name.removeprefix(start): tensor for name, tensor in tensors.items() if name.startswith(start)}


def _laid_out_as(weight: nn.Parameter, tensor: Tensor) -> Tensor:
    """The tensor in the memory layout of its weight: fused optimisers walk through both by address."""
    return torch.empty_like(weight).copy_(tensor) if tensor.shape == weight.shape else tensor
