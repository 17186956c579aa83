"""How good a network is on whole cases it was not trained on, on each scan's own grid."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from medseg.evaluation.case import score_case
from medseg.evaluation.score import StructureScore
from medseg.imaging.volume import LabelMap
from medseg.inference.held_out import keep_held_out
from medseg.inference.restoring import restored
from medseg.inference.trust.kept import keep_case_trust
from medseg.inference.trust.sums import TrustSums
from medseg.inference.window import SlidingWindow, network_input
from medseg.planning.plan import Plan, Region
from medseg.preprocessing.cache import LoadedCase, load_reference

Mask = npt.NDArray[np.bool_]


def predict_prepared(
    network: nn.Module, case: LoadedCase, plan: Plan, device: torch.device, sums: TrustSums | None = None
) -> LabelMap:
    """Labels of a prepared case on its scan's own grid; `sums` are told of its logits."""
    image = network_input(case.image_CXYZ, case.previous_XYZ, plan.configuration.network.in_channels)
    slabs = SlidingWindow([network.eval()], plan.configuration, device).slabs(image)
    return restored(slabs if sums is None else sums.taking(slabs), case.undo, plan)


def validate_case(
    network: nn.Module, case: LoadedCase, plan: Plan, cache: Path, out: Path, device: torch.device
) -> tuple[StructureScore, ...]:
    """Predict one case, write its labels to `out`, keep them for what builds on cross-validation, and score them.

    Kept as well is what the case teaches of how far the network's probabilities can be trusted.
    """
    sums = TrustSums(plan, classes_XYZ=case.classes_XYZ)
    labels = predict_prepared(network, case, plan, device, sums)
    keep_held_out(out.parent, case.name, labels)
    keep_case_trust(out.parent, case.name, sums.finished())
    if can_write_labels():
        from medseg.imaging.nifti import write_labels  # training itself does without nibabel

        write_labels(out / f"{case.name}.nii.gz", labels)
    return score_planned(case.name, load_reference(cache, case, plan.names), labels, plan)


def can_write_labels() -> bool:
    """True if nibabel is there: training and its scores do without it, and only then labels are not written."""
    try:
        import nibabel  # noqa: F401
    except ModuleNotFoundError as error:
        if error.name != "nibabel":
            raise
        return False
    return True


def score_planned(name: str, reference: LabelMap, prediction: LabelMap, plan: Plan) -> tuple[StructureScore, ...]:
    """Score what the plan's network finds: structures, or regions as wholes; without the voxels that nobody labelled.

    Raises:
        GeometryError: the two grids differ.
    """
    if plan.ignore is not None and reference.grid.shape == prediction.grid.shape:
        counts = reference.array != plan.ignore
        reference, prediction = _changed(reference, counts), _changed(prediction, counts)
    if not plan.regions:
        return score_case(name, reference, prediction)
    rows: list[StructureScore] = []
    for region in plan.regions:
        ours, theirs = _whole(reference, region), _whole(prediction, region)
        rows += score_case(name, ours, theirs)
    return tuple(rows)


def _changed(labels: LabelMap, counts: Mask) -> LabelMap:
    """Nothing where a voxel does not count."""
    return LabelMap(np.where(counts, labels.array, 0).astype(labels.array.dtype), labels.grid, labels.names)


def _whole(labels: LabelMap, region: Region) -> LabelMap:
    """All values of a region as one structure."""
    return LabelMap(np.isin(labels.array, region.values).astype(np.uint8), labels.grid, {1: region.name})
