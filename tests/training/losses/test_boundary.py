from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from scipy.ndimage import distance_transform_edt
from torch import Tensor

from medseg.training.losses.boundary import REACH, border_distance, boundary_sum


def blobs(shape: Sequence[int], seed: int = 0, share: float = 0.03) -> Tensor:
    return torch.rand(tuple(shape), generator=torch.Generator().manual_seed(seed)) < share


@pytest.mark.parametrize(
    ("shape", "sizes"), [((20, 9, 14), (1.0, 1.0, 1.0)), ((12, 11, 7), (1.0, 1.5, 3.2)), ((30, 25), (2.5, 1.0))]
)
@pytest.mark.parametrize("reach", [3.0, 100.0])
def test_distances_are_scipy_s_up_to_their_reach(shape: Sequence[int], sizes: Sequence[float], reach: float) -> None:
    truth = torch.stack([blobs(shape, 1), blobs(shape, 2, 0.9)])
    ours = border_distance(truth, sizes, reach)
    for found, mask in zip(ours.numpy(), truth.numpy(), strict=True):
        exact = distance_transform_edt(mask, sizes) + distance_transform_edt(~mask, sizes)
        np.testing.assert_allclose(found, np.minimum(exact, reach), rtol=1e-6)


def test_without_a_border_there_is_no_distance() -> None:
    truth = torch.zeros((3, 4, 4, 4), dtype=torch.bool)
    truth[1], truth[2, 0] = True, True
    distances = border_distance(truth, (1.0,) * 3, 5.0)
    assert not distances[:2].any()
    assert distances[2].all()


def test_an_error_costs_the_square_of_its_distance() -> None:
    truth = torch.zeros((1, 40, 1), dtype=torch.bool)
    truth[0, :2] = True
    costs = []
    for at in (2, 5, 10, 30):
        found = truth.double()
        found[0, at] = 1.0
        costs.append(float(boundary_sum(found, truth, torch.ones_like(found), (1.0, 1.0))) * REACH**2)
    assert costs == pytest.approx([1, 16, 81, REACH**2])


def test_voxels_that_nobody_labelled_cost_nothing() -> None:
    truth = blobs((1, 8, 8, 8))
    found = torch.rand(truth.shape, dtype=torch.float64)
    valid = torch.zeros_like(found)
    valid[0, 3] = 1
    whole = boundary_sum(found, truth, valid, (1.0,) * 3)
    found[0, 4:] = 0.9
    assert float(boundary_sum(found, truth, valid, (1.0,) * 3)) == float(whole) > 0
