"""Losses: a plain table, and the one that a plan asks for, over all supervised resolutions and over all ranks.

A loss has two parts. One compares sums over voxels, structure by structure, without the background (`Overlap`); one
adds what every voxel costs (`Voxelwise`). Both are made of sums, so that ranks, which see a part of the batch each, add
theirs up and go on as one process would.

| name | overlap | voxels | source |
|---|---|---|---|
| `dice_ce` | soft Dice | cross-entropy | nnU-Net (Isensee et al. 2021) |
| `dice_focal` | soft Dice | focal, gamma 2 | Lin et al. 2017 |
| `tversky` | Tversky: false positives weigh 0.3, false negatives 0.7 | cross-entropy | Salehi et al. 2017 |
| `focal_tversky` | (1 - Tversky) to the power of 3/4 | cross-entropy | Abraham and Khan 2019 |
| `iou` | Jaccard | cross-entropy | Rahman and Wang 2016 |
| `boundary` | soft Dice | cross-entropy, and squared errors by their distance | `boundary.py` |

No overlap is alone: early in training it teaches a network to say nothing of a small structure, and where a probability
is near 0 it has no slope to come back by. Cross-entropy has. (Alone, focal Tversky and IoU had not found the smaller of
two blobs after 400 steps that Dice or they with cross-entropy found in 80.)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from medseg.planning.plan import LossName, Plan
from medseg.training.losses.boundary import boundary_sum
from medseg.training.losses.class_sums import of_sigmoid, of_softmax, precise

SMOOTH = 1e-5
FOCUS = 2.0
FALSE_POSITIVES, FALSE_NEGATIVES = 0.3, 0.7
TVERSKY_POWER = 0.75
TINY = 1e-7

Overlap = Callable[[Tensor, Tensor, Tensor], Tensor]
Voxelwise = Callable[[Tensor], Tensor]
Loss = Callable[[Tensor | Sequence[Tensor], Tensor], Tensor]
SumOverRanks = Callable[[Tensor], Tensor]


def dice(shared: Tensor, predicted: Tensor, size: Tensor) -> Tensor:
    """Minus soft Dice, so that a perfect answer is -1 (as nnU-Net counts)."""
    return -(2 * shared + SMOOTH) / (predicted + size + SMOOTH)


def iou(shared: Tensor, predicted: Tensor, size: Tensor) -> Tensor:
    """One minus the soft Jaccard index."""
    return 1 - (shared + SMOOTH) / (predicted + size - shared + SMOOTH)


def tversky(shared: Tensor, predicted: Tensor, size: Tensor) -> Tensor:
    """One minus the Tversky index: a missed voxel costs more than one too many."""
    wrong = FALSE_POSITIVES * (predicted - shared) + FALSE_NEGATIVES * (size - shared)
    return 1 - (shared + SMOOTH) / (shared + wrong + SMOOTH)


def focal_tversky(shared: Tensor, predicted: Tensor, size: Tensor) -> Tensor:
    """A power of it below 1, whose slope does not vanish while a structure is nearly found."""
    return tversky(shared, predicted, size).clamp_min(TINY) ** TVERSKY_POWER


def cross_entropy(log_true: Tensor) -> Tensor:
    """Of each voxel."""
    return -log_true


def focal(log_true: Tensor) -> Tensor:
    """Cross-entropy of each voxel, less of those that are right already."""
    return -((1 - log_true.exp()) ** FOCUS) * log_true


@dataclass(frozen=True)
class Parts:
    """What a loss is the sum of; `voxelwise` may be missing, to look at an overlap by itself.

    boundary: errors also count by their distance from the structure's border.
    """

    overlap: Overlap
    voxelwise: Voxelwise | None = None
    boundary: bool = False


LOSSES: dict[LossName, Parts] = {
    "dice_ce": Parts(dice, cross_entropy),
    "dice_focal": Parts(dice, focal),
    "tversky": Parts(tversky, cross_entropy),
    "focal_tversky": Parts(focal_tversky, cross_entropy),
    "iou": Parts(iou, cross_entropy),
    "boundary": Parts(dice, cross_entropy, boundary=True),
}


def build_loss(plan: Plan, sum_over_ranks: SumOverRanks | None = None) -> Loss:
    """The loss of a plan's chosen configuration: from logits and classes to a scalar.

    Logits are (B, L, X, Y[, Z]), or several such, full resolution first; classes are those of the cache, uint8 or
    int64, (B, X, Y[, Z]). Logits of 16 bits are taken in single precision; those of 64 keep theirs.

    sum_over_ranks: adds a vector up over all ranks; its gradient must do the same. It is called once a loss. Then every
    rank has the loss of the whole batch, and the mean of their gradients, which DDP takes, is that of one process.
    """
    configuration = plan.configuration
    schedule = configuration.schedule
    spacing = configuration.preprocessing.spacing_mm
    axes = [a for a in range(3) if a != configuration.slice_axis]
    known = [s for a in axes if (s := spacing[a]) is not None]
    return PlanLoss(
        parts=LOSSES[schedule.loss],
        outputs=configuration.network.classes,
        batch_dice=schedule.batch_dice,
        weights=schedule.class_weights,
        ignore=None if plan.ignore is None else len(plan.structures) + 1,
        members=_members(plan),
        sizes=tuple((spacing[a] or min(known)) / min(known) for a in axes) if known else (1.0,) * len(axes),
        sum_over_ranks=sum_over_ranks,
    )


def _members(plan: Plan) -> tuple[tuple[bool, ...], ...]:
    """For each class of the cache the regions that it belongs to."""
    if not plan.regions:
        return ()
    values = (None, *plan.values, *(() if plan.ignore is None else (None,)))
    return tuple(tuple(value in region.values for region in plan.regions) for value in values)


@dataclass(frozen=True)
class PlanLoss:
    """A loss with all that it rests on; `outputs` are those of the network, `members` is empty where they exclude
    each other. weights: one for each output, or none; only their ratios count.
    """

    parts: Parts
    outputs: int
    batch_dice: bool
    weights: tuple[float, ...] = ()
    ignore: int | None = None
    members: tuple[tuple[bool, ...], ...] = ()
    sizes: tuple[float, ...] = ()
    sum_over_ranks: SumOverRanks | None = None
    _kept: dict[tuple[torch.device, torch.dtype], tuple[Tensor, Tensor]] = field(default_factory=dict, repr=False)

    def __call__(self, logits: Tensor | Sequence[Tensor], classes_BXYZ: Tensor) -> Tensor:
        """The loss over all resolutions, each weighing half the one above it; their targets are sampled nearest."""
        scales = [logits] if isinstance(logits, Tensor) else list(logits)
        with torch.autocast(scales[0].device.type, enabled=False):
            sums = [self._sums(scale, _sampled(classes_BXYZ, scale), n == 0) for n, scale in enumerate(scales)]
            whole = torch.cat(sums)
            if self.sum_over_ranks is not None:
                whole = self.sum_over_ranks(whole)
            parts = torch.split(whole, [len(one) for one in sums])
            losses = [self._value(part, n == 0) for n, part in enumerate(parts)]
            halves = [0.5**n for n in range(len(scales))]
            return torch.stack([h / sum(halves) * loss for h, loss in zip(halves, losses, strict=True)]).sum()

    def _sums(self, logits_BLXYZ: Tensor, classes_BXYZ: Tensor, full: bool) -> Tensor:
        """All that one resolution's loss rests on, as a vector that can be added over parts of a batch."""
        weights, members = self._on(logits_BLXYZ.new_empty((), dtype=precise(logits_BLXYZ)))
        if self.members:
            seen = of_sigmoid(logits_BLXYZ, classes_BXYZ, self.ignore, weights, members)
        else:
            seen = of_softmax(logits_BLXYZ, classes_BXYZ, self.ignore, weights)
        if self.batch_dice:
            sums = [seen.shared.sum(0), seen.predicted.sum(0), seen.size.sum(0)]
        else:
            each = self._overlap(seen.shared, seen.predicted, seen.size)
            sums = [torch.stack([each.sum(), torch.ones_like(each).sum()])]
        if self.parts.voxelwise is not None:
            cost = (self.parts.voxelwise(seen.log_true) * seen.weight).sum()
            sums.append(torch.stack([cost, seen.weight.expand_as(seen.log_true).sum()]))
        if self.parts.boundary and full:
            sums.append(self._boundary(logits_BLXYZ, classes_BXYZ))
        return torch.cat(sums)

    def _value(self, sums: Tensor, full: bool) -> Tensor:
        """The loss of one resolution from its sums."""
        if self.batch_dice:
            loss, at = self._overlap(*sums[: 3 * self.outputs].view(3, self.outputs)), 3 * self.outputs
        else:
            loss, at = sums[0] / sums[1], 2
        for _ in range((self.parts.voxelwise is not None) + (self.parts.boundary and full)):
            loss, at = loss + sums[at] / sums[at + 1].clamp_min(TINY), at + 2
        return loss

    def _overlap(self, shared: Tensor, predicted: Tensor, size: Tensor) -> Tensor:
        """The mean over structures, (...) for sums (..., L)."""
        weights = self._on(shared)[0][self._first :]
        of_each = self.parts.overlap(
            shared[..., self._first :], predicted[..., self._first :], size[..., self._first :]
        )
        return (of_each * weights).sum(-1) / weights.sum()

    def _boundary(self, logits_BLXYZ: Tensor, classes_BXYZ: Tensor) -> Tensor:
        """Structure by structure, since a map of distances for all of them would not fit; and the voxels it is over."""
        logits = logits_BLXYZ.to(precise(logits_BLXYZ))
        weights, members = self._on(logits)
        found = logits.sigmoid() if self.members else logits.softmax(1)
        valid = torch.ones_like(found[:, 0]) if self.ignore is None else (classes_BXYZ != self.ignore).to(found.dtype)
        total = found.new_zeros(())
        for k in range(self._first, self.outputs):
            truth = members[:, k][classes_BXYZ.long()] if self.members else classes_BXYZ == k
            total = total + weights[k] * boundary_sum(found[:, k], truth, valid, self.sizes)
        return torch.stack([total, valid.sum() * weights[self._first :].sum()])

    @property
    def _first(self) -> int:
        """The first output that is a structure."""
        return 0 if self.members else 1

    def _on(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """Weights (L) and members (K, L) where `like` is; copied to a GPU once, since every copy makes it wait."""
        place = like.device, like.dtype
        if place not in self._kept:
            weights = torch.tensor(self.weights or (1.0,) * self.outputs, device=like.device, dtype=like.dtype)
            self._kept[place] = weights, torch.tensor(self.members, device=like.device, dtype=torch.bool)
        return self._kept[place]


def _sampled(classes_BXYZ: Tensor, logits_BLXYZ: Tensor) -> Tensor:
    """Classes at the middle of each voxel of a coarser resolution."""
    for axis in range(1, classes_BXYZ.ndim):
        factor = classes_BXYZ.shape[axis] // logits_BLXYZ.shape[axis + 1]
        if factor > 1:
            classes_BXYZ = classes_BXYZ[(slice(None),) * axis + (slice(factor // 2, None, factor),)]
    return classes_BXYZ


def deep_loss(logits: Sequence[Tensor] | Tensor, target_BXYZ: Tensor, batch_dice: bool) -> Tensor:
    """Dice and cross-entropy without a plan: what planning times a step with."""
    outputs = (logits if isinstance(logits, Tensor) else logits[0]).shape[1]
    return PlanLoss(LOSSES["dice_ce"], outputs, batch_dice)(logits, target_BXYZ)
