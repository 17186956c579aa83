"""The U-Net with a residual encoder that nnU-Net recommends (Isensee et al., nnU-Net Revisited, 2024).

Its blocks are those of ResNet-D (He et al., Bag of Tricks, 2019): where a block halves, its skip takes means, so that
no voxel is left out. All the rest is the plain network's.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional

from medseg.networks.topology import NetworkSettings
from medseg.networks.unet import UNet, activation, convolved, convs


class Mean(nn.Module):
    """Means over cells of `stride` voxels; (B, C, ...) to (B, C, ... / stride), all axes divisible.

    In 3D by two poolings in 2D, which keep a channels-last layout as `avg_pool3d` does not: 8 times faster so.
    """

    def __init__(self, stride: tuple[int, ...]) -> None:
        super().__init__()
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        if len(self.stride) == 2:
            return functional.avg_pool2d(x, self.stride)
        b, c, planes = x.shape[:3]
        within = functional.avg_pool2d(x.transpose(1, 2).flatten(0, 1), self.stride[1:])
        columns = within.reshape(b, planes, *within.shape[1:]).transpose(1, 2).flatten(3)
        across = functional.avg_pool2d(columns, (self.stride[0], 1))
        return across.reshape(b, c, planes // self.stride[0], *within.shape[2:])


class ResidualBlock(nn.Module):
    """Two convolutions, each with its norm, added to their input; (B, C, ...) to (B, outputs, ... / stride).

    The last norm starts at 0: a new block is but its skip, so that deep networks learn from the first step.
    """

    def __init__(self, dims: int, inputs: int, outputs: int, kernel: tuple[int, ...], stride: tuple[int, ...]) -> None:
        super().__init__()
        last, norm = convolved(dims, outputs, outputs, kernel)
        self.convs = nn.Sequential(*convolved(dims, inputs, outputs, kernel, stride), activation(), last, norm)
        nn.init.zeros_(norm.weight)
        skip: list[nn.Module] = [Mean(stride)] if max(stride) > 1 else []
        if inputs != outputs:
            skip += convolved(dims, inputs, outputs, (1,) * dims)
        self.skip = nn.Sequential(*skip)
        self.activation = activation()

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        return self.activation(self.convs(x).add_(self.skip(x)))  # type: ignore[no-any-return]


def residual_encoder(settings: NetworkSettings) -> list[nn.Module]:
    """Stages of residual blocks, the first of each with the stride; before them a convolution (the stem).

    `settings.convs_encoder` counts blocks.
    """
    dims, f = settings.dims, settings.features
    one = (1,) * dims
    stages: list[nn.Module] = []
    for s, (blocks, kernel, stride) in enumerate(
        zip(settings.convs_encoder, settings.kernels, settings.strides, strict=True)
    ):
        layers: list[nn.Module] = [convs(dims, 1, settings.in_channels, f[0], kernel, one)] if s == 0 else []
        layers.append(ResidualBlock(dims, f[max(0, s - 1)], f[s], kernel, stride))
        layers += [ResidualBlock(dims, f[s], f[s], kernel, one) for _ in range(blocks - 1)]
        stages.append(nn.Sequential(*layers))
    return stages


def residual_encoder_unet(settings: NetworkSettings) -> UNet:
    """The U-Net with this encoder."""
    return UNet(settings, residual_encoder(settings))
