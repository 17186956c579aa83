"""Small networks of every kind, and patches that they must take."""

from __future__ import annotations

from typing import Any

from medseg.networks.table import NETWORKS
from medseg.networks.topology import NetworkSettings

Stages = tuple[tuple[int, ...], ...]

_SHAPES: dict[str, tuple[Stages, Stages]] = {  # name -> kernels, strides
    "3d": (((3, 3, 3),) * 3, ((1, 1, 1), (2, 2, 2), (2, 2, 2))),
    "3d anisotropic": (((1, 3, 3), (1, 3, 3), (3, 3, 3)), ((1, 1, 1), (1, 2, 2), (2, 2, 1))),
    "3d two stages": (((3, 3, 1), (3, 3, 3)), ((1, 1, 1), (2, 2, 1))),
    "3d one stage": (((3, 3, 3),), ((1, 1, 1),)),
    "2d": (((3, 3),) * 4, ((1, 1), (2, 2), (2, 2), (2, 1))),
    "2d anisotropic": (((3, 1), (3, 3)), ((1, 1), (2, 1))),
}
_PATCHES: dict[str, list[tuple[int, ...]]] = {
    "3d": [(8, 8, 8), (4, 12, 16)],
    "3d anisotropic": [(2, 8, 8), (6, 12, 10)],
    "3d two stages": [(4, 4, 3), (2, 8, 1)],
    "3d one stage": [(3, 4, 5)],
    "2d": [(16, 8), (8, 20)],
    "2d anisotropic": [(4, 3), (10, 7)],
}


def _settings(kind: Any, kernels: Stages, strides: Stages) -> NetworkSettings:
    stages = len(kernels)
    return NetworkSettings(
        kind=kind,
        dims=2 if len(kernels[0]) == 2 else 3,
        in_channels=2,
        classes=3,
        features=tuple(4 * 2**s for s in range(stages)),
        kernels=kernels,
        strides=strides,
        convs_encoder=(2,) * stages,
        convs_decoder=(1,) + (2,) * (stages - 2) if stages > 1 else (),
    )


SETTINGS = {
    (name if kind == "unet" else f"{kind} {name}"): _settings(kind, *shape)
    for kind in NETWORKS
    for name, shape in _SHAPES.items()
}
PATCHES = {name: _PATCHES[name if name in _PATCHES else name.split(" ", 1)[1]] for name in SETTINGS}
