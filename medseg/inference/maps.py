"""Maps on the scan's own grid that a user may ask for: probabilities of every structure, and uncertainty.

Both are stored as 16-bit numbers, 0 to 65535 for 0 to 1, scaled by the file's header: a reader sees 0 to 1.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor

from medseg.imaging.grid import Grid
from medseg.inference.averaging import Answer, probabilities
from medseg.inference.mapped import mapped_zeros
from medseg.planning.plan import Plan
from medseg.preprocessing.crop import slices
from medseg.preprocessing.orientation import turned
from medseg.preprocessing.prepare import Undo

STEPS = 65535  # of 16 bits

Shares = npt.NDArray[np.uint16]


@dataclass(frozen=True, eq=False)
class Maps:
    """What was asked for, else None; the arrays are in stored axes, outputs last, and may lie on disk.

    names: of the outputs of `probabilities` (X, Y, Z, L): the background first, unless the plan has regions.
    uncertainty (X, Y, Z): entropy of the probabilities over its largest value.
    """

    grid: Grid
    names: tuple[str, ...]
    probabilities: Shares | None = None
    uncertainty: Shares | None = None


def draw_maps(
    answers: Sequence[Answer], plan: Plan, temperature: float, scratch: Path, likely: bool, unsure: bool
) -> Maps:
    """Probabilities (`likely`), calibrated by `temperature`, and their uncertainty (`unsure`), some planes at a time.

    Air that was cropped away is background, without doubt.

    Raises:
        ResourceError: there is no room on disk.
    """
    undo = answers[0].undo
    names = tuple(region.name for region in plan.regions) or ("background", *plan.names.values())
    found = Maps(
        undo.grid,
        names,
        _mapped(scratch / "probabilities", (*undo.shape, len(names))) if likely else None,
        _mapped(scratch / "uncertainty", undo.shape) if unsure else None,
    )
    if found.probabilities is not None and not plan.regions:
        found.probabilities[..., 0] = STEPS
    for piece in probabilities(answers, plan, temperature):
        here = slice(piece.start, piece.start + piece.probabilities_XYPL.shape[2])
        if found.probabilities is not None:
            for k in range(len(names)):
                view = _cropped(found.probabilities[..., k], undo)
                view[:, :, here] = _steps(piece.probabilities_XYPL[..., k].numpy())
        if found.uncertainty is not None:
            unsure_XYP = entropy_of(piece.probabilities_XYPL, regions=bool(plan.regions))
            _cropped(found.uncertainty, undo)[:, :, here] = _steps(unsure_XYP.numpy())
    return found


def entropy_of(probabilities: Tensor, regions: bool) -> Tensor:
    """How unsure the outputs (..., L) of each voxel are, 0 to 1: entropy over its largest value.

    Of regions, which are decided each for itself, that of the least sure.
    """
    p = probabilities.clamp(1e-7, 1 - 1e-7)
    if not regions:
        return -(p * p.log()).sum(-1) / math.log(p.shape[-1])
    return (-(p * p.log() + (1 - p) * (1 - p).log()) / math.log(2)).amax(-1)


def _mapped(path: Path, shape: tuple[int, ...]) -> Shares:
    """Zeros on disk, in the order of NIfTI."""
    return mapped_zeros(path, np.uint16, shape, order="F")


def _cropped(stored: Shares, undo: Undo) -> Shares:
    view: Any = turned(stored, undo.turn)[slices(undo.box)]
    return view  # type: ignore[no-any-return]


def _steps(shares: npt.NDArray[np.float32]) -> Shares:
    return np.rint(shares * STEPS).clip(0, STEPS).astype(np.uint16)
