"""The sliding window against MONAI's, where both lay their tiles at the same places."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from monai.data.utils import compute_importance_map
from monai.inferers import sliding_window_inference

from medseg.inference.tiles import line_weights, tile_starts
from medseg.networks.table import build_network
from tests.tiny import configuration, slid

pytestmark = pytest.mark.usefixtures("single_precision")


def gaussian(patch: tuple[int, ...]) -> np.ndarray:
    return np.einsum("x,y,z->xyz", *map(line_weights, patch)).astype(np.float32)


def monai(network: torch.nn.Module, image: np.ndarray, patch: tuple[int, ...]) -> np.ndarray:
    """MONAI's tiles and sums with our weights: its own have a higher floor in the corners."""
    weights = torch.from_numpy(gaussian(patch))
    with torch.inference_mode():
        found = sliding_window_inference(
            torch.from_numpy(image)[None], patch, 4, network, overlap=0.5, roi_weight_map=weights
        )
    return found[0].numpy()


def test_tiles_coincide_where_steps_divide_the_scan() -> None:
    assert tile_starts(20, 8, 0.5) == [0, 4, 8, 12]


@pytest.mark.parametrize("shape", [(20, 12, 8), (8, 8, 8), (16, 24, 12)])
def test_a_constant_answer_is_the_same(shape: tuple[int, int, int]) -> None:
    class Constant(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.ones((x.shape[0], 3, *x.shape[2:])) * torch.tensor([1.0, 2, 3]).view(1, 3, 1, 1, 1)

    image = np.zeros((1, *shape), np.float32)
    np.testing.assert_allclose(
        slid([Constant()], image, configuration()), monai(Constant(), image, (8, 8, 8)), rtol=1e-5
    )


@pytest.mark.parametrize("shape", [(20, 12, 8), (16, 24, 12)])
def test_a_real_network_gives_the_same_logits(shape: tuple[int, int, int]) -> None:
    made = configuration()
    network = build_network(made.network).eval()
    image = np.random.default_rng(0).normal(size=(1, *shape)).astype(np.float32)
    ours, theirs = slid([network], image, made), monai(network, image, (8, 8, 8))
    np.testing.assert_allclose(ours, theirs, atol=1e-4)


def test_weights_are_monais_but_for_its_floor() -> None:
    theirs = compute_importance_map((16, 16, 16), mode="gaussian", sigma_scale=0.125, dtype=torch.float32).numpy()
    above = theirs > 2e-3 * theirs.max()
    ours = gaussian((16, 16, 16))
    np.testing.assert_allclose(ours[above] / ours.max(), theirs[above] / theirs.max(), rtol=1e-4)
