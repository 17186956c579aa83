"""What is written of trust: sums of one case, what they taught over held-out cases, and what is said of a new one."""

from __future__ import annotations

from pydantic import Field

from medseg.files import Record

VERSION = 1


class StructureSums(Record):
    """One structure (or region) in one case, on the network's grid, by the network's own probabilities.

    inside: sum of its probability over its `voxels`; everywhere: over all voxels. entropy: mean normalised entropy of
    the `contour` voxels, those with a neighbour outside of the structure in their plane of the slab. confidence: mean
    calibrated probability of its voxels. The last two are None where there are no such voxels.
    """

    structure: str
    voxels: int
    inside: float
    everywhere: float
    contour: int
    entropy: float | None
    confidence: float | None

    @property
    def soft_dice(self) -> float | None:
        """The Dice to be expected if probabilities were true ones: 2 sum(inside) / (voxels + sum(everywhere))."""
        return 2 * self.inside / (self.voxels + self.everywhere) if self.voxels else None


class Reliability(Record):
    """Decisions of a case against its reference, for each of `TEMPERATURES`: the sum of their negative log likelihood,
    and for each bin of confidence their number, the sum of confidences, and how many were right.
    """

    decisions: int
    nll: tuple[float, ...]
    counts: tuple[tuple[int, ...], ...]
    confidences: tuple[tuple[float, ...], ...]
    hits: tuple[tuple[int, ...], ...]


class CaseTrust(Record):
    """What trust in one prediction rests on.

    temperature: of the confidence. reliability: None where no reference is known.
    """

    version: int = VERSION
    temperature: float
    structures: tuple[StructureSums, ...]
    reliability: Reliability | None = None


class StructureFit(Record):
    """What held-out cases taught of one structure.

    errors: of how many cases in which it was found, with or without right, the figures below are; pooled: they are of
    all structures together, as this one had too few. ratio: the error of Dice, 1 - Dice, is about this many times the
    one to be expected by probabilities. low, high: the same of its interval, relative to the predicted error.
    volume_low, volume_high: of (true volume / predicted volume - 1) relative to the predicted error. coverage: of both
    intervals; where pooled, the share of cases in which all structures keep to them. None where too few cases tell.
    dice: mean over these cases; usual: their predicted Dice is rarely below. absent, absent_rightly: cases in which it
    was not found, and of these those that did not hold it.
    """

    structure: str
    errors: int
    pooled: bool
    ratio: float | None
    low: float | None
    high: float | None
    volume_low: float | None
    volume_high: float | None
    coverage: float | None
    dice: float | None
    usual: float | None
    absent: int
    absent_rightly: int


class Trust(Record):
    """What held-out cases taught of a configuration; nothing in it is of a single case.

    temperature: by which logits are divided so that probabilities are the likeliest; its search ends at the ends of
    `TEMPERATURES`. ece: expected calibration error, the mean over cases, before and after. dice_error: mean absolute
    error of predicted Dice, each case predicted by what the others taught.
    """

    version: int = VERSION
    cases: int
    temperature: float
    ece_before: float | None
    ece_after: float | None
    dice_error: float | None
    structures: tuple[StructureFit, ...]


class StructureTrust(Record):
    """What is to be thought of one structure of a new prediction; None where nothing tells.

    confidence: mean calibrated probability of its voxels, 0 to 1. entropy: mean normalised entropy at its contour.
    agreement: mean Dice of the folds and mirrors among themselves. predicted_dice with its interval, volume in ml with
    its interval; both hold in `coverage` of cases that are like the held-out ones; of others they are None.
    concern: 0 none, 1 most. look: it asks to be looked at; words say why.
    """

    structure: str
    confidence: float | None
    entropy: float | None
    agreement: float | None
    predicted_dice: float | None
    dice_low: float | None
    dice_high: float | None
    volume_ml: float
    volume_low_ml: float | None
    volume_high_ml: float | None
    coverage: float | None
    concern: float = Field(ge=0, le=1)
    look: bool = False
    words: str


class Oddity(Record):
    """What is unlike the training scans, in words, and how much: times the limit."""

    code: str
    what: str
    times: float
