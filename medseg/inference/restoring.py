"""From a network's logits to labels on the scan's own grid: the one way, for validation and for new scans."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

from medseg.imaging.volume import LabelMap
from medseg.planning.plan import Plan
from medseg.preprocessing.prepare import Undo, restore, restore_painted


def restore_logits(logits_LXYZ: Iterable[npt.NDArray[np.float32]], undo: Undo, plan: Plan) -> LabelMap:
    """Logits on the network's grid, a map (X, Y, Z) an output, to labels on the scan's own: the likeliest class.

    Of a plan with regions the region wherever it is more likely than not, painted in the plan's order.
    """
    if plan.regions:
        return restore_painted(logits_LXYZ, undo, [region.value for region in plan.regions], plan.names)
    return restore(logits_LXYZ, undo, plan.values, plan.names)
