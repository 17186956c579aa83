"""The sliding window: a network sees a scan patch by patch; overlapping answers are blended by a Gaussian.

Source: nnU-Net's inference (tiles evenly spaced, step half a patch, sigma an eighth of the patch).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional

from medseg.compute import autocast
from medseg.planning.plan import Configuration

SIGMA_SHARE = 1 / 8
ROOM_SHARE = 0.5  # of a GPU's free memory may be taken by a scan and its sums
VOXELS_A_FORWARD = {"cpu": 2**17, "cuda": 2**22}  # tiles are batched up to this many voxels


def tile_starts(size: int, patch: int, step: float) -> list[int]:
    """First voxels of evenly spaced tiles that cover `size`, at most `step` patches apart; each slice if patch is 1."""
    if patch == 1:
        return list(range(size))
    if size <= patch:
        return [0]
    n = math.ceil((size - patch) / (patch * step)) + 1
    return sorted({round(k * (size - patch) / (n - 1)) for k in range(n)})


def gaussian(patch: Sequence[int]) -> npt.NDArray[np.float32]:
    """Weights (X, Y, Z) of a tile's voxels: highest in its centre, nowhere zero."""
    lines = []
    for n in patch:
        at = np.arange(n) - (n - 1) / 2
        line = np.exp(-0.5 * (at / max(n * SIGMA_SHARE, 1e-3)) ** 2)
        lines.append(np.maximum(line, 1e-3 * line.max()))
    weights: npt.NDArray[np.float32] = np.einsum("x,y,z->xyz", *lines).astype(np.float32)
    return weights


def network_input(
    image_CXYZ: npt.NDArray[Any], previous_XYZ: npt.NDArray[Any] | None, in_channels: int
) -> npt.NDArray[np.float32]:
    """The image as the network reads it, float32; in the second stage of a cascade (`previous_XYZ`: the classes that
    the first stage found) with a channel more for each class but the background, 1 where it was found.
    """
    image = np.asarray(image_CXYZ, dtype=np.float32)
    if previous_XYZ is None:
        return image
    whole = np.zeros((in_channels, *image.shape[1:]), np.float32)
    whole[: len(image)] = image
    for k in range(1, in_channels - len(image) + 1):
        whole[len(image) + k - 1] = previous_XYZ == k
    return whole


@torch.inference_mode()
def slide(
    networks: Sequence[nn.Module],
    image_CXYZ: npt.NDArray[np.float32],
    configuration: Configuration,
    device: torch.device,
) -> npt.NDArray[np.float32]:
    """Logits (L, X, Y, Z), float32: the mean over the networks of their blended answers for an image (C, X, Y, Z).

    A scan smaller than the patch is padded by zeros, its mean intensity, and the padding's answers are dropped.
    """
    patch, step = configuration.patch, configuration.window.step
    before = [max(p - n, 0) // 2 for n, p in zip(image_CXYZ.shape[1:], patch, strict=True)]
    after = [max(p - n, 0) - b for n, p, b in zip(image_CXYZ.shape[1:], patch, before, strict=True)]
    pad = [n for axis in (2, 1, 0) for n in (before[axis], after[axis])]
    image = functional.pad(torch.from_numpy(np.require(image_CXYZ, requirements=["C", "W"])), pad)
    shape, classes = image.shape[1:], configuration.network.classes
    there = _with_room(device, image.element_size() * (image.numel() + (classes + 1) * math.prod(shape)))
    image = image.to(there)
    weights = torch.from_numpy(gaussian(patch)).to(there)
    total = torch.zeros((classes, *shape), device=there)
    count = torch.zeros(tuple(shape), device=there)
    starts = [tile_starts(n, p, step) for n, p in zip(shape, patch, strict=True)]
    for boxes in _batched(itertools.product(*starts), max(1, VOXELS_A_FORWARD[device.type] // math.prod(patch))):
        where = [tuple(slice(s, s + p) for s, p in zip(box, patch, strict=True)) for box in boxes]
        tiles = torch.stack([image[(slice(None), *w)] for w in where]).to(device)
        logits = _forward(networks, tiles, configuration, device)
        for w, tile in zip(where, logits.to(there), strict=True):
            total[(slice(None), *w)].addcmul_(tile, weights)
            count[w] += weights
    total /= count
    kept = tuple(slice(b, n - a) for b, a, n in zip(before, after, shape, strict=True))
    blended: npt.NDArray[np.float32] = total[(slice(None), *kept)].cpu().numpy()
    return blended


def _with_room(device: torch.device, needed_bytes: float) -> torch.device:
    """Where a scan and its sums lie: on a GPU that has room for them beside the network's work, else in memory."""
    if device.type != "cuda":
        return device
    unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    free = torch.cuda.mem_get_info(device)[0] + unused
    return device if needed_bytes <= ROOM_SHARE * free else torch.device("cpu")


def _batched(boxes: itertools.product[tuple[int, ...]], n: int) -> itertools.chain[list[tuple[int, ...]]]:
    return itertools.chain.from_iterable([list(chunk)] for chunk in iter(lambda: list(itertools.islice(boxes, n)), []))


def _forward(
    networks: Sequence[nn.Module], tiles_BCXYZ: Tensor, configuration: Configuration, device: torch.device
) -> Tensor:
    """Mean logits (B, L, X, Y, Z) of the networks, mirrored answers averaged in where the window says so."""
    axes = configuration.window.mirror_axes
    flips = [c for n in range(len(axes) + 1) for c in itertools.combinations(axes, n)]
    answers = []
    for network, flip in itertools.product(networks, flips):
        dims = [axis + 2 for axis in flip]
        answers.append(_answer(network, tiles_BCXYZ.flip(dims), configuration.slice_axis, device).flip(dims))
    return torch.stack(answers).mean(0) if len(answers) > 1 else answers[0]


def _answer(network: nn.Module, tiles_BCXYZ: Tensor, slice_axis: int | None, device: torch.device) -> Tensor:
    tiles = tiles_BCXYZ if slice_axis is None else tiles_BCXYZ.squeeze(slice_axis + 2)
    layout = torch.channels_last_3d if tiles.ndim == 5 else torch.channels_last
    with autocast(device):
        logits: Tensor = network(tiles.contiguous(memory_format=layout))
    logits = logits.float()
    return logits if slice_axis is None else logits.unsqueeze(slice_axis + 2)
