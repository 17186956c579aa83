from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from medseg.imaging.nifti import write_shares
from medseg.inference.averaging import Answer
from medseg.inference.maps import STEPS, draw_maps, entropy_of
from medseg.planning.plan import Region
from medseg.preprocessing.prepare import Undo
from tests.inference.test_averaging import SHAPE, on_scan, softmax, undo_at
from tests.tiny import configuration, plan_of


@pytest.fixture
def undo() -> Undo:
    return undo_at(1.3)


def answer(undo: Undo, outputs: int = 3) -> Answer:
    noise = np.random.default_rng(0).normal(0, 3, (*undo.prepared_shape, outputs))
    return Answer(noise.astype(np.float32), undo)


def cropped(stored: NDArray[np.uint16], undo: Undo) -> NDArray[np.float64]:
    """In the network's axes, as shares of one."""
    turned = stored.transpose(*undo.turn.order, *range(3, stored.ndim))
    turned = turned[tuple(slice(None, None, -1 if f else 1) for f in undo.turn.flip)]
    return turned[tuple(slice(*side) for side in undo.box)] / STEPS


def test_probabilities_and_uncertainty_lie_on_the_scans_own_grid(undo: Undo, tmp_path: Path) -> None:
    one = answer(undo)
    maps = draw_maps([one], plan_of(configuration()), 1.5, tmp_path, likely=True, unsure=True)
    assert maps.probabilities is not None
    assert maps.uncertainty is not None
    assert maps.names == ("background", "blob1", "blob2")
    assert maps.probabilities.shape == (*SHAPE, 3)
    expected = np.moveaxis(softmax(on_scan(one) / 1.5), 0, -1)
    np.testing.assert_allclose(cropped(maps.probabilities, undo), expected, atol=2e-5)
    entropy = -(expected * np.log(expected)).sum(-1) / np.log(3)
    np.testing.assert_allclose(cropped(maps.uncertainty, undo), entropy, atol=2e-5)
    total = maps.probabilities.astype(int).sum(-1)
    assert abs(total - STEPS).max() <= 2  # also where the scan was cropped away
    outside = np.ones(SHAPE, bool)
    view = outside.transpose(undo.turn.order)[tuple(slice(None, None, -1 if f else 1) for f in undo.turn.flip)]
    view[tuple(slice(*side) for side in undo.box)] = False
    assert outside.any()
    assert (maps.probabilities[outside, 0] == STEPS).all()
    assert not maps.uncertainty[outside].any()


def test_regions_have_maps_of_their_own(undo: Undo, tmp_path: Path) -> None:
    regions = (Region(name="whole", values=(1, 2), value=1), Region(name="core", values=(2,), value=2))
    plan = plan_of(configuration()).model_copy(update={"regions": regions})
    one = answer(undo, 2)
    maps = draw_maps([one], plan, 1.0, tmp_path, likely=True, unsure=False)
    assert maps.uncertainty is None
    assert maps.probabilities is not None
    assert maps.names == ("whole", "core")
    expected = np.moveaxis(1 / (1 + np.exp(-on_scan(one))), 0, -1)
    np.testing.assert_allclose(cropped(maps.probabilities, undo), expected, atol=2e-5)


def test_uncertainty_is_none_where_sure_and_one_where_all_are_alike() -> None:
    sure, alike = torch.tensor([1.0, 0, 0, 0]), torch.full((4,), 0.25)
    assert float(entropy_of(sure, regions=False)) < 1e-4
    assert float(entropy_of(alike, regions=False)) == pytest.approx(1, abs=1e-4)
    assert float(entropy_of(torch.tensor([0.99, 0.5]), regions=True)) == pytest.approx(1, abs=1e-4)


def test_a_file_of_shares_reads_as_zero_to_one(undo: Undo, tmp_path: Path) -> None:
    maps = draw_maps([answer(undo)], plan_of(configuration()), 1.0, tmp_path, likely=True, unsure=False)
    assert maps.probabilities is not None
    path = tmp_path / "a.nii.gz"
    write_shares(path, maps.probabilities, maps.grid)
    image = nib.load(path)
    assert image.header.get_data_dtype() == np.uint16
    np.testing.assert_allclose(image.get_fdata().sum(-1), 1, atol=1e-4)
    np.testing.assert_allclose(image.affine, undo.grid.affine)
