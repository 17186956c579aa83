from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from medseg.imaging.grid import Grid
from medseg.imaging.volume import Volume
from medseg.inference import averaging
from medseg.inference.averaging import Answer, averaged, probabilities, spooled
from medseg.planning.plan import Plan, Region
from medseg.preprocessing.prepare import Undo, prepare
from medseg.preprocessing.resample import LINEAR, resampled
from medseg.preprocessing.settings import Normalisation, PreprocessingSettings
from tests.tiny import configuration, plan_of, restore, slabs_of

SHAPE = (9, 8, 7)


def undo_at(spacing: float) -> Undo:
    """Of a scan that is stored turned and mirrored and partly empty, brought to `spacing` mm."""
    array = np.zeros(SHAPE)
    array[1:, :-1] = np.random.default_rng(0).normal(50, 10, (8, 7, 7))
    affine = np.array([[0, -1.0, 0, 5], [0, 0, 1.5, 0], [2.0, 0, 0, 3], [0, 0, 0, 1]])
    how = PreprocessingSettings(spacing_mm=(spacing,) * 3, channels=(Normalisation(kind="zscore"),))
    return prepare([Volume(array, Grid(SHAPE, affine))], how).undo


def answer(spacing: float, seed: int, scale: float = 4.0) -> Answer:
    undo = undo_at(spacing)
    logits = np.random.default_rng(seed).normal(0, scale, (3, *undo.prepared_shape)).astype(np.float32)
    return Answer(np.moveaxis(logits, 0, -1), undo)


def on_scan(one: Answer) -> NDArray[np.float64]:
    shape = one.undo.cropped_shape
    return np.stack(
        [resampled(np.ascontiguousarray(c), shape, LINEAR) for c in np.moveaxis(one.logits_XYZL, -1, 0)]
    ).astype(np.float64)


def softmax(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    e = np.exp(logits - logits.max(0))
    return np.asarray(e / e.sum(0))


def plan() -> Plan:
    return plan_of(configuration())


def test_one_answer_is_restored_as_ever() -> None:
    one = answer(1.3, 0)
    expected = restore(np.moveaxis(one.logits_XYZL, -1, 0), one.undo, (1, 2), {})
    np.testing.assert_array_equal(averaged([one], plan()).array, expected.array)
    np.testing.assert_array_equal(averaged([one, one], plan()).array, expected.array)


@pytest.mark.parametrize("mapped", [False, True])
def test_softmaxes_are_averaged_on_the_scans_own_voxels(tmp_path: Path, mapped: bool) -> None:
    """Against plain arithmetic in float64; logits are large enough that averaging them would tell otherwise."""
    answers = [answer(1.3, 0), answer(2.1, 1, 9.0)]
    if mapped:
        for k, one in enumerate(answers):
            slabs = slabs_of(np.moveaxis(one.logits_XYZL, -1, 0), k)
            answers[k] = Answer(spooled(slabs, one.undo.prepared_shape, tmp_path / str(k)), one.undo)
    found = averaged(answers, plan())
    undo = answers[0].undo
    mean = sum(softmax(on_scan(one)) for one in answers)
    logit_mean = sum(on_scan(one) for one in answers)
    identity = undo.model_copy(update={"prepared_shape": undo.cropped_shape})
    expected = restore(mean.astype(np.float32), identity, (1, 2), {})
    np.testing.assert_array_equal(found.array, expected.array)
    assert found.grid.shape == SHAPE
    assert set(np.unique(found.array)) == {0, 1, 2}
    assert (mean.argmax(0) != logit_mean.argmax(0)).mean() > 0.02


def test_regions_are_painted_where_their_mean_probability_is_above_one_half() -> None:
    regions = (Region(name="whole", values=(1, 2), value=1), Region(name="core", values=(2,), value=2))
    made = plan().model_copy(update={"regions": regions})
    answers = [Answer(one.logits_XYZL[..., :2], one.undo) for one in (answer(1.3, 3, 3.0), answer(2.1, 4, 6.0))]
    mean = sum(1 / (1 + np.exp(-on_scan(one))) for one in answers) / 2
    painted = np.where(mean[1] > 0.5, 2, np.where(mean[0] > 0.5, 1, 0))
    found = averaged(answers, made)
    one_hot = np.stack([painted == k for k in range(3)]).astype(np.float32)
    undo = answers[0].undo
    identity = undo.model_copy(update={"prepared_shape": undo.cropped_shape})
    expected = restore(one_hot, identity, (1, 2), {})
    np.testing.assert_array_equal(found.array, expected.array)


def test_very_sure_answers_stay_finite() -> None:
    undo = undo_at(1.3)
    logits = np.full((*undo.prepared_shape, 3), -200.0, np.float32)
    logits[..., 2] = 300.0
    sure = Answer(logits, undo)
    crop = averaged([sure, sure], plan()).array
    assert crop.max() == 2
    assert (crop == 2).sum() == np.prod(undo.cropped_shape)


@pytest.mark.parametrize("piece", [1, 200, 1 << 20])
def test_probabilities_come_in_pieces_and_add_up(piece: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(averaging, "PIECE", piece)
    one = answer(1.3, 0)
    pieces = list(probabilities([one], plan(), 2.0))
    found = np.concatenate([part.probabilities_XYPL.numpy() for part in pieces], axis=2)
    assert [part.start for part in pieces] == sorted({part.start for part in pieces})
    np.testing.assert_allclose(found, np.moveaxis(softmax(on_scan(one) / 2), 0, -1), atol=1e-5)
