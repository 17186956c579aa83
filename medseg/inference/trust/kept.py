"""Trust on disk: of each held-out case beside its prediction, and what they taught together beside the folds.

RUN/folds/<configuration>/<K>/held_out/<case>.trust.json   sums of a held-out case
RUN/folds/<configuration>/trust.json                       what all finished folds taught
RUN/folds/<configuration>/familiar.json                    what the scans of the data set look like
"""

from __future__ import annotations

from pathlib import Path

from medseg.errors import RunError, explained
from medseg.evaluation.records import Scores
from medseg.files import read_record, write_record
from medseg.inference.held_out import FOLDER, validation_folds
from medseg.inference.model import run_plan
from medseg.inference.trust.familiar import Familiar, fit_familiar
from medseg.inference.trust.fit import fit_trust
from medseg.inference.trust.records import CaseTrust, Trust
from medseg.planning.plan import Name
from medseg.preprocessing.cache import load_cases

TRUST, FAMILIAR = "trust.json", "familiar.json"
MOST_SCANS = 100  # that familiarity is learned from: of more, evenly spread ones


def keep_case_trust(fold: Path, case: str, trust: CaseTrust) -> None:
    """Keep the sums of a case that the model in the folder `fold` was not trained on.

    Raises:
        ResourceError: the disk is full or the folder cannot be written to.
    """
    write_record(_path(fold, case), trust)


def fit_trust_of(run: Path, configuration: Name | None = None) -> Trust | None:
    """Learn from the held-out cases of all finished folds of a configuration (the planned one by default).

    None where no finished fold kept sums: nothing was validated, or it was by an older medseg.

    Raises:
        RunError: `run` is not a run.
        InputError: a record is damaged.
    """
    name = configuration or run_plan(run).chosen
    cases, scores = dict[str, CaseTrust](), []
    for fold, names in validation_folds(run, name):
        path = fold / "validation" / "scores.json"
        if not (fold / "model.json").is_file() or not path.is_file():
            continue
        here = {case: read_record(_path(fold, case), CaseTrust) for case in names if _path(fold, case).is_file()}
        cases |= here
        scores += [row for row in read_record(path, Scores).scores if row.case in here]
    return fit_trust(cases, scores) if cases else None


def fit_familiar_of(run: Path, configuration: Name | None = None) -> Familiar:
    """Learn what the prepared scans of a run look like: all of its folds' cases, for training or validation.

    Raises:
        RunError: `run` is not a run, or a case is not prepared.
    """
    plan = run_plan(run)
    made = plan.configurations[configuration or plan.chosen]
    names = sorted(path.stem for path in (run / "cache" / made.cache).glob("[!.]*.safetensors"))
    if not names:
        raise RunError("no case is prepared", run / "cache" / made.cache, "run medseg plan again with the same options")
    names = [names[k * len(names) // min(len(names), MOST_SCANS)] for k in range(min(len(names), MOST_SCANS))]
    return fit_familiar(load_cases(run / "cache" / made.cache, names, made.preprocessing), made.preprocessing)


def write_trust(run: Path, configuration: Name) -> Trust | None:
    """Learn both and write them beside the folds; the first, where there is one, else an older one goes.

    Raises:
        RunError, InputError: as above.
        ResourceError: the disk is full or the folder cannot be written to.
    """
    folder = run / "folds" / configuration
    trust = fit_trust_of(run, configuration)
    if trust is not None:
        write_record(folder / TRUST, trust)
    else:
        with explained(folder / TRUST):
            (folder / TRUST).unlink(missing_ok=True)
    write_record(folder / FAMILIAR, fit_familiar_of(run, configuration))  # last: by its time `is_learned` tells
    return trust


def is_learned(run: Path, configuration: Name) -> bool:
    """True if what was learned is younger than every finished fold: training may be interrupted before it is."""
    folder = run / "folds" / configuration
    learned = folder / FAMILIAR
    models = [card.stat().st_mtime_ns for card in folder.glob("*/model.json")]
    return not models or (learned.is_file() and learned.stat().st_mtime_ns >= max(models))


def read_trust(run: Path, configuration: Name) -> tuple[Trust | None, Familiar | None]:
    """What was learned of a configuration; None of what stands not there, as in a run that an older medseg trained.

    Raises:
        InputError: a record is damaged.
    """
    trust, familiar = (run / "folds" / configuration / name for name in (TRUST, FAMILIAR))
    return (
        read_record(trust, Trust) if trust.is_file() else None,
        read_record(familiar, Familiar) if familiar.is_file() else None,
    )


def _path(fold: Path, case: str) -> Path:
    return fold / FOLDER / f"{case}.trust.json"
