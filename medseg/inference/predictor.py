"""What predicts: the finished folds of the configuration that was planned, or of what `medseg select` chose instead,
from a run folder or from the one file that `medseg export` makes of it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import torch

from medseg.errors import InputError, RunError
from medseg.files import read_record
from medseg.inference.card import fold_order
from medseg.inference.export.archive import unpacked
from medseg.inference.export.record import FoldModel
from medseg.inference.model import Model, ModelCard, finished_folds, load_model, model_of, run_plan
from medseg.inference.quality import Quality
from medseg.inference.records import Cleaning, Selection
from medseg.inference.trust.familiar import Familiar
from medseg.inference.trust.kept import read_trust
from medseg.inference.trust.records import Trust
from medseg.planning.plan import Name, Plan

SELECTED = "selected.json"
Told = tuple[tuple[str, bool], ...]
Folds = int | Sequence[str] | None


@dataclass(frozen=True, eq=False)
class Predictor:
    """Models on their device, by configuration, and what becomes of their answers.

    members: the configurations whose answers are averaged. models: of these, and of the first stage of a cascade.
    folds: the names of the folds, of all members together. told: what the user should know, and True for a warning.
    trust, familiar: what held-out cases taught of the first member, and how the training scans look, where it is known.
    qualities: its Dice on held-out cases at each quality, where `medseg select` measured it.
    """

    plan: Plan
    members: tuple[Name, ...]
    models: Mapping[Name, Sequence[Model]]
    folds: tuple[str, ...]
    cleaning: tuple[Cleaning, ...] = ()
    told: Told = ()
    trust: Trust | None = None
    familiar: Familiar | None = None
    qualities: Mapping[Quality, float] = field(default_factory=dict)

    @property
    def key(self) -> str:
        """Changes whenever a fold is added or trained anew, or another choice is made."""
        told = [self.members, [step.model_dump() for step in self.cleaning]]
        weights = {name: [model.card.weights_sha256 for model in models] for name, models in self.models.items()}
        return hashlib.sha256(repr((told, sorted(weights.items()))).encode()).hexdigest()

    @cached_property
    def taught(self) -> str:
        """Changes whenever held-out cases or training scans teach something else of predictions."""
        said = [one.model_dump_json() if one is not None else "" for one in (self.trust, self.familiar)]
        return hashlib.sha256(repr(said).encode()).hexdigest()


def load_predictor(path: Path, device: torch.device, folds: Folds = None) -> Predictor:
    """Load what a run's `selected.json` names, else all finished folds of the configuration that was planned; of a
    model file what it was made of.

    folds: the names of those that are used in each configuration, or how many: the one trained on all cases first, then
    by number.

    Raises:
        RunError: `path` is not a run, or a fold of a configuration is not finished.
        InputError: a model, a model file or selected.json is damaged.
    """
    return _of_file(path, device, folds) if path.is_file() else _of_run(path, device, folds)


def kept_folds(there: Sequence[str], folds: Folds, of: str, where: Path) -> tuple[str, ...]:
    """Those of the folds of a configuration that are used, in their order.

    Raises:
        RunError: one that is named is not there.
        InputError: none is to be used.
    """
    folds = (folds,) if isinstance(folds, str) else folds
    ordered = sorted(there, key=fold_order)
    if folds is not None and not isinstance(folds, int):
        missing = [fold for fold in folds if fold not in there]
        if missing:
            told = f"fold {missing[0]} of {of} is not there, or not trained to its end"
            raise RunError(told, where, f"give some of {', '.join(ordered)}")
    if isinstance(folds, int) and folds < 1:
        raise InputError(f"{folds} folds predict nothing", where, "use at least 1")
    wanted = ordered[:folds] if folds is None or isinstance(folds, int) else folds
    return tuple(fold for fold in there if fold in wanted)


def _of_run(run: Path, device: torch.device, folds: Folds) -> Predictor:
    plan, selection = run_plan(run), read_selection(run)
    members = selection.members if selection else (plan.chosen,)
    found: dict[Name, list[Path]] = {}
    for name in with_stages(members, plan):
        every = finished_folds(run, name)
        kept = kept_folds([fold.name for fold in every], folds, name, run)
        found[name] = [fold for fold in every if fold.name in kept]
    models = {name: [load_model(fold, device) for fold in of] for name, of in found.items()}
    used = {fold.name for of in found.values() for fold in of}
    predictor = _predictor(members, models, used, selection, stale_choice(run, selection))
    trust, familiar = read_trust(run, members[0])
    return replace(predictor, trust=trust, familiar=familiar)


def _of_file(path: Path, device: torch.device, folds: Folds) -> Predictor:
    with unpacked(path) as archive:
        record, members = archive.record, archive.record.members
        models: dict[Name, list[Model]] = {}
        used: set[str] = set()
        for name in with_stages(members, record.plan):
            every = [one for one in record.models if one.configuration == name]
            if not every:
                raise InputError(f"holds no model of {name}", path, "export the model again")
            kept = kept_folds([one.fold for one in every], folds, name, path)
            chosen: list[FoldModel] = [one for one in every if one.fold in kept]
            models[name] = [model_of(one.card, archive.weights(one), device, path) for one in chosen]
            used.update(kept)
    predictor = _predictor(members, models, used, record.selection, ())
    return replace(predictor, trust=record.trust, familiar=record.familiar)


def _predictor(
    members: tuple[Name, ...],
    models: Mapping[Name, Sequence[Model]],
    used: Iterable[str],
    selection: Selection | None,
    stale: Told,
) -> Predictor:
    shown, folds = models[members[0]][0].card.plan, tuple(sorted(used))
    if selection is None:
        return Predictor(shown, members, models, folds)
    told = [(f"by medseg select: {' + '.join(members)}", False)]
    told += [(f"post-processing of {step.words}", False) for step in selection.cleaning]
    cleaning, said = selection.cleaning, (*told, *stale)
    return Predictor(shown, members, models, folds, cleaning, said, qualities=selection.qualities)


def stale_choice(run: Path, selection: Selection | None) -> Told:
    """That `medseg select` chose among other folds than the run holds now, where it did."""
    if selection is None:
        return ()
    compared = {name for one in selection.candidates for name in one.members}
    if selection.models == weights_digest(run, compared):
        return ()
    return (("folds were trained or deleted since medseg select chose: run it again", True),)


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
