"""Errors by their distance from a structure's border: what the boundary loss adds to Dice and cross-entropy.

Source: Karimi & Salcudean 2019, the distance transform estimate of the Hausdorff distance in its one-sided form, which
needs the distances of the truth alone: squared errors times squared distances. Far errors cost most, and an error next
to the border next to nothing, which is why Dice and cross-entropy, which see those, must stay beside it: with them it
trains from the start. Distances end at `REACH`, where they count as 1: no single far voxel rules a step.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from medseg.training.distance import squared_distance

REACH = 16.0  # voxels of the finest axis


def boundary_sum(found_BXYZ: Tensor, truth_BXYZ: Tensor, valid_BXYZ: Tensor, sizes: Sequence[float]) -> Tensor:
    """Squared errors of one structure's probabilities, times squared distances as shares of `REACH`, summed.

    truth: bool. valid: 1, or 0 where an error does not count. sizes: of a voxel along each axis, in voxels of the
    finest. A structure that a patch does not hold has no border: it adds nothing.
    """
    away = border_distance(truth_BXYZ, sizes, REACH).square() / REACH**2
    return ((found_BXYZ - truth_BXYZ.to(found_BXYZ.dtype)).square() * away.to(found_BXYZ.dtype) * valid_BXYZ).sum()


@torch.no_grad()
def border_distance(truth_BXYZ: Tensor, sizes: Sequence[float], reach: float) -> Tensor:
    """From each voxel inside the distance to the nearest outside, and the other way round; at most `reach`, float32.

    It is 0 everywhere for a sample that is all inside or all outside, as where there is no border.
    """
    axes = tuple(range(1, truth_BXYZ.ndim))
    mixed = truth_BXYZ.any(dim=axes, keepdim=True) & ~truth_BXYZ.all(dim=axes, keepdim=True)
    inside = squared_distance(~truth_BXYZ, sizes, reach)
    outside = squared_distance(truth_BXYZ, sizes, reach)
    return torch.where(truth_BXYZ, inside, outside).sqrt() * mixed
