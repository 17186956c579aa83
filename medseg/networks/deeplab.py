"""DeepLabV3+ in 2D and 3D (Chen et al., ECCV 2018): a pyramid of dilated convolutions instead of a deep decoder.

Where its authors take a ResNet to a sixteenth of the resolution, this takes nnU-Net's residual encoder to an eighth,
since structures in scans are small; and its fine features are those at half resolution, not at a quarter.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from medseg.networks.resenc import residual_encoder
from medseg.networks.topology import NetworkSettings
from medseg.networks.unet import CONV, activation, convolved, convs, initialise, resized
from medseg.networks.work import DILATIONS


class Pyramid(nn.Module):
    """What lies at a voxel, around it at several distances, and in the whole patch; (B, C, ...) to (B, width, ...)."""

    def __init__(self, dims: int, inputs: int, width: int, kernel: tuple[int, ...]) -> None:
        super().__init__()
        one = (1,) * dims
        self.near = convs(dims, 1, inputs, width, one, one)
        self.around = nn.ModuleList(
            nn.Sequential(*convolved(dims, inputs, width, kernel, 1, dilation), activation()) for dilation in DILATIONS
        )
        # a map of one voxel has nothing that a norm could take out, so here the convolution keeps its bias
        self.whole = nn.Sequential(CONV[dims](inputs, width, 1), activation())
        self.joined = convs(dims, 1, (2 + len(DILATIONS)) * width, width, one, one)

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        whole = self.whole(x.mean(tuple(range(2, x.ndim)), keepdim=True)).expand(-1, -1, *x.shape[2:])
        return self.joined(torch.cat([self.near(x), *(look(x) for look in self.around), whole], 1))  # type: ignore[no-any-return]


class DeepLab(nn.Module):
    """(B, C, X, Y[, Z]) to logits (B, L, X, Y[, Z]); the patch must be divisible by the product of the strides."""

    def __init__(self, settings: NetworkSettings) -> None:
        super().__init__()
        f, dims = settings.features, settings.dims
        one = (1,) * dims
        self.low = min(1, len(f) - 1)
        low, width = f[self.low], f[-1] // 2
        self.encoder = nn.ModuleList(residual_encoder(settings))
        self.pyramid = Pyramid(dims, f[-1], width, settings.kernels[-1])
        self.fine = convs(dims, 1, low, low // 2, one, one)
        self.decoder = convs(dims, 2, width + low // 2, low, settings.kernels[self.low], one)
        self.head = CONV[dims](low, settings.classes, 1)
        self.apply(initialise)

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        shape, maps = x.shape[2:], []
        for stage in self.encoder:
            x = stage(x)
            maps.append(x)
        fine = maps[self.low]
        coarse = resized(self.pyramid(x), fine.shape[2:])
        return resized(self.head(self.decoder(torch.cat([coarse, self.fine(fine)], 1))), shape)
