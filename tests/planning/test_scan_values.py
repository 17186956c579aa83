from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from medseg.planning import scan_values as module
from medseg.planning.scan_values import Sketch, Whole, look_at_values, short, thumbnail_of


def image(seed: int = 0, shape: tuple[int, int, int] = (20, 30, 40)) -> NDArray[np.float32]:
    rng = np.random.default_rng(seed)
    return rng.normal(100, 20, shape).astype(np.float32)


def look(values: NDArray[np.float32], labels: NDArray[np.uint8] | None = None) -> tuple[Sketch, Whole]:
    labels = np.zeros(values.shape, np.uint8) if labels is None else labels
    return look_at_values(values, labels, int((labels > 0).sum()))


def test_labelled_voxels_are_told_exactly() -> None:
    values = image()
    labels = (np.random.default_rng(1).random(values.shape) < 0.2).astype(np.uint8) * 3
    sketch, _ = look(values, labels)
    chosen = values[labels > 0].astype(np.float64)
    assert sketch.voxels == chosen.size
    assert sketch.mean == pytest.approx(chosen.mean())
    assert sketch.sd == pytest.approx(chosen.std())
    assert sketch.quantiles == pytest.approx(np.quantile(chosen, np.linspace(0, 1, 201)), rel=1e-5)


def test_of_very_many_labelled_voxels_evenly_spread_ones_tell_the_quantiles(monkeypatch: pytest.MonkeyPatch) -> None:
    values, labels = image(shape=(40, 40, 40)), np.ones((40, 40, 40), np.uint8)
    whole, _ = look(values, labels)
    monkeypatch.setattr(module, "MOST_SORTED", 10_000)
    part, _ = look(values, labels)
    assert (part.voxels, part.mean, part.sd) == (whole.voxels, whole.mean, whole.sd)
    assert part.quantiles != whole.quantiles
    assert part.quantiles[20:181] == pytest.approx(whole.quantiles[20:181], abs=2)
    assert (part.quantiles[0], part.quantiles[-1]) == (whole.quantiles[0], whole.quantiles[-1])


def test_no_labelled_voxel() -> None:
    assert look(image())[0] == Sketch(voxels=0, mean=0, sd=0, quantiles=())


def test_voxels_of_a_label_that_is_left_out_do_not_count() -> None:
    values, labels = image(), np.ones((20, 30, 40), np.uint8)
    labels[:, :, :20] = 9
    sketch, _ = look_at_values(values, labels, 20 * 30 * 20, without=9)
    assert sketch.voxels == 20 * 30 * 20
    assert sketch.mean == pytest.approx(float(values[:, :, 20:].mean(dtype=np.float64)))


def test_all_voxels() -> None:
    values = image()
    _, whole = look(values)
    assert (whole.low, whole.high) == pytest.approx((values.min(), values.max()), rel=1e-5)
    assert whole.percentiles == pytest.approx(np.percentile(values, (1, 5, 25, 50, 75, 95, 99)), rel=1e-4)


@pytest.mark.parametrize("stored", [np.asfortranarray, np.ascontiguousarray, lambda a: a[::-1].copy()[::-1]])
def test_the_digest_does_not_ask_how_voxels_are_stored_but_what_they_are(stored) -> None:
    values = image()
    _, whole = look(values)
    assert look(stored(values))[1] == whole
    changed = values.copy()
    changed[7, 8, 9] += 1
    others = (changed, values[::-1], values.transpose(0, 2, 1), values.reshape(20, 40, 30))
    assert len({look(other)[1].digest for other in (values, *others)}) == 5


def test_a_thumbnail_knows_a_scan_again_in_other_numbers_and_mirrored() -> None:
    values = image()
    ranks = thumbnail_of(look(values)[1])
    assert ranks.shape == (8, 8, 8)
    assert (ranks.min(), ranks.max()) == (0, 1)
    np.testing.assert_array_equal(thumbnail_of(look(values * 3 - 1024)[1]), ranks)
    np.testing.assert_array_equal(thumbnail_of(look(values[::-1])[1]), ranks[::-1])
    as_bytes = np.rint((values - values.min()) / np.ptp(values) * 255).astype(np.float32)
    assert np.corrcoef(thumbnail_of(look(as_bytes)[1]).ravel(), ranks.ravel())[0, 1] > 0.99
    assert np.corrcoef(thumbnail_of(look(image(1))[1]).ravel(), ranks.ravel())[0, 1] < 0.2


@pytest.mark.parametrize("shape", [(1, 1, 1), (3, 1, 7), (8, 9, 200)])
def test_scans_of_any_size(shape: tuple[int, int, int]) -> None:
    values = image(shape=shape)
    sketch, whole = look(values, np.ones(shape, np.uint8))
    assert sketch.voxels == values.size
    assert thumbnail_of(whole).shape == (8, 8, 8)
    assert whole.percentiles[3] == pytest.approx(float(np.median(values)), rel=0.1)


def test_numbers_are_short() -> None:
    assert [short(v) for v in (0.1 + 0.2, 1 / 3, -1024.0, 1234567.0)] == [0.3, 0.333333, -1024, 1.23457e6]
