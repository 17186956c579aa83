"""Ask nnU-Net's own planners for plans of fingerprints that stand for many data sets, and keep the answers.

Run by hand with a Python that has nnunetv2 installed (medseg needs it nowhere):

    python tests/oracles/make_nnunet_plans.py

Writes nnunet_plans/plans.json beside this file: nnU-Net's version, the fingerprints (spacing and shape as nnU-Net has
them: z, y, x), and for each planner and configuration the numbers that it decided. Networks are built without memory
(torch's meta device), since planners only count what their convolutions put out. The answers kept were made on a CPU
with AVX2 and without AVX-512: nnU-Net chooses among equal axes by `np.argsort`, which need not be stable everywhere.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import random
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

FIXTURE = Path(__file__).parent / "nnunet_plans" / "plans.json"

# cases, spacing (mm) and median shape along z, y, x, labels with background, channels
KNOWN = {
    "hippocampus": (260, (1, 1, 1), (36, 50, 35), 3, 1),
    "liver": (131, (1, 0.7675, 0.7675), (482, 512, 512), 3, 1),
    "brain tumour": (484, (1, 1, 1), (138, 169, 138), 4, 4),
    "prostate": (32, (3.6, 0.62, 0.62), (20, 320, 319), 3, 2),
    "spleen": (41, (1.6, 0.79, 0.79), (187, 512, 512), 2, 1),
    "heart": (20, (1.37, 1.25, 1.25), (115, 320, 232), 2, 1),
    "ACDC": (200, (5, 1.5625, 1.5625), (18, 237, 208), 4, 1),
}
# the same, about which cases vary: spacing by up to a share of it along z, and along y and x together; shape likewise
MADE_UP = {
    "isotropic MR": (30, (1, 1, 1), (176, 240, 256), 5, 1, 0, 0, 0.05),
    "isotropic, odd spacing": (24, (0.83, 0.83, 0.83), (201, 199, 187), 2, 1, 0.1, 0.1, 0.2),
    "thin-slice CT": (25, (0.8, 0.7, 0.7), (520, 512, 512), 14, 1, 0.3, 0.2, 0.3),
    "thick slices of changing thickness": (17, (6, 0.7, 0.7), (40, 512, 512), 3, 1, 0.6, 0.1, 0.3),
    "very thick slices": (12, (12, 0.4, 0.4), (9, 640, 640), 4, 1, 0.3, 0.05, 0.2),
    "thick slices, many of them": (18, (3.3, 0.7, 0.7), (260, 400, 400), 2, 1, 0.2, 0.05, 0.3),
    "tiny": (40, (1, 1, 1), (13, 17, 15), 2, 1, 0, 0, 0.3),
    "tiny and flat": (20, (2.5, 0.9, 0.9), (7, 30, 26), 3, 1, 0, 0, 0.2),
    "huge specimen": (9, (0.02, 0.02, 0.02), (1400, 1300, 1500), 3, 1, 0, 0, 0.1),
    "single slices": (30, (8, 0.5, 0.5), (1, 480, 512), 3, 1, 0, 0.1, 0.0),
    "104 organs": (30, (1.5, 1.5, 1.5), (260, 250, 270), 105, 1, 0, 0, 0.4),
    "six channels": (16, (3, 1, 1), (60, 256, 256), 6, 6, 0.2, 0.0, 0.2),
    "equal scans of 256": (10, (1, 1, 1), (256, 256, 256), 2, 1, 0, 0, 0),
    "equal scans of 512, thick": (10, (5, 0.8, 0.8), (64, 512, 512), 2, 1, 0, 0, 0),
    "three cases": (3, (1, 0.9, 0.9), (40, 52, 48), 2, 1, 0.1, 0.1, 0.2),
    "whole body": (15, (3, 2, 2), (620, 400, 400), 3, 2, 0.3, 0.2, 0.3),
    "whole body, fine": (8, (1, 0.9, 0.9), (1900, 512, 512), 9, 1, 0.2, 0.05, 0.2),
    "sagittal thick slices": (14, (0.6, 0.6, 4.4), (512, 512, 16), 3, 1, 0, 0, 0),
    "coronal thick slices": (14, (0.9, 3, 0.9), (300, 50, 280), 3, 1, 0.05, 0.05, 0.2),
    "eye": (22, (0.047, 0.0039, 0.0117), (49, 496, 512), 10, 1, 0, 0, 0.02),
}
PLANNERS = {  # name here -> class, memory in GB, which fingerprints
    "unet": ("ExperimentPlanner", 8, "all"),
    "resenc-m": ("nnUNetPlannerResEncM", 8, "all"),
    "resenc-l": ("nnUNetPlannerResEncL", 24, "all"),
    "resenc-xl": ("nnUNetPlannerResEncXL", 40, "known"),
    "unet in 24 GB": ("ExperimentPlanner", 24, "known"),
    "resenc-l in 8 GB": ("nnUNetPlannerResEncL", 8, "known"),
}


def known(name: str) -> dict[str, Any]:
    cases, spacing, shape, labels, channels = KNOWN[name]
    return {"labels": labels, "channels": channels, "cases": [[cases, list(spacing), list(shape)]]}


def made_up(name: str) -> dict[str, Any]:
    """Cases about the middle that the table states, the same in every run."""
    cases, spacing, shape, labels, channels, vary_z, vary_yx, vary_shape = MADE_UP[name]
    draw = random.Random(name)  # noqa: S311 not for secrets
    found = []
    for _ in range(cases):
        along_z, within = 1 + draw.uniform(-vary_z, vary_z), 1 + draw.uniform(-vary_yx, vary_yx)
        here = [round(s * by, 5) for s, by in zip(spacing, (along_z, within, within), strict=True)]
        size = [max(1, round(n * (1 + draw.uniform(-vary_shape, vary_shape)))) if n > 1 else 1 for n in shape]
        found.append([1, here, size])
    return {"labels": labels, "channels": channels, "cases": found}


def planned(root: Path, planner: str, gb: float, data: dict[str, Any]) -> dict[str, Any]:
    """What one of nnU-Net's planners makes of a fingerprint; it reads two files and writes another."""
    import torch
    from nnunetv2.experiment_planning.experiment_planners import default_experiment_planner as plain
    from nnunetv2.experiment_planning.experiment_planners.residual_unets import residual_encoder_unet_planners as resenc

    name = "Dataset001_Made"
    spacings = [s for n, s, _ in data["cases"] for _ in range(n)]
    shapes = [s for n, _, s in data["cases"] for _ in range(n)]
    told = {
        "channel_names": {str(k): "MRI" for k in range(data["channels"])},
        "labels": {"background": 0, **{f"structure {k}": k for k in range(1, data["labels"])}},
        "numTraining": len(spacings),
        "file_ending": ".nii.gz",
        "overwrite_image_reader_writer": "NibabelIO",
        "dataset": {"one": {"images": ["one_0000.nii.gz"], "label": "one.nii.gz"}},
    }
    seen = {
        "spacings": spacings,
        "shapes_after_crop": shapes,
        "median_relative_size_after_cropping": 1.0,
        "foreground_intensity_properties_per_channel": {},
    }
    for folder, file, content in (("raw", "dataset.json", told), ("preprocessed", "dataset_fingerprint.json", seen)):
        (root / folder / name).mkdir(parents=True, exist_ok=True)
        (root / folder / name / file).write_text(json.dumps(content))
    planner_of = getattr(plain, planner, None) or getattr(resenc, planner)
    with torch.device("meta"), contextlib.redirect_stdout(io.StringIO()):
        plans = planner_of(name, gb, plans_name=f"plans_{planner}_{gb}").plan_experiment()
    (root / "preprocessed" / name / f"plans_{planner}_{gb}.json").unlink()
    configurations = {k: v for k, v in plans["configurations"].items() if "inherits_from" not in v}
    return {
        "first_axis": plans["transpose_forward"][0],
        "configurations": {k: numbers(v) for k, v in configurations.items()},
    }


def numbers(configuration: dict[str, Any]) -> dict[str, Any]:
    """The decisions of one configuration, axes as nnU-Net has them after its transposition."""
    network = configuration["architecture"]["arch_kwargs"]
    return {
        "spacing": configuration["spacing"],
        "median_shape": configuration["median_image_size_in_voxels"],
        "patch": configuration["patch_size"],
        "batch": configuration["batch_size"],
        "features": network["features_per_stage"],
        "strides": network["strides"],
        "kernels": network["kernel_sizes"],
        "encoder": network.get("n_conv_per_stage") or network["n_blocks_per_stage"],
        "decoder": network["n_conv_per_stage_decoder"],
    }


def main() -> None:
    """Plan for every fingerprint with every planner."""
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary)
        os.environ.update({f"nnUNet_{part}": str(root / part) for part in ("raw", "preprocessed", "results")})
        datasets = {**{name: known(name) for name in KNOWN}, **{name: made_up(name) for name in MADE_UP}}
        lines = []
        for name, data in datasets.items():
            data["plans"] = {
                key: planned(root, planner, gb, data)
                for key, (planner, gb, which) in PLANNERS.items()
                if which == "all" or name in KNOWN
            }
            lines.append(f"{json.dumps(name)}: {json.dumps(data, separators=(',', ':'))}")
            print(name, flush=True)  # noqa: T201
    planners = {key: {"planner": planner, "gb": gb} for key, (planner, gb, _) in PLANNERS.items()}
    head = f'"nnunetv2": "{version("nnunetv2")}",\n"planners": {json.dumps(planners)},\n'
    FIXTURE.parent.mkdir(exist_ok=True)
    FIXTURE.write_text("{\n" + head + '"datasets": {\n' + ",\n".join(lines) + "\n}}\n")


if __name__ == "__main__":
    main()
