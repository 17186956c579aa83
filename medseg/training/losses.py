"""Losses: a plain table. B batch, L class, X Y Z voxel; targets are class indices (B, X, Y[, Z]), int64."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional

SMOOTH = 1e-5


def dice_ce(logits_BLXYZ: Tensor, target_BXYZ: Tensor, batch_dice: bool) -> Tensor:
    """Cross-entropy minus soft Dice, the background left out of Dice; Dice per sample, or over the batch as one.

    Class sums come from one gather and two counts instead of a one-hot map, so the cost hardly grows with classes.
    Source: nnU-Net's Dice + CE (Isensee et al. 2021).
    """
    b, n_classes = logits_BLXYZ.shape[:2]
    logp = functional.log_softmax(logits_BLXYZ.float().flatten(2), dim=1)
    target = target_BXYZ.flatten(1)
    logp_true = logp.gather(1, target.unsqueeze(1)).squeeze(1)
    bins = (target + n_classes * torch.arange(b, device=target.device).unsqueeze(1)).flatten()
    shared = logp.new_zeros(b * n_classes).scatter_add(0, bins, logp_true.exp().flatten()).view(b, n_classes)
    size = torch.bincount(bins, minlength=b * n_classes).view(b, n_classes).to(logp.dtype)
    predicted = logp.exp().sum(2)
    if batch_dice:
        shared, size, predicted = shared.sum(0), size.sum(0), predicted.sum(0)
    dice = (2 * shared + SMOOTH) / (size + predicted + SMOOTH).clamp_min(1e-8)
    return -logp_true.mean() - dice[..., 1:].mean()


LOSSES: dict[str, Callable[[Tensor, Tensor, bool], Tensor]] = {"dice_ce": dice_ce}


def deep_loss(logits: Sequence[Tensor] | Tensor, target_BXYZ: Tensor, batch_dice: bool) -> Tensor:
    """The loss over all supervised resolutions, each weighing half the one above it; the target is sampled nearest."""
    scales = [logits] if isinstance(logits, Tensor) else list(logits)
    weights = [0.5**s for s in range(len(scales))]
    losses = []
    for scale, weight in zip(scales, weights, strict=True):
        target = target_BXYZ
        for axis in range(2, scale.ndim):
            factor = target_BXYZ.shape[axis - 1] // scale.shape[axis]
            target = target[(slice(None),) * (axis - 1) + (slice(factor // 2, None, factor),)]
        losses.append(weight / sum(weights) * LOSSES["dice_ce"](scale, target, batch_dice))
    return torch.stack(losses).sum()
