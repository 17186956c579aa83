"""How the intensities of each channel are normalised, by its modality."""

from __future__ import annotations

import math

import numpy as np

from medseg.errors import InputError
from medseg.planning.fingerprint import Fingerprint, pooled
from medseg.planning.plan import Reason
from medseg.preprocessing.settings import Normalisation, is_ct

CROPPED_AWAY = 0.75  # normalise by nonzero voxels alone where crops keep less than this share of a scan


def normalisation(fingerprint: Fingerprint, channel: int, name: str) -> tuple[Normalisation, Reason]:
    """How one channel is normalised, by its modality: CT by the data set's labelled voxels, all else scan by scan."""
    unnamed = name.isdecimal()  # two folders without dataset.json: nothing says what was scanned
    topic = f"intensities of channel {name}" if unnamed else f"intensities of {name}"
    fields = ("preprocessing.channels",)
    if is_ct(name):
        sketch = pooled(fingerprint, channel)
        if not sketch.voxels:
            raise InputError("no labelled voxel in the whole data set", fix="check the label maps")
        low, high = sketch.quantiles[1], sketch.quantiles[-2]
        how = Normalisation(kind="ct", lower=low, upper=high, mean=sketch.mean, sd=sketch.sd)
        why = f"0.5 to 99.5 % of {sketch.voxels} labelled voxels; Hounsfield units mean the same in every scan"
        choice = f"clip {round(low)} to {round(high)} HU, then by the data set's mean"
        numbers = {"lowest, HU": low, "highest, HU": high, "mean, HU": sketch.mean, "SD, HU": sketch.sd}
        return how, Reason(topic=topic, choice=choice, why=why, fields=fields, numbers=numbers)
    kept = float(np.median([math.prod(c.cropped) / math.prod(c.shape) for c in fingerprint.cases]))
    nonzero = kept < CROPPED_AWAY
    how = Normalisation(kind="zscore", nonzero_only=nonzero)
    why = f"{name} has no unit that holds from scan to scan"
    if unnamed:
        why = "its modality is not known; say CT in a dataset.json if it holds Hounsfield units"
    if nonzero:
        why += f"; by nonzero voxels alone, since the median scan is {100 * (1 - kept):.0f} % empty"
    choice, numbers = "each scan by its own mean and SD", {"share of the median scan that crops keep": kept}
    return how, Reason(topic=topic, choice=choice, why=why, fields=fields, numbers=numbers)
