"""One scan from channels to labels on its own grid."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch

from medseg.imaging.volume import LabelMap, Volume
from medseg.inference.averaging import Answer, labels_of
from medseg.inference.postprocess import cleaned, mask_of
from medseg.inference.predictor import Predictor, with_stages
from medseg.inference.window import network_input, slide
from medseg.planning.plan import Name, Plan
from medseg.preprocessing.prepare import prepare, prepare_labels


def predict(predictor: Predictor, channels: Sequence[Volume], device: torch.device) -> LabelMap:
    """Prepare, slide, restore, clean: labels on the scan's own grid.

    The logits of a configuration are the mean over its folds; those of several become mean probabilities.

    Raises:
        GeometryError: the channels are not the plan's, or not on one grid.
    """
    plan, answers = predictor.plan, dict[Name, Answer]()
    for name in with_stages(predictor.members, plan):
        answers[name] = _answer(predictor, name, channels, answers, device)
    labels = labels_of([answers[name] for name in predictor.members], plan)
    return cleaned(labels, predictor.cleaning)


def _answer(
    predictor: Predictor,
    name: Name,
    channels: Sequence[Volume],
    answers: Mapping[Name, Answer],
    device: torch.device,
) -> Answer:
    """Of one configuration; the second stage of a cascade reads the labels that its first stage found."""
    plan = predictor.models[name][0].card.plan
    configuration = plan.configuration
    prepared = prepare(channels, configuration.preprocessing)
    previous = None
    if configuration.previous is not None:
        before = labels_of([answers[configuration.previous]], plan)
        previous = prepare_labels(before, prepared.undo, plan.values)
    image = network_input(prepared.image_CXYZ, previous, configuration.network.in_channels)
    networks = [model.network for model in predictor.models[name]]
    return Answer(slide(networks, image, configuration, device), prepared.undo)


def volumes_ml(labels: LabelMap, plan: Plan) -> dict[str, float]:
    """Volume in ml, by name, of each structure, or of each region where the plan has regions."""
    values = {region.name: region.values for region in plan.regions} or {n: (v,) for v, n in labels.names.items()}
    return {
        name: round(float(np.count_nonzero(mask_of(labels.array, of))) * labels.grid.voxel_ml, 6)
        for name, of in values.items()
    }
