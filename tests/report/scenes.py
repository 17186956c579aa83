"""Label maps with known errors, for pages that show them."""

from __future__ import annotations

import numpy as np

from medseg.imaging.grid import Grid
from medseg.imaging.volume import LabelMap, Volume

SHAPE, SPACING = (40, 36, 24), (1.0, 1.0, 2.0)


def grid(shape=SHAPE, spacing=SPACING) -> Grid:
    affine = np.diag([*spacing, 1.0])
    affine[:3, 3] = (-20.0, -30.0, 100.0)
    return Grid(shape, affine)


def ball(shape, centre, radius, spacing=SPACING):
    at = np.meshgrid(*(np.arange(n) for n in shape), indexing="ij")
    return sum(((a - c) * mm) ** 2 for a, c, mm in zip(at, centre, spacing, strict=True)) <= radius**2


def labels(shift: int = 0, drop: bool = False) -> LabelMap:
    """A liver and a kidney; the prediction's liver may be shifted to the patient's right, its kidney may be missing."""
    array = np.zeros(SHAPE, np.uint8)
    array[ball(SHAPE, (16 + shift, 18, 12), 9)] = 1
    if not drop:
        array[ball(SHAPE, (31, 18, 10), 5)] = 2
    return LabelMap(array, grid(), {1: "liver", 2: "kidney"})


def scan(like: LabelMap) -> Volume:
    noise = np.random.default_rng(0).normal(0, 12, like.array.shape)
    return Volume((40 + 50 * (like.array > 0) + noise).astype(np.float32), like.grid)
