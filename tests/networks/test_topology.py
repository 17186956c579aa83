from __future__ import annotations

import math

import torch
from torch import nn

from medseg.networks.table import NETWORKS, build_network
from medseg.networks.topology import forward_macs, stage_shapes
from tests.networks.build import PATCHES, SETTINGS


def counted(network: nn.Module, image: torch.Tensor) -> tuple[float, list[tuple[int, ...]]]:
    """Multiply-adds of all convolutions of a forward pass, and the shapes that the encoder's stages put out."""
    macs, shapes = 0.0, []

    def count(module, inputs, output):
        nonlocal macs
        if isinstance(module, (nn.ConvTranspose2d, nn.ConvTranspose3d)):  # kernel = stride: each output has one input
            macs += output[0, 0].numel() * module.in_channels * module.out_channels
        else:
            macs += output[0].numel() * module.in_channels * math.prod(module.kernel_size)

    kinds = (nn.Conv2d, nn.Conv3d, nn.ConvTranspose2d, nn.ConvTranspose3d)
    handles = [m.register_forward_hook(count) for m in network.modules() if isinstance(m, kinds)]
    handles += [s.register_forward_hook(lambda _, __, o: shapes.append(tuple(o.shape[2:]))) for s in network.encoder]
    with torch.no_grad():
        network.eval()(image)
    for handle in handles:
        handle.remove()
    return macs, shapes


def test_work_and_shapes_are_those_of_the_network():
    for name, settings in SETTINGS.items():
        network = build_network(settings)
        for patch in PATCHES[name]:
            macs, shapes = counted(network, torch.zeros(1, settings.in_channels, *patch))
            assert forward_macs(settings, patch) == macs, (name, patch)
            assert stage_shapes(patch, settings.strides) == shapes, (name, patch)


def test_shapes_are_rounded_up():
    assert stage_shapes((9, 5), ((1, 1), (2, 1), (2, 2))) == [(9, 5), (5, 5), (3, 3)]


def test_work_by_hand_for_one_convolution():
    one = SETTINGS["3d one stage"]
    assert forward_macs(one, (4, 4, 4)) == 64 * (27 * 2 * 4 + 27 * 4 * 4 + 4 * 3)


def test_the_table_names_what_settings_may_ask_for():
    kinds = {settings.kind for settings in SETTINGS.values()}
    assert kinds == set(NETWORKS)
