"""What a scan looks like in a few hundred numbers: geometry, intensities, sharpness and noise, slices, coarse anatomy.

All is taken from the network's input, once, on evenly spread voxels where there are many. Of a scan that is much larger
than the training scans only the part counts that looks most like them, so that a larger field of view is no oddity.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from medseg.imaging.grid import Grid
from medseg.preprocessing.cache import LoadedCase
from medseg.preprocessing.orientation import turned_numbers
from medseg.preprocessing.prepare import Prepared

Floats = npt.NDArray[np.float64]
Triple = tuple[float, float, float]

CELLS = 10  # of the coarse image, along each axis
WIDER = 1.25  # times the usual size: a scan larger than this is looked at in part
ALONG = 64  # voxels or pairs of voxels along an axis that are looked at
LEVELS = (1, 5, 25, 50, 75, 95, 99)  # per cent
FEWEST_PLANES = 4  # that tell of neighbours
INTENSITIES, TEXTURE, SLICES = len(LEVELS), 4, 3  # numbers a channel
FLAT = 1e-3  # of the SD of differences
_NOISE_OF_MEDIAN = 0.6745  # the median of |x| of a normal distribution of SD 1
_NEVER_1 = 0.999


Seen = Prepared | LoadedCase


@dataclass(frozen=True, eq=False)
class Frame:
    """How scans are looked at: the usual size, the coarse image that a part of a larger one is chosen by (None: its
    middle), and for each channel whether values are comparable between scans (CT), and whether zeros count.
    """

    box_mm: Triple
    template_CXYZ: Floats | None
    absolute: tuple[bool, ...]
    nonzero: tuple[bool, ...]


@dataclass(frozen=True, eq=False)
class Features:
    """A scan, in the axes of the network: its own spacing and size in mm, how far its axes are from the patient's.

    intensities (C x 7): quantiles, in SDs from the mean unless they are comparable as they are. texture (C x 4): log of
    noise, then of the second difference along each axis, over the SD. slices (C x 3): for each axis how much
    neighbouring slices correlate in the median, as arctanh. NaN where nothing tells.
    coarse (C, 10, 10, 10): mean intensities, of mean 0 and norm 1 a channel.
    """

    spacing_mm: Triple
    size_mm: Triple
    tilt_deg: float
    intensities: Floats
    texture: Floats
    slices: Floats
    coarse_CXYZ: Floats


def size_mm(scan: Seen) -> Triple:
    """The size of the network's input."""
    x, y, z = (n * mm for n, mm in zip(scan.image_CXYZ.shape[1:], scan.spacing_mm, strict=True))
    return x, y, z


def is_larger(scan: Seen, frame: Frame) -> bool:
    """Whether only a part of a scan is looked at."""
    return any(size > WIDER * usual for size, usual in zip(size_mm(scan), frame.box_mm, strict=True))


def features_of(scan: Seen, frame: Frame) -> Features:
    """Look at a scan."""
    coarse, parts = _part(scan, frame)
    intensities, texture, slices = [], [], []
    for channel, absolute, nonzero in zip(scan.image_CXYZ, frame.absolute, frame.nonzero, strict=True):
        image = channel[parts]
        mean, sd, levels = _values(image, nonzero)
        scale = 1.0 if absolute else sd
        intensities.append(levels if absolute else (levels - mean) / sd)
        texture.append([np.log(max(v, 1e-3 * scale) / scale) for v in _roughness(image)])
        slices.append(_neighbours(image))
    grid = scan.undo.grid
    whole = turned_numbers(_whole_mm(grid), scan.undo.turn)
    return Features(
        spacing_mm=turned_numbers(grid.spacing_mm, scan.undo.turn),
        size_mm=whole,
        tilt_deg=_tilt_deg(grid),
        intensities=np.concatenate(intensities),
        texture=np.concatenate(texture),
        slices=np.concatenate(slices),
        coarse_CXYZ=unit(coarse),
    )


def unit(coarse_CXYZ: Floats) -> Floats:
    """Each channel with mean 0 and norm 1, so that sums of products are correlations; zeros where all is equal."""
    away = coarse_CXYZ - coarse_CXYZ.mean(axis=(1, 2, 3), keepdims=True)
    norm = np.sqrt((away**2).sum(axis=(1, 2, 3), keepdims=True))
    scaled: Floats = away / np.where(norm > 1e-9, norm, np.inf)
    return scaled


def _whole_mm(grid: Grid) -> Triple:
    x, y, z = (n * mm for n, mm in zip(grid.shape, grid.spacing_mm, strict=True))
    return x, y, z


def _tilt_deg(grid: Grid) -> float:
    """The largest angle between an axis of the scan and the nearest axis of the patient."""
    directions = np.abs(grid.affine[:3, :3]) / np.linalg.norm(grid.affine[:3, :3], axis=0)
    return float(np.degrees(np.arccos(np.clip(directions.max(axis=0).min(), 0.0, 1.0))))


# --- the part that is looked at --------------------------------------------------------------------------------------


def _part(scan: Seen, frame: Frame) -> tuple[Floats, tuple[slice, ...]]:
    """The coarse image (C, 10, 10, 10) of the part that counts, and where that lies in the network's input."""
    shape = scan.image_CXYZ.shape[1:]
    cells = [
        CELLS if size <= WIDER * usual else round(CELLS * size / usual)
        for size, usual in zip(size_mm(scan), frame.box_mm, strict=True)
    ]
    coarse = np.stack([_averaged(channel, cells) for channel in scan.image_CXYZ])
    at = _place(coarse, frame.template_CXYZ)
    found = coarse[(slice(None), *(slice(a, a + CELLS) for a in at))]
    parts = [
        slice(a * n // of, max((a + CELLS) * n // of, a * n // of + 1))
        for a, of, n in zip(at, cells, shape, strict=True)
    ]
    return found, tuple(parts)


def _averaged(image_XYZ: npt.NDArray[Any], cells: Sequence[int]) -> Floats:
    """Means over equally large cells, of about four voxels a cell and axis; a cell may hold parts of voxels."""
    steps = (max(1, n // (4 * of)) for n, of in zip(image_XYZ.shape, cells, strict=True))
    out = image_XYZ[tuple(slice(None, None, step) for step in steps)].astype(np.float64)
    for axis, of in enumerate(cells):
        n = out.shape[axis]
        ends = np.linspace(0, n, of + 1)
        below = np.minimum(ends.astype(np.int64), n - 1)
        sums = np.concatenate([np.zeros_like(out.take([0], axis)), out.cumsum(axis)], axis)
        share = (ends - below).reshape([-1 if a == axis else 1 for a in range(3)])
        sums = sums.take(below, axis) * (1 - share) + sums.take(below + 1, axis) * share
        out = np.diff(sums, axis=axis) * (of / n)
    return out


def _place(coarse_CXYZ: Floats, template_CXYZ: Floats | None) -> tuple[int, ...]:
    """The first cells of the part that correlates most with the template; of the middle without one."""
    room = tuple(n - CELLS for n in coarse_CXYZ.shape[1:])
    if template_CXYZ is None or not any(room):
        return tuple(r // 2 for r in room)
    from scipy.signal import correlate  # few scans are so much larger

    total = np.zeros([r + 1 for r in room])
    ones = np.ones((CELLS,) * 3)
    for channel, template in zip(coarse_CXYZ, template_CXYZ, strict=True):
        away = channel - channel.mean()
        squares = correlate(away**2, ones, "valid") - correlate(away, ones, "valid") ** 2 / ones.size
        total += correlate(away, template, "valid") / np.sqrt(np.maximum(squares, 1e-6 * away.var() * ones.size + 1e-9))
    return tuple(int(a) for a in np.unravel_index(int(total.argmax()), total.shape))


# --- numbers ---------------------------------------------------------------------------------------------------------


def _values(image_XYZ: npt.NDArray[Any], nonzero: bool) -> tuple[float, float, Floats]:
    """Mean, SD (never 0) and quantiles of evenly spread voxels."""
    steps = (max(1, n // ALONG) for n in image_XYZ.shape)
    values = image_XYZ[tuple(slice(None, None, step) for step in steps)].astype(np.float64).reshape(-1)
    values = values[values != 0] if nonzero and values.any() else values
    return float(values.mean()), max(float(values.std()), 1e-6), np.percentile(values, LEVELS)


def _roughness(image_XYZ: npt.NDArray[Any]) -> list[float]:
    """Noise, then how much neighbours differ along each axis, as SDs that noise alone would need; NaN of thin axes.

    Noise from what is left of differences along all axes: edges of anatomy nearly vanish there (as the diagonal
    wavelets of Donoho and Johnstone 1994). Along one axis the second difference tells of sharpness as well.
    """
    axes = [axis for axis, n in enumerate(image_XYZ.shape) if n >= FEWEST_PLANES]
    found = [_spread_of(image_XYZ, dict.fromkeys(axes, (-1, 1)))] if axes else [math.nan]
    found += [_spread_of(image_XYZ, {axis: (1, -2, 1)}) if axis in axes else math.nan for axis in range(3)]
    return found


def _spread_of(image_XYZ: npt.NDArray[Any], weights: dict[int, tuple[int, ...]]) -> float:
    """The robust SD of weighted sums of neighbours along some axes, over that of the weights."""
    of_axis = [weights.get(axis, (1,)) for axis in range(3)]
    room = [n - len(w) + 1 for n, w in zip(image_XYZ.shape, of_axis, strict=True)]
    total = np.zeros(())
    for shifts in itertools.product(*(range(len(w)) for w in of_axis)):
        at = tuple(slice(s, s + n, max(1, n // ALONG)) for s, n in zip(shifts, room, strict=True))
        total = total + math.prod(w[s] for w, s in zip(of_axis, shifts, strict=True)) * image_XYZ[at].astype(np.float64)
    norm = math.prod(math.sqrt(sum(v * v for v in w)) for w in of_axis)
    away = np.abs(total)
    away = away[away > FLAT * away.std()]  # clipped values, as all air of CT, are flat: noise is seen elsewhere
    return float(np.median(away)) / _NOISE_OF_MEDIAN / norm if away.size else 0.0


def _neighbours(image_XYZ: npt.NDArray[Any]) -> list[float]:
    """How neighbouring slices correlate along each axis."""
    found = (_correlations(image_XYZ, axis) for axis in range(3))
    medians = (float(np.median(of_axis)) if of_axis.size else math.nan for of_axis in found)
    return [float(np.arctanh(np.clip(value, -_NEVER_1, _NEVER_1))) for value in medians]


def _correlations(image_XYZ: npt.NDArray[Any], axis: int) -> Floats:
    """Of neighbouring slices along an axis; none of slices that hold one value alone."""
    planes = np.moveaxis(image_XYZ, axis, 0)
    if len(planes) < FEWEST_PLANES:
        return np.empty(0)
    thin = planes[(slice(None), *(slice(None, None, max(1, n // ALONG)) for n in planes.shape[1:]))]
    flat = thin.astype(np.float64).reshape(len(thin), -1)
    flat -= flat.mean(axis=1, keepdims=True)
    norm = np.linalg.norm(flat, axis=1)
    products = (flat[1:] * flat[:-1]).sum(axis=1)
    norms = norm[1:] * norm[:-1]
    return np.asarray(products[norms > 1e-9] / norms[norms > 1e-9])
