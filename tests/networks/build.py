"""Small networks of every kind, and patches that they must take."""

from __future__ import annotations

from medseg.networks.table import NETWORKS
from medseg.networks.topology import SUPERVISED, Kind, NetworkSettings
from medseg.planning.architecture import network_for
from medseg.planning.families import FAMILIES

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


LAYOUT_KEPT: tuple[Kind, ...] = ("unet", "resenc", "deeplab", "fcn")  # and levels as the spacing asks


def _settings(kind: Kind, kernels: Stages, strides: Stages) -> NetworkSettings:
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
        deep_supervision=kind in SUPERVISED,
    )


SETTINGS: dict[str, NetworkSettings] = {}
PATCHES: dict[str, list[tuple[int, ...]]] = {}
for kind in NETWORKS:
    if kind in LAYOUT_KEPT:
        for shape, made in _SHAPES.items():
            name = shape if kind == "unet" else f"{kind} {shape}"
            SETTINGS[name], PATCHES[name] = _settings(kind, *made), _PATCHES[shape]
        continue
    (family,) = (f for f in FAMILIES.values() if f.kind == kind)
    for dims in (2, 3):
        settings, patch = network_for((1.0,) * dims, (1.0,) * dims, 2, 3, family, 8)
        other = (patch[-1], *patch[1:-1], patch[0])
        SETTINGS[f"{kind} {dims}d"] = settings
        PATCHES[f"{kind} {dims}d"] = [patch] if settings.patch else [patch, other]
FEW = {name: settings for name, settings in SETTINGS.items() if name in ("2d", "3d") or name[-3:] in (" 2d", " 3d")}
