"""How preparing a case grows with its voxels, its labels and the workers: measured, fitted, drawn (Linux).

    python -m tests.benchmarks.scaling [--times 3] [--out FOLDER] [--scratch DIR]

Made-up CT of 2 to 105 million voxels, .nii.gz, brought from 0.8 x 0.8 x 1 mm to 1.5 mm (cubic) with 25 labels. Each
point is the best of several fresh processes. A case's time is CPU seconds on one thread without start-up: `look` is
the fingerprint, `prepare` all from the files to the prepared file. Labels: from the label map to classes and
lists of voxels, on 12 million voxels. Workers: cases of 8 million voxels through the pool that medseg uses, in wall
seconds after each worker has done one case, and memory of the process tree (PSS) of the whole run.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from tests.benchmarks.process_tree import cost_of, touch_memory

ROOT = Path(__file__).parents[2]
SHAPES = ((128, 128, 128), (256, 256, 128), (384, 384, 208), (512, 512, 400))
LABEL_SHAPE, LABELS = (256, 256, 180), (2, 10, 25, 50, 100, 200)
CASES_SHAPE, CASES, WORKERS = (256, 256, 128), 12, (1, 2, 4)
LINEAR_WITHIN, MOST_NS, MOST_MS_A_LABEL, LEAST_EFFICIENCY = 0.15, 40.0, 3.0, 0.85
ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}


def jobs_in(data: Path, out: Path) -> list[Any]:
    from medseg.imaging.dataset import find_dataset
    from medseg.preprocessing.cache import CacheJob
    from medseg.preprocessing.settings import Normalisation, PreprocessingSettings

    how = Normalisation(kind="ct", lower=-150, upper=250, mean=50, sd=80)
    settings = PreprocessingSettings(spacing_mm=(1.5, 1.5, 1.5), channels=(how,), crop="body")
    dataset = find_dataset(data)
    return [CacheJob(case, replace(dataset, cases=()), settings, out) for case in dataset.cases]


def work_case(data: Path, out: Path, _: str) -> dict[str, float]:
    """CPU seconds of one case, in this process."""
    from medseg.planning.fingerprint import FingerprintJob, fingerprint_case
    from medseg.preprocessing.cache import prepare_case

    (job,) = jobs_in(data, out)
    began = time.process_time()
    fingerprint_case(FingerprintJob(job.case, job.dataset, out))
    middle = time.process_time()
    prepare_case(job)
    return {"look_s": middle - began, "prepare_s": time.process_time() - middle}


def work_labels(_: Path, __: Path, labels: str) -> dict[str, float]:
    """CPU seconds from a label map to classes and lists of voxels."""
    from medseg.imaging.grid import Grid
    from medseg.imaging.volume import LabelMap, Volume
    from medseg.preprocessing.cache import foreground_voxels, runs_of
    from medseg.preprocessing.prepare import prepare, prepare_labels
    from medseg.preprocessing.settings import Normalisation, PreprocessingSettings
    from tests.benchmarks.preprocess import SPACING, made_up_ct

    image, array = made_up_ct(0, LABEL_SHAPE, int(labels))
    grid = Grid(LABEL_SHAPE, np.diag([*SPACING, 1.0]))
    settings = PreprocessingSettings(spacing_mm=(1.0, 1.0, 1.5), channels=(Normalisation(kind="zscore"),))
    undo = prepare([Volume(image, grid)], settings).undo
    best = []
    for _repeat in range(3):
        began = time.process_time()
        classes = prepare_labels(LabelMap(array, grid, {}), undo, range(1, int(labels) + 1))
        foreground_voxels(classes, "0" * 16)
        runs_of(array)
        best.append(time.process_time() - began)
    return {"labels_s": min(best), "classes": float(len(np.unique(array)) - 1)}


def work_workers(data: Path, out: Path, workers: str) -> dict[str, float]:
    """Wall seconds for all cases but the first of each worker."""
    from medseg.parallel import Done, LocalExecutor, over_cases
    from medseg.preprocessing.cache import prepare_case

    n = int(workers)
    jobs = jobs_in(data, out)
    pool = LocalExecutor([ONE_THREAD] * n)
    first = [pool.submit(prepare_case, job) for job in jobs[:n]]
    for future in first:
        future.result()
    began = time.perf_counter()
    done = [isinstance(result, Done) for result in over_cases(prepare_case, jobs[n:], pool, 2 * n)]
    if not all(done):
        raise RuntimeError("a case failed")
    return {"wall_s": (time.perf_counter() - began) / len(done)}


WORK: dict[str, Callable[[Path, Path, str], dict[str, float]]] = {
    "case": work_case,
    "labels": work_labels,
    "workers": work_workers,
}


def command(what: str, data: Path, out: Path, number: str) -> list[str]:
    return [sys.executable, "-m", "tests.benchmarks.scaling", "--work", what, str(data), str(out), number]


def best_of(times: int, what: str, data: Path, scratch: Path, number: str = "") -> dict[str, float]:
    """The best of several fresh processes, each on one thread."""
    found: list[dict[str, float]] = []
    for _ in range(times):
        with tempfile.TemporaryDirectory(dir=scratch) as out:
            words = command(what, data, Path(out), number)
            told = subprocess.run(words, cwd=ROOT, env={**os.environ, **ONE_THREAD}, check=True, capture_output=True)
        found.append(json.loads(told.stdout))
    return {key: min(one[key] for one in found) for key in found[0]}


def dataset(folder: Path, shape: tuple[int, int, int], cases: int = 1) -> Path:
    """One made-up CT, under as many names as cases are wanted."""
    from tests.benchmarks.preprocess import ct, describe

    ct(folder, folder, shape, 1)
    for k in range(1, cases):
        shutil.copy(folder / "imagesTr/ct_000_0000.nii.gz", folder / f"imagesTr/ct_{k:03d}_0000.nii.gz")
        shutil.copy(folder / "labelsTr/ct_000.nii.gz", folder / f"labelsTr/ct_{k:03d}.nii.gz")
    describe(folder, "CT", {f"organ{k}": k for k in range(1, 26)}, cases)
    return folder


def voxels(times: int, scratch: Path) -> dict[str, Any]:
    points = []
    for shape in SHAPES:
        with tempfile.TemporaryDirectory(dir=scratch) as place:
            data = dataset(Path(place) / "data", shape)
            points.append({"mvox": math.prod(shape) / 1e6, **best_of(times, "case", data, scratch)})
    law = {}
    for key in ("look_s", "prepare_s"):
        x, y = np.array([p["mvox"] for p in points]), np.array([p[key] for p in points])
        exponent = float(np.polyfit(np.log(x), np.log(y), 1)[0])
        law[key] = {"exponent": round(exponent, 3), "ns_a_voxel": round(float(np.polyfit(x, y, 1)[0]) * 1000, 2)}
    reached = law["prepare_s"]["ns_a_voxel"] <= MOST_NS and abs(law["prepare_s"]["exponent"] - 1) <= LINEAR_WITHIN
    return {"points": points, "fit": law, "reached": reached}


def labels(times: int, scratch: Path) -> dict[str, Any]:
    points = [{"labels": n, **best_of(times, "labels", scratch, scratch, str(n))} for n in LABELS]
    slope, start = np.polyfit([p["labels"] for p in points], [p["labels_s"] * 1000 for p in points], 1)
    fit = {"ms_a_label": round(float(slope), 3), "ms_without": round(float(start), 1)}
    return {
        "mvox": math.prod(LABEL_SHAPE) / 1e6,
        "points": points,
        "fit": fit,
        "reached": bool(slope <= MOST_MS_A_LABEL),
    }


def workers(times: int, scratch: Path) -> dict[str, Any]:
    points: list[dict[str, float]] = []
    with tempfile.TemporaryDirectory(dir=scratch) as place:
        data = dataset(Path(place) / "data", CASES_SHAPE, CASES)
        for n in WORKERS:
            wall = best_of(times, "workers", data, scratch, str(n))["wall_s"]
            with tempfile.TemporaryDirectory(dir=scratch) as out:
                memory = cost_of(command("workers", data, Path(out), str(n)), ONE_THREAD).peak_mib
            points.append({"workers": n, "wall_s_a_case": wall, "peak_mib": memory})
    for point in points:
        point["efficiency"] = points[0]["wall_s_a_case"] / point["wall_s_a_case"] / point["workers"]
    slope, base = np.polyfit([p["workers"] for p in points], [p["peak_mib"] for p in points], 1)
    cores = len(os.sched_getaffinity(0))
    within = [p for p in points if p["workers"] <= cores]
    slower = max(p["wall_s_a_case"] for p in points) > points[0]["wall_s_a_case"]
    return {
        "cores": cores,
        "points": points,
        "fit": {"base_mib": round(float(base)), "mib_a_worker": round(float(slope))},
        "reached": all(p["efficiency"] >= LEAST_EFFICIENCY for p in within) and not slower,
    }


def draw(found: dict[str, Any], path: Path) -> None:
    import matplotlib as mpl

    mpl.use("agg")
    from matplotlib import pyplot as plt

    plt.rcParams.update({"font.size": 8, "axes.spines.top": False, "axes.spines.right": False})
    figure, (one, two, three, four) = plt.subplots(1, 4, figsize=(11, 2.7), layout="constrained")
    points = found["voxels"]["points"]
    for key, marker in (("prepare_s", "o"), ("look_s", "s")):
        fit = found["voxels"]["fit"][key]
        said = f"{key[:-2]}: {fit['ns_a_voxel']:.0f} ns a voxel, exponent {fit['exponent']:.2f}"
        one.loglog([p["mvox"] for p in points], [p[key] for p in points], marker + "-", label=said)
    one.set_ylim(top=8 * max(p["prepare_s"] for p in points))  # room for the legend
    one.set(xlabel="million voxels", ylabel="CPU seconds a case", title="Voxels")
    points = found["labels"]["points"]
    said = f"{found['labels']['fit']['ms_a_label']:.2f} ms a label"
    two.plot([p["labels"] for p in points], [1000 * p["labels_s"] for p in points], "o-", label=said)
    two.set(xlabel="labels", ylabel="CPU ms", title=f"Labels ({found['labels']['mvox']:.0f} million voxels)")
    points = found["workers"]["points"]
    n = [p["workers"] for p in points]
    three.plot(n, [points[0]["wall_s_a_case"] / p["wall_s_a_case"] for p in points], "o-", label="measured")
    three.plot(n, [min(k, found["workers"]["cores"]) for k in n], "k:", label=f"{found['workers']['cores']} cores")
    three.set(xlabel="workers", ylabel="times as many cases a second", title="Workers")
    said = "{base_mib} MiB and {mib_a_worker} a worker".format(**found["workers"]["fit"])
    four.plot(n, [p["peak_mib"] for p in points], "o-", label=said)
    four.set(xlabel="workers", ylabel="peak MiB of all processes", title="Memory")
    for axis in (two, three, four):
        axis.set_ylim(bottom=0, top=1.25 * axis.get_ylim()[1])
    for axis in (three, four):
        axis.set_xticks(n)
    for axis in (one, two, three, four):
        axis.legend(frameon=False, fontsize=7, loc="lower right" if axis is three else "upper left")
        axis.grid(alpha=0.3)
    figure.savefig(path, dpi=90)


def rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: rounded(one) for key, one in value.items()}
    if isinstance(value, list):
        return [rounded(one) for one in value]
    return round(value, 4) if isinstance(value, float) else value


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--times", type=int, default=3)
    options.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    options.add_argument("--scratch", type=Path, help="where data are put, on a disk with 2 GB free")
    options.add_argument("--work", nargs=4, metavar=("WHAT", "DATA", "OUT", "NUMBER"), help=argparse.SUPPRESS)
    given = options.parse_args()
    if given.work:
        what, data, out, number = given.work
        sys.stdout.write(json.dumps(WORK[what](Path(data), Path(out), number)))
        return
    laws: dict[str, Callable[[int, Path], dict[str, Any]]] = {"voxels": voxels, "labels": labels, "workers": workers}
    touch_memory(2048)
    with tempfile.TemporaryDirectory(dir=given.scratch) as place:
        found = {name: law(given.times, Path(place)) for name, law in laws.items()}
    told: dict[str, Any] = {
        "what": f"preparing made-up CT; best of {given.times} fresh processes",
        "when": datetime.now(UTC).strftime("%Y-%m-%d"),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}",
        "load_before": [round(x, 2) for x in os.getloadavg()],
        "versions": {name: version(name) for name in ("medseg", "numpy", "imagecodecs")},
        **rounded(found),
    }
    given.out.mkdir(parents=True, exist_ok=True)
    (given.out / "scaling.json").write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")
    draw(found, given.out / "scaling.png")
    sys.stdout.write(json.dumps({name: told[name] for name in laws}, indent=1) + "\n")


if __name__ == "__main__":
    main()
