"""How fast, and in how much memory, images and label maps are resampled: medseg beside other libraries (Linux).

    python -m tests.benchmarks.resampling [--out FILE] [--times 5]

A scan of 256 x 256 x 120 voxels of 0.8 x 0.8 x 2.5 mm goes to 1 mm: 205 x 205 x 300. Each run is a fresh process with
one thread that calls its kernel once; runs go in turn, and the best of each counts. `skimage` is what nnU-Net does: a
cubic in float64 for the image, and for labels one linear map a label. Memory is the peak above interpreter, imports
and input, the result included. Times are judged by ratios; results are compared as well.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from tests.benchmarks.dicom_reading import memory_mib

ROOT = Path(__file__).parents[2]
OUT = Path(__file__).parent / "results" / "resampling.json"
OLD, NEW = (256, 256, 120), (205, 205, 300)
LABELS = (3, 25, 100)
PREPARED_MIB = 2048
ENOUGH_S = 40.0  # a tool that has computed for so long is not run again

Array = np.ndarray[Any, Any]
Kernel = Callable[[Array], Array]
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")


def image() -> Array:
    """A CT-like volume: smooth, with edges, and noise of 10 HU."""
    x, y, z = np.ix_(*(np.linspace(-1, 1, n, dtype=np.float32) for n in OLD))
    body = np.where(x**2 + y**2 / 0.7 < 0.9, 40 + 60 * np.sin(9 * x) * np.cos(7 * y + 5 * z), -1000)
    return (body + np.random.default_rng(0).normal(0, 10, OLD)).astype(np.float32)


def labels(number: int) -> Array:
    """Ellipsoid-like labels that fill a body and meet each other: each voxel belongs to the nearest of them."""
    x, y, z = np.ix_(*(np.linspace(-1, 1, n, dtype=np.float32) for n in OLD))
    rng = np.random.default_rng(1)
    nearest, classes = np.full(OLD, 1.5, np.float32), np.zeros(OLD, np.uint8)
    for label in range(1, number + 1):
        a, b, c = rng.uniform(-0.8, 0.8, 3)
        size = rng.uniform(0.7, 1.4, 3) * number ** (-1 / 3)
        distance = ((x - a) / size[0]) ** 2 + ((y - b) / size[1]) ** 2 + ((z - c) / size[2]) ** 2
        here = distance < nearest
        classes[here], nearest[here] = label, distance[here]
    classes[np.broadcast_to(x**2 + y**2 / 0.7 >= 0.9, OLD)] = 0
    return classes


def with_medseg() -> tuple[Kernel, Kernel]:
    from medseg.preprocessing.resample import LINEAR, ON_CPU

    return lambda array: ON_CPU.image(array, NEW, (3, 3, 3)), lambda classes: ON_CPU.labels(classes, NEW, LINEAR)


def with_medseg_columns_first() -> tuple[Kernel, Kernel]:
    """As `medseg`, from arrays that lie in memory as NIfTI files do: x runs fastest."""
    of_image, of_labels = with_medseg()
    return of_image, of_labels


def with_skimage() -> tuple[Kernel, Kernel]:
    from skimage.transform import resize

    def of_image(array: Array) -> Array:
        done: Array = resize(array.astype(np.float64), NEW, 3, mode="edge", clip=True, anti_aliasing=False)
        return done.astype(np.float32)

    def of_labels(classes: Array) -> Array:
        out = np.zeros(NEW, classes.dtype)
        for label in np.unique(classes):
            share = resize((classes == label).astype(np.float64), NEW, 1, mode="edge", clip=True, anti_aliasing=False)
            out[share >= 0.5] = label
        return out

    return of_image, of_labels


def with_scipy() -> tuple[Kernel, Kernel]:
    from scipy.ndimage import zoom

    factors = [new / old for new, old in zip(NEW, OLD, strict=True)]

    def of_image(array: Array) -> Array:
        done = zoom(array, factors, order=3, mode="nearest", grid_mode=True)
        return np.clip(done, array.min(), array.max())

    def of_labels(classes: Array) -> Array:
        best, out = np.zeros(NEW, np.float32), np.zeros(NEW, classes.dtype)
        for label in np.unique(classes):
            share = zoom((classes == label).astype(np.float32), factors, order=1, mode="nearest", grid_mode=True)
            wins = share > best
            out[wins], best[wins] = label, share[wins]
        return out

    return of_image, of_labels


def with_simpleitk() -> tuple[Kernel, Kernel]:
    import SimpleITK

    SimpleITK.ProcessObject.SetGlobalDefaultNumberOfThreads(1)

    def by(interpolator: int) -> Kernel:
        def resample(array: Array) -> Array:
            source = SimpleITK.GetImageFromArray(array.T)
            spacing = [old / new for old, new in zip(OLD, NEW, strict=True)]
            origin = [s / 2 - 0.5 for s in spacing]
            pixel = source.GetPixelID()
            identity = SimpleITK.Transform()
            done = SimpleITK.Resample(
                source, NEW, identity, interpolator, origin, spacing, source.GetDirection(), 0.0, pixel, True
            )
            return SimpleITK.GetArrayFromImage(done).T

        return resample

    return by(SimpleITK.sitkBSpline), by(SimpleITK.sitkLabelLinear)


TOOLS: dict[str, Callable[[], tuple[Kernel, Kernel]]] = {
    "medseg": with_medseg,
    "medseg columns first": with_medseg_columns_first,
    "skimage": with_skimage,
    "scipy": with_scipy,
    "simpleitk": with_simpleitk,
}


def work(tool: str, task: str, folder: Path) -> dict[str, float]:
    """Resample once in this process; times in seconds, memory in MiB. The result goes to a file."""
    kernel = TOOLS[tool]()[0 if task == "image" else 1]
    array = np.load(folder / f"{task}.npy")
    if tool == "medseg columns first":
        array = np.asfortranarray(array)
    np.ones(PREPARED_MIB << 20, np.uint8)  # pages that a virtual machine never used cost much at first, whoever asks
    before = memory_mib("VmRSS")
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # forget the peak of the imports
    wall, cpu = time.perf_counter(), time.process_time()
    done = kernel(array)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    peak = memory_mib("VmHWM") - before
    np.save(folder / f"{tool} {task}.npy", done)
    return {"wall_s": wall, "cpu_s": cpu, "peak_mib": peak}


def measured(tool: str, task: str, folder: Path) -> dict[str, float]:
    command = [sys.executable, "-m", "tests.benchmarks.resampling", "--work", tool, task, str(folder)]
    done = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True, env=os.environ | ONE_THREAD)
    result: dict[str, float] = json.loads(done.stdout)
    return result


def best_of(task: str, folder: Path, times: int) -> dict[str, dict[str, float]]:
    """The best run of each tool, run in turn so that a busy machine is busy for all."""
    runs: dict[str, list[dict[str, float]]] = {tool: [] for tool in TOOLS}
    for _ in range(times):
        for tool, of_tool in runs.items():
            if sum(run["cpu_s"] for run in of_tool) < ENOUGH_S:
                of_tool.append(measured(tool, task, folder))
    return {tool: {key: min(run[key] for run in all_) for key in all_[0]} for tool, all_ in runs.items()}


def beside_medseg(task: str, found: dict[str, dict[str, float]], folder: Path) -> dict[str, dict[str, float]]:
    """For each tool its time and peak memory, how many times medseg's they are, and how far the results are apart."""
    of_medseg, ours = found["medseg"], np.load(folder / f"medseg {task}.npy")
    table = {}
    for tool, best in found.items():
        theirs = np.load(folder / f"{tool} {task}.npy")
        if task == "image":
            apart = {"largest_difference_of_range": float(np.abs(theirs - ours).max() / np.ptp(ours))}
        else:
            apart = {"voxels_that_differ": float((theirs != ours).mean())}
        ratios = {
            "cpu_of_medseg": best["cpu_s"] / of_medseg["cpu_s"],
            "peak_of_medseg": best["peak_mib"] / of_medseg["peak_mib"],
        }
        table[tool] = {key: float(f"{value:.4g}") for key, value in (best | ratios | apart).items()}
    return table


def check(results: dict[str, dict[str, dict[str, float]]]) -> None:
    """The tools that compute the same must agree; SimpleITK's cubic has another rule at the edge."""
    for tool in ("skimage", "scipy"):
        if results["image"][tool]["largest_difference_of_range"] > 2e-6:
            raise RuntimeError(f"{tool} and medseg do not agree on the image: {results['image'][tool]}")
    for task in results:
        if task != "image" and results[task]["scipy"]["voxels_that_differ"] > 0.01:  # exact ties, and no more
            raise RuntimeError(f"scipy and medseg do not agree on the {task}: {results[task]['scipy']}")


def show(results: dict[str, dict[str, dict[str, float]]]) -> str:
    lines = [f"{'':34} {'cpu s':>8} {'/ medseg':>9} {'peak MiB':>9} {'/ medseg':>9} {'apart':>10}"]
    for task, table in results.items():
        for tool, row in table.items():
            times = (
                f"{row['cpu_s']:8.3f} {row['cpu_of_medseg']:9.1f} {row['peak_mib']:9.0f} {row['peak_of_medseg']:9.1f}"
            )
            apart = row.get("voxels_that_differ", row.get("largest_difference_of_range", 0.0))
            lines.append(f"{task:12} {tool:21} {times} {apart:10.2g}")
    return "\n".join(lines) + "\n"


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--out", type=Path, default=OUT)
    options.add_argument("--times", type=int, default=5)
    options.add_argument("--work", nargs=3, metavar=("TOOL", "TASK", "FOLDER"), help=argparse.SUPPRESS)
    given = options.parse_args()
    if given.work:
        sys.stdout.write(json.dumps(work(given.work[0], given.work[1], Path(given.work[2]))))
        return
    with tempfile.TemporaryDirectory() as place:
        folder, results = Path(place), {}
        arrays = {"image": image} | {f"{n} labels": (lambda n=n: labels(n)) for n in LABELS}
        for task, build in arrays.items():
            np.save(folder / f"{task}.npy", build())
            results[task] = beside_medseg(task, best_of(task, folder, given.times), folder)
    sys.stdout.write(show(results))
    check(results)
    given.out.parent.mkdir(parents=True, exist_ok=True)
    given.out.write_text(json.dumps(record(given, results), indent=1) + "\n", encoding="utf-8")


def record(given: argparse.Namespace, results: dict[str, dict[str, dict[str, float]]]) -> dict[str, Any]:
    few, many = (results[f"{n} labels"] for n in (LABELS[0], LABELS[-1]))
    slope = {tool: 1000 * (many[tool]["cpu_s"] - few[tool]["cpu_s"]) / (LABELS[-1] - LABELS[0]) for tool in TOOLS}
    return {
        "what": f"{OLD} to {NEW} voxels, one thread, a fresh process each; best of {given.times}, "
        f"of fewer once a tool has computed for {ENOUGH_S:.0f} s",
        "when": datetime.now(UTC).strftime("%Y-%m-%d"),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}",
        "versions": {name: version(name) for name in ("numpy", "scipy", "scikit-image", "SimpleITK")},
        "ms_per_label": {tool: round(value, 3) for tool, value in slope.items()},
        "results": results,
    }


if __name__ == "__main__":
    main()
