"""nnU-Net on the hippocampus set for a number of CPU seconds, its rate decayed to 0 at their end (its environment).

    ENV/bin/python tests/benchmarks/nnunet_hippocampus.py DATA SPLITS OUT --cpu-seconds 3600 [--batch 2] [--threads 1]

ENV holds nnunetv2. DATA is the folder of 200 cases, SPLITS the `splits.json` of a medseg run, so that both train and
validate on the same cases; fold 0 is trained. Only what a short training must change is changed: the schedule runs on
the processor seconds of the training steps instead of epochs, its data loaders work within the process, so that their
time is counted, its pseudo validation is left out, so that all seconds go to training, and with `--batch` the batch of
its plan is another. After that its own whole-case validation predicts the 40 cases, with its mirroring as trained.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

DATASET = "Dataset004_Hippocampus"


def say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def raw(data: Path, work: Path) -> None:
    """The data set under the names that nnU-Net wants."""
    target = work / "raw" / DATASET
    if (target / "dataset.json").is_file():
        return
    for kind in ("imagesTr", "labelsTr"):
        (target / kind).mkdir(parents=True, exist_ok=True)
    images = sorted((data / "imagesTr").glob("*.nii.gz"))
    for image in images:
        shutil.copy(image, target / "imagesTr" / f"{image.name.removesuffix('.nii.gz')}_0000.nii.gz")
        shutil.copy(data / "labelsTr" / image.name, target / "labelsTr")
    told = {"channel_names": {"0": "MRI"}, "labels": {"background": 0, "Anterior": 1, "Posterior": 2}}
    (target / "dataset.json").write_text(json.dumps({**told, "numTraining": len(images), "file_ending": ".nii.gz"}))


def prepare(data: Path, splits: Path, work: Path, batch: int | None) -> str:
    """Plan and preprocess once; the name of the plans."""
    raw(data, work)
    ready = work / "preprocessed" / DATASET
    if not (ready / "splits_final.json").is_file():
        binary = Path(sys.executable).parent / "nnUNetv2_plan_and_preprocess"
        subprocess.run([binary, "-d", "4", "-c", "3d_fullres", "-npfp", "2", "-np", "2"], check=True)
        folds = json.loads(splits.read_text())["folds"]
        named = [{"train": list(f["train"]), "val": list(f["validation"])} for f in folds]
        (ready / "splits_final.json").write_text(json.dumps(named))
    if batch is None:
        return "nnUNetPlans"
    plans = json.loads((ready / "nnUNetPlans.json").read_text())
    plans["configurations"]["3d_fullres"]["batch_size"] = batch
    plans["plans_name"] = f"nnUNetPlans_b{batch}"
    (ready / f"nnUNetPlans_b{batch}.json").write_text(json.dumps(plans))
    return str(plans["plans_name"])


def train(plans_name: str, cpu_seconds: float) -> None:
    """Train fold 0 and validate it."""
    import torch
    from nnunetv2.run.run_training import get_trainer_from_args

    trainer = get_trainer_from_args("4", "3d_fullres", 0, "nnUNetTrainer", plans_name, device=torch.device("cpu"))
    trainer.initialize()
    trainer.on_train_start()
    trainer.network.train()
    began, steps, shown = time.process_time(), 0, time.monotonic()
    while (share := (time.process_time() - began) / cpu_seconds) < 1:
        for group in trainer.optimizer.param_groups:
            group["lr"] = trainer.initial_lr * (1 - share) ** 0.9
        loss = float(trainer.train_step(next(trainer.dataloader_train))["loss"])
        steps += 1
        if time.monotonic() - shown > 60:
            shown = time.monotonic()
            say(f"step {steps}, {100 * share:.1f} %, loss {loss:.3f}, load {os.getloadavg()[0]:.1f}")
    spent = time.process_time() - began
    say(f"{steps} steps in {spent:.0f} CPU-s, batch {trainer.batch_size}")
    trainer.current_epoch = trainer.num_epochs - 1
    trainer.save_checkpoint(str(Path(trainer.output_folder) / "checkpoint_final.pth"))
    trainer.perform_actual_validation()
    summary = json.loads((Path(trainer.output_folder) / "validation" / "summary.json").read_text())
    found = {name: round(value["Dice"], 4) for name, value in summary["mean"].items()}
    told = {"steps": steps, "cpu_s": round(spent), "batch": trainer.batch_size, "dice": found}
    told["mean_dice"] = round(summary["foreground_mean"]["Dice"], 4)
    (Path(trainer.output_folder) / "told.json").write_text(json.dumps(told))
    say(json.dumps(told))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("data", type=Path)
    parser.add_argument("splits", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--cpu-seconds", type=float, default=3600.0)
    parser.add_argument("--batch", type=int)
    parser.add_argument("--threads", type=int, default=1)
    asked = parser.parse_args()
    for name in ("raw", "preprocessed", "results"):
        os.environ[f"nnUNet_{name}"] = str(asked.out / name)
    plans = prepare(asked.data, asked.splits, asked.out, asked.batch)
    os.environ |= {"nnUNet_n_proc_DA": "0", "nnUNet_compile": "0", "OMP_NUM_THREADS": str(asked.threads)}
    train(plans, asked.cpu_seconds)


if __name__ == "__main__":
    main()
