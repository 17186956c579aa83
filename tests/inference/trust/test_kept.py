from __future__ import annotations

import os
from pathlib import Path

from medseg.evaluation.cohort import summarise
from medseg.evaluation.writing import write_scores
from medseg.files import write_record
from medseg.inference.trust.familiar import Familiar
from medseg.inference.trust.fit import fit_trust
from medseg.inference.trust.kept import (
    fit_familiar_of,
    fit_trust_of,
    is_learned,
    keep_case_trust,
    read_trust,
    write_trust,
)
from medseg.inference.trust.records import Trust
from medseg.planning.plan import Fold, Splits
from tests.inference.trust.test_fit import cohort
from tests.tiny import planned_run, untrained_run


def test_what_all_finished_folds_kept_is_learned_from(tmp_path: Path) -> None:
    run = untrained_run(tmp_path)
    cases, scores = cohort(12)
    names = list(cases)
    splits = Splits(seed=0, folds=tuple(Fold(train=(), validation=tuple(part)) for part in (names[:6], names[6:])))
    write_record(run / "splits.json", splits)
    folds = run / "folds" / "3d"
    for fold, part in ((folds / "0", names[:6]), (folds / "1", names[6:])):
        for name in part:
            keep_case_trust(fold, name, cases[name])
        rows = [row for row in scores if row.case in part]
        write_scores(fold / "validation", summarise(rows, dict.fromkeys(part, 1.0)))
    trust = fit_trust_of(run)
    assert trust is not None
    assert trust.cases == 6  # fold 1 has no model yet
    (folds / "1" / "model.json").write_text((folds / "0" / "model.json").read_text())
    trust = fit_trust_of(run)
    assert trust is not None
    assert trust.cases == 12
    assert Trust.model_validate_json(trust.model_dump_json()) == trust
    assert not any(name in trust.model_dump_json() for name in names)


def test_a_run_that_kept_nothing_has_learned_nothing(tmp_path: Path) -> None:
    run = untrained_run(tmp_path)
    write_record(run / "splits.json", Splits(seed=0, folds=(Fold(train=(), validation=("a",)),)))
    assert fit_trust_of(run) is None
    assert read_trust(run, "3d") == (None, None)


def test_what_was_learned_stands_beside_the_folds(tmp_path: Path) -> None:
    run = planned_run(tmp_path)
    write_record(run / "folds" / "3d" / "trust.json", fit_trust(*cohort(6)))  # of folds that are gone
    assert write_trust(run, "3d") is None
    trust, familiar = read_trust(run, "3d")
    assert trust is None
    assert isinstance(familiar, Familiar)
    assert familiar == fit_familiar_of(run)
    assert familiar.scans == 6


def test_it_is_learned_anew_after_a_fold_was_trained(tmp_path: Path) -> None:
    run = planned_run(tmp_path)
    assert is_learned(run, "3d")  # no fold is trained
    model, familiar = run / "folds" / "3d" / "0" / "model.json", run / "folds" / "3d" / "familiar.json"
    model.parent.mkdir(parents=True)
    model.write_text("{}")
    assert not is_learned(run, "3d")
    familiar.write_text("{}")
    assert is_learned(run, "3d")
    os.utime(familiar, ns=(0, model.stat().st_mtime_ns - 1))
    assert not is_learned(run, "3d")
