"""What a network is told: a record without torch, decided by planning, carried by the plan and by every model."""

from __future__ import annotations

import math
from typing import Literal

from medseg.files import Record


class NetworkSettings(Record):
    """A U-Net's shape. Lists run from full resolution down; 2D networks give two numbers a stage, 3D ones three.

    `strides[0]` is 1 along every axis; `convs_encoder` has an entry a stage (of `resenc`: residual blocks, each of two
    convolutions), `convs_decoder` one a stage but the last.
    """

    kind: Literal["unet", "resenc"]
    dims: Literal[2, 3]
    in_channels: int
    classes: int  # background included
    features: tuple[int, ...]
    kernels: tuple[tuple[int, ...], ...]
    strides: tuple[tuple[int, ...], ...]
    convs_encoder: tuple[int, ...]
    convs_decoder: tuple[int, ...]
    deep_supervision: bool = True


def stage_shapes(patch: tuple[int, ...], strides: tuple[tuple[int, ...], ...]) -> list[tuple[int, ...]]:
    """The feature map's shape at every stage for a `patch` of the network's dimensions."""
    shapes, here = [], patch
    for stride in strides:
        here = tuple(math.ceil(n / s) for n, s in zip(here, stride, strict=True))
        shapes.append(here)
    return shapes


def forward_macs(network: NetworkSettings, patch: tuple[int, ...]) -> float:
    """Multiply-adds of one forward pass of one patch: what its time is nearly proportional to."""
    shapes = [math.prod(s) for s in stage_shapes(patch, network.strides)]
    f, k = network.features, [math.prod(kernel) for kernel in network.kernels]
    total = 0.0
    for s, voxels in enumerate(shapes):
        before, n = network.in_channels if s == 0 else f[s - 1], network.convs_encoder[s]
        if network.kind == "resenc":
            if s == 0:
                total += voxels * k[0] * f[0] * before  # the stem
                before = f[0]
            n *= 2
            total += voxels * f[s] * before if before != f[s] else 0.0  # the skip that changes features
        total += voxels * k[s] * f[s] * (before + (n - 1) * f[s])
    for s, voxels in enumerate(shapes[:-1]):
        total += voxels * f[s] * f[s + 1]  # transposed convolution, kernel = stride
        total += voxels * k[s] * f[s] * (2 * f[s] + (network.convs_decoder[s] - 1) * f[s])
    total += shapes[0] * f[0] * network.classes  # the coarser heads together are a hundredth of a step
    return total
