"""One scan from channels to labels on its own grid."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from medseg.imaging.volume import LabelMap, Volume
from medseg.inference.model import Model
from medseg.inference.window import slide
from medseg.preprocessing.prepare import prepare, restore


def predict(models: Sequence[Model], channels: Sequence[Volume], device: torch.device) -> LabelMap:
    """Prepare, slide, restore: the mean of all models' logits becomes labels on the scan's own grid.

    Raises:
        GeometryError: the channels are not the plan's, or not on one grid.
    """
    plan = models[0].card.plan
    prepared = prepare(channels, plan.configuration.preprocessing)
    logits_LXYZ = slide([m.network for m in models], prepared.image_CXYZ, plan.configuration, device)
    return restore(logits_LXYZ, prepared.undo, plan.values, plan.names)


def volumes_ml(labels: LabelMap) -> dict[str, float]:
    """Volume of each structure in ml, by name."""
    return {
        name: round(float((labels.array == value).sum()) * labels.grid.voxel_ml, 6)
        for value, name in labels.names.items()
    }
