"""A DICOM volume in: its values on the grid that its verdict promises, and what was mended on the way."""

from __future__ import annotations

import numpy as np

from medseg.errors import InputError
from medseg.imaging.dicom.pixels import STRAIGHTENED, read_frames
from medseg.imaging.dicom.suv import body_weight_suv
from medseg.imaging.dicom.volumes import SubVolume
from medseg.imaging.slicing import image_onto, made_up
from medseg.imaging.source import Reading, ReadOptions
from medseg.imaging.volume import Volume

TOLD = STRAIGHTENED | {"MIXED_VALUES"}  # codes of verdicts that whoever uses the values must hear of


def read_dicom(volume: SubVolume, name: str, options: ReadOptions) -> Reading:
    """Read one volume as float32 (X, Y, Z) on its grid, in RAS+ mm; `name` stands for the case in errors.

    Slices of a tilted series, or with a gap where `options.allow_gaps`, are interpolated linearly onto that grid;
    where no slice is, the smallest value stands. What was mended so is noted, and that images have several contrasts.
    With `options.suv` a PET is given as body-weight SUV (g/ml).

    Raises:
        InputError: with the verdict's code if it is refused, and those of `read_frames` and `body_weight_suv`.
    """
    verdict, grid, planes = volume.verdict, volume.grid, volume.planes
    if not verdict.usable or grid is None or planes is None:
        codes = ", ".join(verdict.codes) or "NO_GEOMETRY"
        raise InputError(f"[{codes}] {verdict.said or 'its images make no volume'}", name, verdict.fix)
    if "GAP" in verdict.codes and not options.allow_gaps:
        raise InputError(f"[GAP] {verdict.said}", name, "fill the gap with --allow-gaps")
    suv = body_weight_suv(volume, name) if options.suv and volume.modality == "PT" else None
    array, notes = read_frames(volume, name)
    if suv is not None:
        array *= np.float32(suv.factor)
        notes = (*notes, f"body-weight SUV ({suv.said})")
    if STRAIGHTENED & set(verdict.codes):
        array = image_onto(array, planes, grid, float(array.min()))
        notes = (*_filled(volume), *notes)
    if TOLD & set(verdict.codes):
        notes = (verdict.said, *notes)
    return Reading(Volume(array, grid), grid, notes)


def _filled(volume: SubVolume) -> tuple[str, ...]:
    if volume.planes is None or volume.grid is None or "GAP" not in volume.verdict.codes:
        return ()
    stretches = made_up(volume.planes, volume.grid)
    spans = ", ".join(f"{low:.2f} to {high:.2f}" for low, high in stretches)
    return (f"the slices between {spans} mm are interpolated",) if spans else ()
