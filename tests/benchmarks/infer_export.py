"""The export stage alone: medseg's, in a process of its own, on logits that nnU-Net saved and exported before.

    python -m tests.benchmarks.infer_export FOLDER --cores 1

FOLDER is what `tests/benchmarks/nnunet_export.py` wrote. The logits are first brought into the order in which the
sliding window hands them over, slab by slab; that is not counted, as the window has them so. What is timed ends with
the label map of the whole scan, as nnU-Net's does. How time grows with outputs alone is told by the same logits merged
to three outputs (the largest of the odd and of the even classes), so that about as many voxels lie at a border.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from medseg.preprocessing.axis import LINEAR
from medseg.preprocessing.logit_vote import LogitVote
from tests.benchmarks.nnunet_export import best_of
from tests.benchmarks.preprocess import ROOT

SLAB = 32  # planes
ENOUGH_S = 20.0


def compared(nnunet: Path, model: Path, scan: Path, folder: Path, device: str) -> dict[str, Any]:
    """Seconds of both on one core and on all, how many times faster medseg is, and the share of voxels that differ."""
    script = Path(__file__).with_name("nnunet_export.py")
    words = [nnunet / "bin" / "python", script, model, scan, folder, "--device", device]
    subprocess.run([str(word) for word in words], check=True, capture_output=True)
    theirs, ours = json.loads((folder / "told.json").read_text()), {}
    every = sorted({1, len(os.sched_getaffinity(0))})
    for cores in every:
        command = [sys.executable, "-m", "tests.benchmarks.infer_export", str(folder), "--cores", str(cores)]
        told = subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT).stdout
        ours[cores] = json.loads(told)
    return {
        "cores": every,
        "nnunet": {stage: round(seconds, 3) for stage, seconds in theirs.items()},
        "medseg": {f"export_s_on_{n}": round(ours[n]["export_s"], 4) for n in every},
        "merged_to_3": {f"export_s_on_{n}": round(ours[n]["merged_s"], 4) for n in every},
        "differing_share": ours[every[-1]]["differing_voxels"] / ours[every[-1]]["voxels"],
        "times_faster": [round(theirs[f"export_s_on_{n}"] / ours[n]["export_s"], 1) for n in every],
    }


def exported(slabs: list[npt.NDArray[np.float32]], axis: int, shape: list[int]) -> npt.NDArray[np.uint8]:
    """Labels (X, Y, Z) from all slabs (P, Q, R, L) of logits."""
    grid = list(slabs[0].shape[1:3])
    grid.insert(axis, sum(len(slab) for slab in slabs))
    out = np.zeros(shape, np.uint8, order="F")
    vote = LogitVote(out, (grid[0], grid[1], grid[2]), axis, range(slabs[0].shape[-1]), LINEAR)
    start = 0
    for slab in slabs:
        vote.take(start, slab)
        start += len(slab)
    return out


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("folder", type=Path)
    options.add_argument("--cores", type=int, required=True)
    given = options.parse_args()
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: given.cores])
    logits_LXYZ = np.load(given.folder / "logits.npy").transpose(0, 3, 2, 1)
    grid = logits_LXYZ.shape[1:]
    axis = max(range(3), key=lambda a: (grid[a], a))
    order = [axis, *(other for other in range(3) if other != axis)]
    whole = logits_LXYZ.transpose(*(a + 1 for a in order), 0)
    slabs = [np.ascontiguousarray(whole[k : k + SLAB], np.float32) for k in range(0, len(whole), SLAB)]
    shape = json.loads((given.folder / "shape.json").read_text())[::-1]
    exported([slab[:2] for slab in slabs[:1]], axis, shape)  # what is compiled is not counted
    seconds, labels = best_of(lambda: exported(slabs, axis, shape), ENOUGH_S)
    merged = [np.stack([s[..., 0], s[..., 1::2].max(-1), s[..., 2::2].max(-1)], -1) for s in slabs]
    merged_s, _ = best_of(lambda: exported(merged, axis, shape), ENOUGH_S)
    theirs = np.load(given.folder / "labels.npy").transpose(2, 1, 0)
    differing = int(np.count_nonzero(labels != theirs))
    told = {"export_s": seconds, "merged_s": merged_s, "differing_voxels": differing, "voxels": labels.size}
    sys.stdout.write(json.dumps(told) + "\n")


if __name__ == "__main__":
    main()
