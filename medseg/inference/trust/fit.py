"""What held-out cases teach of a configuration: how far its probabilities, its Dice and its volumes can be trusted.

A network tells by its probabilities what Dice to expect (`soft_dice`), and is too sure of it: the error of Dice is some
times the expected one, and this ratio is about the same for good and for bad scans (measured on hippocampus: it holds
from clean scans to noise of the scan's own standard deviation). So one number a structure is fitted, which works with
five cases as with two hundred, and stays monotone far away from the held-out cases.

Intervals are conformal: quantiles of how far other cases were off, each predicted by what the others taught (jackknife;
Vovk et al. 2005, Barber et al. 2021). They are relative to the predicted error, so that a doubtful scan has a wide one.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from medseg.evaluation.case import StructureScore
from medseg.inference.trust.calibration import AS_IT_IS, TEMPERATURES, best_temperature, calibration_error
from medseg.inference.trust.records import CaseTrust, StructureFit, StructureSums, Trust

Floats = npt.NDArray[np.float64]

FEWEST = 5  # errors that an interval is made of
SHRUNK = 5.0  # the ratio of all structures counts as much as so many cases
COVERAGE = 0.9
RARELY = 0.05
LEAST = 0.005  # an error of Dice: below it ratios mean nothing


@dataclass(frozen=True)
class _Found:
    """A structure that was found in a held-out case: what was expected of it, and what it was."""

    soft: float
    dice: float
    volume_ratio: float  # true volume over predicted volume


def fit_trust(cases: Mapping[str, CaseTrust], scores: Sequence[StructureScore]) -> Trust:
    """Learn from held-out cases, by name, and the scores of their predictions; other scores are not looked at."""
    reliability = [case.reliability for case in cases.values() if case.reliability is not None]
    best = best_temperature(reliability)
    of_structure = {name: [s for s in scores if s.structure == name and s.case in cases] for name in _names(cases)}
    found = {name: _found(rows, cases) for name, rows in of_structure.items()}
    every = [one for ones in found.values() for one in ones]
    fits, away = [], []
    for name, rows in of_structure.items():
        away += [abs(error - (1 - one.dice)) for one, error in _left_out(found[name], every)]
        fits.append(_fit(name, found[name], every, rows))
    return Trust(
        cases=len(cases),
        temperature=TEMPERATURES[best],
        ece_before=_short(calibration_error(reliability, AS_IT_IS)),
        ece_after=_short(calibration_error(reliability, best)),
        dice_error=_short(float(np.mean(away))) if len(away) >= FEWEST else None,
        structures=tuple(fits),
    )


def predicted_dice(fit: StructureFit, sums: StructureSums) -> float | None:
    """The Dice to be expected of a structure that was found; None where it was not, or too few cases tell."""
    if fit.ratio is None or sums.soft_dice is None:
        return None
    return 1 - _error(fit.ratio, sums.soft_dice)


def _names(cases: Mapping[str, CaseTrust]) -> list[str]:
    return list(dict.fromkeys(s.structure for case in cases.values() for s in case.structures))


def sums_of(case: CaseTrust, structure: str) -> StructureSums | None:
    """The sums of a structure by its name."""
    return next((s for s in case.structures if s.structure == structure), None)


def _found(rows: Sequence[StructureScore], cases: Mapping[str, CaseTrust]) -> list[_Found]:
    """Of the cases in which a structure was found, with or without right."""
    found = []
    for row in rows:
        sums = sums_of(cases[row.case], row.structure)
        if row.dice is not None and row.volume_pred_ml > 0 and sums is not None and sums.soft_dice is not None:
            found.append(_Found(sums.soft_dice, row.dice, row.volume_ref_ml / row.volume_pred_ml))
    return found


def _ratio(ones: Sequence[_Found], every: Sequence[_Found]) -> float | None:
    """How many times the expected error the true one is: the median, drawn towards that of all structures."""
    if len(every) < FEWEST:
        return None
    whole = float(np.median(_logs(every)))
    if not ones:
        return math.exp(whole)
    own = float(np.median(_logs(ones)))
    return math.exp((len(ones) * own + SHRUNK * whole) / (len(ones) + SHRUNK))


def _logs(ones: Sequence[_Found]) -> list[float]:
    return [math.log(max(1 - one.dice, LEAST) / max(1 - one.soft, LEAST)) for one in ones]


def _error(ratio: float, soft: float) -> float:
    return min(ratio * max(1 - soft, LEAST), 1.0)


def _left_out(ones: Sequence[_Found], every: Sequence[_Found]) -> list[tuple[_Found, float]]:
    """Each one with the error of its Dice as the others predict it; none where they are too few."""
    found = []
    for k, one in enumerate(ones):
        ratio = _ratio([*ones[:k], *ones[k + 1 :]], every)
        if ratio is not None:
            found.append((one, _error(ratio, one.soft)))
    return found


def _fit(
    name: str,
    ones: Sequence[_Found],
    every: Sequence[_Found],
    rows: Sequence[StructureScore],
) -> StructureFit:
    """One structure; where it has too few cases its intervals are those of all structures."""
    pooled = len(ones) < FEWEST
    told = every if pooled else ones
    pairs = _left_out(told, every)
    dice = volume = None
    if len(pairs) >= FEWEST:
        dice = _interval(np.array([max(1 - one.dice, LEAST) / error for one, error in pairs]))
        volume = _interval(np.array([(one.volume_ratio - 1) / error for one, error in pairs]))
    absent = [row for row in rows if row.volume_pred_ml == 0]
    return StructureFit(
        structure=name,
        errors=len(told),
        pooled=pooled,
        ratio=_short(_ratio(ones, every)),
        low=_short(dice[0]) if dice else None,
        high=_short(dice[1]) if dice else None,
        volume_low=_short(volume[0]) if volume else None,
        volume_high=_short(volume[1]) if volume else None,
        coverage=_short(dice[2]) if dice else None,
        dice=_short(float(np.mean([one.dice for one in told]))) if told else None,
        usual=_short(1 - float(np.quantile([error for _, error in pairs], 1 - RARELY))) if pairs else None,
        absent=len(absent),
        absent_rightly=sum(row.status == "both_empty" for row in absent),
    )


def _interval(values: Floats) -> tuple[float, float, float]:
    """The k-th smallest and largest of n values, and the share of further ones between them: 1 - 2 k / (n + 1).

    k is the largest whole number with at least `COVERAGE`; 1 if there is none, and the share is less.
    """
    n = len(values)
    k = max(1, math.floor((n + 1) * (1 - COVERAGE) / 2 + 1e-9))
    ordered = np.sort(values)
    return float(ordered[k - 1]), float(ordered[n - k]), 1 - 2 * k / (n + 1)


def _short(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.5g}")
