"""Patch, network and batch for a spacing, a scan's shape and a memory: nnU-Net's rules, exactly.

Source: Isensee et al., Nature Methods 2021, and the planners of nnU-Net v2, whose answers are kept as an oracle beside
the tests. Axes are R, A, S (in 2D those of a slice) here and in all results. nnU-Net counts axes as z, y, x of the
stored scan with the coarsest first, and of several equal axes takes the last: so does this, by `_their_order`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from medseg.networks.topology import NetworkSettings
from medseg.networks.work import activations
from medseg.planning.families import UNET, Family

SMALLEST_MAP = 4
START_VOLUME = {2: 2048**2, 3: 256**3}
BASE_FEATURES = 32
MOST_FEATURES = {2: 512, 3: 320}
SMALLEST_BATCH = 2
MUCH_OF_A_SCAN = 0.25  # a patch that holds this share of the median scan sees enough around each voxel
COARSER_BY = 1.03
WORTH_A_STAGE = 2.0  # a low resolution must hold this many times fewer voxels

Refit = Callable[[tuple[float, ...], tuple[int, ...], float], "Fitted"]


@dataclass(frozen=True)
class Fitted:
    """A network, its patch and batch; `activations` is what one patch puts out, `limit` the most that memory allows.

    `activations` is above `limit` only where no smaller patch is left.
    """

    network: NetworkSettings
    patch: tuple[int, ...]
    batch: int
    activations: float
    limit: float


@dataclass(frozen=True)
class LowResolution:
    """A coarser spacing (mm) at which the patch sees enough of a scan, the median shape there, and what fits it."""

    spacing: tuple[float, ...]
    shape: tuple[int, ...]
    fitted: Fitted


def topology(spacing: Sequence[float], patch: Sequence[float]) -> tuple[list[tuple[int, ...]], list[tuple[int, ...]]]:
    """Kernels and strides of each stage: halve the axes whose voxels are within twice the finest, down to 4 voxels."""
    n = len(patch)
    spacing, size = list(spacing), list(patch)
    kernel = [1] * n
    kernels: list[tuple[int, ...]] = []
    strides: list[tuple[int, ...]] = [(1,) * n]
    while True:
        poolable = [a for a in range(n) if size[a] >= 2 * SMALLEST_MAP]
        finest = min((spacing[a] for a in poolable), default=math.nan)
        kept = [a for a in poolable if spacing[a] / finest < 2]
        if not kept or (len(kept) == 1 and size[kept[0]] < 3 * SMALLEST_MAP):
            break
        finest = min(spacing)
        kernel = [3 if spacing[a] / finest < 2 else kernel[a] for a in range(n)]
        kernels.append(tuple(kernel))
        strides.append(tuple(2 if a in kept else 1 for a in range(n)))
        for a in kept:
            spacing[a] *= 2
            size[a] = math.ceil(size[a] / 2)
    kernels.append((3,) * n)
    return kernels, strides


def stages(
    spacing: Sequence[float], patch: Sequence[float], family: Family
) -> tuple[list[tuple[int, ...]], list[tuple[int, ...]]]:
    """Kernels and strides of each stage of the family's network."""
    n = len(patch)
    if family.widths:
        levels = len(family.widths)
        return [(3,) * n] * levels, [(1,) * n] + [(2,) * n] * (levels - 1)
    kernels, strides = topology(spacing, patch)
    return kernels[: family.deepest], strides[: family.deepest]


def divisors(strides: Sequence[Sequence[int]]) -> tuple[int, ...]:
    """What each axis of the patch must be divisible by."""
    return tuple(math.prod(stride[a] for stride in strides) for a in range(len(strides[0])))


def padded(patch: Sequence[float], by: Sequence[int]) -> tuple[int, ...]:
    """The patch rounded up to multiples."""
    return tuple(math.ceil(n / d) * d for n, d in zip(patch, by, strict=True))


def network_for(
    spacing: Sequence[float],
    patch: Sequence[float],
    channels: int,
    classes: int,
    family: Family = UNET,
    base: int = BASE_FEATURES,
) -> tuple[NetworkSettings, tuple[int, ...]]:
    """The family's network for a patch, and the patch padded so that the network can halve it.

    classes: background included. base: features of the first stage of a U-Net, to which other widths are in proportion.
    """
    kernels, strides = stages(spacing, patch, family)
    dims: Literal[2, 3] = 2 if len(patch) == 2 else 3
    by = divisors(strides)
    taken = padded(patch, by)
    if family.widths and taken == by:  # the lowest map would be a single voxel, which no norm can take
        longest = max(range(len(by)), key=lambda a: patch[a])
        taken = tuple((1 + (a == longest)) * n for a, n in enumerate(by))
    n = len(kernels)
    widths = [round(w * base) for w in family.widths] or [min(base * 2**s, MOST_FEATURES[dims]) for s in range(n)]
    network = NetworkSettings(
        kind=family.kind,
        dims=dims,
        in_channels=channels,
        classes=classes,
        features=tuple(widths),
        kernels=tuple(kernels),
        strides=tuple(strides),
        convs_encoder=tuple(family.encoder[min(s, len(family.encoder) - 1)] for s in range(n)),
        convs_decoder=tuple(family.decoder[min(s, len(family.decoder) - 1)] for s in range(n - 1)),
        deep_supervision=family.deep_supervision,
        patch=taken if family.kind == "unetr" else (),
    )
    return network, taken


def start_patch(spacing: Sequence[float], shape: Sequence[float], volume: float | None = None) -> tuple[float, ...]:
    """A patch of equal mm along each axis and of about `volume` voxels, no larger than the median shape.

    A number of it is whole unless it is that of a median shape which is not.
    """
    n = len(shape)
    inverse = 1 / np.array(spacing, dtype=np.float64)
    scale = ((volume or START_VOLUME[n]) / inverse[_their_order(spacing)].prod()) ** (1 / n)
    return tuple(min(max(1, round(float(i * scale))), m) for i, m in zip(inverse, shape, strict=True))


def fit(
    spacing: Sequence[float],
    shape: Sequence[float],
    channels: int,
    classes: int,
    dataset_voxels: float,
    memory_gb: float,
    family: Family = UNET,
) -> Fitted:
    """The largest patch, its network and the batch that `memory_gb` holds by nnU-Net's rule.

    spacing (mm) and shape (`spacing.exact_median_shape`: not rounded) of the network's axes; dataset_voxels: voxels of
    the median scan at the spacing of the 3D network (in 2D as well), times the cases to train on.
    """
    dims = len(shape)
    limit = family.limit(dims, memory_gb)
    network, patch = network_for(spacing, start_patch(spacing, shape), channels, classes, family)
    while activations(network, patch) > limit:
        smaller = _shrunk(spacing, patch, shape, divisors(network.strides), family)
        if smaller is None:
            break
        network, patch = network_for(spacing, smaller, channels, classes, family)
    values = activations(network, patch)
    holds = round(family.reference[dims] * (memory_gb / family.gb) / values * family.reference_batch[dims])
    share = round(dataset_voxels * family.dataset_share / math.prod(patch))
    return Fitted(network, patch, max(SMALLEST_BATCH, min(holds, share)), values, limit)


def _their_order(spacing: Sequence[float]) -> list[int]:
    """Our axes in nnU-Net's order: z, y, x of a RAS scan, of a 3D one the coarsest (of equal ones the first) first."""
    axes = list(range(len(spacing)))[::-1]
    if len(axes) == 2:
        return axes
    coarsest = max(axes, key=lambda a: spacing[a])
    return [coarsest, *(a for a in axes if a != coarsest)]


def _shrunk(
    spacing: Sequence[float], patch: tuple[int, ...], shape: Sequence[float], by: tuple[int, ...], family: Family
) -> tuple[int, ...] | None:
    """The patch with its relatively longest axis shorter by that axis' divisor, re-derived on the reduced size.

    None where every axis is a single voxel or as short as its divisor, or would be in a network of fixed depth.
    """
    able = [a for a in reversed(_their_order(spacing)) if patch[a] > by[a]]
    if not able:
        return None
    axis = max(able, key=lambda a: patch[a] / shape[a])
    trial = list(patch)
    trial[axis] -= by[axis]
    step = divisors(stages(spacing, trial, family)[1])[axis]
    trial[axis] = max(1, patch[axis] - step)
    return None if family.widths and tuple(trial) == by else tuple(trial)


def low_resolution(
    spacing: Sequence[float], shape: Sequence[float], full: Fitted, refit: Refit
) -> LowResolution | None:
    """A low resolution for scans much larger than the full one's patch; None where it is not needed or not worth it.

    Spacing grows in steps of 3 %, first along axes more than twice as fine as the coarsest, then along all, until the
    patch holds a quarter of the median scan. `refit(spacing, shape, voxels)` fits a network anew; `voxels` are those
    of one median scan, unrounded as in nnU-Net.
    """
    fine, here = np.array(spacing, dtype=np.float64), np.array(spacing, dtype=np.float64)
    size = np.array(shape, dtype=np.float64)
    found: LowResolution | None = None
    voxels, held = float(size.prod()), math.prod(full.patch)
    while held / voxels < MUCH_OF_A_SCAN:
        finer = here.max() / here > 2
        here[finer if finer.any() else slice(None)] *= COARSER_BY
        after = fine / here * size
        voxels = float(after.prod())
        coarse = tuple(float(s) for s in here)
        rounded = tuple(max(1, round(float(n))) for n in after)
        found = LowResolution(coarse, rounded, refit(coarse, rounded, voxels))
        held = math.prod(found.fitted.patch)
    return found if size.prod() / voxels >= WORTH_A_STAGE else None


def cascaded(full: Fitted, structures: int) -> Fitted:
    """The full resolution that also reads the low one's segmentation: a channel more for every structure."""
    network = full.network
    channels = network.in_channels + structures
    return replace(full, network=network.model_copy(update={"in_channels": channels}))
