"""Patches from prepared cases: where they lie is drawn by a seed and the step, so a resumed run draws the same."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from medseg.planning.plan import Configuration
from medseg.preprocessing.cache import LoadedCase
from medseg.training.augment import Draw, changed, draw, sampling_matrix

Centre = tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class Pick:
    """One patch to be: the case's index, the patch's centre in voxels, and its augmentation."""

    case: int
    centre: Centre
    augmentation: Draw


def pick_batch(
    cases: Sequence[LoadedCase], configuration: Configuration, rng: np.random.Generator, augment: bool = True
) -> list[Pick]:
    """Draw a batch: cases evenly with replacement, the last `foreground_share` of it centred on a labelled voxel.

    A foreground voxel is drawn evenly over the classes of its case, then over the class' voxels (nnU-Net's rule).
    """
    schedule = configuration.schedule
    forced_from = schedule.batch - round(schedule.batch * schedule.foreground_share)
    picks = []
    for index in range(schedule.batch):
        which = int(rng.integers(len(cases)))
        case = cases[which]
        centre = _foreground(case, rng) if index >= forced_from and case.foreground else None
        if centre is None:
            centre = _anywhere(case.classes_XYZ.shape, configuration.patch, rng)
        how = draw(rng, configuration.slice_axis, schedule.mirror_axes) if augment else Draw()
        picks.append(Pick(which, centre, how))
    return picks


def _foreground(case: LoadedCase, rng: np.random.Generator) -> Centre:
    classes = sorted(case.foreground)
    voxels = case.foreground[classes[int(rng.integers(len(classes)))]]
    at = np.unravel_index(int(voxels[int(rng.integers(voxels.size))]), case.classes_XYZ.shape)
    return int(at[0]), int(at[1]), int(at[2])


def _anywhere(shape: Sequence[int], patch: Sequence[int], rng: np.random.Generator) -> Centre:
    """A centre for which the patch lies within the scan; along an axis shorter than the patch, the scan's middle."""
    x, y, z = (
        int(rng.integers(p // 2, n - p + p // 2 + 1)) if n > p else n // 2 for n, p in zip(shape, patch, strict=True)
    )
    return x, y, z


def make_batch(
    cases: Sequence[LoadedCase], picks: Sequence[Pick], configuration: Configuration
) -> tuple[Tensor, Tensor]:
    """Images (B, C, X, Y[, Z]) float32 and classes (B, X, Y[, Z]) int64 of the picks; 2D drops the slice axis."""
    pairs = [make_patch(cases[p.case], p, configuration) for p in picks]
    image, classes = torch.stack([i for i, _ in pairs]), torch.stack([c for _, c in pairs])
    if configuration.slice_axis is not None:
        image, classes = image.squeeze(configuration.slice_axis + 2), classes.squeeze(configuration.slice_axis + 1)
    return image, classes


def make_patch(case: LoadedCase, pick: Pick, configuration: Configuration) -> tuple[Tensor, Tensor]:
    """One patch (C, X, Y, Z) and its classes (X, Y, Z), zero where it reaches beyond the scan."""
    how = pick.augmentation
    if how.moves:
        image, classes = _moved(case, pick, configuration.patch)
    else:
        image = _cut(case.image_CXYZ, pick.centre, configuration.patch)
        classes = _cut(case.classes_XYZ[None], pick.centre, configuration.patch)[0]
    if how.mirror:
        image = image.flip([axis + 1 for axis in how.mirror])
        classes = classes.flip(list(how.mirror))
    return changed(image, how), classes.long()


def _cut(array_CXYZ: npt.NDArray[Any], centre: Sequence[int], patch: Sequence[int]) -> Tensor:
    """The box of size `patch` about `centre`, zero outside the array."""
    start = [c - p // 2 for c, p in zip(centre, patch, strict=True)]
    inside = [(max(s, 0), min(s + p, n)) for s, p, n in zip(start, patch, array_CXYZ.shape[1:], strict=True)]
    found = array_CXYZ[(slice(None), *(slice(a, max(a, b)) for a, b in inside))]
    cut = torch.from_numpy(np.array(found, dtype=np.float32 if found.dtype.kind == "f" else found.dtype))
    pad = [
        n for (a, b), s, p in zip(inside, start, patch, strict=True) for n in (min(max(a - s, 0), p), 0)
    ]  # before; what is missing after follows from the patch's size
    for axis, p in enumerate(patch):
        pad[2 * axis + 1] = p - pad[2 * axis] - cut.shape[axis + 1]
    return functional.pad(cut, [pad[k] for axis in (2, 1, 0) for k in (2 * axis, 2 * axis + 1)])


def _moved(case: LoadedCase, pick: Pick, patch: Sequence[int]) -> tuple[Tensor, Tensor]:
    """The patch read along rotated and scaled axes: the image linearly, classes nearest, zero outside the scan."""
    matrix = sampling_matrix(pick.augmentation, case.spacing_mm)
    half = (np.array(patch) - 1) / 2
    reach = np.abs(matrix) @ (half + 1)
    wide = [2 * int(np.ceil(r)) + 3 for r in reach]
    image = _cut(case.image_CXYZ, pick.centre, wide)
    classes = _cut(case.classes_XYZ[None], pick.centre, wide)
    axes = [torch.arange(p, dtype=torch.float32) - (p // 2) for p in patch]
    offset = torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1) @ torch.tensor(matrix.T, dtype=torch.float32)
    middle = torch.tensor([w // 2 for w in wide], dtype=torch.float32)
    last = torch.tensor([max(w - 1, 1) for w in wide], dtype=torch.float32)
    grid = ((offset + middle) / last * 2 - 1).flip(-1).unsqueeze(0)  # grid_sample counts the last axis first
    moved = functional.grid_sample(image.unsqueeze(0), grid, mode="bilinear", align_corners=True)
    nearest = functional.grid_sample(classes.float().unsqueeze(0), grid, mode="nearest", align_corners=True)
    return moved[0], nearest[0, 0].round()
