"""A trained model on disk: safetensors weights and one JSON that says all else. No pickle, no paths."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import nn

from medseg.errors import InputError, RunError
from medseg.files import RESEARCH_USE, Record, read_record, sha256, write_record, written_whole
from medseg.networks.table import build_network
from medseg.planning.plan import Plan

VERSION = 1


class ModelCard(Record):
    """All that is needed to use a model, and what is known of it."""

    version: int = VERSION
    plan: Plan
    fold: str
    trained_on: int
    steps: int
    seconds: float
    dice: dict[str, float]  # by structure, on the fold's validation cases; empty where there were none
    weights_sha256: str
    medseg: str
    torch: str
    notice: str = RESEARCH_USE


@dataclass(frozen=True, eq=False)
class Model:
    """A network, ready on its device, and its card."""

    network: nn.Module
    card: ModelCard


def save_model(folder: Path, network: nn.Module, card: ModelCard) -> None:
    """Write `model.safetensors`, then `model.json`: a fold counts as finished when the latter stands."""
    weights = folder / "model.safetensors"
    whole = save({name: tensor.contiguous() for name, tensor in network.state_dict().items()})
    with written_whole(weights) as beside:
        beside.write_bytes(whole)
    write_record(folder / "model.json", card.model_copy(update={"weights_sha256": sha256([weights])}))


def load_model(folder: Path, device: torch.device) -> Model:
    """Read a model and put it on `device`, ready to predict.

    Raises:
        InputError: its files are missing, cut, or do not belong together.
    """
    card = read_record(folder / "model.json", ModelCard)
    weights = folder / "model.safetensors"
    if not weights.is_file() or sha256([weights]) != card.weights_sha256:
        raise InputError("the weights are not those that model.json names", folder, "train this fold again")
    network = build_network(card.plan.configuration.network)
    try:
        network.load_state_dict(load_file(weights))
    except (SafetensorError, RuntimeError) as error:
        raise InputError(f"the weights do not fit the plan ({str(error).splitlines()[0]})", folder) from error
    return Model(network.to(device).eval(), card)


def finished_folds(run: Path) -> list[Path]:
    """Folders of the run's finished folds, in order.

    Raises:
        RunError: `run` is not a run, or no fold is finished.
    """
    if not (run / "plan.json").is_file():
        raise RunError("is not a run of medseg: it holds no plan.json", run, "make one with medseg plan DATA -o RUN")
    trained = run / "folds" / read_record(run / "plan.json", Plan).chosen
    folds = sorted((p.parent for p in trained.glob("*/model.json")), key=lambda p: p.name)
    if not folds:
        raise RunError("no fold is trained to its end", run, f"run medseg train {run.name}")
    return folds
