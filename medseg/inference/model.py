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
from medseg.planning.plan import Name, Plan, Splits

VERSION = 1


class Origin(Record):
    """What a model has seen, and what its training began with.

    scans: digests of the voxels (`Whole.digest`) of every channel that it was trained on, sorted, those of the model
    that it began with among them; by these a scan is known again whatever its name. init_sha256: the weights that it
    began with, empty where they were random. known: validation cases of the fold that the model it began with was
    trained on, so that their scores are too good.
    """

    scans: tuple[str, ...] = ()
    init_sha256: str = ""
    known: int = 0


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
    origin: Origin = Origin()
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
    card = read_card(folder)
    network = build_network(card.plan.configuration.network)
    try:
        network.load_state_dict(load_file(folder / "model.safetensors"))
    except (SafetensorError, RuntimeError) as error:
        raise InputError(f"the weights do not fit the plan ({str(error).splitlines()[0]})", folder) from error
    return Model(network.to(device).eval(), card)


def copy_model(model: Path, folder: Path) -> ModelCard:
    """Copy the model in the folder `model` to `folder`, its card last; the card.

    Raises:
        InputError: it is no model, or its files do not belong together.
        ResourceError: the disk is full or `folder` cannot be written to.
    """
    card = read_card(model)
    with written_whole(folder / "model.safetensors") as beside:
        beside.write_bytes((model / "model.safetensors").read_bytes())
    write_record(folder / "model.json", card)
    return card


def read_card(folder: Path) -> ModelCard:
    """The card of the model in `folder`, whose weights are those that it names.

    Raises:
        InputError: its files are missing, cut, or do not belong together.
    """
    card = read_record(folder / "model.json", ModelCard)
    weights = folder / "model.safetensors"
    if not weights.is_file() or sha256([weights]) != card.weights_sha256:
        raise InputError("the weights are not those that model.json names", folder, "train this fold again")
    return card


def model_at(path: Path) -> Path:
    """The folder of a model: `path` itself, or of a run that on all cases, else its first fold.

    Raises:
        InputError: there is no trained model.
    """
    if (path / "model.json").is_file():
        return path
    if not (path / "plan.json").is_file():
        raise InputError("is neither a trained fold nor a run of medseg", path, "name a run folder with a trained fold")
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
