"""What is known of a trained model, as its `model.json` holds it: without torch, so that it is read in no time."""

from __future__ import annotations

from medseg.files import RESEARCH_USE, Record
from medseg.planning.plan import Plan

VERSION = 1


class Origin(Record):
    """What a model has seen, and what its training began with.

    scans: digests of the voxels (`Whole.digest`) of every channel that it was trained on, sorted, those of the model
    that it began with among them; by these a scan is known again whatever its name. init_sha256: the weights that it
    began with, empty where they were random. known: validation cases of the fold that the model it began with was
    trained on, so that their scores are too good.
    """

    scans: tuple[str, ...] = ()
    init_sha256: str = ""
    known: int = 0


class ModelCard(Record):
    """All that is needed to use a model, and what is known of it."""

    version: int = VERSION
    plan: Plan
    fold: str
    trained_on: int
    steps: int
    seconds: float
    dice: dict[str, float]  # by structure, on the fold's validation cases; empty where there were none
    weights_sha256: str
    origin: Origin = Origin()
    medseg: str
    torch: str
    notice: str = RESEARCH_USE


def fold_order(fold: str) -> tuple[bool, int, str]:
    """By what folds are sorted where only some are used: the one trained on all cases first, then by number."""
    return fold != "all", int(fold) if fold.isdecimal() else 0, fold
