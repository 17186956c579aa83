"""What preprocessing is told: a record without arrays and without torch, carried by the plan and by every model."""

from __future__ import annotations

import re
from typing import Literal

from medseg.files import Record

_CT = re.compile(r"ct( \d+)?", re.IGNORECASE)

Crop = Literal["nonzero", "body"]


class Normalisation(Record):
    """How one channel's intensities become network input.

    `ct`: clip to [lower, upper], subtract mean, divide by sd, all from the data set's labelled voxels.
    `zscore`: each scan by its own mean and sd; with `nonzero_only` of the voxels within the filled outline of what is
    not zero in any channel, and zero stays outside of it.
    Source: nnU-Net (Isensee et al. 2021), normalisation schemes.
    """

    kind: Literal["ct", "zscore"]
    lower: float = 0.0
    upper: float = 0.0
    mean: float = 0.0
    sd: float = 1.0
    nonzero_only: bool = False


class PreprocessingSettings(Record):
    """Target spacing (R, A, S) in mm, None along an axis that is never resampled; one normalisation a channel.

    crop: to the box of what is not zero, or of the body (CT).
    """

    spacing_mm: tuple[float | None, float | None, float | None]
    channels: tuple[Normalisation, ...]
    crop: Crop = "nonzero"


def is_ct(channel: str) -> bool:
    """True for the name of a channel that holds Hounsfield units: `CT`, numbered where several channels are CT."""
    return _CT.fullmatch(channel) is not None
