"""Regions, and voxels that nobody labelled, all the way: plan, a few steps of training, infer, evaluate."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from medseg.evaluation.folders import evaluate_folders
from medseg.evaluation.records import Scores
from medseg.files import read_record
from medseg.imaging.nifti import read_labels
from medseg.inference.folder import infer_folder
from medseg.planning.dataset import Planned, plan_dataset
from medseg.planning.plan import Budget, Plan, Request, Structure
from medseg.preprocessing.cache import load_cases
from medseg.training.run import train
from tests import tiny

CASES, IGNORE, STEPS = 5, 7, 80
REGIONS = {"labels": {"background": 0, "whole": [1, 2], "core": 2}, "regions_class_order": [1, 2]}
SPARSE = {"labels": {"background": 0, "rim": 1, "core": 2, "ignore": IGNORE}}


def nested(seed: int) -> tuple[NDArray[np.int16], NDArray[np.uint8]]:
    """A ball of brightness 300 around a core of 600."""
    rng = np.random.default_rng(seed)
    at = np.stack(np.meshgrid(*(np.arange(tiny.SIDE),) * 3, indexing="ij"), axis=-1)
    away = np.linalg.norm(at - tiny.SIDE / 2 - rng.uniform(-1.5, 1.5, 3), axis=-1)
    labels = ((away < 4.8).astype(np.uint8) + (away < 2.8)).astype(np.uint8)
    return (np.array([100, 300, 600])[labels] + rng.normal(0, 15, labels.shape)).astype(np.int16), labels


def sparsely(labels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Labelled in every third slice alone."""
    left = np.full_like(labels, IGNORE)
    left[:, :, ::3] = labels[:, :, ::3]
    return left


def written(folder: Path, said: dict[str, Any], sparse: bool) -> Path:
    for k in range(CASES):
        image, labels = nested(k)
        tiny.write_case(folder, f"case{k}", image, sparsely(labels) if sparse else labels, np.eye(4))
    (folder / "dataset.json").write_text(json.dumps(said | {"channel_names": {"0": "MR"}}))
    return folder


def trained(root: Path, said: dict[str, Any], outputs: int, sparse: bool = False, **how: Any) -> tuple[Path, Plan]:
    """A run whose tiny network was trained for some steps; and its plan."""
    data, run = written(root / "data", said, sparse), root / "run"
    (planned,) = [e for e in plan_dataset(data, run, Request(**how), tiny.FAST) if isinstance(e, Planned)]
    plan = planned.plan
    assert plan.configuration.network.classes == outputs
    loss = plan.configuration.schedule.loss
    small = tiny.configuration(patch=(tiny.SIDE,) * 3, classes=outputs, augment=False, loss=loss)
    small = small.model_copy(update={"preprocessing": plan.configuration.preprocessing})
    plan = plan.model_copy(update={"configurations": {"3d": small}, "chosen": "3d"})
    (run / "plan.json").write_text(plan.model_dump_json())
    tiny.last(train(run, ["0"], Budget(steps=STEPS), tiny.CPU))
    return run, plan


def new_scans(folder: Path, sparse: bool, said: dict[str, Any]) -> tuple[Path, Path]:
    """Scans and their references, of which none was trained on."""
    for k in (100, 101):
        image, labels = nested(k)
        tiny.write_case(folder, f"new{k}", image, sparsely(labels) if sparse else labels, np.eye(4))
    (folder / "labels" / "dataset.json").write_text(json.dumps(said))
    return folder / "images", folder / "labels"


def mean_dice(scores: Scores) -> dict[str, float]:
    return {s.structure: s.metrics["dice"].mean or 0.0 for s in scores.structures}


def test_regions_are_found_as_wholes(tmp_path: Path) -> None:
    run, plan = trained(tmp_path, REGIONS, outputs=2)
    assert [(r.name, r.values, r.value) for r in plan.regions] == [("whole", (1, 2), 1), ("core", (2,), 2)]
    assert plan.structures == (Structure(value=1, name="rest of whole"), Structure(value=2, name="core"))
    validation = read_record(run / "folds/3d/0/validation/scores.json", Scores)
    assert set(mean_dice(validation)) == {"whole", "core"}
    assert min(mean_dice(validation).values()) > 0.7
    lines = (run / "folds/3d/0/events.jsonl").read_text().splitlines()
    assert any('"whole"' in line for line in lines)

    scans, references = new_scans(tmp_path / "new", False, REGIONS)
    tiny.last(infer_folder(run, scans, tmp_path / "found", tiny.CPU))
    found = read_labels(tmp_path / "found" / "new100.nii.gz")
    assert found.present == (1, 2)
    scores = tiny.last(evaluate_folders(tmp_path / "found", references, tmp_path / "scores")).scores
    dice = mean_dice(scores)
    assert set(dice) == {"rest of whole", "core", "whole"}
    assert min(dice["whole"], dice["core"]) > 0.7
    truth = nested(100)[1]
    ours = 2 * np.count_nonzero((found.array > 0) & (truth > 0)) / (np.count_nonzero(found.array) + (truth > 0).sum())
    (row,) = [s for s in scores.scores if (s.case, s.structure) == ("new100", "whole")]
    assert row.dice == pytest.approx(ours)


def test_voxels_that_nobody_labelled_teach_nothing_and_are_not_scored(tmp_path: Path) -> None:
    run, plan = trained(tmp_path, SPARSE, outputs=3, sparse=True)
    assert plan.ignore == IGNORE
    (case,) = load_cases(run / "cache/3d", ["case0"], plan.configuration.preprocessing)
    assert set(np.unique(case.classes_XYZ)) == {0, 1, 2, 3}
    labelled = np.flatnonzero(np.asarray(case.classes_XYZ) != 3)
    assert set(case.foreground) == {0, 1, 2}
    np.testing.assert_array_equal(case.foreground[0], labelled)

    validation = read_record(run / "folds/3d/0/validation/scores.json", Scores)
    assert set(mean_dice(validation)) == {"rim", "core"}
    assert min(mean_dice(validation).values()) > 0.6
    name = validation.scores[0].case
    found = read_labels(run / f"folds/3d/0/validation/{name}.nii.gz")
    assert IGNORE not in found.present
    truth = nested(int(name.removeprefix("case")))[1][:, :, ::3]
    ours = found.array[:, :, ::3]
    (row,) = [s for s in validation.scores if (s.case, s.structure) == (name, "rim")]
    assert row.dice == pytest.approx(2 * ((ours == 1) & (truth == 1)).sum() / ((ours == 1).sum() + (truth == 1).sum()))

    scans, references = new_scans(tmp_path / "new", True, SPARSE)
    tiny.last(infer_folder(run, scans, tmp_path / "found", tiny.CPU))
    sparse = tiny.last(evaluate_folders(tmp_path / "found", references, tmp_path / "scores")).scores
    assert min(mean_dice(sparse).values()) > 0.6
    between = read_labels(tmp_path / "found" / "new100.nii.gz").array[:, :, 2::3] > 0  # slices that nobody labelled
    really = nested(100)[1][:, :, 2::3] > 0
    assert 2 * np.count_nonzero(between & really) / (np.count_nonzero(between) + np.count_nonzero(really)) > 0.6


def test_regions_and_an_ignore_label_together_with_another_loss(tmp_path: Path) -> None:
    said = REGIONS | {"labels": REGIONS["labels"] | {"ignore": IGNORE}}  # type: ignore[operator]
    run, plan = trained(tmp_path, said, outputs=2, sparse=True, loss="dice_focal")
    assert (plan.ignore, len(plan.regions), plan.configuration.schedule.loss) == (IGNORE, 2, "dice_focal")
    validation = read_record(run / "folds/3d/0/validation/scores.json", Scores)
    assert set(mean_dice(validation)) == {"whole", "core"}
    assert min(mean_dice(validation).values()) > 0.6
