"""CT that is not in Hounsfield units: an intercept that was left out or applied twice, a slope that was left out."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence

import numpy as np
import numpy.typing as npt

from medseg.imaging.finding import Finding
from medseg.planning.checks.outliers import FEWEST
from medseg.planning.fingerprint import CaseFingerprint, Sketch, Whole
from medseg.planning.scan_values import PERCENTILES
from medseg.preprocessing.settings import is_ct

Floats = npt.NDArray[np.float64]

AIR_HU = -500.0  # below it lies no tissue but lung
INTERCEPT = 1024.0  # scanners store HU + 1024
OFFSET = 500.0  # no contrast agent, no bone moves the bulk of a scan as far
SLOPE = 3.0
NO_AIR = -200.0  # a scan that has nothing below it lies within the body: its values spread less than those of others
STORED_TISSUE = (850.0, 1400.0)  # fat, organs and blood with an intercept of -1024 left out
PICTURE = (0.0, 255.0)  # the values of a scan that was made for looking at
NORMALISED = 50.0  # the noise of a CT alone spreads farther
_TODO = "export it again with its rescale slope and intercept applied, or leave it out"


def not_hounsfield(cases: Sequence[CaseFingerprint]) -> Iterator[Finding]:
    """CT channels whose values cannot be HU, or are shifted or scaled beside those of the other cases."""
    cases = [case for case in cases if case.whole]
    for channel in range(min((len(case.whole) for case in cases), default=0)):
        if not _is_ct(cases, channel):
            continue
        alone = {
            k: words for k, case in enumerate(cases) if (words := _alone(case.whole[channel], case.channels[channel]))
        }
        said = {**alone, **_beside_others(cases, channel, alone)}
        if len(said) > len(cases) / 2:
            first = min(said)
            yield _finding("", f"in {len(said)} of {len(cases)} cases, as in {cases[first].case}: {said[first]}")
        else:
            yield from (_finding(cases[k].case, what) for k, what in said.items())


def _finding(case: str, what: str) -> Finding:
    return Finding(case=case, code="hu", what=what, how_bad="suspect", todo=_TODO)


def _is_ct(cases: Sequence[CaseFingerprint], channel: int) -> bool:
    """By its name; where nothing names it, by air at -1000 in most cases."""
    name = cases[0].modalities[channel] if cases[0].modalities else ""
    if name and not name.isdecimal():
        return is_ct(name)
    air = [-1200 < case.whole[channel].percentiles[0] < -900 for case in cases]
    return len(cases) >= FEWEST and float(np.mean(air)) > 0.8


def _beside_others(cases: Sequence[CaseFingerprint], channel: int, wrong: Collection[int]) -> dict[int, str]:
    """What is odd about the cases, by their place, whose scan and labelled voxels alike differ from those of others.

    `wrong`: those that are known not to be in HU, with which no other is compared.
    """
    right = np.array([k not in wrong for k in range(len(cases))])
    if right.sum() < FEWEST:
        return {}
    wholes, sketches = [c.whole[channel] for c in cases], [c.channels[channel] for c in cases]
    top = _less_median(np.array([w.percentiles[PERCENTILES.index(95)] for w in wholes]), right)
    middle = _less_median(np.array([_quantile(s, 50) for s in sketches]), right)
    span = _less_median(np.log([max(w.percentiles[-1] - w.percentiles[0], 1e-6) for w in wholes]), right)
    spread = _less_median(np.log([max(_quantile(s, 95) - _quantile(s, 5), 1e-6) for s in sketches]), right)
    said = {}
    for k, whole in enumerate(wholes):
        if _both(top[k], middle[k], OFFSET):
            usual = f"{abs(top[k]):.0f} HU {'above' if top[k] > 0 else 'below'} those of the other cases"
            said[k] = f"its values lie about {usual}{_why(top[k])}"
        elif _both(span[k], spread[k], float(np.log(SLOPE))) and (span[k] > 0 or _shows_air(whole)):
            said[k] = (
                f"its values, from {whole.low:g} to {whole.high:g}, spread {np.exp(span[k]):.2g} times as far as those "
                "of the other cases, as where a rescale slope was left out"
            )
    return said


def _shows_air(whole: Whole) -> bool:
    """False for a scan within the body; one without any value below 0 has lost its unit, as the fat there shows."""
    return whole.low >= 0 or whole.percentiles[0] < NO_AIR


def _both(scan: float, labelled: float, least: float) -> bool:
    """True if the scan is off, and so are its labelled voxels, to the same side, if there are any."""
    return abs(scan) > least and (np.isnan(labelled) or labelled * np.sign(scan) > least)


def _why(shift: float) -> str:
    if abs(abs(shift) - INTERCEPT) > 150:
        return ""
    done = "left out" if shift > 0 else "applied twice"
    return f", as where the rescale intercept of -1024 was {done}"


def _alone(whole: Whole, labelled: Sketch) -> str:
    """What shows without any other case that values are no HU."""
    if whole.low == whole.high:
        return ""
    if (whole.low, whole.high) == PICTURE or whole.high - whole.low < NORMALISED:
        return f"its values run from {whole.low:g} to {whole.high:g}: they are no HU"
    if whole.percentiles[-1] < AIR_HU:
        most = f"nearly all its values lie below {whole.percentiles[-1]:.0f}, where there is only air"
        return f"{most}, as where the rescale intercept of -1024 was applied twice"
    padded = whole.percentiles[PERCENTILES.index(25)] > AIR_HU / 2 and _is_stored_tissue(_quantile(labelled, 50))
    if (whole.low > AIR_HU / 2 or padded) and sum(map(_is_stored_tissue, whole.percentiles)) >= 2:
        least = f"its lowest value is {whole.low:g}, and most tissue lies at about {whole.percentiles[-2]:g}"
        return f"{least}, as where the rescale intercept of -1024 was left out"
    return ""


def _is_stored_tissue(value: float) -> bool:
    return STORED_TISSUE[0] <= value <= STORED_TISSUE[1]


def _quantile(sketch: Sketch, percent: int) -> float:
    return sketch.quantiles[2 * percent] if sketch.voxels else float("nan")


def _less_median(values: Floats, right: npt.NDArray[np.bool_]) -> Floats:
    """The values less the median of those that are `right` and known."""
    known = values[right & ~np.isnan(values)]
    return np.asarray(values - (np.median(known) if known.size else 0.0))
