"""medseg: from labelled scans to a trustworthy segmentation model. Importing it does nothing; `load` opens a model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from medseg.api import LoadedModel

__all__ = ["load"]


def load(
    path: str | Path, device: str = "auto", quality: str = "standard", folds: int | Sequence[str] | None = None
) -> LoadedModel:
    """Open a trained run or a model file, ready to predict on `device` (auto, cpu or cuda).

    quality: fast, standard or max, as of `medseg infer`. folds: how many of its folds predict, or the names of those
    that do; what the quality asks for unless given.

        model = medseg.load("model.medseg")
        prediction = model.predict("scan_folder")
        prediction.save("out", formats=["nifti", "seg"])

    Raises:
        medseg.errors.MedsegError: there is no such model, it is damaged, or torch sees no such device.
    """
    from medseg.api import load as loaded

    return loaded(path, device, quality, folds)
