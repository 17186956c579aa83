"""Planning and preparing a data set: medseg beside nnU-Net v2, whole process trees, start-up included (Linux).

    python -m tests.benchmarks.preprocess [hippocampus] [ct] --nnunet ENV [--real-data DIR] [--times 1] [--out FILE]

ENV is a Python environment that holds nnunetv2; it is no dependency of medseg. Both read the same files, in the layout
of nnU-Net, and prepare one configuration, the full resolution in 3D: `hippocampus` 200 MR crops (1 mm, which stays),
`ct` two made-up scans of 512 x 512 x 400 voxels with 25 organs, brought from 0.8 x 0.8 x 1 mm to 1.5 mm. nnU-Net runs
with two workers and, for the crops, with as many as it takes by itself. medseg decides alone how many it takes.
CPU seconds tell the work; wall seconds depend on what else the machine does.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from medseg.imaging.grid import Grid
from medseg.imaging.nifti import write_labels, write_volume
from medseg.imaging.volume import LabelMap, Volume
from tests.benchmarks.process_tree import Cost, check, cost_of, touch_memory

ROOT = Path(__file__).parents[2]
CPU_TIMES, MEMORY_SHARE = 10.0, 0.5  # what is aimed at: ten times fewer CPU seconds, at most half the memory
TOUCHED_MIB = 12 << 10  # about the most that was seen in use
FULL = {"hippocampus": ("median", []), "ct": ("1.5", ["-overwrite_target_spacing", "1.5", "1.5", "1.5"])}
SHAPE, SPACING, ORGANS = (512, 512, 400), (0.8, 0.8, 1.0), 25


def describe(folder: Path, channel: str, labels: Mapping[str, int], cases: int) -> None:
    told = {"channel_names": {"0": channel}, "labels": {"background": 0, **labels}, "numTraining": cases}
    (folder / "dataset.json").write_text(json.dumps({**told, "file_ending": ".nii.gz"}), encoding="utf-8")


def hippocampus(folder: Path, real: Path) -> int:
    """The crops under the names that nnU-Net wants."""
    images = sorted((real / "hippocampus" / "imagesTr").glob("*.nii.gz"))
    for kind in ("imagesTr", "labelsTr"):
        (folder / kind).mkdir(parents=True)
    for image in images:
        name = image.name.removesuffix(".nii.gz")
        shutil.copy(image, folder / "imagesTr" / f"{name}_0000.nii.gz")
        shutil.copy(real / "hippocampus" / "labelsTr" / image.name, folder / "labelsTr")
    describe(folder, "MRI", {"Anterior": 1, "Posterior": 2}, len(images))
    return len(images)


def ct(folder: Path, _: Path, shape: tuple[int, int, int] = SHAPE, cases: int = 2) -> int:
    for k in range(cases):
        image, labels = made_up_ct(k, shape)
        grid = Grid(shape, np.diag([-SPACING[0], -SPACING[1], SPACING[2], 1.0]))
        write_volume(folder / "imagesTr" / f"ct_{k:03d}_0000.nii.gz", Volume(image, grid))
        write_labels(folder / "labelsTr" / f"ct_{k:03d}.nii.gz", LabelMap(labels, grid, {}))
    describe(folder, "CT", {f"organ{k}": k for k in range(1, ORGANS + 1)}, cases)
    return cases


def made_up_ct(
    seed: int, shape: tuple[int, int, int], organs: int = ORGANS
) -> tuple[npt.NDArray[np.int16], npt.NDArray[np.uint8]]:
    """An elliptic body in air on a table, with ellipsoids of different density; noise of 20 HU."""
    rng = np.random.default_rng(seed)
    image = np.empty(shape, np.int16, order="F")
    labels = np.zeros(shape, np.uint8, order="F")
    x, y = np.meshgrid(*(np.linspace(-1, 1, n) for n in shape[:2]), indexing="ij")
    body = np.where((x / 0.85) ** 2 + (y / 0.62) ** 2 < 1, 40.0, -1000.0)
    body[(np.abs(x) < 0.7) & (np.abs(y - 0.75) < 0.02)] = 200  # the table
    middles = np.column_stack(
        [rng.uniform(-0.5, 0.5, organs), rng.uniform(-0.35, 0.35, organs), rng.uniform(-1, 1, organs)]
    )
    radii = rng.uniform(0.08, 0.22, (organs, 3))
    density = rng.uniform(-80, 180, organs)
    for z in range(shape[2]):
        plane, marks = body.copy(), np.zeros(shape[:2], np.uint8)
        at = 2 * z / max(shape[2] - 1, 1) - 1
        for k, (middle, radius) in enumerate(zip(middles, radii, strict=True)):
            rest = 1 - ((at - middle[2]) / radius[2]) ** 2
            if rest > 0:
                inside = ((x - middle[0]) / radius[0]) ** 2 + ((y - middle[1]) / radius[1]) ** 2 < rest
                plane[inside], marks[inside] = density[k], k + 1
        image[:, :, z] = np.rint(plane + rng.normal(0, 20, plane.shape).astype(np.float32))
        labels[:, :, z] = marks
    return image, labels


DATA: dict[str, Callable[[Path, Path], int]] = {"hippocampus": hippocampus, "ct": ct}


def with_medseg(data: Path, place: Path, spacing: str) -> Cost:
    command = [sys.executable, "-m", "medseg", "plan", str(data), "-o", str(place / "run")]
    return cost_of([*command, "--memory", "8", "--spacing", spacing, "--device", "cpu"])


def with_nnunet(tool: Path, data: Path, place: Path, more: list[str]) -> Cost:
    folders = {f"nnUNet_{name}": str(place / name) for name in ("preprocessed", "results")}
    for folder in folders.values():
        Path(folder).mkdir()
    number = data.name[len("Dataset") :].split("_")[0]
    command = [str(tool), "-d", number, "-c", "3d_fullres", *more]
    return cost_of(command, {"nnUNet_raw": str(data.parent), **folders})


def measured(name: str, data: Path, given: argparse.Namespace) -> dict[str, Cost]:
    """The best of several runs of each, in turn, so that a busy machine is busy for all."""
    spacing, more = FULL[name]
    tool = given.nnunet / "bin" / "nnUNetv2_plan_and_preprocess"
    plans = [*more, "-overwrite_plans_name", "full"] if more else []
    runs: dict[str, Callable[[Path], Cost]] = {
        "medseg": lambda place: with_medseg(data, place, spacing),
        "nnunet, 2 workers": lambda place: with_nnunet(tool, data, place, [*plans, "-npfp", "2", "-np", "2"]),
    }
    if name == "hippocampus":
        runs["nnunet, its default"] = lambda place: with_nnunet(tool, data, place, plans)
    found: dict[str, list[Cost]] = {who: [] for who in runs}
    for _ in range(given.times):
        for who, run in runs.items():
            with tempfile.TemporaryDirectory(dir=given.scratch) as place:
                found[who].append(run(Path(place)))
            sys.stderr.write(f"{name}: {who}: {found[who][-1]}\n")
    return {who: min(costs, key=lambda cost: cost.cpu_s) for who, costs in found.items()}


def judged(found: Mapping[str, Cost]) -> dict[str, Any]:
    """How many times less medseg needs than nnU-Net with two workers, and whether that is what was aimed at."""
    ours, theirs = found["medseg"], found["nnunet, 2 workers"]
    cpu, memory = theirs.cpu_s / ours.cpu_s, ours.peak_mib / theirs.peak_mib
    return {
        "cpu_times_fewer": round(cpu, 2),
        "wall_times_faster": round(theirs.wall_s / ours.wall_s, 2),
        "memory_share": round(memory, 3),
        "reached": {"cpu": cpu >= CPU_TIMES, "memory": memory <= MEMORY_SHARE},
    }


def versions_of(nnunet: Path) -> dict[str, str]:
    names = ["nnunetv2", "numpy", "scipy", "scikit-image", "SimpleITK", "torch"]
    code = f"from importlib.metadata import version; print(*[version(n) for n in {names!r}])"
    told = subprocess.run([nnunet / "bin" / "python", "-c", code], check=True, capture_output=True, text=True).stdout
    return dict(zip(names, told.split(), strict=True))


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("which", nargs="*", help="hippocampus, ct; both, unless named")
    options.add_argument("--nnunet", type=Path, required=True)
    options.add_argument("--real-data", type=Path, default=ROOT.parent / "shared" / "data")
    options.add_argument("--times", type=int, default=1)
    options.add_argument("--scratch", type=Path, help="where data and results are put, on a disk with 5 GB free")
    options.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "preprocess.json")
    given = options.parse_args()
    if unknown := set(given.which) - set(DATA):
        options.error(f"there is no {', '.join(unknown)}")
    check()
    touch_memory(TOUCHED_MIB)
    result: dict[str, Any] = {
        "what": "planning and preparing, whole process trees; best of "
        f"{given.times} by CPU seconds; memory is the peak of the sum of PSS, sampled every 0.1 s",
        "when": datetime.now(UTC).strftime("%Y-%m-%d"),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}",
        "load_before": [round(x, 2) for x in os.getloadavg()],
        "versions": {name: version(name) for name in ("medseg", "numpy", "imagecodecs", "nibabel")},
        "peer": versions_of(given.nnunet),
        "data": {},
    }
    for number, name in enumerate(given.which or DATA, 1):
        with tempfile.TemporaryDirectory(dir=given.scratch) as place:
            data = Path(place) / f"Dataset{number:03d}_{name}"
            cases = DATA[name](data, given.real_data)
            found = measured(name, data, given)
        costs = {who: {k: round(v, 2) for k, v in asdict(cost).items()} for who, cost in found.items()}
        result["data"][name] = {"cases": cases, **costs, **judged(found)}
    given.out.parent.mkdir(parents=True, exist_ok=True)
    given.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    sys.stdout.write(json.dumps(result["data"], indent=1) + "\n")


if __name__ == "__main__":
    main()
