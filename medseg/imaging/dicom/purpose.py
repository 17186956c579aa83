"""What an image was made for, by its ImageType: to be measured in, or only to be looked at.

Values 1 and 2 (ORIGINAL or DERIVED, PRIMARY or SECONDARY) say too little: manufacturers call reconstructed volumes
DERIVED or SECONDARY too. Value 3 and those after it name localisers, projections and screens, each manufacturer in
its own words.
"""

from __future__ import annotations

import re

from medseg.imaging.planes import Fault

_LOCALIZERS = {"LOCALIZER", "LOCALISER", "SCOUT", "SURVIEW", "TOPOGRAM", "SCANOGRAM"}
_PROJECTIONS = {"PROJECTION", "MIP", "MINIP", "MAXIP", "MNIP", "VRT", "SSD"}  # as words of a value: "CSA MIP", ...
_RENDERED = {"MAX_IP", "MIN_IP", "VOLUME_RENDER", "SURFACE_RENDER", "CURVED_MPR"}  # as the standard calls them
_SCREEN = re.compile(r"SCREEN|^DOSE|INFO$|REPORT|PROTOCOL|SNAPSHOT|SUMMARY")  # "SCREEN SAVE", "DOSE_INFO", ...

LOCALIZER = Fault("LOCALIZER", "a localiser, no part of a volume")
SCREEN = Fault("SCREEN", "a dose sheet, screen capture or secondary capture, no measured image")
PROJECTION = Fault("PROJECTION", "a projection or rendering of a volume, no measured slices", "give the volume itself")
MOSAIC = Fault(
    "MOSAIC", "slices tiled into one image, which does not say where each lies", "convert it with dcm2niix first"
)
COLOUR = Fault("COLOUR", "colour images, no measured values", "give the series that they were made from")
TOO_LARGE = Fault("TOO_LARGE", "its header speaks of more than 64 GiB of pixels", "export it again")
UNDESCRIBED = Fault(
    "MULTI_FRAME", "a multi-frame image that does not describe each of its frames", "export it as single images"
)


def purpose(image_type: str, technique: str = "") -> Fault | None:
    """Why an image is no slice of a volume; None if it may be one.

    `image_type`: the values of ImageType, joined by a backslash; `technique`: VolumeBasedCalculationTechnique.
    """
    values = {value.strip().upper() for value in image_type.split("\\")[2:]}
    words = {word for value in values for word in re.split(r"[ _/-]+", value)}
    if values & _LOCALIZERS:
        return LOCALIZER
    if "MOSAIC" in values:
        return MOSAIC
    if words & _PROJECTIONS or (values | {technique.upper()}) & _RENDERED:
        return PROJECTION
    return SCREEN if any(map(_SCREEN.search, values)) else None


def reformatted(image_type: str, technique: str = "") -> bool:
    """True if the slices were cut anew out of another volume (MPR): a volume, but not as it was acquired."""
    values = image_type.upper().split("\\")[2:]
    return technique.upper() == "MPR" or any("MPR" in re.split(r"[ _/-]+", value) for value in values)
