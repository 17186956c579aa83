"""How far a value lies from the others of the same folder, told so that a few wild ones hide nothing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import numpy as np

FEWEST: Final = 8  # values below which nothing can be called unusual
FAR: Final = 3.5  # Iglewicz and Hoaglin's limit
_MAD, _MEAN_AD = 1.4826, 1.2533  # times these, both deviations are the SD of normal values


def robust_z(values: Mapping[str, float]) -> dict[str, float]:
    """For each value its distance from the median in robust standard deviations: the median absolute deviation times
    1.4826; where more than half of the values are equal, the mean absolute deviation times 1.2533. Empty of fewer than
    8 values (Iglewicz and Hoaglin, How to detect and handle outliers, 1993).
    """
    if len(values) < FEWEST:
        return {}
    array = np.array(list(values.values()), np.float64)
    away = array - np.median(array)
    spread = _MAD * float(np.median(np.abs(away))) or _MEAN_AD * float(np.abs(away).mean())
    return {name: float(d / spread) if spread else 0.0 for name, d in zip(values, away, strict=True)}
