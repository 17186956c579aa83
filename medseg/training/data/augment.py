"""Augmentation: parameters are drawn as a record, then applied, so that any patch can be made again on any device.

Kinds, order, probabilities and ranges are nnU-Net's default (batchgeneratorsv2), except mirroring, which the plan sets,
and that patches are rotated in millimetres. Elastic deformation is off by default, as there.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from medseg.planning.plan import Configuration
from medseg.training.data.gather import Bend, Place, Size, on_device
from medseg.training.data.previous import Change, draw_changes

FLAT = 3.0  # a 3D patch this many times longer than thick is rotated and scaled within its slices alone
OBLONG = 1.5  # a slice this many times longer than wide is rotated by little
BLUR_REACH = 6.0  # standard deviations
_AXES = (1, 2, 3)

Triple = tuple[float, float, float]
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Elastic:
    """A smooth deformation: distance of its points as a share of the patch, the largest displacement as a share of that
    distance (below 0.4 nothing folds: Choi and Lee 2000), and the seed of the displacements.
    """

    distance: float
    reach: float
    seed: int


@dataclass(frozen=True, slots=True)
class Draw:
    """What is done to one patch. None or an empty tuple leaves a step out; axes count R, A, S as 0, 1, 2.

    From blur on there is a value a channel, None where a channel is left as it is. previous: what is done to the
    segmentation of an earlier stage.
    """

    rotate_rad: Triple | None = None
    scale: Triple | None = None
    elastic: Elastic | None = None
    mirror: tuple[int, ...] = ()
    noise_sd: float | None = None
    noise_seed: int = 0
    blur_sigma: tuple[Triple | None, ...] = ()
    brightness: tuple[float | None, ...] = ()
    contrast: tuple[float | None, ...] = ()
    low_resolution: tuple[Triple | None, ...] = ()
    gamma_inverted: tuple[float | None, ...] = ()
    gamma: tuple[float | None, ...] = ()
    previous: tuple[Change, ...] = ()


def draw(rng: np.random.Generator, configuration: Configuration, elastic: float = 0.0) -> Draw:
    """One patch's augmentation; `elastic` is the probability of an elastic deformation."""
    patch, flat = configuration.patch, flat_axis(configuration)
    channels = len(configuration.preprocessing.channels)
    numbers = evenly(rng)

    def chance(p: float) -> bool:
        return next(numbers) < p

    def between(low: float, high: float) -> float:
        return low + (high - low) * next(numbers)

    def about_one(low: float, high: float) -> float:
        return between(low, 1) if chance(0.5) else between(1, high)

    def of_each(p: float, one: Callable[[], float]) -> tuple[float, ...]:
        return tuple(one() for _ in range(channels)) if chance(p) else ()

    def of_half(p: float, one: Callable[[], Triple]) -> tuple[Triple | None, ...]:
        return tuple(one() if chance(0.5) else None for _ in range(channels)) if chance(p) else ()

    def angles() -> Triple:
        most = most_rotation(configuration)
        x, y, z = (between(-most, most) if flat in (None, axis) else 0.0 for axis in range(3))
        return x, y, z

    def in_slices(value: float) -> Triple:
        x, y, z = (1.0 if axis == flat else value for axis in range(3))
        return x, y, z

    def sigmas() -> Triple:
        x, y, z = (between(0.5, 1) if n > 1 else 0.0 for n in patch)
        return x, y, z

    return Draw(
        rotate_rad=angles() if chance(0.2) else None,
        scale=in_slices(between(0.7, 1.4)) if chance(0.2) else None,
        elastic=Elastic(between(0.1, 0.25), between(0, 0.4), int(between(0, 2**31))) if chance(elastic) else None,
        mirror=tuple(axis for axis in configuration.schedule.mirror_axes if chance(0.5)),
        noise_sd=between(0, 0.1) if chance(0.1) else None,
        noise_seed=int(between(0, 2**31)),
        blur_sigma=of_half(0.2, sigmas),
        brightness=of_each(0.15, lambda: about_one(0.75, 1.25)),
        contrast=of_each(0.15, lambda: about_one(0.75, 1.25)),
        low_resolution=of_half(0.25, lambda: in_slices(between(0.5, 1))),
        gamma_inverted=of_each(0.1, lambda: about_one(0.7, 1.5)),
        gamma=of_each(0.3, lambda: about_one(0.7, 1.5)),
        previous=draw_changes(rng, configuration.network.in_channels - channels),
    )


def evenly(rng: np.random.Generator) -> Iterator[float]:
    """Numbers from 0 up to 1; drawn many at a time, since a batch of slices needs thousands."""
    while True:
        yield from rng.random(32).tolist()


def flat_axis(configuration: Configuration) -> int | None:
    """The axis across which nothing is rotated or scaled: that of the slices, or the thin one of a flat 3D patch."""
    patch = configuration.patch
    if configuration.slice_axis is not None:
        return configuration.slice_axis
    return int(np.argmin(patch)) if max(patch) > FLAT * min(patch) else None


def most_rotation(configuration: Configuration) -> float:
    """Radians either way, about each axis, or about the one across a flat patch."""
    if flat_axis(configuration) is None:
        return math.radians(30)
    within = [n for axis, n in enumerate(configuration.patch) if axis != configuration.slice_axis]
    oblong = configuration.slice_axis is not None and max(within) > OBLONG * min(within)
    return math.radians(15 if oblong else 180)


def place_of(centre: Size, how: Draw, spacing_mm: Triple, patch: Size) -> Place:
    """Where the scan is read for a patch about `centre`."""
    if how.rotate_rad is None and how.scale is None and how.elastic is None:
        return Place(centre, None, how.mirror)
    bend = None if how.elastic is None else bend_of(how.elastic, patch)
    return Place(centre, sampling_matrix(how, spacing_mm), how.mirror, bend)


def sampling_matrix(how: Draw, spacing_mm: Triple) -> Floats:
    """(3, 3): from an offset to the patch's centre, in voxels, to the offset where the scan is read."""
    matrix = np.eye(3)
    for axis, angle in enumerate(how.rotate_rad or ()):
        if angle:
            matrix = matrix @ _about(axis, angle)
    mm, scale = np.array(spacing_mm), np.array(how.scale or (1.0, 1.0, 1.0))
    turned: Floats = matrix * mm / mm[:, None] / scale
    return turned


def _about(axis: int, angle: float) -> Floats:
    matrix = np.eye(3)
    a, b = (k for k in range(3) if k != axis)
    matrix[[a, a, b, b], [a, b, a, b]] = np.cos(angle), -np.sin(angle), np.sin(angle), np.cos(angle)
    return matrix


def bend_of(how: Elastic, patch: Size) -> Bend:
    """Uniform displacements at the points of a grid, between them cubic B-splines (Rueckert et al. 1999).

    None along an axis of one voxel.
    """
    distances = [max(how.distance * n, 1.0) for n in patch]
    shares = [_spline(n, distance) for n, distance in zip(patch, distances, strict=True)]
    size = [share.shape[1] for share in shares]
    most = [how.reach * distance if n > 1 else 0.0 for n, distance in zip(patch, distances, strict=True)]
    points = np.random.default_rng(how.seed).uniform(-1, 1, (3, *size)) * np.reshape(most, (3, 1, 1, 1))
    return Bend(points, (shares[0], shares[1], shares[2]))


def _spline(n: int, distance: float) -> Floats:
    """(n, points): the cubic B-spline of each point at each of `n` voxels."""
    points = np.arange(-1, int((n - 1) / distance) + 3)
    far = np.abs(np.arange(n)[:, None] / distance - points)
    near: Floats = np.where(far < 1, 2 / 3 - far**2 + far**3 / 2, np.clip(2 - far, 0, None) ** 3 / 6)
    return near


def change(image_BCXYZ: Tensor, draws: Sequence[Draw]) -> None:
    """Change the intensities of a contiguous batch in place, as each patch's `Draw` says; all of a kind together."""
    channels, patch = image_BCXYZ.shape[1], image_BCXYZ.shape[2:]
    rows = image_BCXYZ.view(-1, *patch)
    for k, how in enumerate(draws):
        if how.noise_sd is not None:
            _add_noise(image_BCXYZ[k], how.noise_sd, how.noise_seed)
    for kind, applied in _KINDS.items():
        values = {
            k * channels + c: value
            for k, how in enumerate(draws)
            for c, value in enumerate(getattr(how, kind))
            if value is not None
        }
        if values:
            at = on_device(np.array(list(values)), rows.device)
            rows.index_copy_(0, at, applied(rows.index_select(0, at), np.array(list(values.values()))))


def _add_noise(image_CXYZ: Tensor, sd: float, seed: int) -> None:
    """Drawn on the image's device, by the seed alone."""
    generator = torch.Generator(image_CXYZ.device).manual_seed(seed)
    image_CXYZ.add_(torch.randn(image_CXYZ.shape, generator=generator, device=image_CXYZ.device), alpha=sd)


def _blurred(rows: Tensor, sigmas: Floats) -> Tensor:
    """Gaussian, the border repeated; each row by its SD along each axis."""
    return _along_axes(rows, [[_gaussian(n, s) for s in sigmas[:, a]] for a, n in enumerate(rows.shape[1:])])


def _coarse(rows: Tensor, shares: Floats) -> Tensor:
    """As if scanned with fewer voxels: the nearest of them are kept, and interpolated linearly."""
    return _along_axes(rows, [[_fewer(n, s) for s in shares[:, a]] for a, n in enumerate(rows.shape[1:])])


def _along_axes(rows_RXYZ: Tensor, matrices: Sequence[Sequence[Floats]]) -> Tensor:
    """Each row times its matrix (n, n) along each axis."""
    for axis, sides in enumerate(matrices):
        if rows_RXYZ.shape[axis + 1] > 1:
            matrix = on_device(np.stack(sides).astype(np.float32), rows_RXYZ.device)
            rows_RXYZ = torch.einsum(("rax,rxyz->rayz", "ray,rxyz->rxaz", "raz,rxyz->rxya")[axis], matrix, rows_RXYZ)
    return rows_RXYZ


def _gaussian(n: int, sigma: float) -> Floats:
    matrix = np.zeros((n, n))
    if sigma <= 0:
        return np.eye(n)
    radius = int(BLUR_REACH * sigma + 0.5)
    steps = np.arange(-radius, radius + 1)
    kernel = np.exp(-0.5 * (steps / sigma) ** 2)
    at = np.arange(n)[:, None]
    np.add.at(matrix, (np.broadcast_to(at, (n, steps.size)), np.clip(at + steps, 0, n - 1)), kernel / kernel.sum())
    return matrix


def _fewer(n: int, share: float) -> Floats:
    m = max(1, round(n * share))
    kept = ((np.arange(m) + 0.5) * n / m).astype(int)
    at = np.clip((np.arange(n) + 0.5) * m / n - 0.5, 0, m - 1)
    low = np.minimum(at.astype(int), max(m - 2, 0))
    matrix = np.zeros((n, n))
    np.add.at(matrix, (np.arange(n), kept[low]), 1 - (at - low))
    np.add.at(matrix, (np.arange(n), kept[np.minimum(low + 1, m - 1)]), at - low)
    return matrix


def _per_row(values: Floats, rows: Tensor) -> Tensor:
    return on_device(values.astype(np.float32).reshape(-1, 1, 1, 1), rows.device)


def _brighter(rows: Tensor, factors: Floats) -> Tensor:
    return rows * _per_row(factors, rows)


def _contrasted(rows: Tensor, factors: Floats) -> Tensor:
    """About the mean; the range is kept."""
    low, high = rows.amin(_AXES, keepdim=True), rows.amax(_AXES, keepdim=True)
    mean = rows.mean(_AXES, keepdim=True)
    return ((rows - mean) * _per_row(factors, rows) + mean).clamp(low, high)


def _inverted_gamma(rows: Tensor, gammas: Floats) -> Tensor:
    return -_gamma(-rows, gammas)


def _gamma(rows: Tensor, gammas: Floats) -> Tensor:
    """Gamma on each row's range; its mean and SD are kept."""
    low, high = rows.amin(_AXES, keepdim=True), rows.amax(_AXES, keepdim=True)
    bent = ((rows - low) / (high - low).clamp_min(1e-7)).pow(_per_row(gammas, rows))
    _, before = _centred(rows)
    mean = rows.mean(_AXES, keepdim=True)
    about_zero, after = _centred(bent)
    return about_zero * (before / after.clamp_min(1e-7)) + mean


def _centred(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Rows less their means, and their SDs (on a CPU several times faster than torch's `std`)."""
    centred = rows - rows.mean(_AXES, keepdim=True)
    return centred, centred.square().mean(_AXES, keepdim=True).sqrt()


_KINDS: dict[str, Callable[[Tensor, Floats], Tensor]] = {
    "blur_sigma": _blurred,
    "brightness": _brighter,
    "contrast": _contrasted,
    "low_resolution": _coarse,
    "gamma_inverted": _inverted_gamma,
    "gamma": _gamma,
}
