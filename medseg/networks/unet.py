"""U-Nets in nnU-Net's topology, 2D and 3D, the plain one (Ronneberger 2015, Isensee 2021), and what they are made of.

B batch, C channel, L class. Convolutions before a norm have no bias: the norm takes it out again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from medseg.networks.topology import NetworkSettings

NEGATIVE_SLOPE = 0.01
EPSILON = 1e-5


class _OneDnn:
    """A convolution that is oneDNN's for inference on a CPU, whatever the size and the number of threads.

    Torch's own rule leaves a single sample with a small map to a slower algorithm: it multiplies the first four sizes
    of the input, which leaves out the last axis of a volume, and it looks at the number of threads, by which the last
    bit of an answer would depend on them. A tile takes a U-Net 10 to 20 % less this way (measured on two cores).
    """

    def forward(self, x: Tensor) -> Tensor:
        """See torch's, which it is in training and in half precision."""
        mine: Any = self
        on_cpu = x.device.type == "cpu" and x.dtype == torch.float32 and not torch.is_autocast_enabled("cpu")
        forced = on_cpu and torch.is_inference_mode_enabled() and not isinstance(mine.padding, str)
        if not forced or not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
            torchs: Tensor = super().forward(x)  # type: ignore[misc]
            return torchs
        return torch.mkldnn_convolution(
            x, mine.weight, mine.bias, mine.padding, mine.stride, mine.dilation, mine.groups
        )


class Conv2d(_OneDnn, nn.Conv2d):
    """In two dimensions."""


class Conv3d(_OneDnn, nn.Conv3d):
    """In three."""


CONV: dict[int, Callable[..., nn.Module]] = {2: Conv2d, 3: Conv3d}
_TRANSPOSED: dict[int, Callable[..., nn.Module]] = {2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}


class InstanceNorm(nn.Module):
    """Instance normalisation with scale and shift, in a form that keeps a channels-last memory layout.

    `instance_norm` itself copies to the contiguous layout (pytorch #59168); normalising each sample by batch
    statistics of its own is the same operation and does not.
    """

    def __init__(self, features: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(features))
        self.bias = nn.Parameter(torch.zeros(features))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, ...) to the same shape."""
        predicts = torch.is_inference_mode_enabled() and x.device.type == "cpu" and x.dtype != torch.float64
        one_sample = self._with_even_sums if predicts else self._as_batch
        each = [one_sample(one) for one in torch.split(x, 1)]
        return each[0] if len(each) == 1 else torch.cat(each)

    def _as_batch(self, x_1CXYZ: Tensor) -> Tensor:
        return functional.batch_norm(x_1CXYZ, None, None, self.weight, self.bias, training=True, eps=EPSILON)

    def _with_even_sums(self, x_1CXYZ: Tensor) -> Tensor:
        """The same with sums that do not depend on the number of threads, as those of batch_norm do (by 1e-6): so one
        process with two threads and two processes with one give labels that are equal to the last voxel. It takes half
        as long again as batch_norm's one pass, 2 % of a tile.
        """
        dims = (0, *range(2, x_1CXYZ.dim()))
        n = x_1CXYZ.numel() / x_1CXYZ.shape[1]
        mean_C = x_1CXYZ.sum(dims, dtype=torch.float32) / n
        away = x_1CXYZ - mean_C.view(1, -1, *[1] * (x_1CXYZ.dim() - 2))
        var_C = away.square_().sum(dims) / n
        return functional.batch_norm(x_1CXYZ, mean_C, var_C, self.weight, self.bias, training=False, eps=EPSILON)


def convolved(
    dims: int, inputs: int, outputs: int, kernel: tuple[int, ...], stride: tuple[int, ...] | int = 1, dilation: int = 1
) -> tuple[nn.Module, InstanceNorm]:
    """A convolution that keeps the size where the stride is 1, and its norm."""
    padding = tuple(dilation * (k // 2) for k in kernel)
    return CONV[dims](inputs, outputs, kernel, stride, padding, dilation, bias=False), InstanceNorm(outputs)


def activation() -> nn.Module:
    """The non-linearity that every network here has."""
    return nn.LeakyReLU(NEGATIVE_SLOPE, inplace=True)


def convs(dims: int, n: int, inputs: int, outputs: int, kernel: tuple[int, ...], stride: tuple[int, ...]) -> nn.Module:
    """`n` convolutions, each with its norm and activation; the first has the stride."""
    layers: list[nn.Module] = [*convolved(dims, inputs, outputs, kernel, stride), activation()]
    for _ in range(n - 1):
        layers += [*convolved(dims, outputs, outputs, kernel), activation()]
    return nn.Sequential(*layers)


class UNet(nn.Module):
    """(B, C, X, Y[, Z]) to logits (B, L, X, Y[, Z]); the patch must be divisible by the product of the strides.

    In training with deep supervision a list of logits, full resolution first, one a decoder stage. `encoder` holds a
    module for every stage, which puts out that stage's features at its resolution.
    """

    def __init__(self, settings: NetworkSettings, encoder: Iterable[nn.Module]) -> None:
        super().__init__()
        self.deep_supervision = settings.deep_supervision
        f, dims = settings.features, settings.dims
        self.encoder = nn.ModuleList(encoder)
        levels = range(len(f) - 1)
        self.up = nn.ModuleList(
            _TRANSPOSED[dims](f[s + 1], f[s], stride, stride, bias=settings.up_bias)
            for s, stride in zip(levels, settings.strides[1:], strict=True)
        )
        one = (1,) * dims
        self.decoder = nn.ModuleList(
            convs(dims, settings.convs_decoder[s], 2 * f[s], f[s], settings.kernels[s], one) for s in levels
        )
        # as in nnU-Net the lowest decoder stage is not supervised: its map is too coarse to teach
        heads = range(max(1, len(f) - 2)) if settings.deep_supervision else range(1)
        self.heads = nn.ModuleList(CONV[dims](f[s], settings.classes, 1) for s in heads)
        self.apply(initialise)

    def forward(self, x: Tensor) -> Tensor | list[Tensor]:
        """See the class."""
        skips: list[Tensor] = []
        for stage in self.encoder:
            x = stage(x)
            skips.append(x)
        logits: list[Tensor] = []
        for s in reversed(range(len(self.decoder))):
            x = self.decoder[s](torch.cat([self.up[s](x), skips[s]], dim=1))
            if s == 0 or (self.training and s < len(self.heads)):
                logits.insert(0, self.heads[s](x))
        if not self.decoder:  # a patch too small to halve
            logits = [self.heads[0](x)]
        return logits if self.training and self.deep_supervision else logits[0]


def plain_encoder(settings: NetworkSettings) -> list[nn.Module]:
    """Stages of plain convolutions, the first of each with the stride."""
    inputs = (settings.in_channels, *settings.features[:-1])
    stages = zip(settings.convs_encoder, inputs, settings.features, settings.kernels, settings.strides, strict=True)
    return [convs(settings.dims, *stage) for stage in stages]


def plain_unet(settings: NetworkSettings) -> UNet:
    """The U-Net whose encoder is plain convolutions."""
    return UNet(settings, plain_encoder(settings))


def initialise(module: nn.Module) -> None:
    """Draw a convolution's weights as suits the activation (He et al. 2015); to be applied to a whole network."""
    if isinstance(module, (nn.Conv2d, nn.Conv3d, nn.ConvTranspose2d, nn.ConvTranspose3d)):
        nn.init.kaiming_normal_(module.weight, a=NEGATIVE_SLOPE)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def resized(x: Tensor, shape: Sequence[int]) -> Tensor:
    """(B, C, ...) linearly interpolated to a map of `shape`."""
    mode = "trilinear" if len(shape) == 3 else "bilinear"
    return x if x.shape[2:] == torch.Size(shape) else functional.interpolate(x, tuple(shape), mode=mode)
