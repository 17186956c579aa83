"""A run as one model file: what it is made of, and the writing of it."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

from medseg.errors import InputError
from medseg.evaluation.cohort import summarise
from medseg.evaluation.records import Scores
from medseg.evaluation.score import StructureScore
from medseg.evaluation.settings import DEFAULT
from medseg.files import read_record
from medseg.inference.export.archive import pack
from medseg.inference.export.record import ConfigurationScores, FoldModel, ModelFile, TrainingData, coded, data_of
from medseg.inference.model import finished_folds, read_card, run_plan
from medseg.inference.predictor import kept_folds, read_selection, with_stages
from medseg.inference.trust.kept import read_trust
from medseg.planning.fingerprint import Fingerprint
from medseg.planning.plan import Name, Plan

SUFFIX = ".medseg"
_TOLD = ("medseg", "torch", "monai", "numpy", "safetensors")  # whose versions stand in the file


def write_model_file(run: Path, out: Path, folds: Sequence[str] = (), licence: str = "", notes: str = "") -> ModelFile:
    """Write the finished folds of a run, of what was planned or selected, as one file; its record.

    folds: names of those that are taken, all unless given. licence: of the weights. The file holds no path, no
    name of a case and no picture, but a digest of each training scan's voxels (`Origin.scans`), by which whoever has
    the very same scan can tell that the model was trained on it.

    Raises:
        RunError: `run` is not a run, or a fold is not finished.
        InputError: a model is damaged, or `out` cannot be a model file.
        ResourceError: the disk is full or `out` cannot be written to.
    """
    check_model_file(out)
    plan, selection = run_plan(run), read_selection(run)
    members = selection.members if selection else (plan.chosen,)
    trust, familiar = read_trust(run, members[0])
    found = {name: _folds(run, name, folds) for name in with_stages(members, plan)}
    record = ModelFile(
        licence=licence,
        notes=notes,
        plan=plan,
        selection=selection,
        structures=coded(plan),
        scores=tuple(scores for name, of in found.items() if (scores := _scores(name, of)) is not None),
        trust=trust,
        familiar=familiar,
        data=_data(run, plan),
        models=tuple(
            FoldModel(configuration=name, fold=fold.name, card=read_card(fold))
            for name, of in found.items()
            for fold in of
        ),
        environment={name: version(name) for name in _TOLD} | {"python": platform.python_version()},
    )
    pack(out, record, [fold / "model.safetensors" for of in found.values() for fold in of])
    return record


def check_model_file(out: Path) -> None:
    """Make sure that a model file can be called so.

    Raises:
        InputError: it is a folder, or has another suffix.
    """
    if out.is_dir():
        raise InputError(f"is a folder; a model file is called NAME{SUFFIX}", out, f"give -o {out / f'model{SUFFIX}'}")
    if out.suffix != SUFFIX:
        raise InputError(f"a model file is called NAME{SUFFIX}", out, f"give -o {out.stem}{SUFFIX}")


def _folds(run: Path, configuration: Name, folds: Sequence[str]) -> list[Path]:
    found = finished_folds(run, configuration)
    kept = kept_folds([fold.name for fold in found], folds or None, configuration, run)
    return [fold for fold in found if fold.name in kept]


def _data(run: Path, plan: Plan) -> TrainingData | None:
    path = run / "fingerprint.json"
    fingerprint = read_record(path, Fingerprint) if path.is_file() else None
    return data_of(fingerprint, plan) if fingerprint is not None and fingerprint.cases else None


def _scores(configuration: Name, folds: Sequence[Path]) -> ConfigurationScores | None:
    """Of the cases that these folds held out; one that several hold out counts once, by the first of them."""
    rows: list[StructureScore] = []
    diagonals: dict[str, float] = {}
    used: list[str] = []
    settings = DEFAULT
    for fold in folds:
        path = fold / "validation" / "scores.json"
        if path.is_file():
            scores = read_record(path, Scores)
            rows += [row for row in scores.scores if row.case not in diagonals]
            diagonals, settings = {**scores.diagonals_mm, **diagonals}, scores.settings
            used.append(fold.name)
    if not rows:
        return None
    structures = summarise(rows, diagonals, settings).structures
    return ConfigurationScores(
        configuration=configuration,
        folds=tuple(used),
        cases=len({row.case for row in rows}),
        structures=tuple(one.model_copy(update={"worst": ()}) for one in structures),
    )
