"""What a plan did not choose, what it would cost, and why it was not: so that a reader can judge, and ask for it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from medseg.networks.work import forward_macs
from medseg.planning import explain
from medseg.planning.fingerprint import Fingerprint
from medseg.planning.plan import Alternative, Configuration, Name, Request
from medseg.planning.spacing import ANISOTROPIC, MOST_VOXELS, median_shape, target_spacing
from medseg.planning.volumes import Volumes

ASKED: dict[Name, str] = {
    "2d": "--dims 2d",
    "3d": "--dims 3d",
    "3d_lowres": "--dims lowres",
    "3d_cascade": "--dims cascade",
}


def alternatives(
    fingerprint: Fingerprint,
    request: Request,
    made: Mapping[Name, Configuration],
    chosen: Name,
    sizes: Sequence[Volumes],
) -> list[Alternative]:
    """The other configurations, and another spacing where slices are thick."""
    others = [
        _configuration(made[chosen], other, sizes, request.dims) for name, other in made.items() if name != chosen
    ]
    return others if chosen == "2d" else [*others, *_spacing(fingerprint, request, made["3d"])]


def scan_macs(configuration: Configuration) -> float:
    """Multiply-adds for every voxel of the median scan once: what a pass over the data costs."""
    patch = tuple(n for a, n in enumerate(configuration.patch) if a != configuration.slice_axis)
    share = math.prod(configuration.median_shape) / math.prod(configuration.patch)
    return forward_macs(configuration.network, patch) * share


def _configuration(chosen: Configuration, other: Configuration, sizes: Sequence[Volumes], dims: str) -> Alternative:
    coarse = [s for s in other.preprocessing.spacing_mm if s is not None]
    cost = f"{explain.IN_WORDS[other.name]}, {explain.mm(coarse)}: {_times(scan_macs(other) / scan_macs(chosen))} "
    cost += f"for each scan, {explain.size(other.cost.training_gb)} to train"
    return Alternative(what=ASKED[other.name], cost=cost, why_not=_why_not(chosen, other, sizes, dims))


def _times(ratio: float) -> str:
    return "as much work" if 0.95 <= ratio <= 1.05 else f"{explain.short(ratio)} times the work"


def _why_not(chosen: Configuration, other: Configuration, sizes: Sequence[Volumes], dims: str) -> str:
    """`dims`: what was asked for, `auto` where the data decided."""
    if other.name == "3d_cascade":
        return "it learns from held-out predictions at low resolution, so all folds of that must be trained first"
    if other.name == "2d":
        return "a 2D network cannot see from one slice to the next"
    if chosen.name == "2d":
        return "the scans have too few slices for 3D" if dims == "auto" else "2D was asked for"
    if other.name == "3d_lowres":
        coarse = [s for s in other.preprocessing.spacing_mm if s is not None]
        held = [size for size in sizes if size.cases]
        smallest = min(held, key=lambda size: size.median_ml)
        told = f"{smallest.name} would have {smallest.voxels(coarse):.0f} voxels"
        return f"voxels of {explain.mm(coarse)} hide detail: {told}"
    if dims == "auto":
        return "its patch sees too little of a scan at a time"
    return "the cascade was asked for" if chosen.name == "3d_cascade" else "low resolution was asked for"


def _spacing(fingerprint: Fingerprint, request: Request, full: Configuration) -> Iterator[Alternative]:
    """The other rule of spacing, where slices are more than three times as thick as pixels."""
    stored = np.median([c.spacing_mm for c in fingerprint.cases], axis=0)
    if stored.max() <= ANISOTROPIC * stored.min() or request.spacing not in ("isotropic", "median"):
        return
    other = "median" if request.spacing == "isotropic" else "isotropic"
    spacing, _ = target_spacing(fingerprint, other)
    shape = median_shape(fingerprint, spacing)
    ratio = math.prod(shape) / math.prod(full.median_shape)
    rule = ", nnU-Net's rule" if other == "median" else ""
    cost = (
        f"{explain.mm(spacing)}{rule}: {explain.by(shape)} voxels a scan instead of {explain.by(full.median_shape)}, "
    )
    cost += _times(ratio)
    why_not = "slices stay thick: detail along two axes only, and scans of another thickness are strange to the network"
    if other == "isotropic":
        why_not = f"as asked; it would make up to {MOST_VOXELS:g} times the stored voxels"
    yield Alternative(what=f"--spacing {other}", cost=cost, why_not=why_not)
