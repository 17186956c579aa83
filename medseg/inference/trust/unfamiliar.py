"""What is unlike the training scans about a new one, in plain sentences, each with how much it is beyond the limit."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from medseg.inference.trust.familiar import (
    CLOUDS,
    NOISE,
    SIDES,
    Familiar,
    Learned,
    clouds_of,
    counts,
    scores_of,
    template_of,
)
from medseg.inference.trust.features import INTENSITIES, LEVELS, SLICES, TEXTURE, Features, Floats, Seen, features_of
from medseg.inference.trust.likeness import Shape, correlation
from medseg.inference.trust.records import Oddity
from medseg.planning.plan import AXES

SPACING, SIZE, TILT_DEG = 1.2, 1.25, 10.0  # beyond what training scans had by these factors, and by this angle


def unfamiliar(familiar: Familiar, scan: Seen) -> tuple[Oddity, ...]:
    """All that is odd about a prepared scan, the oddest first; nothing of a scan like the training scans.

    A scan may be larger than they were: then its part counts that looks most like them.
    """
    seen = features_of(scan, familiar.frame)
    found = [*_geometry(familiar, seen), *_looks(familiar.learned, seen)]
    return tuple(sorted(found, key=lambda one: -one.times))


def _geometry(familiar: Familiar, seen: Features) -> Iterator[Oddity]:
    lows, highs = familiar.spacing_low_mm, familiar.spacing_high_mm
    times = [max(low / mm, mm / high) / SPACING for mm, low, high in zip(seen.spacing_mm, lows, highs, strict=True)]
    if max(times) > 1:
        axis = int(np.argmax(times))
        usual = _between(lows[axis], highs[axis], "mm")
        what = f"its voxels are {seen.spacing_mm[axis]:.3g} mm {AXES[axis]}, those of the training scans {usual}"
        yield _oddity("spacing", what, max(times))
    times = [low / mm / SIZE for mm, low in zip(seen.size_mm, familiar.size_low_mm, strict=True)]
    if max(times) > 1:
        axis = int(np.argmax(times))
        what = f"its field of view is {seen.size_mm[axis]:.0f} mm {AXES[axis]}"
        what += f", that of the training scans at least {familiar.size_low_mm[axis]:.0f} mm"
        yield _oddity("field of view", what, max(times))
    if seen.tilt_deg > familiar.tilt_high_deg + TILT_DEG:
        what = f"its axes are turned by {seen.tilt_deg:.0f} degrees from the patient's"
        what += f", those of the training scans by at most {familiar.tilt_high_deg:.0f}"
        yield _oddity("orientation", what, seen.tilt_deg / (familiar.tilt_high_deg + TILT_DEG))


def _looks(learned: Learned | None, seen: Features) -> Iterator[Oddity]:
    if learned is None:
        return
    scores = scores_of(learned, seen)
    times = {name: learned.usual[name].times(score) for name, score in scores.items() if counts(name, score)}
    shapes = clouds_of(learned)
    for name in CLOUDS:
        if times[name] > 1:
            yield _oddity(name, _SAID[name](shapes[name], getattr(seen, name)), times[name])
    if times[NOISE] > 1:
        usual = math.exp(scores[NOISE] - learned.usual[NOISE].middle)
        yield _oddity(NOISE, f"it holds {usual:.2g} times the usual noise", times[NOISE])
    placed = max(times.get(name, 0.0) for name in ("anatomy", *SIDES))
    if placed > 1:
        yield _oddity("anatomy", _anatomy(learned, seen), placed)


def _intensities(shape: Shape, numbers: Floats) -> str:
    channel, which = divmod(int(np.abs(shape.scaled(numbers)).argmax()), INTENSITIES)
    away = shape.scaled(numbers)[channel * INTENSITIES + which]
    what = f"its intensities{_of(channel, numbers, INTENSITIES)} are spread otherwise than in the training scans"
    side = "above" if away > 0 else "below"
    return f"{what} (their {LEVELS[which]} % point is {abs(away):.1f} SD {side} the usual): another contrast?"


def _texture(shape: Shape, numbers: Floats) -> str:
    channel = int(np.abs(shape.scaled(numbers)).argmax()) // TEXTURE
    of = _of(channel, numbers, TEXTURE)
    return f"its sharpness or noise{of} is not that of the training scans: other voxels, another kernel, a filter?"


def _slices(shape: Shape, numbers: Floats) -> str:
    away = shape.scaled(numbers)
    at = int(np.abs(away).argmax())
    channel, axis = divmod(at, SLICES)
    here, usual = math.tanh(float(np.nan_to_num(numbers)[at])), math.tanh(float(shape.mean[at]))
    what = f"its neighbouring slices {AXES[axis]}{_of(channel, numbers, SLICES)} are"
    if away[at] > 0:
        return f"{what} more alike than usual (correlation {here:.2f}, usually {usual:.2f}): repeated or smoothed?"
    return f"{what} less alike than usual (correlation {here:.2f}, usually {usual:.2f}): out of order, missing, noisy?"


_SAID = {"intensities": _intensities, "texture": _texture, "slices": _slices}


def _anatomy(learned: Learned, seen: Features) -> str:
    """Whether it would look usual if it was mirrored or inverted; else just that it is unlike."""
    template = template_of(learned, len(seen.coarse_CXYZ))
    here = correlation(seen.coarse_CXYZ, template)
    others = {axis: correlation(np.flip(seen.coarse_CXYZ, k + 1), template) for k, axis in enumerate(AXES)}
    best = max(others, key=others.__getitem__)
    usual = math.tanh(-learned.usual["anatomy"].middle)
    if max(others[best], -here) > max(here, 0.5 * usual):
        if others[best] >= -here:
            told = f"correlation with their mean {others[best]:.2f}, and {here:.2f} as it is"
            return f"it looks {best} mirrored: so it would be like the training scans ({told})"
        return f"its contrast looks inverted: its correlation with the mean of the training scans is {here:.2f}"
    told = f"correlation with their mean {here:.2f}, usually {usual:.2f}"
    return f"it shows something else than the training scans, or lies otherwise ({told})"


def _of(channel: int, numbers: Floats, each: int) -> str:
    return f" in channel {channel}" if len(numbers) > each else ""


def _between(low: float, high: float, unit: str) -> str:
    return f"{low:.3g} {unit}" if high - low < 0.005 * high else f"{low:.3g} to {high:.3g} {unit}"


def _oddity(code: str, what: str, times: float) -> Oddity:
    return Oddity(code=code, what=what, times=round(times, 3))
