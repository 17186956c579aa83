"""The spacing that scans are resampled to, and what their shape is then: isotropic, or nnU-Net's median.

Axes are R, A, S. Source of the median rule: Isensee et al., Nature Methods 2021, and the planner of nnU-Net v2.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from medseg.errors import InputError
from medseg.planning.fingerprint import Fingerprint
from medseg.planning.plan import AXES, Reason
from medseg.preprocessing.prepare import resampled_shape

Numbers = tuple[float, float, float]
Shape = tuple[int, int, int]

ANISOTROPIC = 3.0
MOST_VOXELS = 4.0  # an isotropic target may give the median case at most this many times its stored voxels


def check_spacing(asked: str) -> float | None:
    """The number of mm that was asked for; None for `isotropic` and `median`.

    Raises:
        InputError: `asked` is none of these.
    """
    if asked in ("isotropic", "median"):
        return None
    try:
        mm = float(asked)
    except ValueError:
        mm = math.nan
    if not 0.01 <= mm <= 100:
        raise InputError(f"--spacing {asked} is no spacing", fix="give isotropic, median, or mm between 0.01 and 100")
    return mm


def target_spacing(fingerprint: Fingerprint, asked: str, axes: Sequence[int] = (0, 1, 2)) -> tuple[Numbers, Reason]:
    """The spacing (R, A, S) in mm that scans are resampled to, for `isotropic`, `median`, or a number of mm.

    A 2D network resamples within slices alone: then only `axes` count, and the third number is of no use.

    Raises:
        InputError: `asked` is none of these.
    """
    spacing, reason = _target(fingerprint, asked, axes)
    stored = np.median([c.spacing_mm for c in fingerprint.cases], axis=0)
    numbers = {f"{AXES[a]}: median spacing, mm": float(stored[a]) for a in axes} | reason.numbers
    told: dict[str, object] = {"fields": ("preprocessing.spacing_mm",), "numbers": numbers}
    if len(axes) < 3:
        within = " x ".join(f"{spacing[a]:.3g}" for a in axes)
        told["choice"] = f"{within} mm within each slice; slices as stored"
    return spacing, reason.model_copy(update=told)


def _target(fingerprint: Fingerprint, asked: str, axes: Sequence[int]) -> tuple[Numbers, Reason]:
    mm = check_spacing(asked)
    if mm is None:
        return _median(fingerprint) if asked == "median" else _isotropic(fingerprint, axes)
    return (mm, mm, mm), Reason(topic="spacing", choice=f"{mm:g} mm isotropic", why="as asked")


def _isotropic(fingerprint: Fingerprint, axes: Sequence[int]) -> tuple[Numbers, Reason]:
    spacings = np.array([c.spacing_mm for c in fingerprint.cases])[:, axes]
    finest = float(np.median(spacings.min(axis=1)))
    coarser = (float(np.median(spacings.prod(axis=1))) / MOST_VOXELS) ** (1 / len(axes))
    mm = float(f"{max(finest, coarser):.4g}")
    stored = np.median(spacings, axis=0)
    change = ", ".join(f"{AXES[a]} {_change(float(s), mm)}" for a, s in zip(axes, stored, strict=True))
    why = f"the finest axis of the median case is {finest:.3g} mm"
    if coarser > finest:
        why += f"; coarsened, since more than {MOST_VOXELS:g} times the stored voxels add cost but no detail"
    why += f"; of the median spacing {change}"
    numbers = {
        "finest axis of the median case, mm": finest,
        f"finest with {MOST_VOXELS:g} times the voxels, mm": coarser,
    }
    return (mm, mm, mm), Reason(topic="spacing", choice=f"{mm:.3g} mm isotropic", why=why, numbers=numbers)


def _change(stored: float, mm: float) -> str:
    """What an axis loses or gains."""
    times = stored / mm
    if abs(times - 1) < 0.01:
        return f"{stored:.3g} mm stays"
    told = f"{100 * (1 - times):.0f} % fewer voxels" if times < 1 else f"{times:.2g} times the voxels"
    return f"{stored:.3g} -> {mm:.3g} mm ({told})"


def _median(fingerprint: Fingerprint) -> tuple[Numbers, Reason]:
    spacings = np.array([c.spacing_mm for c in fingerprint.cases])
    shapes = np.median([c.cropped for c in fingerprint.cases], axis=0)
    target = np.percentile(spacings, 50, axis=0)
    coarse = int(target.argmax())
    others = [a for a in range(3) if a != coarse]
    why = "the median of the data set along each axis (nnU-Net's rule)"
    numbers: dict[str, float] = {}
    if target[coarse] > ANISOTROPIC * target[others].max() and shapes[coarse] * ANISOTROPIC < shapes[others].min():
        tenth = float(np.percentile(spacings[:, coarse], 10))
        finer = float(target[others].max())
        target[coarse] = tenth if tenth >= finer else finer + 1e-5
        numbers[f"{AXES[coarse]}: 10th percentile, mm"] = tenth
        why += f"; {AXES[coarse]} takes its 10th percentile, since slices are more than {ANISOTROPIC:g} times as thick"
    x, y, z = (float(t) for t in target)
    choice = f"{x:.3g} x {y:.3g} x {z:.3g} mm"
    return (x, y, z), Reason(topic="spacing", choice=choice, why=why, numbers=numbers)


def exact_median_shape(fingerprint: Fingerprint, spacing_mm: Sequence[float | None]) -> Numbers:
    """Median shape of the cropped cases after resampling; of an even number of cases it may end in a half."""
    shapes = [resampled_shape(c.cropped, c.spacing_mm, spacing_mm) for c in fingerprint.cases]
    x, y, z = (float(np.median([s[a] for s in shapes])) for a in range(3))
    return x, y, z


def median_shape(fingerprint: Fingerprint, spacing_mm: Sequence[float | None]) -> Shape:
    """The same in whole voxels, to be shown; the rules of the network are for the exact one."""
    x, y, z = (round(n) for n in exact_median_shape(fingerprint, spacing_mm))
    return x, y, z


def coarsest_axis(fingerprint: Fingerprint) -> int:
    """The axis (R, A, S) along which cases are sliced: of a single voxel in most, else of the largest median spacing.

    Head-foot where all axes are alike, as in nnU-Net.
    """
    thick = [np.where(np.array(c.shape) == 1, np.inf, c.spacing_mm) for c in fingerprint.cases]
    return 2 - int(np.argmax(np.round(np.median(thick, axis=0), 4)[::-1]))
