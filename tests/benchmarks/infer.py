"""Inference: medseg beside nnU-Net v2 with the same weights, whole process trees, start-up included (Linux).

    python -m tests.benchmarks.infer [ct3] [hippocampus] [ct118] [export] [lengths] --nnunet ENV --models DIR

ENV is a Python environment that holds nnunetv2; it is no dependency of medseg. DIR/results holds what nnU-Net trained:
Dataset003_Phantom and Dataset118_Phantom, small networks at 3 mm for 3 and 118 outputs, the background among them
(`tests/benchmarks/nnunet_phantom.py`), and Dataset004_Hippocampus (`tests/benchmarks/nnunet_hippocampus.py`).

`ct3` is one made-up CT of 512 x 512 x 300 voxels, `hippocampus` a folder of MR crops, `ct118` the longest made-up CT of
those tried at which nnU-Net stays within 20 GiB. Both tools read the same files at step 0.5 without mirroring (which
is taken out of a copy of the model, so that neither can; `--mirroring` leaves it to both), on all cores, in turn.
nnU-Net runs with its worker processes and without any; the faster counts. medseg reads the weights as
`medseg import-nnunet` brought them. `export` is from logits to the label map alone, of logits that nnU-Net saved.
`lengths` is medseg alone: its memory above that of input (float32), prepared scan and labels, as scans grow longer.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import nibabel
import numpy as np

from medseg.resources import available_memory_bytes
from tests.benchmarks.infer_export import compared
from tests.benchmarks.infer_tools import Model, model_of, say, with_medseg, with_nnunet
from tests.benchmarks.phantoms import FIELD_MM, write_case
from tests.benchmarks.preprocess import ROOT, versions_of
from tests.benchmarks.process_tree import Cost, OverMemory, check, touch_memory

LIMIT_MIB = 20 << 10
SPACING, NETWORK_MM = (0.8, 0.8, 1.0), 3.0
CT_SLICES, EXPORT_SLICES, LENGTHS = 300, 64, (256, 512, 1024)
TOUCHED_SHARE = 0.6  # of the free memory is used once before anything is measured
EQUAL, FLAT_CLASSES, FLAT_LENGTHS = 0.999, 2.0, 1.1
TIMES_FASTER = {"ct3": 3.0, "hippocampus": 5.0, "ct118": 4.0}
EXPORT_FASTER = {3: 8.0, 118: 25.0}
MEMORY_SHARE = {"ct3": 1 / 3}
WORKERS = {"nnunet, its default workers": ("3", "3"), "nnunet, no workers": ("0", "0")}
ALONE = {"nnunet, no workers": WORKERS["nnunet, no workers"]}

Told = dict[str, Any]


def in_turn(
    model: Model,
    scans: Path,
    place: Path,
    given: argparse.Namespace,
    modes: Mapping[str, tuple[str, str]] = WORKERS,
    limit_mib: float = float("inf"),
) -> tuple[dict[str, Cost], Told]:
    """The best of several runs of each, by wall seconds, in turn; and what the last ones found.

    Raises:
        OverMemory: nnU-Net took more than `limit_mib`.
    """
    runs: dict[str, Callable[[Path], Cost]] = {
        who: lambda out, workers=workers: with_nnunet(model, scans, out, given, workers, limit_mib)  # type: ignore[misc]
        for who, workers in modes.items()
    }
    runs["medseg"] = lambda out: with_medseg(model, scans, out, given)
    found: dict[str, list[Cost]] = {who: [] for who in runs}
    for _ in range(given.times):
        for who, run in runs.items():
            out = place / who.replace(" ", "_").replace(",", "")
            shutil.rmtree(out, ignore_errors=True)
            out.mkdir()
            found[who].append(run(out))
            say(f"{place.name}: {who}: {found[who][-1]}")
    theirs = place / next(iter(modes)).replace(" ", "_").replace(",", "")
    told = {**equal_share(place / "medseg", theirs), "medseg_stages_s": stages_of(place / "medseg")}
    return {who: min(costs, key=lambda cost: cost.wall_s) for who, costs in found.items()}, told


def equal_share(ours: Path, theirs: Path) -> Told:
    """How many voxels of two folders of label maps are equal, altogether and in the worst case."""
    shares, equal, voxels = [], 0, 0
    for path in sorted(theirs.glob("*.nii.gz")):
        pair = [np.asarray(nibabel.load(folder / path.name).dataobj) for folder in (ours, theirs)]  # type: ignore[attr-defined]
        same = int(np.count_nonzero(pair[0] == pair[1]))
        shares.append(same / pair[1].size)
        equal, voxels = equal + same, voxels + pair[1].size
    return {"scans": len(shares), "equal_share": equal / voxels, "equal_share_worst": min(shares)}


def stages_of(out: Path) -> dict[str, float]:
    """Seconds of each stage, summed over cases; stages of several cases overlap."""
    total: dict[str, float] = {}
    for case in json.loads((out / "predictions.json").read_text())["cases"]:
        for stage, seconds in case.get("stages_s", {}).items():
            total[stage] = round(total.get(stage, 0.0) + seconds, 3)
    return total


def judged(name: str, costs: Mapping[str, Cost], told: Told) -> Told:
    """How many times less medseg takes than the faster nnU-Net, and whether that is what was aimed at."""
    ours = costs["medseg"]
    theirs = min((cost for who, cost in costs.items() if who != "medseg"), key=lambda cost: cost.wall_s)
    faster, share = theirs.wall_s / ours.wall_s, ours.peak_mib / theirs.peak_mib
    reached = {"wall": faster >= TIMES_FASTER[name], "equal": told["equal_share"] >= EQUAL}
    if name in MEMORY_SHARE:
        reached["memory"] = share <= MEMORY_SHARE[name]
    return {
        **{who: {k: round(v, 2) for k, v in asdict(cost).items()} for who, cost in costs.items()},
        **told,
        "wall_times_faster": round(faster, 2),
        "than_each": {who: round(cost.wall_s / ours.wall_s, 2) for who, cost in costs.items() if who != "medseg"},
        "cpu_times_fewer": round(theirs.cpu_s / ours.cpu_s, 2),
        "memory_share": round(share, 3),
        "reached": reached,
    }


def made_up(place: Path, outputs: int, slices: int) -> Path:
    """A folder with one made-up CT that no network was trained on."""
    write_case(place, "ct", outputs, 1000, SPACING, slices, labelled=False)
    return place / "imagesTr"


def ct3(place: Path, given: argparse.Namespace) -> Told:
    """The whole way; and of nnU-Net each stage, the export beside medseg's."""
    model, scans = model_of("Dataset003_Phantom", given), made_up(place, 3, CT_SLICES)
    found = {"slices": CT_SLICES, **judged("ct3", *in_turn(model, scans, place, given))}
    found["stages"] = compared(given.nnunet, model.theirs, scans / "ct_0000.nii.gz", place / "stages", given.device)
    return found


def hippocampus(place: Path, given: argparse.Namespace) -> Told:
    images = sorted((given.real_data / "hippocampus" / "imagesTr").glob("*.nii.gz"))[: given.scans]
    (place / "scans").mkdir()
    for image in images:
        shutil.copy(image, place / "scans" / f"{image.name.removesuffix('.nii.gz')}_0000.nii.gz")
    model = model_of("Dataset004_Hippocampus", given)
    return judged("hippocampus", *in_turn(model, place / "scans", place, given))


def ct118(place: Path, given: argparse.Namespace) -> Told:
    """Longer scans first: nnU-Net's first that stays within the limit is the one that both are measured on."""
    model, died = model_of("Dataset118_Phantom", given), list[int]()
    for slices in given.ct118_slices:
        scans = made_up(place / str(slices), 118, slices)
        try:
            costs, told = in_turn(model, scans, place, given, ALONE, LIMIT_MIB)
        except OverMemory:
            say(f"ct118: nnU-Net took more than {LIMIT_MIB} MiB for {slices} slices")
            died.append(slices)
            continue
        return {"slices": slices, "nnunet_over_20_gib_at_slices": died, **judged("ct118", costs, told)}
    return {"nnunet_over_20_gib_at_slices": died, "reached": {"wall": False}}


def export(place: Path, given: argparse.Namespace) -> Told:
    """The export stage alone, on one core and on all; the bars hold on all cores."""
    found: Told = {"slices": EXPORT_SLICES}
    for outputs in EXPORT_FASTER:
        model, folder = model_of(f"Dataset{outputs:03d}_Phantom", given), place / f"logits{outputs}"
        scan = made_up(folder, outputs, EXPORT_SLICES) / "ct_0000.nii.gz"
        found[f"{outputs} outputs"] = compared(given.nnunet, model.theirs, scan, folder, given.device)
        say(f"export: {outputs} outputs: {found[f'{outputs} outputs']}")
    few, many = ([float(s) for s in found[f"{n} outputs"]["medseg"].values()] for n in sorted(EXPORT_FASTER))
    grows = [more / less for less, more in zip(few, many, strict=True)]
    found["118_takes_times_3"] = [round(times, 2) for times in grows]
    merged = [float(s) for s in found[f"{max(EXPORT_FASTER)} outputs"]["merged_to_3"].values()]
    at_same_borders = [m / few for few, m in zip(merged, many, strict=True)]
    found["at_the_same_borders"] = [round(times, 2) for times in at_same_borders]
    faster = {outputs: found[f"{outputs} outputs"]["times_faster"][-1] for outputs in EXPORT_FASTER}
    found["reached"] = {f"{outputs} outputs": faster[outputs] >= bar for outputs, bar in EXPORT_FASTER.items()}
    found["reached"]["flat"] = grows[-1] <= FLAT_CLASSES
    found["reached"]["flat at the same borders"] = at_same_borders[-1] <= FLAT_CLASSES
    return found


def lengths(place: Path, given: argparse.Namespace) -> Told:
    """Peak memory above input, prepared scan and labels; all of the program's own is in it."""
    model, above = model_of("Dataset003_Phantom", given), dict[int, float]()
    for slices in LENGTHS:
        scans, out = made_up(place / str(slices), 3, slices), place / f"out{slices}"
        cost = with_medseg(model, scans, out, given)
        above[slices] = cost.peak_mib - held_mib(slices)
        say(f"lengths: {slices} slices: {cost}, {above[slices]:.0f} MiB above")
        shutil.rmtree(scans)
    growth = max(above.values()) / min(above.values())
    told = {
        "mib_above": {n: round(mib) for n, mib in above.items()},
        "held_mib": {n: round(held_mib(n)) for n in above},
    }
    return {**told, "largest_by_smallest": round(growth, 3), "reached": {"flat": growth <= FLAT_LENGTHS}}


def held_mib(slices: int) -> float:
    """Input (4 bytes a voxel), prepared scan (4) and labels (1)."""
    own = [round(FIELD_MM / SPACING[0]), round(FIELD_MM / SPACING[1]), slices]
    prepared = [round(n * s / NETWORK_MM) for n, s in zip(own, SPACING, strict=True)]
    return float(5 * np.prod(own) + 4 * np.prod(prepared)) / (1 << 20)


SECTIONS: dict[str, Callable[[Path, argparse.Namespace], Told]] = {
    "ct3": ct3,
    "hippocampus": hippocampus,
    "export": export,
    "lengths": lengths,
    "ct118": ct118,
}


def table(sections: Mapping[str, Told]) -> str:
    """What was reached, a line a bar."""
    shown = ("wall_times_faster", "cpu_times_fewer", "memory_share", "equal_share", "largest_by_smallest")
    lines = []
    for name, told in sections.items():
        figures = ", ".join(
            [f"{k} {told[k]:.5g}" for k in shown if k in told]
            + [f"{who}: {times} times faster" for who, times in told.get("than_each", {}).items()]
            + [f"{k} {told[k]['times_faster']} times faster" for k in told if k.endswith("outputs")]
        )
        bars = ", ".join(f"{bar} {'reached' if ok else 'MISSED'}" for bar, ok in told["reached"].items())
        lines.append(f"{name:12} {figures}; {bars}")
    return "\n".join(lines) + "\n"


def options_from(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("which", nargs="*", help=f"{', '.join(SECTIONS)}; all, unless named")
    options.add_argument("--nnunet", type=Path, required=True)
    options.add_argument("--models", type=Path, required=True)
    options.add_argument("--real-data", type=Path, default=ROOT.parent / "shared" / "data")
    options.add_argument("--scans", type=int, default=20, help="of the hippocampus set")
    options.add_argument("--ct118-slices", type=int, nargs="+", default=[154], help="tried in this order")
    options.add_argument("--times", type=int, default=1)
    options.add_argument("--device", default="cpu", choices=["cpu", "cuda"], help="of both tools")
    options.add_argument("--mirroring", action="store_true", help="both mirror as the model was trained")
    options.add_argument("--kept", type=Path, help="where models as both read them are kept for another time")
    options.add_argument("--scratch", type=Path, help="where scans and results are put, on a disk with 5 GB free")
    options.add_argument("--out", type=Path, help="default: infer_DEVICE.json among the results")
    given = options.parse_args(arguments)
    if unknown := set(given.which) - set(SECTIONS):
        options.error(f"there is no {', '.join(unknown)}")
    return given


def main() -> None:
    given = options_from()
    check()
    touch_memory(int(TOUCHED_SHARE * available_memory_bytes()) >> 20)
    out = given.out or Path(__file__).parent / "results" / f"infer_{given.device}.json"
    result: Told = {
        "what": f"inference with the same weights, step 0.5, {'with' if given.mirroring else 'without'} mirroring; "
        f"whole process trees; best of {given.times} by wall seconds; memory is the peak of the sum of PSS, sampled "
        "every 0.1 s",
        "when": datetime.now(UTC).strftime("%Y-%m-%d"),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}, {given.device}",
        "load_before": [round(x, 2) for x in os.getloadavg()],
        "versions": {name: version(name) for name in ("medseg", "torch", "numpy", "numba", "nibabel")},
        "peer": versions_of(given.nnunet),
        "sections": {},
    }
    with tempfile.TemporaryDirectory(dir=given.scratch) as kept:
        given.kept = given.kept or Path(kept)
        for name in given.which or SECTIONS:
            with tempfile.TemporaryDirectory(dir=given.scratch) as place:
                (folder := Path(place) / name).mkdir()
                result["sections"][name] = SECTIONS[name](folder, given)
            out.parent.mkdir(parents=True, exist_ok=True)
            out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    sys.stdout.write(table(result["sections"]))


if __name__ == "__main__":
    main()
