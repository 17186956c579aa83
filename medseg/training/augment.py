"""Augmentation: parameters are drawn as a record, then applied, so that any patch can be made again.

Kinds, order, probabilities and ranges are nnU-Net's default (batchgeneratorsv2), except mirroring, which the plan sets.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

ROTATE_DEG_3D, ROTATE_DEG_2D = 30.0, 180.0


@dataclass(frozen=True, slots=True)
class Draw:
    """What is done to one patch. None leaves a step out; axes count R, A, S as 0, 1, 2."""

    rotate_rad: tuple[float, float, float] | None = None
    scale: float | None = None
    mirror: tuple[int, ...] = ()
    noise_sd: float | None = None
    noise_seed: int = 0
    blur_sigma: tuple[float, float, float] | None = None
    brightness: float | None = None
    contrast: float | None = None
    low_resolution: float | None = None
    gamma_inverted: float | None = None
    gamma: float | None = None

    @property
    def moves(self) -> bool:
        """True if voxels change their place by interpolation."""
        return self.rotate_rad is not None or self.scale is not None


def draw(rng: np.random.Generator, slice_axis: int | None, mirror_axes: tuple[int, ...]) -> Draw:
    """One patch's augmentation; a 2D patch is rotated within its slice only."""

    def chance(p: float) -> bool:
        return bool(rng.random() < p)

    return Draw(
        rotate_rad=_angles(rng, slice_axis) if chance(0.2) else None,
        scale=float(rng.uniform(0.7, 1.4)) if chance(0.2) else None,
        mirror=tuple(axis for axis in mirror_axes if chance(0.5)),
        noise_sd=float(rng.uniform(0, 0.1)) if chance(0.1) else None,
        noise_seed=int(rng.integers(2**31)),
        blur_sigma=_sigmas(rng, slice_axis) if chance(0.1) else None,
        brightness=_about_one(rng, 0.75, 1.25) if chance(0.15) else None,
        contrast=_about_one(rng, 0.75, 1.25) if chance(0.15) else None,
        low_resolution=float(rng.uniform(0.5, 1)) if chance(0.125) else None,
        gamma_inverted=_about_one(rng, 0.7, 1.5) if chance(0.1) else None,
        gamma=_about_one(rng, 0.7, 1.5) if chance(0.3) else None,
    )


def _angles(rng: np.random.Generator, slice_axis: int | None) -> tuple[float, float, float]:
    most = np.deg2rad(ROTATE_DEG_3D if slice_axis is None else ROTATE_DEG_2D)
    x, y, z = (float(a) if slice_axis in (None, axis) else 0.0 for axis, a in enumerate(rng.uniform(-most, most, 3)))
    return x, y, z


def _sigmas(rng: np.random.Generator, slice_axis: int | None) -> tuple[float, float, float]:
    x, y, z = (0.0 if axis == slice_axis else float(s) for axis, s in enumerate(rng.uniform(0.5, 1, 3)))
    return x, y, z


def _about_one(rng: np.random.Generator, low: float, high: float) -> float:
    return float(rng.uniform(low, 1) if rng.random() < 0.5 else rng.uniform(1, high))


def sampling_matrix(how: Draw, spacing_mm: tuple[float, float, float]) -> npt.NDArray[np.float64]:
    """(3, 3): from an offset to the patch's centre, in voxels, to the offset where the scan is read."""
    x, y, z = how.rotate_rad or (0.0, 0.0, 0.0)
    rotation = _about(0, x) @ _about(1, y) @ _about(2, z)
    mm = np.diag(spacing_mm)
    turned: npt.NDArray[np.float64] = np.linalg.inv(mm) @ rotation @ mm / (how.scale or 1.0)
    return turned


def _about(axis: int, angle: float) -> npt.NDArray[np.float64]:
    matrix = np.eye(3)
    a, b = (k for k in range(3) if k != axis)
    matrix[[a, a, b, b], [a, b, a, b]] = np.cos(angle), -np.sin(angle), np.sin(angle), np.cos(angle)
    return matrix


def changed(image_CXYZ: Tensor, how: Draw) -> Tensor:
    """The patch's intensities as `how` says; a new tensor."""
    image = image_CXYZ.clone()
    if how.noise_sd is not None:
        generator = torch.Generator().manual_seed(how.noise_seed)
        image += how.noise_sd * torch.randn(image.shape, generator=generator)
    if how.blur_sigma is not None:
        image = _blurred(image, how.blur_sigma)
    if how.brightness is not None:
        image *= how.brightness
    if how.contrast is not None:
        image = _contrast(image, how.contrast)
    if how.low_resolution is not None:
        image = _coarse(image, how.low_resolution)
    if how.gamma_inverted is not None:
        image = -_gamma(-image, how.gamma_inverted)
    if how.gamma is not None:
        image = _gamma(image, how.gamma)
    return image


def _blurred(image: Tensor, sigmas: tuple[float, float, float]) -> Tensor:
    for axis, sigma in enumerate(sigmas):
        if sigma > 0 and image.shape[axis + 1] > 1:
            radius = min(int(4 * sigma + 0.5), image.shape[axis + 1] - 1)
            at = torch.arange(-radius, radius + 1, dtype=torch.float32)
            kernel = torch.exp(-0.5 * (at / sigma) ** 2)
            kernel /= kernel.sum()
            shape, pad = [1, 1, 1, 1, 1], [0] * 6
            shape[axis + 2] = 2 * radius + 1
            pad[4 - 2 * axis] = pad[5 - 2 * axis] = radius
            wide = functional.pad(image.unsqueeze(1), pad, mode="replicate")
            image = functional.conv3d(wide, kernel.view(shape)).squeeze(1)
    return image


def _contrast(image: Tensor, factor: float) -> Tensor:
    low, high = image.amin((1, 2, 3), keepdim=True), image.amax((1, 2, 3), keepdim=True)
    mean = image.mean((1, 2, 3), keepdim=True)
    return ((image - mean) * factor + mean).clamp(low, high)


def _coarse(image: Tensor, share: float) -> Tensor:
    small = [max(1, round(n * share)) for n in image.shape[1:]]
    coarse = functional.interpolate(image.unsqueeze(0), size=small, mode="nearest-exact")
    return functional.interpolate(coarse, size=image.shape[1:], mode="trilinear", align_corners=False).squeeze(0)


def _gamma(image: Tensor, gamma: float) -> Tensor:
    """Gamma on each channel's range; its mean and SD are kept."""
    axes = (1, 2, 3)
    mean, sd = image.mean(axes, keepdim=True), image.std(axes, keepdim=True)
    low = image.amin(axes, keepdim=True)
    span = (image.amax(axes, keepdim=True) - low).clamp_min(1e-7)
    out = ((image - low) / span).pow(gamma) * span + low
    return (out - out.mean(axes, keepdim=True)) / out.std(axes, keepdim=True).clamp_min(1e-7) * sd + mean
