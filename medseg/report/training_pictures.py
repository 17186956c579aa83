"""Pictures of held-out cases of a training: reference and prediction on the scan as the run keeps it prepared.

The run's folder is all that is needed. Reading and packing label maps takes nibabel, which training itself does
without: import this where it may be missing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import numpy as np
from markupsafe import Markup

from medseg.imaging.grid import Grid
from medseg.imaging.nifti import read_labels
from medseg.imaging.regrid import volume_onto
from medseg.imaging.volume import LabelMap, Volume
from medseg.planning.plan import Plan
from medseg.preprocessing.cache import LoadedCase, load_cases, load_reference
from medseg.report.cells import cell
from medseg.report.evaluation_cases import Ranked, panel
from medseg.report.page import Panel, html
from medseg.report.pictures import Asked, pictured

MONTAGE: Final = 120_000  # bytes of a picture
NOTE: Final = "the scan is shown as the network sees it: normalised, and resampled"


def held_out_panel(one: Ranked, run: Path, fold: str, plan: Plan, tolerances_mm: Mapping[str, float]) -> Panel:
    """One held-out case: its scores, and where its prediction differs from its reference.

    Raises:
        InputError, RunError, GeometryError: what is needed of it is no longer there.
    """
    cache = run / "cache" / plan.configuration.cache
    (case,) = load_cases(cache, [one.case], plan.configuration.preprocessing)
    reference = load_reference(cache, case, plan.names)
    kept = run / "folds" / plan.chosen / fold / "validation" / f"{one.case}.nii.gz"
    prediction = LabelMap(read_labels(kept).array, reference.grid, plan.names)
    if plan.ignore is not None:
        reference, prediction = (
            _counted(reference, plan.ignore, reference),
            _counted(prediction, plan.ignore, reference),
        )
    every = {name: min(tolerances_mm.values(), default=1.0) for name in plan.names.values()}
    asked = Asked(None, {**every, **tolerances_mm}, montage_bytes=MONTAGE)
    picture = pictured(one.case, reference, prediction, _image(case, reference.grid), NOTE, asked)
    return panel(one, picture, True, "")


def _counted(labels: LabelMap, ignore: int, reference: LabelMap) -> LabelMap:
    """Without the voxels that nobody labelled."""
    array = np.where(reference.array == ignore, 0, labels.array).astype(labels.array.dtype)
    return LabelMap(array, labels.grid, labels.names)


def _image(case: LoadedCase, grid: Grid) -> Volume:
    """The first channel, brought back to the scan's own grid."""
    image = np.asarray(case.image_CXYZ[0], np.float32)
    return volume_onto(Volume(image, case.undo.prepared_grid), grid, float(image.min()))


def case_list(worst: Sequence[Ranked], fold_of: Mapping[str, str], drawn: set[str]) -> Markup:
    """The worst held-out cases, with what each scored; `drawn`: anchors of those that are shown."""
    rows = []
    for one in worst:
        farthest = [row.hd95_mm for row in one.rows if row.hd95_mm is not None]
        cells = (cell(one.dice), cell(one.nsd), cell(max(farthest, default=None), 1))
        linked = one.anchor in drawn
        rows.append(
            {"name": one.case, "anchor": one.anchor, "linked": linked, "fold": fold_of[one.case], "cells": cells}
        )
    return html("training_cases.html", rows=rows)
