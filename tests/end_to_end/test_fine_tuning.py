"""A model of the phantom's liver and kidney, fine-tuned on four other patients with a lesion to find as well.

python -m tests.end_to_end.test_fine_tuning OUT        prints the figures of three seeds
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from medseg.pipeline import steps
from tests.phantom import KIDNEY, LESION, LIVER, make_case, write_nifti
from tests.tiny import last

MODEL_SEEDS, FEW_SEEDS, TEST_SEEDS = range(1, 13), range(21, 25), range(31, 37)
MODEL_STEPS, FEW_STEPS = 300, 100
GAIN = 0.05  # of mean Dice
SPACING = "6"


def write(folder: Path, seeds: Sequence[int], names: dict[int, str]) -> Path:
    """Patients with the named structures labelled; a lesion that has no name is liver."""
    for seed in seeds:
        image, labels, affine = make_case(seed)
        if LESION not in names:
            labels = np.where(labels == LESION, LIVER, labels).astype(np.uint8)
        write_nifti(folder / "imagesTr" / f"p{seed}_0000.nii.gz", image, affine)
        write_nifti(folder / "labelsTr" / f"p{seed}.nii.gz", labels, affine)
    said = {"labels": {"background": 0, **{name: value for value, name in names.items()}}}
    told = {**said, "channel_names": {"0": "CT"}, "file_ending": ".nii.gz"}
    (folder / "dataset.json").write_text(json.dumps(told))
    return folder


def trained(data: Path, run: Path, n: int, seed: int = 0, init: Path | None = None) -> Path:
    """A run whose model is trained on all cases for `n` steps; beginning with a model it has that one's network."""
    spacing = {} if init else {"spacing": SPACING}
    last(steps.plan(data, run, budget=f"{n}steps", seed=seed, device="cpu", init=init, **spacing))
    last(steps.train(run, "all", steps=n, device="cpu"))
    return run


def dice(run: Path, test: Path, out: Path) -> dict[str, float]:
    """Mean Dice of each structure over the test patients."""
    last(steps.infer(run, test / "imagesTr", out / "labels", "cpu"))
    scores = last(steps.evaluate(out / "labels", test / "labelsTr", out / "scores")).scores
    return {one.structure: one.metrics["dice"].mean or 0.0 for one in scores.structures}


def compare(out: Path, seeds: Sequence[int]) -> list[tuple[dict[str, float], dict[str, float]]]:
    """For each seed Dice from scratch, and fine-tuned, by as many steps on the same four patients."""
    two = {LIVER: "liver", KIDNEY: "kidney"}
    model = trained(write(out / "model_data", MODEL_SEEDS, two), out / "model", MODEL_STEPS)
    few = write(out / "few", FEW_SEEDS, {**two, LESION: "lesion"})
    test = write(out / "test", TEST_SEEDS, {**two, LESION: "lesion"})
    found = []
    for seed in seeds:
        pair = []
        for name, init in (("scratch", None), ("tuned", model)):
            run = trained(few, out / f"{name}{seed}", FEW_STEPS, seed, init)
            pair.append(dice(run, test, out / f"{name}{seed}_test"))
        found.append((pair[0], pair[1]))
    return found


def mean(scores: dict[str, float]) -> float:
    return float(np.mean(list(scores.values())))


@pytest.mark.slow
@pytest.mark.usefixtures("one_thread")
def test_a_fine_tuned_model_beats_one_from_scratch(tmp_path: Path) -> None:
    for scratch, tuned in compare(tmp_path, (0, 1, 2)):
        assert set(scratch) == set(tuned) == {"liver", "kidney", "lesion"}
        assert mean(tuned) >= mean(scratch) + GAIN


if __name__ == "__main__":
    for scratch, tuned in compare(Path(sys.argv[1]), (0, 1, 2)):
        told = [f"{name} {scratch[name]:.3f} -> {tuned[name]:.3f}" for name in scratch]
        sys.stdout.write(f"mean {mean(scratch):.3f} -> {mean(tuned):.3f}   {', '.join(told)}\n")
