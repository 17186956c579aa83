"""Probabilities on the scan's own voxels, a few planes at a time, whatever grid each network worked on; and the labels
that several answers to one scan give together. Source: nnU-Net (Isensee et al. 2021), which averages softmax outputs of
configurations so.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from medseg.imaging.volume import LabelMap
from medseg.inference.blending import Slab
from medseg.inference.mapped import mapped_zeros
from medseg.inference.restoring import painted_values
from medseg.planning.plan import Plan
from medseg.preprocessing.logit_vote import cells
from medseg.preprocessing.prepare import Undo
from medseg.preprocessing.restore import Canvas

PIECE = 1 << 25  # probabilities held at a time
AXIS = 2  # pieces go from head to foot


@dataclass(frozen=True, eq=False)
class Answer:
    """Logits (X, Y, Z, L) on a configuration's grid of a scan, in memory or mapped from disk, and how to bring them
    back to the scan's own.
    """

    logits_XYZL: npt.NDArray[np.float32]
    undo: Undo

    def slabs(self, planes: int = 16) -> Iterator[Slab]:
        """The logits as the sliding window gave them, some planes at a time."""
        along = np.moveaxis(self.logits_XYZL, AXIS, 0)
        for start in range(0, len(along), planes):
            yield Slab(AXIS, start, torch.from_numpy(np.ascontiguousarray(along[start : start + planes])))


@dataclass(frozen=True, eq=False)
class Piece:
    """Mean probabilities (X, Y, P, L) of some planes from `start` on, within the cropped scan in RAS axes.

    L are the background and the structures, or the regions.
    """

    start: int
    probabilities_XYPL: Tensor


def spooled(slabs: Iterable[Slab], shape: Sequence[int], path: Path) -> npt.NDArray[np.float32]:
    """Slabs of logits written to the file `path`, mapped as one array (X, Y, Z, L).

    Raises:
        ResourceError: there is no room on disk.
    """
    mapped: Any = None
    axis = 0
    for slab in slabs:
        if mapped is None:
            axis = slab.axis
            others = [n for a, n in enumerate(shape) if a != axis]
            mapped = mapped_zeros(path, np.float32, (shape[axis], *others, slab.logits_PQRL.shape[-1]))
        mapped[slab.start : slab.stop] = slab.logits_PQRL.cpu().numpy()
    return np.moveaxis(mapped, 0, axis)


def probabilities(answers: Sequence[Answer], plan: Plan, temperature: float = 1.0) -> Iterator[Piece]:
    """The mean of the answers' probabilities on the scan's own voxels; logits are divided by `temperature` first.

    Interpolated are the logits, so that of one answer the likeliest class is that of its label map.
    """
    shape = answers[0].undo.cropped_shape  # all answers have it: every configuration crops a scan alike
    classes = answers[0].logits_XYZL.shape[-1]
    planes = max(1, PIECE // (shape[0] * shape[1] * classes))
    for start in range(0, shape[AXIS], planes):
        stop = min(start + planes, shape[AXIS])
        total: Tensor | None = None
        for answer in answers:
            logits = _interpolated(answer, start, stop) / temperature
            one = torch.sigmoid(logits) if plan.regions else torch.softmax(logits, -1)
            total = one if total is None else total.add_(one)
        if total is not None:
            yield Piece(start, total.div_(len(answers)))


def averaged(answers: Sequence[Answer], plan: Plan) -> LabelMap:
    """The labels, on the scan's own grid, that the answers to it give together."""
    canvas = Canvas(answers[0].undo, painted_values(plan))
    view = canvas.cropped
    for piece in probabilities(answers, plan):
        winner = winners(piece.probabilities_XYPL, plan).numpy()
        view[:, :, piece.start : piece.start + winner.shape[2]] = canvas.table[winner]
    return canvas.labels(plan.names)


def winners(probabilities_XYPL: Tensor, plan: Plan) -> Tensor:
    """The likeliest class (X, Y, P), 0 the background; of regions the last that is more likely than not, from 1 on."""
    if not plan.regions:
        return probabilities_XYPL.argmax(-1)
    order = torch.arange(1, probabilities_XYPL.shape[-1] + 1)
    return ((probabilities_XYPL > 0.5) * order).amax(-1)


def _interpolated(answer: Answer, start: int, stop: int) -> Tensor:
    """Logits (X, Y, P, L) of the planes [start, stop) of the cropped scan."""
    undo = answer.undo
    new, old = undo.cropped_shape, undo.prepared_shape
    along = [cells(o, n, order) for o, n, order in zip(old, new, undo.orders, strict=True)]
    lower = [np.repeat(np.arange(len(one.reach)), np.diff(one.begin)) for one in along]
    upper = [low + one.reach[low] for low, one in zip(lower, along, strict=True)]
    weight = [one.weight for one in along]
    here = slice(start, stop)
    lower[AXIS], upper[AXIS], weight[AXIS] = lower[AXIS][here], upper[AXIS][here], weight[AXIS][here]
    first, last = int(lower[AXIS].min()), int(upper[AXIS].max())
    logits = torch.from_numpy(np.ascontiguousarray(answer.logits_XYZL[:, :, first : last + 1], np.float32))
    lower[AXIS], upper[AXIS] = lower[AXIS] - first, upper[AXIS] - first
    for axis in (AXIS, *(a for a in range(3) if a != AXIS)):
        if np.array_equal(lower[axis], np.arange(logits.shape[axis])) and not weight[axis].any():
            continue
        shape = [-1 if a == axis else 1 for a in range(4)]
        share = torch.from_numpy(weight[axis].astype(np.float32)).reshape(shape)
        low, high = (logits.index_select(axis, torch.from_numpy(side[axis])) for side in (lower, upper))
        logits = torch.lerp(low, high, share)
    return logits
