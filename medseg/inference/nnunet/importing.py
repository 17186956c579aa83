"""Front door of the import: a model that nnU-Net v2 trained becomes a run folder of medseg.

RUN/plan.json and RUN/folds/<configuration>/<K>/{model.safetensors, model.json}; of a cascade both stages.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from medseg.errors import InputError
from medseg.events import Advanced, Event, Note, Stage
from medseg.files import output_folder, write_record
from medseg.inference.model import ModelCard, save_model
from medseg.inference.nnunet.checkpoint import Checkpoint, open_checkpoint, weights_in
from medseg.inference.nnunet.plans import READERS, Told, plan_of, told_by
from medseg.inference.nnunet.source import chosen_model, folds_in, models_in, previous_model
from medseg.inference.nnunet.theirs import read_json
from medseg.inference.nnunet.weights import converted
from medseg.networks.table import build_network
from medseg.planning.plan import Name, Plan

CHECKPOINTS = ("final", "best")  # of a fold: at its end, and when its validation was best

# Trainers that nnU-Net ships and that leave the network to its plans: they change how long and on what it is trained.
_KNOWN = re.compile(
    r"nnUNetTrainer(?:Benchmark)?"
    r"(?:_?(?:\d+ep(?:ochs?)?|noDataLoading|NoMirroring|onlyMirror01|NoDA|DA5(?:Seg)?(?:ord0)?|DASegOrd0|noDummy2DDA"
    r"|CELoss|DiceLoss|DiceCELoss|noSmooth|(?:Dice)?Top[kK]10Loss(?:LS01)?|CosAnneal|warmup|NoDeepSupervision"
    r"|(?:Vanilla)?Ada[mn](?:\den\d)?|probabilisticOversampling(?:_\d+)?))*"
)


@dataclass(frozen=True)
class Imported:
    """The end of an import: the run folder, and what it holds. dice: by structure, as nnU-Net's validation found it,
    the mean over the folds that tell.
    """

    run: Path
    dataset: str
    trainer: str
    configurations: tuple[Name, ...]
    folds: tuple[str, ...]
    dice: dict[str, float]


@dataclass(frozen=True, eq=False)
class _Stage:
    """One configuration with its folds; a cascade has two."""

    told: Told
    checkpoints: Mapping[str, Checkpoint]

    @property
    def first(self) -> Checkpoint:
        """nnU-Net takes from the first fold what must be the same of all."""
        return next(iter(self.checkpoints.values()))


def import_nnunet(
    source: Path, run: Path, folds: Sequence[str] = (), checkpoint: str = "final", configuration: str = ""
) -> Iterator[Event | Imported]:
    """Write a trained nnU-Net model as the run folder `run`; all finished folds, unless some are named.

    source: `.../DatasetXXX_Name/TRAINER__PLANS__CONFIGURATION`, a folder above it, or a zip that
    nnUNetv2_export_model_to_zip made; where it holds several configurations one must be named.

    Raises:
        InputError: it holds no such model, a damaged one, or one that medseg cannot use exactly as nnU-Net does.
        ResourceError: `run` cannot be written to.
    """
    if checkpoint not in CHECKPOINTS:
        raise InputError(f"--checkpoint {checkpoint} is none of nnU-Net's", fix=f"give {' or '.join(CHECKPOINTS)}")
    if run.exists() and any(run.iterdir() if run.is_dir() else [run]):
        raise InputError("is there already", run, "name a new folder")
    with models_in(source) as models:
        model = chosen_model(models, configuration, source)
        stages = _stages(model, folds, checkpoint)
        plan = plan_of([(stage.told, stage.first) for stage in stages])
        total = sum(len(stage.checkpoints) for stage in stages)
        yield Stage(
            "import", total, f"{plan.dataset}, {' + '.join(stage.told.name for stage in stages)}: {total} fold(s)"
        )
        yield from _notes(stages[-1])
        output_folder(run)
        dice: list[dict[str, float]] = []
        done = 0
        for stage in stages:
            for fold, trained in stage.checkpoints.items():
                card = _card(stage, fold, trained, plan)
                _save(run / "folds" / stage.told.ours / fold, stage, trained, card)
                dice += [card.dice] if stage is stages[-1] and card.dice else []
                done += 1
                yield Advanced(done, f"{stage.told.name} fold {fold}")
        write_record(run / "plan.json", plan)
    names = {name for one in dice for name in one}
    means = {name: sum(one[name] for one in dice if name in one) / sum(name in one for one in dice) for name in names}
    members = tuple(stage.told.ours for stage in stages)
    yield Imported(run, plan.dataset, stages[-1].first.trainer, members, tuple(stages[-1].checkpoints), means)


def _stages(model: Path, folds: Sequence[str], checkpoint: str) -> list[_Stage]:
    """The model, after the first stage of the cascade that it is part of."""
    stage = _stage(model, folds, checkpoint)
    previous = stage.told.theirs.previous_stage
    if previous is None:
        return [stage]
    first = _stage(previous_model(model, previous), folds, checkpoint)
    if first.told.ours != "3d_lowres" or first.told.structures != stage.told.structures:
        raise InputError(f"its first stage, {previous}, is no model of the same structures at low resolution", model)
    return [first, stage]


def _stage(model: Path, folds: Sequence[str], checkpoint: str) -> _Stage:
    found = folds_in(model, folds, checkpoint)
    opened = {fold: open_checkpoint(model / f"fold_{fold}" / f"checkpoint_{checkpoint}.pth") for fold in found}
    first = opened[found[0]]
    if any((one.configuration, one.trainer) != (first.configuration, first.trainer) for one in opened.values()):
        raise InputError("its folds are of several configurations or trainers", model, "import them one by one")
    return _Stage(told_by(model, first.configuration), opened)


def _notes(stage: _Stage) -> Iterator[Note]:
    trainer = stage.first.trainer
    if not _KNOWN.fullmatch(trainer):
        text = f"trained by {trainer}, which nnU-Net does not ship: where it changes more than training, answers differ"
        yield Note(text + "; compare some predictions with nnU-Net's own", warning=True)
    if READERS.get(stage.told.plans.image_reader_writer) == "stored":
        yield Note("as in nnU-Net the network sees each scan as its file stores it: give scans stored as its own were")


def _save(folder: Path, stage: _Stage, trained: Checkpoint, card: ModelCard) -> None:
    settings = card.plan.configuration.network
    network = build_network(settings)
    network.load_state_dict(converted(weights_in(trained.path), settings, stage.told.axes, stage.told.folder))
    save_model(folder, network, card)


def _card(stage: _Stage, fold: str, trained: Checkpoint, plan: Plan) -> ModelCard:
    """What is known of a fold; how many cases it was trained on where its validation tells the others."""
    validated, dice = _validation(stage.told.folder / f"fold_{fold}" / "validation" / "summary.json", plan)
    return ModelCard(
        plan=plan.model_copy(update={"chosen": stage.told.ours}),
        fold=fold,
        trained_on=plan.cases if fold == "all" else max(0, plan.cases - validated) if validated else 0,
        steps=trained.steps,
        seconds=trained.seconds,
        dice=dice,
        weights_sha256="",
        medseg=version("medseg"),
        torch=torch.__version__,
    )


def _validation(path: Path, plan: Plan) -> tuple[int, dict[str, float]]:
    """Number of validation cases and mean Dice by structure, of which nnU-Net wrote numbers; paths in it are left."""
    if not path.is_file():
        return 0, {}
    told: Any = read_json(path)
    keys = {str(tuple(region.values)): region.name for region in plan.regions} | {
        str(region.values[0]): region.name for region in plan.regions if len(region.values) == 1
    }
    keys = keys or {str(structure.value): structure.name for structure in plan.structures}
    means, cases = told.get("mean"), told.get("metric_per_case")
    entries = {key: one for key, one in means.items() if isinstance(one, dict)} if isinstance(means, dict) else {}
    found = {keys[key]: one.get("Dice") for key, one in entries.items() if key in keys}
    dice = {name: float(d) for name, d in found.items() if isinstance(d, int | float) and math.isfinite(d)}
    return len(cases) if isinstance(cases, list) else 0, dice
