"""The folds of a run: which cases each has, how many there are, and what all of them say together."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from medseg.errors import InputError, RunError
from medseg.evaluation.cohort import summarise
from medseg.evaluation.records import Scores
from medseg.evaluation.score import StructureScore
from medseg.evaluation.writing import write_scores
from medseg.files import output_folder, read_record, write_record
from medseg.inference.model import ModelCard, run_plan, run_splits
from medseg.planning.explain import counted
from medseg.planning.fingerprint import Fingerprint
from medseg.planning.plan import Fold, Name
from medseg.planning.splits import split

FOLDER = "crossvalidation"
UNEVEN = 2.0  # times the steps of another fold: what both say together is hardly one figure


def use_folds(run: Path, n: int) -> str | None:
    """Split the run's cases into `n` folds instead, if no fold is trained yet; a line that tells so.

    Raises:
        RunError: folds of another split are trained or begun, or the user gave the folds.
        InputError: there are fewer cases than folds.
    """
    plan, parts = run_plan(run), run_splits(run)
    if len(parts.folds) == n:
        return None
    if parts.given:
        raise RunError(f"has {len(parts.folds)} folds that were given", run, "leave --folds out, or plan without them")
    if any((run / "folds").glob("*/*/*.safetensors")):
        raise RunError(f"holds folds of a split into {len(parts.folds)}", run, "plan into a new folder")
    fingerprint = read_record(run / "fingerprint.json", Fingerprint)
    most = len({case.patient or case.case for case in fingerprint.cases})
    if most < 2:
        what = "one case" if plan.cases == 1 else "one patient"
        raise InputError(f"there is {what} only: it cannot be split", run, "train it with --fold all")
    if not 2 <= n <= most:
        cases = f"{plan.cases} cases" + (f" of {most} patients" if most < plan.cases else "")
        raise InputError(f"{cases} cannot be split into {n} folds", run, f"give 2 to {most}")
    write_record(run / "splits.json", split(fingerprint, parts.seed, n))
    return f"the cases are split anew: into {n} folds, not {len(parts.folds)}"


def cases_of(fold: str, run: Path) -> Fold:
    """The cases of a fold, or of `all`.

    Raises:
        InputError: there is no such fold, or it has no case to train on.
    """
    parts = run_splits(run)
    if fold == "all":
        names = {n for f in parts.folds for n in (*f.train, *f.validation)}
        if not names:
            names = {c.case for c in read_record(run / "fingerprint.json", Fingerprint).cases}
        return Fold(train=tuple(sorted(names)), validation=())
    if fold not in map(str, range(len(parts.folds))):
        known = f"0 to {len(parts.folds) - 1}, or all" if parts.folds else "all"
        raise InputError(f"there is no fold {fold}", run, f"give {known}")
    found = parts.folds[int(fold)]
    if not found.train:
        raise InputError(f"fold {fold} has no case to train on", run, "train another, or plan with other --splits")
    return found


def cross_validate(run: Path, configuration: Name) -> Scores | None:
    """Scores of every case by the fold that held it out, written to RUN/folds/<configuration>/crossvalidation.

    None unless all folds are trained and validated. A case that several folds hold out (given ones may) counts once, by
    the first of them.

    Raises:
        ResourceError: the disk is full.
    """
    folder = run / "folds" / configuration
    parts = [_scores(folder / str(k)) for k in range(len(run_splits(run).folds))]
    found = [scores for scores in parts if scores is not None]
    if len(found) < len(parts) or len(found) < 2:
        return None
    rows, diagonals = _joined(found)
    scores = summarise(rows, diagonals, found[0].settings, patients=_patients(run))
    write_scores(output_folder(folder / FOLDER), scores)
    return scores


def uneven(folds: Iterable[Path]) -> str:
    """The steps of each of these trained folds where one had more than twice those of another; else empty."""
    by_number = sorted(folds, key=lambda fold: int(fold.name))
    steps = {fold.name: read_record(fold / "model.json", ModelCard).steps for fold in by_number}
    if not steps or max(steps.values()) <= UNEVEN * min(steps.values()):
        return ""
    (first, n), *others = steps.items()
    return ", ".join((f"fold {first} for {counted(n, 'step')}", *(f"fold {k} for {m}" for k, m in others)))


def _patients(run: Path) -> dict[str, int]:
    """A number for the patient of each case; none where every patient has one case, or nothing tells of patients."""
    path = run / "fingerprint.json"
    cases = read_record(path, Fingerprint).cases if path.is_file() else ()
    numbers = {name: n for n, name in enumerate(dict.fromkeys(case.patient or case.case for case in cases), 1)}
    return {case.case: numbers[case.patient or case.case] for case in cases} if len(numbers) < len(cases) else {}


def _scores(fold: Path) -> Scores | None:
    """Of a finished fold."""
    path = fold / "validation" / "scores.json"
    return read_record(path, Scores) if path.is_file() and (fold / "model.json").is_file() else None


def _joined(parts: Sequence[Scores]) -> tuple[list[StructureScore], dict[str, float]]:
    rows: list[StructureScore] = []
    diagonals: dict[str, float] = {}
    for part in parts:
        rows += [row for row in part.scores if row.case not in diagonals]
        diagonals = {**part.diagonals_mm, **diagonals}
    return sorted(rows, key=lambda row: row.case), diagonals
