"""The residual encoder's own parts."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from medseg.networks.resenc import Mean, ResidualBlock
from medseg.networks.table import build_network
from tests.networks.build import PATCHES, SETTINGS


@pytest.mark.parametrize("stride", [(2, 2, 2), (1, 2, 2), (2, 1, 1), (2, 2), (1, 2)])
@pytest.mark.parametrize("channels_last", [True, False])
def test_means_equal_those_of_torch(stride, channels_last):
    dims = len(stride)
    layout = torch.channels_last_3d if dims == 3 else torch.channels_last
    image = torch.randn((2, 3, 4, 6, 8)[: dims + 2], generator=torch.Generator().manual_seed(0))
    image = image.contiguous(memory_format=layout) if channels_last else image
    found = Mean(stride)(image)
    pool = functional.avg_pool3d if dims == 3 else functional.avg_pool2d
    torch.testing.assert_close(found, pool(image, stride))
    assert not channels_last or found.is_contiguous(memory_format=layout)


def test_a_new_block_is_its_skip():
    image = torch.randn(2, 4, 6, 8, 6)
    block = ResidualBlock(3, 4, 4, (3, 3, 3), (1, 1, 1))
    assert not list(block.skip)
    assert torch.equal(block(image), functional.leaky_relu(image, 0.01))
    halved = ResidualBlock(3, 4, 4, (3, 3, 3), (2, 2, 1))
    torch.testing.assert_close(halved(image), functional.leaky_relu(functional.avg_pool3d(image, (2, 2, 1)), 0.01))
    wider = ResidualBlock(2, 4, 8, (3, 3), (2, 2))
    image = torch.randn(2, 4, 6, 8)
    torch.testing.assert_close(wider(image), functional.leaky_relu(wider.skip(image), 0.01))


def test_a_trained_block_adds_to_its_skip():
    block = ResidualBlock(2, 3, 5, (3, 3), (2, 1))
    torch.nn.init.normal_(block.convs[-1].weight)
    image = torch.randn(1, 3, 8, 6)
    wanted = functional.leaky_relu(block.convs(image) + block.skip(image), 0.01)
    torch.testing.assert_close(block(image), wanted)
    assert not torch.allclose(wanted, functional.leaky_relu(block.skip(image), 0.01))


def test_stages_hold_as_many_blocks_as_settings_say():
    settings = SETTINGS["resenc 3d anisotropic"].model_copy(update={"convs_encoder": (1, 3, 4)})
    network = build_network(settings).eval()
    blocks = [sum(isinstance(m, ResidualBlock) for m in stage) for stage in network.encoder]
    assert blocks == [1, 3, 4]
    assert len(network.encoder[0]) == 2  # and the stem
    shapes = {name: tuple(p.shape) for name, p in network.named_parameters()}
    assert shapes["encoder.0.0.0.weight"] == (4, 2, 1, 3, 3)
    assert shapes["encoder.1.0.skip.1.weight"] == (8, 4, 1, 1, 1)
    assert "encoder.1.1.skip.1.weight" not in shapes
    with torch.no_grad():
        assert network(torch.zeros(1, 2, *PATCHES["resenc 3d anisotropic"][0])).isfinite().all()


def test_norms_start_at_nought_in_every_block_and_nowhere_else():
    network = build_network(SETTINGS["resenc 2d"])
    nought = {name for name, p in network.named_parameters() if name.endswith("weight") and not p.any()}
    blocks = {name for name, m in network.named_modules() if isinstance(m, ResidualBlock)}
    assert nought == {f"{name}.convs.4.weight" for name in blocks}
    assert blocks
