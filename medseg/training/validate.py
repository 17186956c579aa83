"""How good a network is on whole cases it was not trained on, on each scan's own grid."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import nn

from medseg.evaluation.case import StructureScore, score_case
from medseg.imaging.nifti import write_labels
from medseg.imaging.volume import LabelMap
from medseg.inference.window import slide
from medseg.planning.plan import Plan
from medseg.preprocessing.cache import LoadedCase, load_reference
from medseg.preprocessing.prepare import restore


def predict_prepared(network: nn.Module, case: LoadedCase, plan: Plan, device: torch.device) -> LabelMap:
    """Labels of a prepared case on its scan's own grid."""
    image = np.asarray(case.image_CXYZ, dtype=np.float32)
    logits_LXYZ = slide([network.eval()], image, plan.configuration, device)
    return restore(logits_LXYZ, case.undo, plan.values, plan.names)


def validate_case(
    network: nn.Module, case: LoadedCase, plan: Plan, cache: Path, out: Path, device: torch.device
) -> tuple[StructureScore, ...]:
    """Predict one case, write its labels to `out`, and score them."""
    labels = predict_prepared(network, case, plan, device)
    write_labels(out / f"{case.name}.nii.gz", labels)
    return score_case(case.name, load_reference(cache, case, plan.names), labels)


def quick_dice(network: nn.Module, cases: Sequence[LoadedCase], plan: Plan, device: torch.device) -> dict[str, float]:
    """Dice of each structure over a few cases' voxels together, on the network's grid: a look, not a result."""
    shared = np.zeros(len(plan.structures))
    total = np.zeros(len(plan.structures))
    for case in cases:
        image = np.asarray(case.image_CXYZ, dtype=np.float32)
        found = slide([network.eval()], image, plan.configuration, device).argmax(0)
        for k in range(len(plan.structures)):
            ours, theirs = found == k + 1, case.classes_XYZ == k + 1
            shared[k] += np.count_nonzero(ours & theirs)
            total[k] += np.count_nonzero(ours) + np.count_nonzero(theirs)
    network.train()
    return {s.name: float(2 * a / b) if b else 0.0 for s, a, b in zip(plan.structures, shared, total, strict=True)}
