"""Grids of every orientation, and small data sets on disk."""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from medseg.imaging.grid import Grid
from medseg.imaging.nifti import write_labels, write_volume
from medseg.imaging.volume import LabelMap, Volume

Three = tuple[int, int, int]
NAMES = {1: "liver", 2: "lesion"}


def orientations() -> list[tuple[Three, Three]]:
    """All 48: the world axis that each stored axis follows, and its sign."""
    signs = list(itertools.product((1, -1), repeat=3))
    return [(worlds, sign) for worlds in itertools.permutations((0, 1, 2)) for sign in signs]


def grid_of(worlds: Three, signs: Three, shape: Three = (4, 5, 6), spacing: Sequence[float] = (0.8, 1.5, 3.0)) -> Grid:
    affine = np.eye(4)
    affine[:3, :3] = 0
    for stored, (world, sign) in enumerate(zip(worlds, signs, strict=True)):
        affine[world, stored] = sign * spacing[stored]
    affine[:3, 3] = -12.5, 30, 7
    return Grid(shape, affine)


def oblique(seed: int, shape: Three = (4, 5, 6)) -> Grid:
    rng = np.random.default_rng(seed)
    affine = np.eye(4)
    affine[:3, :3] = Rotation.random(rng=rng).as_matrix() * rng.uniform(0.5, 4, 3)
    affine[:3, 0] *= rng.choice([-1, 1])
    affine[:3, 3] = rng.uniform(-200, 200, 3)
    return Grid(shape, affine)


def places_mm(grid: Grid) -> NDArray[np.float64]:
    """World position (X, Y, Z, 3) of every voxel."""
    index = np.stack(np.meshgrid(*(np.arange(n) for n in grid.shape), indexing="ij"), axis=-1)
    return index @ grid.affine[:3, :3].T + grid.affine[:3, 3]


def one_hot(classes: NDArray[np.uint8], n: int) -> NDArray[np.float32]:
    return np.stack([(classes == k).astype(np.float32) for k in range(n)])


def write_case(
    root: Path,
    name: str,
    seed: int = 0,
    shape: Three = (24, 20, 16),
    spacing: Sequence[float] = (1.0, 1.0, 2.0),
    label_shape: Three | None = None,
    values: Sequence[int] = (1, 2),
    channels: int = 1,
) -> None:
    """One scan with a box of each value in `values`, brighter than what surrounds it; each case a little different."""
    rng = np.random.default_rng(seed)
    label = np.zeros(label_shape or shape, np.uint8)
    for k, value in enumerate(values):
        start = [int(n * (0.15 + 0.4 * k)) + (int(rng.integers(0, 2)) if n > 2 else 0) for n in label.shape]
        label[tuple(slice(s, s + max(1, n // 4)) for s, n in zip(start, label.shape, strict=True))] = value
    grid = Grid(shape, np.diag([*spacing, 1.0]))
    for channel in range(channels):
        image = rng.normal(100 + 10 * channel, 5, shape).astype(np.float32)
        if label.shape == shape:
            image += 40 * label.astype(np.float32)
        suffix = f"_{channel:04d}" if channels > 1 else ""
        write_volume(root / "images" / f"{name}{suffix}.nii.gz", Volume(image, grid))
    write_labels(root / "labels" / f"{name}.nii.gz", LabelMap(label, Grid(label.shape, grid.affine), {}))


def describe(root: Path, names: dict[int, str] | None = None, channels: Sequence[str] = ("MR",)) -> Path:
    """Name structures and channels beside images/ and labels/."""
    said = {
        "channel_names": {str(i): name for i, name in enumerate(channels)},
        "labels": {"background": 0} | {name: value for value, name in (names or NAMES).items()},
    }
    (root / "dataset.json").write_text(json.dumps(said), encoding="utf-8")
    return root


def write_dataset(root: Path, n: int = 6, channels: Sequence[str] = ("MR",), shape: Three = (24, 20, 16)) -> Path:
    for i in range(n):
        write_case(root, f"case{i}", seed=i, shape=shape, channels=len(channels))
    return describe(root, channels=channels)
