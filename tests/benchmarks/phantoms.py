"""Made-up CT for benchmarks of many classes: a body in air on a table, and an ellipsoid for every structure.

    python -m tests.benchmarks.phantoms OUT --outputs 118 --cases 20 --spacing 3 3 3 --slices 100

writes a data set in nnU-Net's raw layout. `--outputs` counts as a network does, the background included. A structure
is known by the densities of its three layers (five of each, 125 together) and has its place in the body, about which it
moves from case to case. The body repeats every 300 mm, so that a longer scan holds more of the same.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from medseg.imaging.grid import Grid
from medseg.imaging.nifti import write_labels, write_volume
from medseg.imaging.volume import LabelMap, Volume

FIELD_MM, PERIOD_MM = 409.6, 300.0
BODY_MM = (174.0, 127.0)  # half axes in the axial plane
BOX_MM = (250.0, 182.0, PERIOD_MM)  # in which the structures lie
AIR, TISSUE, TABLE, NOISE = -1000.0, 40.0, 250.0, 15.0  # HU
DENSITIES = (-600.0, -250.0, 400.0, 750.0, 1100.0)
LAYERS = (1.0, 0.72, 0.42)  # of a structure's half axes, from outside
LARGEST_MM = 60.0  # half axis

Triple = tuple[float, float, float]
Floats = npt.NDArray[np.floating[Any]]


@dataclass(frozen=True)
class Ellipsoid:
    """A structure: mm from the middle of the field of view, in z from the first slice; densities in HU."""

    middle_mm: Triple
    half_mm: Triple
    layers: Triple


def ellipsoids(outputs: int, seed: int) -> list[Ellipsoid]:
    """One for each output but the background: place, size and direction of the long axis differ from case to case.

    Raises:
        ValueError: there are more than can be told apart.
    """
    structures = outputs - 1
    most = len(DENSITIES) ** len(LAYERS)
    if not 1 <= structures <= most:
        raise ValueError(f"{structures} structures: 1 to {most} can be told apart")
    rng = np.random.default_rng(seed)
    edge = (np.prod(BOX_MM) / structures) ** (1 / 3)
    counts = [max(1, round(length / edge)) for length in BOX_MM]
    while np.prod(counts) < structures:
        counts[int(np.argmax([length / n for length, n in zip(BOX_MM, counts, strict=True)]))] += 1
    cell = np.array(BOX_MM) / counts
    places = np.array(np.unravel_index(np.arange(structures), counts)).T + 0.5
    found = []
    for k, place in enumerate(places):
        half = np.minimum(rng.uniform(0.38, 0.46, 3) * cell, LARGEST_MM)
        middle = place * cell - np.array([BOX_MM[0] / 2, BOX_MM[1] / 2, 0]) + rng.uniform(-0.04, 0.04, 3) * cell
        layers = np.array([DENSITIES[n] for n in numbers(k)])
        found.append(Ellipsoid(_triple(middle), _triple(half), _triple(layers)))
    return found


def numbers(k: int) -> tuple[int, int, int]:
    """Which densities the layers of structure `k` (from 0) have, from outside."""
    n = len(DENSITIES)
    return k % n, k // n % n, k // n**2


def _triple(of: Floats) -> Triple:
    x, y, z = (float(v) for v in of)
    return x, y, z


def phantom(
    outputs: int, seed: int, spacing_mm: Triple, slices: int
) -> tuple[npt.NDArray[np.int16], npt.NDArray[np.uint8]]:
    """HU and classes (X, Y, Z) of one case, `slices` along Z, the field of view the same whatever the spacing."""
    structures = ellipsoids(outputs, seed)
    rng = np.random.default_rng([seed, 1])
    x, y = ((np.arange(round(FIELD_MM / s)) + 0.5) * s - FIELD_MM / 2 for s in spacing_mm[:2])
    empty = _empty_plane(x, y)
    image = np.empty((x.size, y.size, slices), np.int16, order="F")
    labels = np.zeros(image.shape, np.uint8, order="F")
    for k in range(slices):
        plane, marks = empty.copy(), labels[:, :, k]
        at = (k + 0.5) * spacing_mm[2] % PERIOD_MM
        for value, structure in enumerate(structures, 1):
            _paint(plane, marks, structure, value, (x, y), at)
        plane += NOISE * rng.standard_normal(plane.shape, np.float32)
        image[:, :, k] = np.rint(plane)
    return image, labels


def _empty_plane(x: Floats, y: Floats) -> npt.NDArray[np.float32]:
    across, down = np.meshgrid(x, y, indexing="ij")
    inside = (across / BODY_MM[0]) ** 2 + (down / BODY_MM[1]) ** 2 < 1
    plane = np.where(inside, np.float32(TISSUE), np.float32(AIR))
    plane[(np.abs(across) < 140) & (np.abs(down - 155) < 4)] = TABLE
    return plane


def _paint(
    plane: npt.NDArray[np.float32],
    marks: npt.NDArray[np.uint8],
    structure: Ellipsoid,
    value: int,
    axes: tuple[Floats, Floats],
    at: float,
) -> None:
    """A structure's section at the height `at`, worked on within its box."""
    rest = 1 - ((at - structure.middle_mm[2]) / structure.half_mm[2]) ** 2
    if rest <= 0:
        return
    window, squares = [], []
    for axis, middle, half in zip(axes, structure.middle_mm, structure.half_mm, strict=False):
        part = slice(*np.searchsorted(axis, [middle - half, middle + half]))
        window.append(part)
        squares.append(((axis[part] - middle) / half) ** 2)
    distance = squares[0][:, None] + squares[1] + (1 - rest)
    box = tuple(window)
    for share, density in zip(LAYERS, structure.layers, strict=True):
        plane[box][distance < share**2] = density
    marks[box][distance < 1] = value


def write_case(
    folder: Path, name: str, outputs: int, seed: int, spacing_mm: Triple, slices: int, labelled: bool = True
) -> None:
    """`imagesTr/NAME_0000.nii.gz`, and its labels beside it unless only the scan is wanted."""
    image, labels = phantom(outputs, seed, spacing_mm, slices)
    grid = Grid(image.shape, np.diag([-spacing_mm[0], -spacing_mm[1], spacing_mm[2], 1.0]))
    write_volume(folder / "imagesTr" / f"{name}_0000.nii.gz", Volume(image, grid))
    if labelled:
        write_labels(folder / "labelsTr" / f"{name}.nii.gz", LabelMap(labels, grid, {}))


def write_data_set(folder: Path, outputs: int, cases: int, spacing_mm: Triple, slices: int) -> None:
    """A data set in nnU-Net's raw layout; `structures.json` tells the `numbers` of each structure."""
    for k in range(cases):
        write_case(folder, f"ct_{k:03d}", outputs, k, spacing_mm, slices)
    labels = {"background": 0, **{f"structure{k}": k for k in range(1, outputs)}}
    told = {"channel_names": {"0": "CT"}, "labels": labels, "numTraining": cases, "file_ending": ".nii.gz"}
    (folder / "dataset.json").write_text(json.dumps(told), encoding="utf-8")
    known_by = [numbers(k) for k in range(outputs - 1)]
    (folder / "structures.json").write_text(json.dumps(known_by), encoding="utf-8")


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("out", type=Path)
    options.add_argument("--outputs", type=int, default=3)
    options.add_argument("--cases", type=int, default=1)
    options.add_argument("--spacing", type=float, nargs=3, default=(0.8, 0.8, 1.0), metavar="MM")
    options.add_argument("--slices", type=int, default=300)
    given = options.parse_args()
    x, y, z = given.spacing
    write_data_set(given.out, given.outputs, given.cases, (x, y, z), given.slices)


if __name__ == "__main__":
    main()
