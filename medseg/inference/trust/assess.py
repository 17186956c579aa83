"""What is to be thought of a new prediction, structure by structure, and what to do about it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from medseg.inference.trust.fit import predicted_dice
from medseg.inference.trust.records import CaseTrust, Oddity, StructureFit, StructureSums, StructureTrust, Trust

ODD = 0.5  # the concern about a scan that is just beyond what is usual
POOR = 0.5  # below this Dice a prediction shares less with the truth than not


def assess(
    trust: Trust | None,
    case: CaseTrust,
    volumes_ml: Mapping[str, float],
    agreement: Mapping[str, float] | None = None,
    odd: Sequence[Oddity] = (),
) -> tuple[StructureTrust, ...]:
    """Every structure of a prediction.

    volumes_ml: of what is written, after post-processing. agreement: of folds and mirrors (`Disagreement`). odd: what
    is unlike the training scans (`unfamiliar`): then held-out cases say nothing of this one, a network may be sure and
    wrong: no Dice is predicted, there is no interval, and every structure is to be looked at.
    """
    fits = {fit.structure: fit for fit in trust.structures} if trust else {}
    agreed = agreement or {}
    found = (
        _structure(sums, fits.get(sums.structure), volumes_ml.get(sums.structure, 0.0), agreed.get(sums.structure))
        for sums in case.structures
    )
    return tuple(_of_unlike_scan(one, odd) if odd else one for one in found)


def _of_unlike_scan(found: StructureTrust, odd: Sequence[Oddity]) -> StructureTrust:
    """What is left of it, and what to look at."""
    nothing = dict.fromkeys(("predicted_dice", "dice_low", "dice_high", "volume_low_ml", "volume_high_ml", "coverage"))
    concern = max(found.concern, min(ODD * max(one.times for one in odd), 1.0))
    told = f"Dice of {found.predicted_dice:.2f} would be expected, but " if found.predicted_dice is not None else ""
    here = "" if found.volume_ml > 0 else "not found: "
    words = f"{here}look at it: {told}the scan is unlike the training scans"
    return found.model_copy(update={**nothing, "concern": round(concern, 4), "look": True, "words": words})


def _structure(
    sums: StructureSums, fit: StructureFit | None, volume_ml: float, agreement: float | None
) -> StructureTrust:
    here = sums.voxels > 0 and volume_ml > 0
    dice = predicted_dice(fit, sums) if fit and here else None
    low, high = _dice_interval(fit, dice)
    smallest, largest = _volume_interval(fit, dice, volume_ml)
    found = StructureTrust(
        structure=sums.structure,
        confidence=sums.confidence if here else None,
        entropy=sums.entropy if here else None,
        agreement=agreement,
        predicted_dice=_short(dice),
        dice_low=_short(low),
        dice_high=_short(high),
        volume_ml=volume_ml,
        volume_low_ml=_short(smallest),
        volume_high_ml=_short(largest),
        coverage=fit.coverage if fit and low is not None else None,
        concern=0.0,
        words="",
    )
    words, concern, look = _said(found, fit) if here else _absent(fit)
    return found.model_copy(update={"words": words, "concern": round(concern, 4), "look": look})


def _dice_interval(fit: StructureFit | None, dice: float | None) -> tuple[float | None, float | None]:
    if fit is None or dice is None or fit.low is None or fit.high is None:
        return None, None
    error = 1 - dice
    return max(1 - fit.high * error, 0.0), min(1 - fit.low * error, 1.0)


def _volume_interval(
    fit: StructureFit | None, dice: float | None, volume_ml: float
) -> tuple[float | None, float | None]:
    if fit is None or dice is None or fit.volume_low is None or fit.volume_high is None:
        return None, None
    error = 1 - dice
    return volume_ml * max(1 + fit.volume_low * error, 0.0), volume_ml * max(1 + fit.volume_high * error, 0.0)


def _said(found: StructureTrust, fit: StructureFit | None) -> tuple[str, float, bool]:
    """In words, how much it is of concern, and whether to look at it, of a structure that was found."""
    dice = found.predicted_dice
    if fit is None or dice is None or fit.usual is None:
        return "no cross-validation tells how good it is", 1 - (found.confidence or 0.0), False
    between = "" if found.dice_low is None else f" ({found.dice_low:.2f} to {found.dice_high:.2f})"
    told = f"Dice of about {dice:.2f}{between} is to be expected"
    if dice < POOR:
        return f"do not use it unseen: {told}", 1 - dice, True
    if dice < fit.usual:
        return f"look at it: {told}, less than for most held-out scans (mean {fit.dice:.2f})", 1 - dice, True
    if found.agreement is not None and found.dice_low is not None and found.agreement < found.dice_low:
        agreed = f"{told}, but folds or mirrors agree by {found.agreement:.2f} only"
        return f"look at it: {agreed}", 1 - found.agreement, True
    return f"as held-out scans: {told}", 1 - dice, False


def _absent(fit: StructureFit | None) -> tuple[str, float, bool]:
    """Of a structure that was not found: probabilities say little of what is not there."""
    if fit is None or not fit.absent:
        seen = "it was found in every held-out scan" if fit else "no cross-validation tells how often that is right"
        return f"not found: {seen}" + ("; look for it" if fit else ""), 1.0, fit is not None
    told = f"not found, and of {fit.absent} held-out scans in which it was not, {fit.absent_rightly} did not hold it"
    wrong = 1 - (fit.absent_rightly + 1) / (fit.absent + 2)  # Laplace's rule: few scans prove little
    return (told if wrong < POOR else f"{told}: look for it"), wrong, wrong >= POOR


def _short(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.5g}")
