"""Are probabilities true ones? Sums of decisions by confidence, for a row of temperatures, so that the best can be
chosen later without logits.

Source: temperature scaling and the expected calibration error of Guo et al. 2017, "On calibration of modern neural
networks"; bins are equally wide. Errors are the mean over cases, since voxels of one case are not independent.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from medseg.inference.trust.records import Reliability

BINS = 15
TEMPERATURES = tuple(2 ** (k / 4) for k in range(-4, 9))  # 0.5 to 4
AS_IT_IS = TEMPERATURES.index(1.0)


class ReliabilitySums:
    """Decisions of one case, added piece by piece."""

    def __init__(self) -> None:
        n = len(TEMPERATURES)
        self._nll = np.zeros(n)
        self._counts, self._hits = np.zeros((n, BINS), np.int64), np.zeros((n, BINS), np.int64)
        self._confidences = np.zeros((n, BINS))

    def add_classes(self, logits_NL: Tensor, winner_N: Tensor, reference_N: Tensor) -> None:
        """Voxels that have one of several classes: their logits, the likeliest class, and the right one."""
        logits_LN = logits_NL.t().contiguous()  # several times as fast as by voxels where classes are few
        won, right = logits_LN.gather(0, winner_N[None])[0], logits_LN.gather(0, reference_N[None])[0]
        for k, temperature in enumerate(TEMPERATURES):
            whole = (logits_LN / temperature).logsumexp(0)
            confidence = (won / temperature - whole).exp()
            self._add(k, confidence, whole - right / temperature, winner_N == reference_N)

    def add_region(self, logits_N: Tensor, reference_N: Tensor) -> None:
        """Voxels that belong to a region or not: their logit, above 0 if it is more likely, and whether they do."""
        hit = (logits_N > 0) == reference_N
        for k, temperature in enumerate(TEMPERATURES):
            lead = logits_N.abs() / temperature
            nll = torch.nn.functional.softplus(torch.where(hit, -lead, lead))
            self._add(k, torch.sigmoid(lead), nll, hit)

    def finished(self) -> Reliability:
        """All that was added."""
        return Reliability(
            decisions=int(self._counts[0].sum()),
            nll=tuple(round(float(v), 4) for v in self._nll),
            counts=tuple(tuple(map(int, row)) for row in self._counts),
            confidences=tuple(tuple(round(float(v), 4) for v in row) for row in self._confidences),
            hits=tuple(tuple(map(int, row)) for row in self._hits),
        )

    def _add(self, k: int, confidence: Tensor, nll: Tensor, hit: Tensor) -> None:
        sure = confidence.double().cpu()
        where = (sure * BINS).long().clamp_(max=BINS - 1)
        self._nll[k] += float(nll.double().sum())
        self._counts[k] += torch.bincount(where, minlength=BINS).numpy()
        self._hits[k] += torch.bincount(where[hit.cpu()], minlength=BINS).numpy()
        self._confidences[k] += torch.bincount(where, sure, minlength=BINS).numpy()


def best_temperature(cases: Sequence[Reliability]) -> int:
    """Which of `TEMPERATURES` makes the references likeliest, each case with equal weight; 1 where nothing tells."""
    counted = [case for case in cases if case.decisions]
    if not counted:
        return AS_IT_IS
    mean: npt.NDArray[np.float64] = np.mean([np.array(case.nll) / case.decisions for case in counted], axis=0)
    return int(mean.argmin())


def calibration_error(cases: Sequence[Reliability], temperature: int) -> float | None:
    """The mean over cases of |confidence - share of right decisions|, weighted by the decisions of each bin."""
    found = []
    for case in cases:
        if case.decisions:
            away = np.abs(np.array(case.confidences[temperature]) - np.array(case.hits[temperature]))
            found.append(float(away.sum()) / case.decisions)
    return float(np.mean(found)) if found else None
