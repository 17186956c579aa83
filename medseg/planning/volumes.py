"""How large structures are: what the choice of a resolution and the explanation of a plan rest on."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from medseg.planning.fingerprint import Fingerprint
from medseg.planning.plan import Structure


@dataclass(frozen=True)
class Volumes:
    """A structure over the cases that hold it: how many, and its volume in ml: least, median, greatest."""

    name: str
    cases: int
    least_ml: float
    median_ml: float
    most_ml: float

    @property
    def diameter_mm(self) -> float:
        """Of a ball of the median volume."""
        return math.cbrt(6000.0 * self.median_ml / math.pi)

    def voxels(self, spacing_mm: Sequence[float]) -> float:
        """Of the median volume at a spacing."""
        return 1000.0 * self.median_ml / math.prod(spacing_mm)


def volumes(fingerprint: Fingerprint, structures: Sequence[Structure]) -> list[Volumes]:
    """Of each structure, in order; those that no case holds have none."""
    found: dict[int, list[float]] = {s.value: [] for s in structures}
    for case in fingerprint.cases:
        for seen in case.structures:
            if seen.value in found:
                found[seen.value].append(seen.volume_ml)
    return [_summary(s.name, found[s.value]) for s in structures]


def _summary(name: str, ml: Sequence[float]) -> Volumes:
    if not ml:
        return Volumes(name, 0, 0.0, 0.0, 0.0)
    return Volumes(name, len(ml), min(ml), float(np.median(ml)), max(ml))
