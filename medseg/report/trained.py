"""What a run's folder tells of a training: its plan, and of every fold the journal, the model and the scores."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from medseg.evaluation.cohort import summarise
from medseg.evaluation.records import Scores
from medseg.files import R, read_record
from medseg.inference.card import ModelCard, fold_order
from medseg.inference.trust.records import Trust
from medseg.planning.plan import Name, Plan, Splits
from medseg.report.training import EVENTS

_CROSS: Final = "crossvalidation"


@dataclass(frozen=True, slots=True)
class FoldSeen:
    """A fold that was begun. lines: of its journal. card: of its model, None while it is not finished; scores: of its
    validation cases, None where there are none or it is not finished.
    """

    name: str
    lines: tuple[dict[str, Any], ...]
    card: ModelCard | None
    scores: Scores | None


@dataclass(frozen=True, slots=True)
class RunSeen:
    """A run: its plan, with the configuration that was trained as the chosen one, and its folds.

    of: how many folds there are in all. crossvalidation, trust: where all folds, or any, have told of them.
    """

    plan: Plan
    of: int
    folds: tuple[FoldSeen, ...]
    crossvalidation: Scores | None
    trust: Trust | None

    @property
    def finished(self) -> tuple[FoldSeen, ...]:
        """The folds whose model stands."""
        return tuple(fold for fold in self.folds if fold.card is not None)


def run_seen(run: Path, configuration: Name | None = None) -> RunSeen:
    """Read what stands in `run` of a configuration, the planned one by default.

    Raises:
        InputError: `run` holds no plan, or a record of it is damaged.
    """
    plan = read_record(run / "plan.json", Plan)
    plan = plan.model_copy(update={"chosen": configuration or plan.chosen})
    folder = run / "folds" / plan.chosen
    held = [path.parent for name in (EVENTS, "model.json") for path in folder.glob(f"*/{name}")]
    folds = tuple(_fold(path) for path in sorted(set(held), key=lambda path: fold_order(path.name)))
    finished = [fold for fold in folds if fold.scores]
    splits = _held(run / "splits.json", Splits)
    of = len(splits.folds) if splits else len(folds)
    joint = _scores(folder / _CROSS) if len(finished) > 1 else None
    return RunSeen(plan, of, folds, joint, _held(folder / "trust.json", Trust))


def _fold(folder: Path) -> FoldSeen:
    card = _held(folder / "model.json", ModelCard)
    scores = _scores(folder / "validation") if card else None
    return FoldSeen(folder.name, tuple(_lines(folder / EVENTS)), card, scores)


def _scores(folder: Path) -> Scores | None:
    """As they stand, but with intervals where a record of the first version has none."""
    found = _held(folder / "scores.json", Scores)
    if found is None or found.version > 1:
        return found
    return summarise(found.scores, found.diagonals_mm, found.settings, found.missing_predictions, failed=found.failed)


def _lines(path: Path) -> list[dict[str, Any]]:
    found = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else ():
        with suppress(ValueError):  # it was cut when the process was killed
            found.append(json.loads(line))
    return found


def _held(path: Path, kind: type[R]) -> R | None:
    return read_record(path, kind) if path.is_file() else None


def joined(folds: tuple[FoldSeen, ...]) -> dict[str, str]:
    """For every held-out case the fold that held it out; of several the first."""
    found: dict[str, str] = {}
    for fold in folds:
        for row in fold.scores.scores if fold.scores else ():
            found.setdefault(row.case, fold.name)
    return found
