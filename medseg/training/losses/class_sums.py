"""What every loss is made of: the log-probability of the truth at each voxel, and three sums over voxels a class.

B batch, L output of the network, N voxel, K class of the cache. Class sums come from gather and scatter instead of a
one-hot map, and the gradient of the softmax is written out: few passes over the logits, so that a step hardly grows
with the classes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

CLASSES_IN_A_ROW = 8  # fewer are too short a row for a CPU
LANES = {"cpu": 1, "cuda": 1024}  # partial sums a class: thousands of threads that add to one number wait in line


@dataclass(frozen=True)
class ClassSums:
    """Of one batch at one resolution; voxels that nobody labelled count in none of them.

    log_true: log-probability of the truth, (B, N); with regions (B, L, N). weight: of each of these, 0 where nobody
    labelled. shared: probability of a class, summed where it is the truth. predicted: summed everywhere. size: voxels
    of the class; all three (B, L).
    """

    log_true: Tensor
    weight: Tensor
    shared: Tensor
    predicted: Tensor
    size: Tensor


def of_softmax(logits_BLXYZ: Tensor, classes_BXYZ: Tensor, ignore: int | None, weights_L: Tensor) -> ClassSums:
    """For outputs that exclude each other, the background among them; `weights_L` weigh voxels by their truth."""
    n_classes = logits_BLXYZ.shape[1]
    classes = classes_BXYZ.flatten(1).long()
    valid = None if ignore is None else classes != ignore
    if valid is not None:
        classes = classes.where(valid, 0)
    log_true, predicted = _Softmax.apply(logits_BLXYZ.flatten(2), classes, valid)  # type: ignore[no-untyped-call]
    true, ones, weight = log_true.exp(), torch.ones_like(log_true), weights_L[classes]
    if valid is not None:
        true, ones, weight = true * valid, ones * valid, weight * valid
    shared, size = by_class(true, classes, n_classes), by_class(ones, classes, n_classes)
    return ClassSums(log_true, weight, shared, predicted, size)


def of_sigmoid(
    logits_BLXYZ: Tensor, classes_BXYZ: Tensor, ignore: int | None, weights_L: Tensor, members_KL: Tensor
) -> ClassSums:
    """For outputs that may overlap (regions); `members_KL` tells which of them each class of the cache belongs to."""
    logits = logits_BLXYZ.flatten(2).to(precise(logits_BLXYZ))
    classes = classes_BXYZ.flatten(1).long()
    truth = members_KL[classes].movedim(2, 1)
    valid = torch.ones_like(logits[:, :1]) if ignore is None else (classes != ignore).unsqueeze(1).to(logits.dtype)
    log_true = functional.logsigmoid(torch.where(truth, logits, -logits))
    found = logits.sigmoid() * valid
    weight = weights_L[:, None] * valid
    return ClassSums(log_true, weight, (found * truth).sum(2), found.sum(2), (truth * valid).sum(2))


def by_class(values_BN: Tensor, classes_BN: Tensor, n_classes: int) -> Tensor:
    """The sum of the values of each class, (B, L)."""
    lanes = LANES.get(values_BN.device.type, 1)
    places = classes_BN
    if lanes > 1:
        places = classes_BN + n_classes * (torch.arange(classes_BN.shape[1], device=classes_BN.device) % lanes)
    sums = values_BN.new_zeros((len(values_BN), lanes * n_classes)).scatter_add(1, places, values_BN)
    return sums.view(-1, lanes, n_classes).sum(1)


def precise(logits: Tensor) -> torch.dtype:
    """Sums over millions of voxels need single precision at least."""
    return torch.float64 if logits.dtype == torch.float64 else torch.float32


class _Softmax(torch.autograd.Function):
    """Logits (B, L, N) and the truth (B, N) to the truth's log-probability (B, N) and all probabilities' sums (B, L).

    What autograd would keep between forward and backward, two maps of all classes, is computed anew instead.
    """

    @staticmethod
    def forward(ctx: Any, logits_BLN: Tensor, classes_BN: Tensor, valid_BN: Tensor | None) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(logits_BLN, classes_BN, valid_BN)
        rows, axis = _in_memory(logits_BLN)
        logp = rows.log_softmax(axis, dtype=precise(rows))
        log_true = logp.gather(axis, classes_BN.unsqueeze(axis)).squeeze(axis)
        p = logp.exp_()
        if valid_BN is not None:
            p *= valid_BN.unsqueeze(axis)
        return log_true, p.sum(3 - axis)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *slopes: Tensor) -> tuple[Tensor, None, None]:
        """With probabilities p and the slopes a and b of both results: p (b - p.b - a), and a more at the truth."""
        logits_BLN, classes_BN, valid_BN = ctx.saved_tensors
        of_true, of_sums = slopes
        rows, axis = _in_memory(logits_BLN)
        p = rows.softmax(axis, dtype=precise(rows))
        if valid_BN is not None:
            p *= valid_BN.unsqueeze(axis)
            of_true = of_true * valid_BN
        b = of_sums.unsqueeze(3 - axis)
        both = torch.matmul(b.mT, p).squeeze(1) if axis == 1 else torch.matmul(p, b.mT).squeeze(2)
        p *= b - (both + of_true).unsqueeze(axis)
        p.scatter_add_(axis, classes_BN.unsqueeze(axis), of_true.unsqueeze(axis))
        slope = (p if axis == 1 else p.mT).to(logits_BLN.dtype)
        alike = slope.stride() == logits_BLN.stride()
        return slope if alike else torch.empty_like(logits_BLN).copy_(slope), None, None


def _in_memory(logits_BLN: Tensor) -> tuple[Tensor, int]:
    """The same tensor with its axes as they lie in memory, and the axis of the classes: 1, or 2 for channels last.

    A CPU gets few classes one after another: along so short an axis its softmax takes three times as long.
    """
    n = logits_BLN.shape[1]
    last = logits_BLN.stride(1) == 1 and n > 1
    if last and n < CLASSES_IN_A_ROW and logits_BLN.device.type == "cpu":
        return logits_BLN.contiguous(), 1
    return (logits_BLN.mT, 2) if last else (logits_BLN, 1)
