"""A trained model on disk: safetensors weights and one JSON that says all else. No pickle, no paths.

It lies in the folder of its fold, or with others in a model file (see export/archive.py), whose first then stands for
all.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn

from medseg.errors import InputError, RunError
from medseg.files import read_record, sha256, write_record, written_whole
from medseg.inference.card import ModelCard, Origin
from medseg.inference.export.archive import unpacked
from medseg.networks.table import build_network
from medseg.planning.plan import Name, Plan, Splits

__all__ = [
    "Model",
    "ModelCard",
    "Origin",
    "copy_model",
    "finished_folds",
    "load_model",
    "model_at",
    "model_of",
    "read_card",
    "read_weights",
    "run_plan",
    "run_splits",
    "save_model",
]

WEIGHTS, CARD = "model.safetensors", "model.json"
_NO_MODEL = "is neither a trained fold nor a run of medseg"


@dataclass(frozen=True, eq=False)
class Model:
    """A network, ready on its device, and its card."""

    network: nn.Module
    card: ModelCard


def save_model(folder: Path, network: nn.Module, card: ModelCard) -> None:
    """Write `model.safetensors`, then `model.json`: a fold counts as finished when the latter stands."""
    weights = folder / WEIGHTS
    whole = save({name: tensor.contiguous() for name, tensor in network.state_dict().items()})
    with written_whole(weights) as beside:
        beside.write_bytes(whole)
    write_record(folder / CARD, card.model_copy(update={"weights_sha256": sha256([weights])}))


def load_model(place: Path, device: torch.device) -> Model:
    """Read the model of a fold's folder, or the first of a model file, and put it on `device`, ready to predict.

    Raises:
        InputError: its files are missing, cut, or do not belong together.
    """
    card, weights = _read(place)
    return model_of(card, weights, device, place)


def model_of(card: ModelCard, weights: bytes, device: torch.device, where: Path) -> Model:
    """The network of a card with these weights (safetensors), on `device`, ready to predict; `where` is for errors.

    Raises:
        InputError: the weights are not of this network.
    """
    network = build_network(card.plan.configuration.network).to(device)
    try:
        network.load_state_dict(load(weights))
    except (SafetensorError, RuntimeError) as error:
        raise InputError(f"the weights do not fit the plan ({str(error).splitlines()[0]})", where) from error
    return Model(network.eval(), card)


def read_weights(place: Path) -> dict[str, Tensor]:
    """The weights by name, in memory, of the model in a fold's folder, or of the first in a model file.

    Raises:
        InputError: its files are missing, cut, or do not belong together.
    """
    return load(_read(place)[1])


def copy_model(place: Path, folder: Path) -> ModelCard:
    """Copy the model of a fold's folder, or the first of a model file, to `folder`, its card last; the card.

    Raises:
        InputError: it is no model, or its files do not belong together.
        ResourceError: the disk is full or `folder` cannot be written to.
    """
    card, weights = _read(place)
    with written_whole(folder / WEIGHTS) as beside:
        beside.write_bytes(weights)
    write_record(folder / CARD, card)
    return card


def read_card(place: Path) -> ModelCard:
    """The card of the model in a fold's folder, whose weights are those that it names, or of the first in a model file.

    Raises:
        InputError: its files are missing, cut, or do not belong together.
    """
    return _read(place)[0]


def _read(place: Path) -> tuple[ModelCard, bytes]:
    """Card and weights: what was checked is what is used."""
    if place.is_file():
        with unpacked(place) as archive:
            first = archive.record.first
            return first.card, archive.weights(first)
    card = read_record(place / CARD, ModelCard)
    weights = place / WEIGHTS
    found = weights.read_bytes() if weights.is_file() else b""
    if hashlib.sha256(found).hexdigest() != card.weights_sha256:
        raise InputError("the weights are not those that model.json names", place, "train this fold again")
    return card, found


def model_at(path: Path) -> Path:
    """Where a model lies: `path` itself, a fold's folder or a model file; or of a run that on all cases, else its
    first fold.

    Raises:
        InputError: there is no trained model.
    """
    if path.is_file() or (path / CARD).is_file():
        return path
    if not (path / "plan.json").is_file():
        raise InputError(_NO_MODEL, path, "name a run folder with a trained fold, or a model file")
    folds = finished_folds(path)
    return next((fold for fold in folds if fold.name == "all"), folds[0])


def run_plan(run: Path) -> Plan:
    """The plan of a run.

    Raises:
        RunError: `run` is not a run.
    """
    if not (run / "plan.json").is_file():
        raise RunError("is not a run of medseg: it holds no plan.json", run, "make one with medseg plan DATA -o RUN")
    return read_record(run / "plan.json", Plan)


def run_splits(run: Path) -> Splits:
    """The folds of a run.

    Raises:
        RunError: `run` is not a run.
    """
    if not (run / "splits.json").is_file():
        raise RunError("is not a run of medseg: it holds no splits.json", run, "make one with medseg plan DATA -o RUN")
    return read_record(run / "splits.json", Splits)


def finished_folds(run: Path, configuration: Name | None = None) -> list[Path]:
    """Folders of the run's finished folds, in order; of the plan's chosen configuration unless another is named.

    Raises:
        RunError: `run` is not a run, or no fold is finished.
    """
    plan = run_plan(run)
    name = configuration or plan.chosen
    folds = sorted((p.parent for p in (run / "folds" / name).glob("*/model.json")), key=lambda p: p.name)
    if not folds and name == plan.chosen:
        raise RunError("no fold is trained to its end", run, f"run medseg train {run.name}")
    if not folds:
        fix = f"run medseg train {run.name} --configuration {name}"
        raise RunError(f"no fold of {name} is trained to its end", run, fix)
    return folds
