from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from medseg.imaging.grid import Grid
from medseg.imaging.volume import Volume
from medseg.inference.case import Look, Segmenter, predict
from medseg.inference.model import Model, load_model
from medseg.inference.predictor import Predictor
from medseg.inference.records import Cleaning
from tests.tiny import CPU, blobs, configuration, untrained_run

FOLD = "folds/3d/0"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return load_model(untrained_run(tmp_path_factory.mktemp("run")) / FOLD, CPU)


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return load_model(untrained_run(tmp_path_factory.mktemp("run"), seed=1) / FOLD, CPU)


def of(*models: Model) -> Predictor:
    return Predictor(models[0].card.plan, ("3d",), {"3d": list(models)}, tuple("01"[: len(models)]))


def scan(shape: tuple[int, int, int] = (20, 16, 12)) -> list[Volume]:
    image, _ = blobs(3, shape)
    return [Volume(image.astype(np.float32), Grid(shape, np.diag([-1.0, 1.2, 1.5, 1])))]


def test_maps_agree_with_the_labels(model: Model) -> None:
    plain = predict(of(model), scan(), CPU)
    assert plain.maps is None
    segmenter = Segmenter(of(model), CPU, Look(probabilities=True, uncertainty=True))
    found = segmenter.predict(segmenter.ready(scan()))
    assert found.maps is not None
    assert found.maps.probabilities is not None
    assert found.maps.uncertainty is not None
    np.testing.assert_array_equal(found.labels.array, plain.labels.array)
    likely = found.maps.probabilities.astype(int)
    top = np.sort(likely, -1)
    sure = top[..., -1] - top[..., -2] > 4
    assert sure.mean() > 0.5
    np.testing.assert_array_equal(likely.argmax(-1)[sure], plain.labels.array[sure])
    assert found.maps.uncertainty[sure].mean() < found.maps.uncertainty[~sure].mean() if not sure.all() else True


def test_folds_that_differ_disagree_and_equal_ones_do_not(model: Model, other: Model) -> None:
    assert predict(of(model), scan(), CPU).agreement == {}
    same = predict(of(model, model), scan(), CPU).agreement
    assert same
    assert all(value == pytest.approx(1) for value in same.values())
    apart = predict(of(model, other), scan(), CPU).agreement
    assert any(value < 0.95 for value in apart.values())


def test_max_quality_looks_at_mirrored_scans_and_fast_takes_larger_steps(tmp_path: Path) -> None:
    made = configuration(mirror_axes=(0,))
    model = load_model(untrained_run(tmp_path, made) / FOLD, CPU)
    standard, best = (Segmenter(of(model), CPU, Look(quality=q)) for q in ("standard", "max"))
    assert predict(of(model), scan(), CPU).agreement == {}
    assert best.predict(best.ready(scan())).agreement
    assert standard.configuration("3d").window.mirror_axes == ()
    assert Segmenter(of(model), CPU, Look(quality="fast")).configuration("3d").window.step == 0.75


def test_labels_are_cleaned(model: Model) -> None:
    steps = (Cleaning(kind="at_least", values=(1,), what="1", ml=1e9),)
    predictor = of(model)
    assert 1 in np.unique(predict(predictor, scan(), CPU).labels.array)
    assert 1 not in np.unique(predict(replace(predictor, cleaning=steps), scan(), CPU).labels.array)


def test_the_sums_of_trust_are_those_of_the_labels(model: Model) -> None:
    """Where the scan is not resampled both count the same voxels."""
    image, _ = blobs(3)
    unit = [Volume(image.astype(np.float32), Grid(image.shape, np.eye(4)))]
    segmenter = Segmenter(of(model), CPU)
    ready = segmenter.ready(unit)
    assert ready["3d"].undo.prepared_shape == image.shape
    found = segmenter.predict(ready)
    voxels = {sums.structure: sums.voxels for sums in found.trust.structures}
    values = found.labels.names
    assert voxels == {values[v]: int((found.labels.array == v).sum()) for v in values}


def test_what_was_told_of_a_scan_that_failed_is_not_told_of_the_next(model: Model) -> None:
    segmenter = Segmenter(of(model), CPU)
    ready = segmenter.ready(scan())
    segmenter.predict(ready)
    for window in segmenter._windows.values():
        window.told.append("memory gave out: 1 tile(s) at a time")
    assert segmenter.predict(ready).told == ()
