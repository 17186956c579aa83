"""A moving average of the weights: what is evaluated and kept is less noisy than the last step's weights.

Source: Polyak and Juditsky 1992; the start as in Tan and Le's EfficientNet code.
"""

from __future__ import annotations

import copy
import math

import torch
from torch import nn
from torch.optim.swa_utils import get_ema_multi_avg_fn


class Average:
    """The exponential moving average of a network's weights, in a network of its own.

    `share`: of the schedule, about which the average is taken, however many steps that will be.
    """

    def __init__(self, network: nn.Module, share: float) -> None:
        self.network = copy.deepcopy(network).eval().requires_grad_(False)
        self.share = share

    def restart(self, network: nn.Module) -> None:
        """Take the weights of `network` as they are."""
        self.network.load_state_dict(network.state_dict())

    @torch.no_grad()
    def update(self, network: nn.Module, step: int, advanced: float) -> None:
        """Take in the weights after step number `step`, which took the schedule forward by `advanced` (a share).

        Nothing waits for a GPU.
        """
        keep = decay(self.share, step, advanced)
        averaging = get_ema_multi_avg_fn(keep)  # type: ignore[no-untyped-call]
        averaging(list(self.network.parameters()), list(network.parameters()), None)
        for mine, theirs in zip(self.network.buffers(), network.buffers(), strict=True):
            mine.copy_(theirs)


def decay(share: float, step: int, advanced: float) -> float:
    """What is kept of the average in a step; in the first steps less, so that the first weights are forgotten."""
    return min(math.exp(-max(advanced, 0.0) / share), (1 + step) / (10 + step))
