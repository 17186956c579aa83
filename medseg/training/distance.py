"""Squared distances to a mask on the mask's own device, exact and without waiting for it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


@torch.no_grad()
def squared_distance(to_BXYZ: Tensor, sizes: Sequence[float], reach: float) -> Tensor:
    """From each voxel to the nearest one of the mask of its sample: squared, at most `reach` squared, float32.

    sizes: of a voxel along each axis. Along one axis after the other the least of shifted squares (Saito & Toriwaki
    1994).
    """
    least = torch.where(to_BXYZ, 0.0, reach**2)
    for axis, size in enumerate(sizes, 1):
        before, n = least, least.shape[axis]
        least = before.clone()
        for k in range(1, min(int(reach / size), n - 1) + 1):
            step = (k * size) ** 2
            up, down = least.narrow(axis, k, n - k), least.narrow(axis, 0, n - k)
            torch.minimum(up, before.narrow(axis, 0, n - k) + step, out=up)
            torch.minimum(down, before.narrow(axis, k, n - k) + step, out=down)
    return least
