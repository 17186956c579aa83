"""What networks cost, against what torch counts while they run."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from medseg.networks.table import build_network
from medseg.networks.work import activations, forward_macs, layers, weights
from tests.networks.build import PATCHES, SETTINGS

torch.set_num_threads(1)
EVERY = pytest.mark.parametrize("name", SETTINGS)


def counted(network: nn.Module, image: torch.Tensor) -> float:
    """Multiply-adds of a forward pass."""
    counter = FlopCounterMode(display=False)
    with counter, torch.no_grad():
        network(image)
    return counter.get_total_flops() / 2


@EVERY
def test_multiply_adds_are_those_that_torch_counts(name):
    settings = SETTINGS[name]
    network = build_network(settings)
    for patch in PATCHES[name]:
        image = torch.zeros(1, settings.in_channels, *patch)
        deep = settings.kind in ("unetpp", "mednext")  # whose coarser answers are counted
        assert forward_macs(settings, patch) == counted(network.train(deep), image), patch


@EVERY
def test_weights_are_those_of_the_network(name):
    settings = SETTINGS[name]
    held = sum(p.numel() for p in build_network(settings).parameters() if p.ndim > 1)
    assert weights(settings) == pytest.approx(held, rel=0.02)


@EVERY
def test_values_are_those_that_layers_put_out(name):
    settings, patch = SETTINGS[name], PATCHES[name][0]
    values = 0

    def add(_: nn.Module, __: object, output: torch.Tensor) -> None:
        nonlocal values
        values += output.numel()

    network = build_network(settings).eval()
    kinds = nn.Conv2d, nn.Conv3d, nn.ConvTranspose2d, nn.ConvTranspose3d, nn.Linear
    for module in network.modules():
        if isinstance(module, kinds):
            module.register_forward_hook(add)
    with torch.no_grad():
        network(torch.zeros(1, settings.in_channels, *patch))
    attention = sum(layer.values for layer in layers(settings, patch) if not layer.weights)
    assert activations(settings, patch) - attention == pytest.approx(values, rel=0.02)


def test_work_by_hand_for_one_convolution():
    one = SETTINGS["3d one stage"]
    assert forward_macs(one, (4, 4, 4)) == 64 * (27 * 2 * 4 + 27 * 4 * 4 + 4 * 3)
