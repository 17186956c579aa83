"""Agreement of volumes: Bland and Altman's bias and limits, with concordance and correlation beside them.

Bland and Altman, "Measuring agreement in method comparison studies", Stat Methods Med Res 1999; Lin, Biometrics 1989.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from medseg.evaluation.records import VolumeAgreement
from medseg.evaluation.score import StructureScore
from medseg.evaluation.statistics import CONFIDENCE, FEWEST, Floats, Interval, patients_of

LIMIT = 1.96  # SD: 95 % of differences that are normally distributed lie within
_SAME = 1e-12  # share of a volume: a spread below it is rounding


@dataclass(frozen=True, slots=True)
class Point:
    """A case in a Bland-Altman plot, in ml: the mean of both volumes, and prediction - reference."""

    case: str
    mean_ml: float
    difference_ml: float


def points(rows: Iterable[StructureScore], structure: str) -> tuple[Point, ...]:
    """The cases in which either map holds the structure; what a map lacks has volume 0."""
    held = (row for row in rows if row.structure == structure and row.status != "both_empty")
    return tuple(
        Point(row.case, (row.volume_ref_ml + row.volume_pred_ml) / 2, row.volume_pred_ml - row.volume_ref_ml)
        for row in held
    )


def volume_agreement(rows: Sequence[StructureScore], patients: Mapping[str, int]) -> tuple[VolumeAgreement, ...]:
    """One record for each structure that any case holds.

    Intervals are Bland and Altman's approximate ones (t distribution), with patients in place of cases as the number of
    what is independent: several cases of a patient make them no narrower.
    """
    of_structure: dict[str, list[StructureScore]] = {}
    for row in rows:
        of_structure.setdefault(row.structure, []).append(row)
    found = ((name, points(own, name)) for name, own in of_structure.items())
    return tuple(_agreement(name, own, patients) for name, own in found if own)


def _agreement(structure: str, own: Sequence[Point], patients: Mapping[str, int]) -> VolumeAgreement:
    n, n_patients = len(own), len(set(patients_of([point.case for point in own], patients).tolist()))
    means, differences = (np.array([getattr(p, name) for p in own]) for name in ("mean_ml", "difference_ml"))
    bias = math.fsum(differences) / n
    if n < 2:
        return VolumeAgreement(structure=structure, n=n, n_patients=n_patients, bias_ml=bias)
    sd = float(np.std(differences, ddof=1))
    t = _t(n_patients, 1)
    of_bias = sd / math.sqrt(n_patients)
    of_limit = sd * math.sqrt(1 / n_patients + LIMIT**2 / (2 * max(n_patients - 1, 1)))
    slope, slope_interval = _slope(means, differences, n_patients)
    ccc, pearson = _concordance(means - differences / 2, means + differences / 2)
    return VolumeAgreement(
        structure=structure,
        n=n,
        n_patients=n_patients,
        bias_ml=bias,
        bias_interval=_around(bias, t, of_bias),
        sd_ml=sd,
        loa_low_ml=bias - LIMIT * sd,
        loa_low_interval=_around(bias - LIMIT * sd, t, of_limit),
        loa_high_ml=bias + LIMIT * sd,
        loa_high_interval=_around(bias + LIMIT * sd, t, of_limit),
        ccc=ccc,
        pearson=pearson,
        slope=slope,
        slope_interval=slope_interval,
    )


def _t(n_patients: int, estimated: int) -> float | None:
    """The quantile that bounds 95 % on both sides once so many parameters are known; None of fewer than 5 patients."""
    if n_patients < FEWEST:
        return None
    from scipy.special import stdtrit

    return float(stdtrit(n_patients - estimated, (1 + CONFIDENCE) / 2))


def _around(value: float, t: float | None, error: float) -> Interval | None:
    return None if t is None else (value - t * error, value + t * error)


def _slope(x: Floats, y: Floats, n_patients: int) -> tuple[float | None, Interval | None]:
    """Least squares of y on x, and its interval."""
    off = x - x.mean()
    spread = float(off @ off)
    if len(x) < 3 or _constant(x):
        return None, None
    slope = float(off @ y) / spread
    left = y - y.mean() - slope * off
    variance = float(left @ left) / (len(x) - 2)
    # patients, not cases, are what is independent
    return slope, _around(slope, _t(n_patients, 2), math.sqrt(variance / spread * len(x) / n_patients))


def _concordance(reference: Floats, prediction: Floats) -> tuple[float | None, float | None]:
    """Lin's coefficient, and Pearson's; None where volumes do not vary."""
    if len(reference) < 3 or _constant(reference) or _constant(prediction):
        return None, None
    covariance = float(np.mean((reference - reference.mean()) * (prediction - prediction.mean())))
    both = float(reference.var() + prediction.var())
    apart = float(reference.mean() - prediction.mean())
    ccc = 2 * covariance / (both + apart**2)
    return ccc, covariance / float(reference.std() * prediction.std())


def _constant(values: Floats) -> bool:
    return float(np.ptp(values)) <= _SAME * float(np.abs(values).max())
