"""Evaluation beside surface-distance, MONAI, SimpleITK and the `edt` package, in one run on the same label maps.

    python -m tests.benchmarks.evaluate OUT.json [--rounds 3] [--real-data ../shared/data] [--quick]

Each method runs in a process of its own on one thread, which loads the maps and tells CPU seconds (the least of the
rounds) and the peak of memory above what it had with the maps loaded. Structures are made as CT shows them: a large
lobed one, one with a far island, eroded, shifted, dilated, shortened ones, a thin one, a lesion. Ratios are what
counts: the machine may be busy.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import platform
import resource
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

SHAPE, SPACING = (512, 512, 200), (0.8, 0.8, 2.5)
TOLERANCE_MM = 1.0
Labels = NDArray[np.uint8]
Mask = NDArray[np.bool_]


def ellipsoid(
    centre: tuple[float, ...], half_mm: tuple[float, ...], lobes: float = 0.0
) -> tuple[tuple[slice, ...], Mask]:
    """Voxels of an ellipsoid in its box; `lobes`: how far its surface waves in and out, of its size."""
    half = [mm * (1 + lobes) / s + 2 for mm, s in zip(half_mm, SPACING, strict=True)]
    box = tuple(slice(max(0, int(c - h)), min(n, int(c + h) + 1)) for c, h, n in zip(centre, half, SHAPE, strict=True))
    at = np.ogrid[box]
    x, y, z = ((a - c) * s / mm for a, c, s, mm in zip(at, centre, SPACING, half_mm, strict=True))
    radius = np.sqrt(x**2 + y**2 + z**2)
    if lobes:
        radius = radius / (1 + lobes * np.sin(5 * np.arctan2(y, x)) * np.cos(4 * z))
    return box, radius <= 1


def tube(centre: tuple[float, float], radius_mm: float, first: int, last: int) -> tuple[tuple[slice, ...], Mask]:
    """Voxels of a vessel along the slices that winds a little."""
    k = np.arange(first, last)
    x0, y0 = centre[0] + 8 * np.sin(k / 25), centre[1] + 8 * np.cos(k / 30)
    x, y = np.ogrid[:512, :512]
    near = ((x[..., None] - x0) * SPACING[0]) ** 2 + ((y[..., None] - y0) * SPACING[1]) ** 2
    return (slice(0, 512), slice(0, 512), slice(first, last)), near <= radius_mm**2


def shifted(mask: Mask, offset: tuple[int, int, int]) -> Mask:
    """The same, some voxels further."""
    return np.roll(mask, offset, (0, 1, 2))


def paint(labels: Labels, value: int, found: tuple[tuple[slice, ...], Mask]) -> None:
    """Give the voxels of a structure their value."""
    box, mask = found
    labels[box][mask] = value


def eight() -> tuple[Labels, Labels]:
    """Eight structures in reference and prediction, stored with the first axis fastest, as NIfTI files are."""
    r, p = np.zeros(SHAPE, np.uint8, order="F"), np.zeros(SHAPE, np.uint8, order="F")
    cross = ndimage.generate_binary_structure(3, 1)

    def both(value: int, of: Callable[[bool], tuple[tuple[slice, ...], Mask]]) -> None:
        paint(r, value, of(False))
        paint(p, value, of(True))

    both(1, lambda other: ellipsoid((170, 230, 120), (88.0, 72.0, 78.0), 0.085 if other else 0.07))
    both(2, lambda other: ellipsoid((370, 300, 140), (36.0, 32.0, 52.0) if other else (34.5, 30.5, 50.0)))
    p[30:36, 490:496, 4:7] = 2  # a far island
    box, kidney = ellipsoid((330, 330, 70), (27.0, 24.0, 50.0), 0.05)
    paint(r, 3, (box, kidney))
    paint(p, 3, (box, ndimage.binary_erosion(kidney, cross)))
    box, kidney = ellipsoid((190, 350, 60), (27.0, 24.0, 50.0), 0.05)
    paint(r, 4, (box, kidney))
    paint(p, 4, (box, shifted(kidney, (0, 0, 1))))
    both(5, lambda other: tube((256, 300), 12.2 if other else 11.4, 10, 186 if other else 190))
    both(6, lambda other: ellipsoid((256, 240, 16), (40.0, 34.0, 30.0), 0.11 if other else 0.09))
    both(7, lambda other: tube((300, 280), 2.9 if other else 3.6, 30, 160 if other else 170))
    both(8, lambda other: ellipsoid((150.0 + 3 * other, 200, 120), (6.0, 6.0, 6.0)))
    return r, p


def hundred() -> tuple[Labels, Labels]:
    """A hundred ellipsoids on a lattice, each a little off in the prediction."""
    rng = np.random.default_rng(0)
    r, p = np.zeros(SHAPE, np.uint8, order="F"), np.zeros(SHAPE, np.uint8, order="F")
    for n in range(100):
        centre = np.array([60 + 95 * (n % 5), 60 + 95 * (n // 5 % 5), 30 + 45 * (n // 25)], float)
        half = rng.uniform(14, 30, 3)
        paint(r, n + 1, ellipsoid(tuple(centre), tuple(half)))
        paint(
            p,
            n + 1,
            ellipsoid(tuple(centre + rng.uniform(-2, 2, 3) / SPACING), tuple(half * rng.uniform(0.95, 1.05, 3))),
        )
    return r, p


def hard(kind: str) -> tuple[Labels, Labels]:
    """One large structure, and what goes wrong with it."""
    rng = np.random.default_rng(1)
    r, p = np.zeros(SHAPE, np.uint8, order="F"), np.zeros(SHAPE, np.uint8, order="F")
    found = ellipsoid((170, 230, 120), (88.0, 72.0, 78.0), 0.07)
    paint(r, 1, found)
    paint(p, 1, ellipsoid((170, 230, 120), (88.0, 72.0, 78.0), 0.085))
    if kind == "far false positive":
        p[500:506, 500:506, 2:5] = 1
    elif kind == "half missing":
        p[:, :, 120:] = 0
    elif kind == "salt noise":
        p[rng.random(SHAPE) < 0.002] = 1
    elif kind == "holes":
        p[rng.random(SHAPE) < 0.05] = 0
    elif kind == "shifted 80 mm":
        p = np.asfortranarray(shifted(p.astype(bool), (100, 0, 0)).astype(np.uint8))
    return r, p


HARD = ("far false positive", "salt noise", "half missing", "holes", "shifted 80 mm")


def by_medseg(r: Labels, p: Labels, threads: int = 1) -> dict[str, float]:
    """All metrics of all structures: everything that `medseg evaluate` writes."""
    from medseg.evaluation.case import score_case
    from medseg.imaging.grid import Grid
    from medseg.imaging.volume import LabelMap

    grid = Grid(r.shape, np.diag([*SPACING, 1.0]))
    rows = score_case("case", LabelMap(r, grid, {}), LabelMap(p, grid, {}), threads=threads)
    return {row.structure: row.nsd for row in rows if row.nsd is not None}


def by_surface_distance(r: Labels, p: Labels) -> dict[str, float]:
    """Dice, HD, HD95, NSD, average distances."""
    import surface_distance as sd

    found = {}
    for value in range(1, int(r.max()) + 1):
        a, b = r == value, p == value
        apart = sd.compute_surface_distances(a, b, SPACING)
        sd.compute_robust_hausdorff(apart, 100)
        sd.compute_robust_hausdorff(apart, 95)
        sd.compute_average_surface_distance(apart)
        sd.compute_dice_coefficient(a, b)
        found[str(value)] = float(sd.compute_surface_dice_at_tolerance(apart, TOLERANCE_MM))
    return found


def by_monai(r: Labels, p: Labels) -> dict[str, float]:
    """HD, HD95, NSD with surfels, ASSD, Dice; a structure at a time, since one-hot maps of all take gigabytes."""
    import torch
    from monai.metrics import (
        compute_average_surface_distance,
        compute_dice,
        compute_hausdorff_distance,
        compute_surface_dice,
    )

    torch.set_num_threads(1)
    found = {}
    for value in range(1, int(r.max()) + 1):
        a, b = (torch.from_numpy(np.ascontiguousarray(m == value))[None, None].to(torch.uint8) for m in (r, p))
        options: dict[str, Any] = {"include_background": True, "spacing": SPACING}
        compute_hausdorff_distance(b, a, **options)
        compute_hausdorff_distance(b, a, percentile=95, **options)
        compute_average_surface_distance(b, a, symmetric=True, **options)
        compute_dice(b, a)
        found[str(value)] = float(compute_surface_dice(b, a, [TOLERANCE_MM], use_subvoxels=True, **options))
    return found


def by_simpleitk(r: Labels, p: Labels) -> dict[str, float]:
    """Contours and signed Maurer distance maps, with a border of background: distances of voxel centres."""
    import SimpleITK as sitk  # noqa: N813

    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)
    found = {}
    images = []
    for array in (r, p):
        image = sitk.GetImageFromArray(array.T)
        image.SetSpacing(SPACING)
        images.append(sitk.ConstantPad(image, (1, 1, 1), (1, 1, 1), 0))
    for value in range(1, int(r.max()) + 1):
        masks = [image == value for image in images]
        contours = [sitk.GetArrayFromImage(sitk.LabelContour(mask)).astype(bool) for mask in masks]
        distances = [
            np.abs(sitk.GetArrayFromImage(sitk.SignedMaurerDistanceMap(mask, False, False, True))) for mask in masks
        ]
        x, y = distances[1][contours[0]], distances[0][contours[1]]
        np.percentile(x, [95, 100])
        np.percentile(y, [95, 100])
        sitk.LabelOverlapMeasuresImageFilter().Execute(*masks)
        found[str(value)] = float(((x <= TOLERANCE_MM).sum() + (y <= TOLERANCE_MM).sum()) / (len(x) + len(y)))
    return found


def by_edt(r: Labels, p: Labels) -> dict[str, float]:
    """Exact distance transforms by the `edt` package on the box of both masks: the fastest way with a library."""
    import edt

    found = {}
    boxes = [ndimage.find_objects(array) for array in (r, p)]
    for value in range(1, int(r.max()) + 1):
        sides = zip(*(box[value - 1] for box in boxes), strict=True)
        box = tuple(slice(max(0, min(a.start, b.start) - 1), max(a.stop, b.stop) + 1) for a, b in sides)
        masks = [np.asfortranarray(array[box] == value) for array in (r, p)]
        borders = [mask & ~ndimage.binary_erosion(mask) for mask in masks]
        away = [edt.edt(~border, anisotropy=SPACING, order="F", parallel=1) for border in borders]
        x, y = away[1][borders[0]], away[0][borders[1]]
        np.percentile(x, [95, 100])
        np.percentile(y, [95, 100])
        (x.mean(), y.mean(), (masks[0] & masks[1]).sum())
        found[str(value)] = float(((x <= TOLERANCE_MM).sum() + (y <= TOLERANCE_MM).sum()) / (len(x) + len(y)))
    return found


METHODS: dict[str, Callable[[Labels, Labels], dict[str, float]]] = {
    "medseg": by_medseg,
    "surface-distance": by_surface_distance,
    "edt on boxes": by_edt,
    "MONAI": by_monai,
    "SimpleITK": by_simpleitk,
}
SLOW = ("MONAI", "SimpleITK")  # one round


def peak_bytes() -> int:
    """Of this process, since it began or since `forget_peak`."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def measured(method: str, folder: str, rounds: int) -> dict[str, Any]:
    """CPU and wall seconds of a method, the least of several rounds after one that compiles and imports."""
    r, p = (np.load(Path(folder) / f"{side}.npy") for side in "rp")
    cube = np.zeros((16, 16, 16), np.uint8, order="F")
    cube[3:9, 3:9, 3:9] = 1
    METHODS[method](cube, np.asfortranarray(np.roll(cube, 2, 0)))
    if method == "medseg":
        from medseg.evaluation.case import warm_up

        warm_up("surfel")
    Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here
    before = peak_bytes()
    cpu, wall, nsd = [], [], {}
    for _ in range(rounds):
        began, ticks = time.perf_counter(), time.process_time()
        nsd = METHODS[method](r, p)
        cpu.append(time.process_time() - ticks)
        wall.append(time.perf_counter() - began)
    return {
        "cpu_s": round(min(cpu), 4),
        "wall_s": round(min(wall), 4),
        "peak_mb": round((peak_bytes() - before) / 1e6, 1),
        "nsd": {name: round(value, 6) for name, value in nsd.items()},
    }


def compared(name: str, maps: tuple[Labels, Labels], methods: list[str], rounds: int) -> dict[str, Any]:
    """Every method on the same maps, each in its own process."""
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        for side, array in zip("rp", maps, strict=True):
            np.save(Path(folder) / f"{side}.npy", array)
        for method in methods:
            with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
                found[method] = pool.submit(measured, method, folder, 1 if method in SLOW else rounds).result()
            told = found[method]
            print(f"{name}: {method} {told['cpu_s']:.3f} CPU-s, {told['peak_mb']:.0f} MB above the maps", flush=True)  # noqa: T201
    ours = found["medseg"]["cpu_s"]
    found["times_medseg"] = {method: round(found[method]["cpu_s"] / ours, 1) for method in methods}
    return found


def cohort(real_data: Path) -> dict[str, Any]:
    """The whole command on 200 hippocampus pairs, predictions being the references shifted by a voxel."""
    import subprocess
    import sys

    from medseg.imaging.label_files import read_label_file
    from medseg.imaging.nifti import write_labels
    from medseg.imaging.volume import LabelMap

    with tempfile.TemporaryDirectory() as scratch:
        predictions = Path(scratch) / "predictions"
        references = real_data / "hippocampus" / "labelsTr"
        for path in sorted(references.glob("*.nii.gz")):
            labels = read_label_file(path)
            write_labels(predictions / path.name, LabelMap(np.roll(labels.array, 1, 0), labels.grid, labels.names))
        command = [sys.executable, "-m", "medseg", "evaluate", str(predictions), str(references), "--no-report"]
        walls, cpus = [], []
        for n in range(3):
            began, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
            subprocess.run([*command, "-o", f"{scratch}/scores{n}"], check=True, capture_output=True)
            after = resource.getrusage(resource.RUSAGE_CHILDREN)
            walls.append(time.perf_counter() - began)
            cpus.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
        return {"cases": len(list(predictions.iterdir())), "wall_s": round(min(walls), 2), "cpu_s": round(min(cpus), 2)}


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser()
    parser.add_argument("out", type=Path)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="medseg, surface-distance and edt alone")
    parser.add_argument("--real-data", type=Path, default=Path("../shared/data"))
    asked = parser.parse_args()
    methods = list(METHODS)[:3] if asked.quick else list(METHODS)
    found: dict[str, Any] = {
        "machine": {
            "cpu": platform.processor() or platform.machine(),
            "cores": os.cpu_count(),
            "load": os.getloadavg()[0],
        },
        "versions": {
            n: version(n) for n in ("medseg", "surface-distance", "monai", "SimpleITK", "edt", "numpy", "numba")
        },
        "eight structures": compared("eight structures", eight(), methods, asked.rounds),
        "hundred structures": compared("hundred structures", hundred(), methods[:3], asked.rounds),
    }
    for kind in HARD:
        found[kind] = compared(kind, hard(kind), ["medseg", "surface-distance"], asked.rounds)
    if (asked.real_data / "hippocampus").is_dir():
        found["cohort"] = cohort(asked.real_data)
        print(found["cohort"])  # noqa: T201
    asked.out.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
