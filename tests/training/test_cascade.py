from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from medseg.errors import RunError
from medseg.files import read_record, write_record
from medseg.imaging.grid import Grid
from medseg.imaging.volume import LabelMap
from medseg.inference.held_out import keep_held_out, kept_key, read_held_out, validated_by
from medseg.inference.model import ModelCard
from medseg.inference.window import network_input
from medseg.planning.plan import Fold, Splits
from medseg.preprocessing.cache import load_cases
from medseg.training.cascade import with_previous
from tests.training.several import plan_for, references, run_of, train_fold, worse


def test_a_held_out_prediction_comes_back(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for k, shape in enumerate(((5, 6, 7), (1, 9, 2))):
        labels = LabelMap(rng.integers(0, 3, shape).astype(np.uint8), Grid(shape, np.diag([1.0, 2, 3, 1])), {1: "a"})
        keep_held_out(tmp_path, f"case{k}", labels, "key")
        found = read_held_out(tmp_path, f"case{k}", labels.grid, {1: "a"})
        np.testing.assert_array_equal(found.array, labels.array)
        assert kept_key(tmp_path, f"case{k}") == "key"
    assert kept_key(tmp_path, "none") is None
    with pytest.raises(RunError, match=r"the prediction of its validation case none is missing; delete .* train this"):
        read_held_out(tmp_path, "none", labels.grid, {})
    with pytest.raises(RunError, match="case1 has another shape than the scan"):
        read_held_out(tmp_path, "case1", Grid((5, 6, 7), np.eye(4)), {})
    path = tmp_path / "held_out" / "case1.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(RunError, match="case1 is missing"):
        read_held_out(tmp_path, "case1", labels.grid, {})


def test_cases_of_a_cascade_know_what_the_other_stage_found_without_them(tmp_path: Path) -> None:
    run = run_of(tmp_path, ["3d_lowres", "3d_cascade"], chosen="3d_cascade")
    plan = plan_for(run, "3d_cascade")
    assert {p.name for p in (run / "cache").iterdir()} == {"3d", "3d_lowres", "fingerprint"}
    names = [f"case{k}" for k in range(6)]
    cases = load_cases(run / "cache" / "3d", names, plan.configuration.preprocessing)
    missing = r"the cascade learns from 3d_lowres, of which fold .*4 is not trained yet; run medseg train run"
    with pytest.raises(RunError, match=f"{missing} --configuration 3d_lowres --folds 5 first"):
        with_previous(cases, run, plan)

    found = {name: worse(labels, 0.3, k) for k, (name, labels) in enumerate(references(run).items())}
    for fold in range(5):
        if fold == 4:
            with pytest.raises(RunError, match="of which fold 4 is not trained yet"):
                with_previous(cases, run, plan)
        train_fold(run, "3d_lowres", fold, found)
    for case in with_previous(cases, run, plan):
        assert case.previous_XYZ is not None
        np.testing.assert_array_equal(case.previous_XYZ, found[case.name].array)  # 1 mm as the scans: the same grid
        image = network_input(case.image_CXYZ, case.previous_XYZ, 3)
        assert image.shape == (3, *case.classes_XYZ.shape)
        assert image.dtype == np.float32
        np.testing.assert_array_equal(image[0], np.asarray(case.image_CXYZ[0], np.float32))
        np.testing.assert_array_equal(image[1] + 2 * image[2], case.previous_XYZ)
    kept = run / "cache" / "3d_cascade" / "case0.safetensors"
    before = kept.stat().st_mtime_ns
    with_previous(cases, run, plan)
    assert kept.stat().st_mtime_ns == before  # it stands

    card = run / "folds" / "3d_lowres" / "0" / "model.json"
    held = read_record(run / "splits.json", Splits).folds[0].validation
    write_record(card, read_record(card, ModelCard).model_copy(update={"weights_sha256": "others"}))
    anew = {case: worse(found[case], 0.5) for case in held}
    for name, labels in anew.items():
        keep_held_out(card.parent, name, labels)
    after = {case.name: case.previous_XYZ for case in with_previous(cases, run, plan)}
    for name in found:
        np.testing.assert_array_equal(after[name], anew.get(name, found[name]).array)


def test_other_configurations_are_left_as_they_are(tmp_path: Path) -> None:
    run = run_of(tmp_path, ["3d"], n=3)
    plan = plan_for(run, "3d")
    cases = load_cases(run / "cache" / "3d", ["case0"], plan.configuration.preprocessing)
    (case,) = with_previous(cases, run, plan)
    assert case is cases[0]
    assert case.previous_XYZ is None


def test_folds_that_hold_a_case_out_twice_or_never(tmp_path: Path) -> None:
    run = run_of(tmp_path, ["3d_lowres", "3d_cascade"], chosen="3d_cascade", n=4)
    names = tuple(f"case{k}" for k in range(4))
    folds = (Fold(train=names[2:], validation=names[:2]), Fold(train=names[:1] + names[3:], validation=names[1:3]))
    write_record(run / "splits.json", Splits(seed=0, folds=folds, given=True))
    found = references(run)
    first, second = (train_fold(run, "3d_lowres", k, found) for k in range(2))
    assert validated_by(run, "3d_lowres") == {"case0": first, "case1": first, "case2": second}
    plan = plan_for(run, "3d_cascade")
    cases = load_cases(run / "cache" / "3d", names, plan.configuration.preprocessing)
    assert len(with_previous(cases[:3], run, plan)) == 3
    with pytest.raises(RunError, match="no fold is validated on case3; plan with folds that hold out each case once"):
        with_previous(cases, run, plan)
    assert read_record(run / "splits.json", Splits).given
