"""Dice of held-out cases with the network in bf16 beside fp32, on the CPU: what half precision costs.

    python -m tests.benchmarks.bf16 RUN [--cases 40] [-o results.json]

RUN is a trained run; the validation cases of its first finished fold are predicted twice by the same weights. A CPU
without bf16 computes it in software: the Dice is the same, the time is not, so no time is told.
"""

from __future__ import annotations

import argparse
import json
from contextlib import nullcontext
from pathlib import Path
from unittest import mock

import numpy as np
import torch

from medseg.inference import window
from medseg.inference.held_out import validation_folds
from medseg.inference.model import load_model, run_plan
from medseg.preprocessing.cache import load_cases, load_reference
from medseg.training.validate import predict_prepared, score_planned


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("--cases", type=int, default=40)
    parser.add_argument("-o", "--out", type=Path)
    given = parser.parse_args()
    plan, cpu = run_plan(given.run), torch.device("cpu")
    folds = validation_folds(given.run, plan.chosen)
    fold, names = next((f, n) for f, n in folds if (f / "model.json").is_file())
    network = load_model(fold, cpu).network
    cache = given.run / "cache" / plan.configuration.cache
    contexts = {
        "fp32": lambda _: nullcontext(),
        "bf16": lambda _: torch.autocast("cpu", dtype=torch.bfloat16),
    }
    dice: dict[str, list[float]] = {name: [] for name in contexts}
    differ = voxels = 0
    for case in load_cases(cache, names[: given.cases], plan.configuration.preprocessing):
        reference = load_reference(cache, case, plan.names)
        found = {}
        for name, context in contexts.items():
            with mock.patch.object(window, "autocast", context):
                found[name] = predict_prepared(network, case, plan, cpu)
            rows = score_planned(case.name, reference, found[name], plan)
            dice[name].append(float(np.mean([row.dice for row in rows if row.dice is not None])))
        differ += int((found["fp32"].array != found["bf16"].array).sum())
        voxels += found["fp32"].array.size
    means = {name: round(float(np.mean(values)), 5) for name, values in dice.items()}
    result = {
        "cases": len(dice["fp32"]),
        "dice": means,
        "difference": round(means["bf16"] - means["fp32"], 5),
        "voxels_differing_share": round(differ / voxels, 7),
        "torch": torch.__version__,
    }
    text = json.dumps(result, indent=1)
    print(text)  # noqa: T201
    if given.out:
        given.out.write_text(text + "\n")


if __name__ == "__main__":
    main()
