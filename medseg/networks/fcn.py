"""The fully convolutional network in 2D and 3D (Long et al., CVPR 2015, FCN-8s): the baseline without a decoder."""

from __future__ import annotations

from torch import Tensor, nn

from medseg.networks.topology import NetworkSettings
from medseg.networks.unet import CONV, initialise, plain_encoder, resized

ANSWERS = 3  # the coarsest levels, whose answers are added


class Fcn(nn.Module):
    """(B, C, X, Y[, Z]) to logits (B, L, X, Y[, Z]); the patch must be divisible by the product of the strides."""

    def __init__(self, settings: NetworkSettings) -> None:
        super().__init__()
        self.encoder = nn.ModuleList(plain_encoder(settings))
        answering = settings.features[-ANSWERS:]
        self.heads = nn.ModuleList(CONV[settings.dims](f, settings.classes, 1) for f in answering)
        self.apply(initialise)

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        shape, maps = x.shape[2:], []
        for stage in self.encoder:
            x = stage(x)
            maps.append(x)
        logits: Tensor | None = None
        for head, features in reversed(list(zip(self.heads, maps[-len(self.heads) :], strict=True))):
            answer = head(features)
            logits = answer if logits is None else answer + resized(logits, answer.shape[2:])
        return resized(logits, shape)  # type: ignore[arg-type]
