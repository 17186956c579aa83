"""One case: a reference and a prediction in, one score for each structure out."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from scipy.ndimage import find_objects

from medseg.errors import GeometryError
from medseg.evaluation.cells import surfel_sizes
from medseg.evaluation.overlap import Labels, Overlap, count_overlaps
from medseg.evaluation.score import StructureScore, structure_score
from medseg.evaluation.settings import DEFAULT, Settings
from medseg.evaluation.surface import distances, surface_metrics, surface_of
from medseg.imaging.grid import Grid
from medseg.imaging.volume import LabelMap


def score_case(
    case: str, reference: LabelMap, prediction: LabelMap, settings: Settings = DEFAULT
) -> tuple[StructureScore, ...]:
    """Score every structure that either map names or holds, in the order of the label values.

    A volume of a single slice is scored in 2D: as a solid, its flat faces would outweigh its contour.

    Raises:
        GeometryError: the two grids differ.
    """
    _refuse_other_grid(reference.grid, prediction.grid)
    r, p, spacing_mm = _arranged(reference, prediction)
    overlaps = count_overlaps(r, p)
    names = {**prediction.names, **reference.names}
    called = {value: names.get(value, str(value)) for value in sorted({*overlaps, *names} - {0})}
    in_both = {value for value, overlap in overlaps.items() if overlap.reference and overlap.prediction}
    surfaces = _surface_scores(r, p, spacing_mm, {value: settings.tolerances(called[value]) for value in in_both})
    return tuple(
        structure_score(
            case,
            name,
            overlaps.get(value, Overlap(0, 0, 0)),
            reference.grid.voxel_ml,
            settings,
            surfaces.get(value, {}),
            touches_border=False,
        )
        for value, name in called.items()
    )


def diagonal_mm(grid: Grid) -> float:
    """The diagonal of the whole image: what an infinite distance counts as in a penalised mean."""
    return math.hypot(*(n * mm for n, mm in zip(grid.shape, grid.spacing_mm, strict=True)))


def _refuse_other_grid(reference: Grid, prediction: Grid) -> None:
    if reference.shape != prediction.shape:
        raise GeometryError(
            f"the prediction's shape {prediction.shape} is not the reference's {reference.shape}",
            fix="bring the prediction onto the reference's grid",
        )
    if not reference.agrees(prediction):
        apart = reference.deviation_mm(prediction)
        raise GeometryError(
            f"the grids of prediction and reference lie {apart:.3g} mm apart",
            fix="bring the prediction onto the reference's grid",
        )


def _arranged(reference: LabelMap, prediction: LabelMap) -> tuple[Labels, Labels, Sequence[float]]:
    """Both arrays without a single-slice axis, the fastest axis last; no metric depends on the order of axes."""
    r, p = reference.array, prediction.array
    spacing_mm: Sequence[float] = reference.grid.spacing_mm
    if 1 in r.shape:  # of several such axes the coarsest, so that the order of axes does not decide
        single = max((axis for axis in range(3) if r.shape[axis] == 1), key=lambda axis: spacing_mm[axis])
        r, p = r.squeeze(single), p.squeeze(single)
        spacing_mm = [mm for axis, mm in enumerate(spacing_mm) if axis != single]
    order = sorted(range(r.ndim), key=lambda axis: -abs(r.strides[axis]))
    return r.transpose(order), p.transpose(order), [spacing_mm[axis] for axis in order]


def _surface_scores(
    r: Labels, p: Labels, spacing_mm: Sequence[float], tolerances_mm: Mapping[int, Sequence[float]]
) -> dict[int, dict[str, float]]:
    """Of the structures that both maps hold; `tolerances_mm` has them, the main tolerance first."""
    if not tolerances_mm:
        return {}
    sizes = surfel_sizes(spacing_mm)
    boxes_r, boxes_p = find_objects(r, max(tolerances_mm)), find_objects(p, max(tolerances_mm))
    scores = {}
    for value, of_it in tolerances_mm.items():
        box_r, box_p = boxes_r[value - 1], boxes_p[value - 1]
        surfaces = surface_of(r, value, box_r, sizes), surface_of(p, value, box_p, sizes)
        scores[value] = surface_metrics(*distances(*surfaces, spacing_mm), of_it)
    return scores
