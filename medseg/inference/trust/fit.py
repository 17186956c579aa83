"""What held-out cases teach of a configuration: how far its probabilities, its Dice and its volumes can be trusted.

A network tells by its probabilities what Dice to expect (`soft_dice`), and is too sure of it: the error of Dice is some
times the expected one, and this ratio is about the same for good and for bad scans (measured on hippocampus: it holds
from clean scans to noise of the scan's own standard deviation). So one number a structure is fitted, which works with
five cases as with two hundred, and stays monotone far away from the held-out cases.

Intervals are conformal: quantiles of how far other cases were off, each predicted by what the others taught (jackknife;
Vovk et al. 2005, Barber et al. 2021). They are relative to the predicted error, so that a doubtful scan has a wide one.
Structures of one case are alike, so what is counted, and left out, are whole cases.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from medseg.evaluation.score import StructureScore
from medseg.inference.trust.calibration import AS_IT_IS, TEMPERATURES, best_temperature, calibration_error
from medseg.inference.trust.records import CaseTrust, StructureFit, StructureSums, Trust

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
T = TypeVar("T", float, Floats)

FEWEST = 5  # cases that tell anything
SHRUNK = 5.0  # the ratio of all structures counts as much as so many cases
COVERAGE = 0.9
RARELY = 0.05
LEAST = 0.005  # an error of Dice: below it ratios mean nothing


@dataclass(frozen=True, eq=False)
class _Found:
    """Structures that were found in held-out cases: of each the number of the case, what was expected of it, and what
    it was. All are (n,).
    """

    case: Ints
    soft: Floats
    dice: Floats
    volume_ratio: Floats  # true volume over predicted volume

    @property
    def cases(self) -> int:
        """How many different ones there are."""
        return len(np.unique(self.case))

    @property
    def promised(self) -> Floats:
        """The errors of Dice that probabilities promise."""
        return np.maximum(1 - self.soft, LEAST)

    @property
    def errors(self) -> Floats:
        """The errors of Dice that they had."""
        return np.maximum(1 - self.dice, LEAST)

    @property
    def logs(self) -> Floats:
        """Of how many times the promised error the true one is."""
        return np.log(self.errors / self.promised)


@dataclass(frozen=True, eq=False)
class _Whole:
    """What all structures taught together: the median log ratio of errors; for each case (by its number) that of all
    others; and for each structure that was found the error that the other cases predict by it.
    """

    found: _Found
    log: float
    others: Floats
    predicted: Floats

    @classmethod
    def of(cls, found: _Found) -> _Whole:
        """Of several cases."""
        order = np.argsort(found.logs)
        logs, case = found.logs[order], found.case[order]
        others = np.full(case.max() + 1, np.nan)
        for k in np.unique(case):
            others[k] = _middle(logs[case != k])
        return cls(found, _middle(logs), others, _error(np.exp(others[found.case]), found.soft))

    def ratio(self, ones: _Found) -> float:
        """How many times the promised error the true one is: the median of a structure, drawn towards that of all."""
        n = len(ones.case)
        return math.exp(_drawn(_middle(np.sort(ones.logs)), n, self.log) if n else self.log)

    def left_out(self, ones: _Found) -> Floats:
        """The errors of a structure, in each case as the other cases predict it."""
        n, whole = len(ones.case), self.others[ones.case]
        return _error(np.exp(_drawn(_medians_of_others(ones.logs), n - 1, whole) if n > 1 else whole), ones.soft)


def fit_trust(cases: Mapping[str, CaseTrust], scores: Sequence[StructureScore]) -> Trust:
    """Learn from held-out cases, by name, and the scores of their predictions; other scores are not looked at."""
    reliability = [case.reliability for case in cases.values() if case.reliability is not None]
    best = best_temperature(reliability)
    rows: dict[str, list[StructureScore]] = {s.structure: [] for case in cases.values() for s in case.structures}
    for row in scores:
        if row.case in cases and row.structure in rows:
            rows[row.structure].append(row)
    numbers = {name: k for k, name in enumerate(cases)}
    found = {name: _found(of, cases, numbers) for name, of in rows.items()}
    every = _found([row for of in rows.values() for row in of], cases, numbers)
    whole = _Whole.of(every) if every.cases >= FEWEST else None
    away = [np.abs(whole.left_out(ones) - (1 - ones.dice)) for ones in found.values()] if whole else []
    return Trust(
        cases=len(cases),
        temperature=TEMPERATURES[best],
        ece_before=_short(calibration_error(reliability, AS_IT_IS)),
        ece_after=_short(calibration_error(reliability, best)),
        dice_error=_short(float(np.mean(np.concatenate(away)))) if away else None,
        structures=tuple(_fit(name, found[name], every, whole, of) for name, of in rows.items()),
    )


def predicted_dice(fit: StructureFit, sums: StructureSums) -> float | None:
    """The Dice to be expected of a structure that was found; None where it was not, or too few cases tell."""
    if fit.ratio is None or sums.soft_dice is None:
        return None
    return 1 - float(_error(fit.ratio, sums.soft_dice))


def sums_of(case: CaseTrust, structure: str) -> StructureSums | None:
    """The sums of a structure by its name."""
    return next((s for s in case.structures if s.structure == structure), None)


def _found(rows: Sequence[StructureScore], cases: Mapping[str, CaseTrust], numbers: Mapping[str, int]) -> _Found:
    """Of the cases in which a structure was found, with or without right."""
    found = []
    for row in rows:
        sums = sums_of(cases[row.case], row.structure)
        if row.dice is not None and row.volume_pred_ml > 0 and sums is not None and sums.soft_dice is not None:
            found.append((numbers[row.case], sums.soft_dice, row.dice, row.volume_ref_ml / row.volume_pred_ml))
    case, soft, dice, volume = np.array(found, np.float64).reshape(-1, 4).T
    return _Found(case.astype(np.int64), soft, dice, volume)


def _drawn(own: T, n: int, whole: T) -> T:
    """A log ratio of `n` cases, drawn towards that of all structures."""
    return (n * own + SHRUNK * whole) / (n + SHRUNK)


def _error(ratio: float | Floats, soft: float | Floats) -> Floats:
    return np.minimum(ratio * np.maximum(1 - soft, LEAST), 1.0)


def _middle(ordered: Floats) -> float:
    """The median of ordered numbers."""
    n = len(ordered)
    return float(ordered[(n - 1) // 2] + ordered[n // 2]) / 2


def _medians_of_others(values: Floats) -> Floats:
    """For each of at least two numbers the median of all others."""
    n = len(values)
    order = np.argsort(values)
    ordered, rank = values[order], np.empty(n, np.int64)
    rank[order] = np.arange(n)
    low, high = ((k + (k >= rank)) for k in ((n - 2) // 2, (n - 1) // 2))  # those above the one left out move down
    return np.asarray((ordered[low] + ordered[high]) / 2)


def _fit(
    name: str,
    ones: _Found,
    every: _Found,
    whole: _Whole | None,
    rows: Sequence[StructureScore],
) -> StructureFit:
    """One structure; where it has too few cases its intervals are those of all structures."""
    pooled = ones.cases < FEWEST
    told = every if pooled else ones
    dice = volume = usual = None
    if whole is not None:
        predicted = whole.predicted if pooled else whole.left_out(ones)
        dice = _interval(told.errors / predicted, told.case)
        volume = _interval((told.volume_ratio - 1) / predicted, told.case)
        usual = 1 - float(np.quantile(predicted, 1 - RARELY))
    absent = [row for row in rows if row.volume_pred_ml == 0]
    return StructureFit(
        structure=name,
        errors=told.cases,
        pooled=pooled,
        ratio=_short(whole.ratio(ones)) if whole else None,
        low=_short(dice[0]) if dice else None,
        high=_short(dice[1]) if dice else None,
        volume_low=_short(volume[0]) if volume else None,
        volume_high=_short(volume[1]) if volume else None,
        coverage=_short(dice[2]) if dice else None,
        dice=_short(float(np.mean(told.dice))) if len(told.dice) else None,
        usual=_short(usual),
        absent=len(absent),
        absent_rightly=sum(row.status == "both_empty" for row in absent),
    )


def _interval(values: Floats, case: Ints) -> tuple[float, float, float]:
    """The k-th smallest of the n cases' smallest values, the k-th largest of their largest ones, and the share of
    further cases that lie between with all of theirs: 1 - 2 k / (n + 1).

    k is the largest whole number with at least `COVERAGE`; 1 if there is none, and the share is less.
    """
    different, at = np.unique(case, return_inverse=True)
    n = len(different)
    lows, highs = np.full(n, np.inf), np.full(n, -np.inf)
    np.minimum.at(lows, at, values)
    np.maximum.at(highs, at, values)
    k = max(1, math.floor((n + 1) * (1 - COVERAGE) / 2 + 1e-9))
    return float(np.sort(lows)[k - 1]), float(np.sort(highs)[n - k]), 1 - 2 * k / (n + 1)


def _short(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.5g}")
