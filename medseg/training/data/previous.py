"""A cascade's second stage must not trust the first blindly: what the first found is roughened while it is trained.

Kinds and probabilities are nnU-Net's: a class is dilated, eroded, opened or closed by a ball, or loses one of its
components. Everything is exact and computed on the segmentation's own device, without waiting for it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from medseg.training.distance import squared_distance

MOST_RADIUS = 8
DROP_BELOW = 0.15  # of the patch: a larger component is kept
ROUNDS = 12  # of joining neighbours: a maze of 255 x 255 voxels takes 10, noise 5
_PRIME = 2**31 - 1
_KINDS: tuple[Literal["dilate", "erode", "open", "close"], ...] = ("dilate", "erode", "open", "close")


@dataclass(frozen=True, slots=True)
class Change:
    """What is done to one class: a ball of `radius` voxels, or the component dropped that `key` chooses."""

    kind: Literal["dilate", "erode", "open", "close", "drop"]
    structure: int
    radius: int = 0
    key: int = 0


def draw_changes(rng: np.random.Generator, structures: int) -> tuple[Change, ...]:
    """What is done to a patch's `structures` classes, in a random order; nothing where there are none."""
    if structures == 0:
        return ()
    changes = []
    if rng.random() < 0.4:
        kind = _KINDS[int(rng.integers(len(_KINDS)))]
        radius = int(rng.integers(1, MOST_RADIUS + 1))
        changes += [Change(kind, int(k) + 1, radius) for k in rng.permutation(structures) if rng.random() < 0.5]
    if rng.random() < 0.2:
        keys = rng.integers(2**31, size=structures)
        changes += [Change("drop", k + 1, key=int(keys[k])) for k in range(structures) if rng.random() < 0.5]
    return tuple(changes)


def changed(classes_XYZ: Tensor, changes: Sequence[Change]) -> Tensor:
    """The classes after these changes: one that grows takes voxels from others, one that shrinks leaves background."""
    classes = classes_XYZ
    for how in changes:
        was = classes == how.structure
        now = without_one(was, how.key) if how.kind == "drop" else _of_ball(was, how)
        classes = torch.where(now, how.structure, torch.where(was, 0, classes)).to(classes.dtype)
    return classes


def one_hot(classes_XYZ: Tensor, structures: int) -> Tensor:
    """(K, X, Y, Z) float32: a channel for each class but 0."""
    numbers = torch.arange(1, structures + 1, device=classes_XYZ.device, dtype=classes_XYZ.dtype)
    return (classes_XYZ == numbers.view(-1, 1, 1, 1)).float()


def _of_ball(mask: Tensor, how: Change) -> Tensor:
    if how.kind == "dilate":
        return dilated(mask, how.radius)
    if how.kind == "erode":
        return ~dilated(~mask, how.radius)
    if how.kind == "open":
        return dilated(~dilated(~mask, how.radius), how.radius)
    return ~dilated(~dilated(mask, how.radius), how.radius)


def dilated(mask_XYZ: Tensor, radius: int) -> Tensor:
    """All voxels within `radius` of the mask."""
    beyond = radius + 0.5  # told apart from `radius`, and no step further
    return squared_distance(mask_XYZ[None], (1.0, 1.0, 1.0), beyond)[0] <= radius**2


def without_one(mask_XYZ: Tensor, key: int) -> Tensor:
    """The mask without one of its components that are small enough, if there is any; `key` chooses which."""
    parts = components(mask_XYZ).reshape(-1)
    sizes = torch.zeros(parts.numel() + 1, dtype=torch.int64, device=parts.device)
    sizes.scatter_add_(0, torch.where(parts > 0, parts, _own_number(parts)), torch.ones_like(parts))
    small = sizes < DROP_BELOW * parts.numel()
    lots = parts * (1 + key % (_PRIME - 1)) % _PRIME + 1  # a number for each component, as good as random
    lots = torch.where((parts > 0) & small[parts], lots, 0)
    return mask_XYZ & ((lots == 0) | (lots < lots.max())).view(mask_XYZ.shape)


def components(mask_XYZ: Tensor) -> Tensor:
    """For each voxel of the mask the number (from 1) of its component, where corners touch; 0 outside.

    Every voxel takes the highest number among its neighbours, hands it on to the voxel whose number it had, and takes
    that one's: parts join in few rounds, however long they are (Shiloach and Vishkin 1982).
    """
    inside = mask_XYZ.reshape(-1)
    own = _own_number(inside)  # where all else would wait in line to write nothing
    number = torch.where(inside, own, 0)
    for _ in range(ROUNDS):
        highest = _highest_neighbour(number.view(mask_XYZ.shape)).reshape(-1)
        highest = torch.where(inside, highest, 0)
        with_zero = functional.pad(number, (1, 0))
        with_zero = with_zero.scatter_reduce(0, torch.where(inside, number, own), highest, "amax")
        number = with_zero[with_zero[with_zero[1:]]]
    return number.view(mask_XYZ.shape)


def _own_number(voxels: Tensor) -> Tensor:
    """From 1 on."""
    return torch.arange(1, voxels.numel() + 1, device=voxels.device)


def _highest_neighbour(number_XYZ: Tensor) -> Tensor:
    """The highest of the 27 voxels about each; an axis after the other."""
    for axis, n in enumerate(number_XYZ.shape):
        highest = number_XYZ.clone()
        for to, source in ((1, 0), (0, 1)):
            part = highest.narrow(axis, to, n - 1)
            torch.maximum(part, number_XYZ.narrow(axis, source, n - 1), out=part)
        number_XYZ = highest
    return number_XYZ
