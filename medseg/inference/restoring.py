"""From slabs of logits to labels on the scan's own grid: the one way, for validation and for new scans."""

from __future__ import annotations

from collections.abc import Iterable

from medseg.imaging.volume import LabelMap
from medseg.inference.blending import Slab
from medseg.planning.plan import Plan
from medseg.preprocessing.prepare import Undo
from medseg.preprocessing.restore import Restoring


def painted_values(plan: Plan) -> tuple[int, ...]:
    """The label value of each output above the background; of a plan with regions of each output, in its order."""
    return tuple(region.value for region in plan.regions) or plan.values


def restored(slabs: Iterable[Slab], undo: Undo, plan: Plan) -> LabelMap:
    """Slabs of logits as the likeliest structure of each voxel of the scan's own grid.

    Of a plan with regions the region wherever it is more likely than not, painted in the plan's order.
    """
    restoring = Restoring(undo, painted_values(plan), painted=bool(plan.regions))
    for slab in slabs:
        restoring.take(slab.axis, slab.start, slab.logits_PQRL.cpu().numpy())
    return restoring.labels(plan.names)
