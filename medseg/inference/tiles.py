"""Where the tiles of a sliding window lie, and what each voxel of one weighs: arithmetic alone, without torch.

Source: nnU-Net's inference (tiles evenly spaced, step half a patch, sigma an eighth of the patch).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from medseg.planning.plan import Centre, Configuration

SIGMA_SHARE = 1 / 8
VOXELS_A_FORWARD = {"cpu": 2**17, "cuda": 2**22}  # tiles are batched up to this many voxels


def tile_starts(size: int, patch: int, step: float) -> list[int]:
    """First voxels of evenly spaced tiles that cover `size`, at most `step` patches apart; each slice if patch is 1."""
    if patch == 1:
        return list(range(size))
    if size <= patch:
        return [0]
    n = math.ceil((size - patch) / (patch * step)) + 1
    apart = (size - patch) / (n - 1)  # in this order nnU-Net's rounding comes out to the voxel
    return sorted({round(k * apart) for k in range(n)})


def tile_count(shape: Sequence[int], configuration: Configuration) -> int:
    """How many tiles cover a scan of this shape on the network's grid."""
    patch, step = configuration.patch, configuration.window.step
    return math.prod(len(tile_starts(n, p, step)) for n, p in zip(shape, patch, strict=True))


def tiles_a_forward(patch: Sequence[int], kind: str) -> int:
    """How many tiles go through the network at once on a device of this kind (cpu or cuda), at most."""
    return max(1, VOXELS_A_FORWARD[kind] // math.prod(patch))


def slab_axis(shape: Sequence[int], configuration: Configuration) -> int:
    """The axis along which slabs go: that with most tiles, of equal ones the last, as scans grow from head to foot."""
    patch, step = configuration.patch, configuration.window.step
    tiles = [len(tile_starts(n, p, step)) for n, p in zip(shape, patch, strict=True)]
    return max(range(3), key=lambda axis: (tiles[axis], axis))


def line_weights(n: int, centre: Centre = "middle") -> npt.NDArray[np.float32]:
    """Weights of a tile along one axis: highest in its centre, nowhere zero.

    `middle` makes them the same from both ends. `upper` is nnU-Net's: of an even number of voxels the centre is the
    upper one of the middle two. With weights of nnU-Net's the other choice labels 0.05 to 0.2 % of voxels otherwise,
    where a small scan takes several tiles.
    """
    if centre == "upper":
        nnunets: npt.NDArray[np.float32] = np.exp(-0.5 * ((np.arange(n) - n // 2) / (n * SIGMA_SHARE)) ** 2)
        return nnunets.astype(np.float32)
    at = np.arange(n) - (n - 1) / 2
    line = np.exp(-0.5 * (at / max(n * SIGMA_SHARE, 1e-3)) ** 2)
    weights: npt.NDArray[np.float32] = np.maximum(line, 1e-3 * line.max()).astype(np.float32)
    return weights


def covered(size: int, line: npt.NDArray[np.float32], starts: Sequence[int], before: int) -> npt.NDArray[np.float32]:
    """The sum of the weights of all tiles at each voxel along one axis."""
    total = np.zeros(size, np.float32)
    part = line[before : before + size]
    for start in starts:
        total[start : start + len(part)] += part
    return total


def grouped(starts: Sequence[Sequence[int]], axis: int, at_once: int) -> list[list[int]]:
    """Starts along the slab axis, so many together that the network is given `at_once` tiles where there are."""
    a_start = math.prod(len(starts[other]) for other in range(3) if other != axis)
    n = max(1, at_once // a_start)
    return [list(starts[axis][k : k + n]) for k in range(0, len(starts[axis]), n)]
