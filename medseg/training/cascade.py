"""The second stage of a cascade sees, besides the scan, what the first stage found at low resolution.

It is trained on held-out predictions: each case with what the first stage's network found that was not trained on it,
so that the second stage learns how good the first one really is. Source: nnU-Net (Isensee et al. 2021).

RUN/cache/<second stage>/<case>.safetensors   the prediction as classes on the second stage's grid, mapped from disk
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from pydantic import ValidationError

from medseg.errors import RunError
from medseg.files import Record, may_open, read_record
from medseg.inference.held_out import read_held_out, validation_folds
from medseg.inference.model import ModelCard
from medseg.planning.plan import Name, Plan
from medseg.preprocessing.cache import Classes, LoadedCase, case_path, settings_digest
from medseg.preprocessing.case_file import Part, read_case_file, write_case_file
from medseg.preprocessing.prepare import prepare_labels

_CLASSES = "previous"


class PreviousRecord(Record):
    """The record of a prepared prediction; key: a digest of all that it was made from."""

    version: int = 1
    case: str
    key: str


def with_previous(cases: Sequence[LoadedCase], run: Path, plan: Plan) -> tuple[LoadedCase, ...]:
    """The cases with what the previous configuration found in each, on their own grid (classes of `plan.structures`).

    As they are where the plan's configuration has no previous one.

    Raises:
        RunError: a fold of the previous configuration is not trained, or a case is held out of none.
        ResourceError: the disk is full.
    """
    previous = plan.configuration.previous
    if previous is None:
        return tuple(cases)
    held_out = _held_out(run, previous, [case.name for case in cases])
    weights = {fold: read_record(fold / "model.json", ModelCard).weights_sha256 for fold in set(held_out.values())}
    may_open(2 * len(cases))
    folder = run / "cache" / plan.chosen
    return tuple(_with(case, held_out[case.name], weights[held_out[case.name]], folder, plan) for case in cases)


def _with(case: LoadedCase, fold: Path, weights: str, folder: Path, plan: Plan) -> LoadedCase:
    """One case; its prediction is brought onto its grid once, and kept: those of all cases may be more than memory."""
    settings = settings_digest(plan.configuration.preprocessing)
    key = hashlib.sha256(f"{weights} {settings} {plan.values}".encode()).hexdigest()
    path = case_path(folder, case.name)
    found = _standing(path, key)
    if found is None:
        labels = read_held_out(fold, case.name, case.undo.grid, plan.names)
        classes = prepare_labels(labels, case.undo, plan.values)
        record = PreviousRecord(case=case.name, key=key).model_dump_json()
        write_case_file(path, record, {_CLASSES: Part(classes, classes.dtype)})
        found = _standing(path, key)
    return replace(case, previous_XYZ=found)


def _standing(path: Path, key: str) -> Classes | None:
    """What is kept, if it was made from the same."""
    file = read_case_file(path)
    try:
        stands = file is not None and PreviousRecord.model_validate_json(file.record).key == key
    except ValidationError:
        return None
    return file.arrays()[_CLASSES] if file is not None and stands else None


def _held_out(run: Path, previous: Name, cases: Sequence[str]) -> dict[str, Path]:
    """For each case the fold of the previous configuration that was not trained on it."""
    folds = validation_folds(run, previous)
    held_out = {case: folder for folder, names in folds for case in names}
    if without := [case for case in cases if case not in held_out]:
        what = f"the cascade needs a prediction of every case, and no fold is validated on {without[0]}"
        raise RunError(what, run, "plan with folds that hold out each case once")
    untrained = [folder.name for folder, _ in folds if not (folder / "model.json").is_file()]
    if untrained:
        what = f"the cascade learns from {previous}, of which fold {', '.join(untrained)} is not trained yet"
        fix = f"run medseg train {run.name} --configuration {previous} --folds {len(folds)} first"
        raise RunError(what, run, fix)
    return held_out
