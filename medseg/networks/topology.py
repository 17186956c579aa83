"""What a network is told: a record without torch, decided by planning, carried by the plan and by every model."""

from __future__ import annotations

import math
from typing import Literal, Self

from pydantic import model_validator
from pydantic_core import PydanticCustomError

from medseg.files import Record

Kind = Literal[
    "unet",
    "resenc",
    "deeplab",
    "fcn",
    "attention_unet",
    "unetpp",
    "segresnet",
    "unetr",
    "swin_unetr",
    "mednext",
]
SUPERVISED: frozenset[Kind] = frozenset(("unet", "resenc", "unetpp", "mednext"))


class NetworkSettings(Record):
    """A network's shape. Lists run from full resolution down; 2D networks give two numbers a stage, 3D ones three.

    `strides[0]` is 1 along every axis; `convs_encoder` has an entry a stage, `convs_decoder` one a stage but the last:
    convolutions, or of networks made of blocks (residual, Swin, MedNeXt) those. deep_supervision: of `SUPERVISED`
    alone. patch: the one patch that the network takes, where its weights depend on it (UNETR); else empty. up_bias: the
    transposed convolutions of `unet` and `resenc` have a bias, as nnU-Net's.
    """

    kind: Kind
    dims: Literal[2, 3]
    in_channels: int
    classes: int  # background included
    features: tuple[int, ...]
    kernels: tuple[tuple[int, ...], ...]
    strides: tuple[tuple[int, ...], ...]
    convs_encoder: tuple[int, ...]
    convs_decoder: tuple[int, ...]
    deep_supervision: bool = True
    patch: tuple[int, ...] = ()
    up_bias: bool = False

    @model_validator(mode="after")
    def _has_what_it_is_told(self) -> Self:
        if self.deep_supervision and self.kind not in SUPERVISED:
            raise PydanticCustomError("supervision", "{kind} has no deep supervision", {"kind": self.kind})
        return self


def stage_shapes(patch: tuple[int, ...], strides: tuple[tuple[int, ...], ...]) -> list[tuple[int, ...]]:
    """The feature map's shape at every stage for a `patch` of the network's dimensions."""
    shapes, here = [], patch
    for stride in strides:
        here = tuple(math.ceil(n / s) for n, s in zip(here, stride, strict=True))
        shapes.append(here)
    return shapes
