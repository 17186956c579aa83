"""One model that nnU-Net trained, run by both tools on a folder of scans, for `tests/benchmarks/infer.py`."""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from tests.benchmarks.preprocess import ROOT
from tests.benchmarks.process_tree import Cost, cost_of

UNMIRRORED = """import sys, pathlib, torch
for path in pathlib.Path(sys.argv[1]).glob("fold_*/checkpoint_final.pth"):
    trained = torch.load(path, weights_only=False)
    torch.save({**trained, "inference_allowed_mirroring_axes": None}, path)
"""


@dataclass(frozen=True)
class Model:
    """A model that nnU-Net trained, and the same as `medseg import-nnunet` made it."""

    theirs: Path
    ours: Path


def say(text: str) -> None:
    sys.stderr.write(f"{text} (load {os.getloadavg()[0]:.1f})\n")


def model_of(name: str, given: argparse.Namespace) -> Model:
    """The one model that stands in a data set's folder of results, and what medseg makes of it.

    Raises:
        FileNotFoundError: there is none, or more than one.
    """
    found = sorted((given.models / "results" / name).glob("*__*__*/plans.json"))
    if len(found) != 1:
        raise FileNotFoundError(f"{len(found)} models in {given.models / 'results' / name}, one is wanted")
    trained = found[0].parent
    model = Model(given.kept / name / trained.name, given.kept / f"{name}.medseg")
    if not model.theirs.exists():
        shutil.copytree(trained, model.theirs, ignore=shutil.ignore_patterns("validation"))
        if not given.mirroring:
            subprocess.run([given.nnunet / "bin" / "python", "-c", UNMIRRORED, model.theirs], check=True)
    if not model.ours.exists():
        command = [sys.executable, "-m", "medseg", "import-nnunet", str(model.theirs), "-o", str(model.ours)]
        subprocess.run(command, check=True, capture_output=True, cwd=ROOT)
    return model


def with_nnunet(
    model: Model, scans: Path, out: Path, given: argparse.Namespace, workers: tuple[str, str], limit_mib: float
) -> Cost:
    trainer, plans, configuration = model.theirs.name.split("__")
    results = model.theirs.parent.parent
    environment = {f"nnUNet_{name}": str(results) for name in ("raw", "preprocessed", "results")}
    of = ["-d", model.theirs.parent.name, "-tr", trainer, "-p", plans, "-c", configuration, "-f", "0"]
    how = ["-step_size", "0.5", "-device", given.device, "-npp", workers[0], "-nps", workers[1]]
    command = [str(given.nnunet / "bin" / "nnUNetv2_predict"), "-i", str(scans), "-o", str(out), *of, *how]
    return cost_of([*command, "--disable_progress_bar"], environment, limit_mib=limit_mib)


def with_medseg(model: Model, scans: Path, out: Path, given: argparse.Namespace) -> Cost:
    command = [sys.executable, "-m", "medseg", "infer", str(model.ours), str(scans), "-o", str(out)]
    quality = "max" if given.mirroring else "standard"
    return cost_of([*command, "--device", given.device, "--format", "nifti", "--quality", quality])
