"""What predicts: the finished folds of the configuration that was planned, or of what `medseg select` chose instead."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from medseg.errors import InputError, RunError
from medseg.files import read_record
from medseg.inference.model import Model, ModelCard, finished_folds, load_model, run_plan
from medseg.inference.records import Cleaning, Selection
from medseg.planning.plan import Name, Plan

SELECTED = "selected.json"


@dataclass(frozen=True, eq=False)
class Predictor:
    """Models on their device, by configuration, and what becomes of their answers.

    members: the configurations whose answers are averaged. models: of these, and of the first stage of a cascade.
    folds: the names of the folds, of all members together. told: what the user should know, and True for a warning.
    """

    plan: Plan
    members: tuple[Name, ...]
    models: Mapping[Name, Sequence[Model]]
    folds: tuple[str, ...]
    cleaning: tuple[Cleaning, ...] = ()
    told: tuple[tuple[str, bool], ...] = ()

    @property
    def key(self) -> str:
        """Changes whenever a fold is added or trained anew, or another choice is made."""
        told = [self.members, [step.model_dump() for step in self.cleaning]]
        weights = {name: [model.card.weights_sha256 for model in models] for name, models in self.models.items()}
        return hashlib.sha256(repr((told, sorted(weights.items()))).encode()).hexdigest()


def load_predictor(run: Path, device: torch.device) -> Predictor:
    """Load what `RUN/selected.json` names, else all finished folds of the configuration that was planned.

    Raises:
        RunError: `run` is not a run, or no fold of a configuration is finished.
        InputError: a model or selected.json is damaged.
    """
    plan = run_plan(run)
    selection = read_selection(run)
    members = selection.members if selection else (plan.chosen,)
    found = {name: finished_folds(run, name) for name in with_stages(members, plan)}
    folds = tuple(sorted({fold.name for of in found.values() for fold in of}))
    models = {name: [load_model(fold, device) for fold in of] for name, of in found.items()}
    shown = models[members[0]][0].card.plan
    if selection is None:
        return Predictor(shown, members, models, folds)
    told = [(f"by medseg select: {' + '.join(members)}", False)]
    told += [(f"post-processing of {step.words}", False) for step in selection.cleaning]
    if selection.models != weights_digest(run, {name for one in selection.candidates for name in one.members}):
        told.append(("folds were trained or deleted since medseg select chose: run it again", True))
    return Predictor(shown, members, models, folds, selection.cleaning, tuple(told))


def read_selection(run: Path) -> Selection | None:
    """What `medseg select` chose; None where it was not run.

    Raises:
        InputError: its file is damaged.
    """
    path = run / SELECTED
    if not path.is_file():
        return None
    try:
        return read_record(path, Selection)
    except InputError as error:
        raise InputError(error.what, path, "run medseg select again, or delete it") from error


def with_stages(members: Iterable[Name], plan: Plan) -> tuple[Name, ...]:
    """The configurations that must predict for these, each after the one that it builds on.

    Raises:
        RunError: one is not of this plan.
    """
    found: list[Name] = []
    for name in members:
        if name not in plan.configurations:
            raise RunError(f"the plan has no configuration {name}", fix="run medseg select again")
        previous = plan.configurations[name].previous
        found += [one for one in (previous, name) if one is not None and one not in found]
    return tuple(found)


def weights_digest(run: Path, configurations: Iterable[Name]) -> str:
    """A digest of the weights of all finished folds of these configurations, from their cards."""
    told = [
        (path.parent.parent.name, path.parent.name, read_record(path, ModelCard).weights_sha256)
        for name in sorted(configurations)
        for path in sorted((run / "folds" / name).glob("*/model.json"))
    ]
    return hashlib.sha256(repr(told).encode()).hexdigest()
