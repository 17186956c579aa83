"""Predictions of cases that a fold's network was not trained on: kept by its validation, read by all that builds on
cross-validation (the second stage of a cascade, the choice of a model and of its post-processing).

RUN/folds/<configuration>/<K>/held_out/<case>.safetensors   the label map's runs (see preprocessing/cache.py)

They are the label maps of validation/ without NIfTI: a training machine need not have what reads and writes scans.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from pydantic import ValidationError

from medseg.errors import RunError
from medseg.files import Record
from medseg.imaging.grid import Grid
from medseg.imaging.volume import LabelMap
from medseg.inference.model import run_splits
from medseg.planning.plan import Name
from medseg.preprocessing.cache import from_runs, runs_of
from medseg.preprocessing.case_file import Part, read_case_file, write_case_file

FOLDER = "held_out"


class Kept(Record):
    """The record of a kept prediction; key: a digest of what predicted, where it can change."""

    version: int = 1
    case: str
    shape: tuple[int, int, int]
    key: str = ""


def keep_held_out(fold: Path, case: str, labels: LabelMap, key: str = "") -> None:
    """Keep the prediction of a case that the model in the folder `fold` was not trained on.

    Raises:
        ResourceError: the disk is full or the folder cannot be written to.
    """
    record = Kept(case=case, shape=labels.grid.shape, key=key)
    parts = {name: Part(array, array.dtype) for name, array in runs_of(labels.array).items()}
    write_case_file(_path(fold, case), record.model_dump_json(), parts)


def read_held_out(fold: Path, case: str, grid: Grid, names: Mapping[int, str]) -> LabelMap:
    """A kept prediction on the scan's own grid.

    Raises:
        RunError: it is not there, cut, or of another grid.
    """
    file = read_case_file(_path(fold, case))
    fix = f"delete {fold.parent.name}/{fold.name} and train this fold again"
    if file is None:
        raise RunError(f"the prediction of its validation case {case} is missing", fold, fix)
    try:
        record = Kept.model_validate_json(file.record)
    except ValidationError as error:
        raise RunError(f"the prediction of its validation case {case} cannot be read", fold, fix) from error
    if record.shape != grid.shape:
        raise RunError(f"the prediction of its validation case {case} has another shape than the scan", fold, fix)
    return LabelMap(from_runs(file.arrays(), record.shape), grid, dict(names))


def kept_key(fold: Path, case: str) -> str | None:
    """The key of a kept prediction that is whole; None where there is none."""
    file = read_case_file(_path(fold, case))
    try:
        return Kept.model_validate_json(file.record).key if file else None
    except ValidationError:
        return None


def validated_by(run: Path, configuration: Name) -> dict[str, Path]:
    """For every case that a finished fold of the configuration was validated on, the fold's folder, by the case's name.

    Raises:
        RunError: `run` holds no splits.
    """
    return {
        case: folder
        for folder, cases in validation_folds(run, configuration)
        if (folder / "model.json").is_file()
        for case in cases
    }


def validation_folds(run: Path, configuration: Name) -> list[tuple[Path, tuple[str, ...]]]:
    """The folder of each fold of the cross-validation, trained or not, and the cases it is validated on.

    Where folds share validation cases (given ones may), a case belongs to the first of them.

    Raises:
        RunError: `run` holds no splits.
    """
    seen: set[str] = set()
    found = []
    for k, fold in enumerate(run_splits(run).folds):
        found.append((run / "folds" / configuration / str(k), tuple(c for c in fold.validation if c not in seen)))
        seen |= set(fold.validation)
    return found


def _path(fold: Path, case: str) -> Path:
    return fold / FOLDER / f"{case}.safetensors"
