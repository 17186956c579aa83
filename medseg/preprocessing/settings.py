"""What preprocessing is told: a record without arrays and without torch, carried by the plan and by every model."""

from __future__ import annotations

import re
from typing import Literal

from medseg.files import Record

_CT = re.compile(r"ct( \d+)?", re.IGNORECASE)

Crop = Literal["nonzero", "body"]
Orientation = Literal["ras", "stored"]


class Normalisation(Record):
    """How one channel's intensities become network input.

    `ct`: clip to [lower, upper], subtract mean, divide by sd, all from the data set's labelled voxels.
    `zscore`: each scan by its own mean and sd; with `nonzero_only` of the voxels within the filled outline of what is
    not zero in any channel, and zero stays outside of it. `minmax`: each scan from its smallest value, 0, to its
    largest, 1. `rgb`: colours from 0 to 255 as 0 to 1. `none`: as they are.
    Source: nnU-Net (Isensee et al. 2021), normalisation schemes.
    """

    kind: Literal["ct", "zscore", "minmax", "rgb", "none"]
    lower: float = 0.0
    upper: float = 0.0
    mean: float = 0.0
    sd: float = 1.0
    nonzero_only: bool = False


class Resampling(Record):
    """How scans are brought to the target spacing, and answers back to the scan's own.

    order: of the splines for intensities, cubic or linear. thick: what is done along an axis that is more than three
    times coarser than the finest. `linear`: intensities are interpolated linearly along it, as answers are along every
    axis. `nearest`: slices are resampled one by one, and the nearest one is taken, of intensities and of answers; this
    is nnU-Net's rule, which looks at the scan's spacing first, then at the target. `alike`: nothing else.
    float32_spacing: sizes and this rule rest on spacings as a NIfTI file holds them, 0.800000011920929 for 0.8: that
    tips a size that lies half way between two, and a ratio of 3, as it does in nnU-Net.
    """

    order: Literal[1, 3] = 3
    thick: Literal["linear", "nearest", "alike"] = "linear"
    float32_spacing: bool = False


class PreprocessingSettings(Record):
    """Target spacing (R, A, S) in mm, None along an axis that is never resampled; one normalisation a channel.

    crop: to the box of what is not zero, or of the body (CT). orientation: `ras` turns every scan to these axes;
    `stored` leaves it as its file has it, and all that is told of R, A, S is then of its first, second and third axis
    (nnU-Net sees scans so).
    """

    spacing_mm: tuple[float | None, float | None, float | None]
    channels: tuple[Normalisation, ...]
    crop: Crop = "nonzero"
    orientation: Orientation = "ras"
    resampling: Resampling = Resampling()


def is_ct(channel: str) -> bool:
    """True for the name of a channel that holds Hounsfield units: `CT`, numbered where several channels are CT."""
    return _CT.fullmatch(channel) is not None
