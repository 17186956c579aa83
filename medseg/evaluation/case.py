"""One case: a reference and a prediction in, one score for each structure out."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import PlainSerializer, model_validator
from scipy.ndimage import find_objects

from medseg.errors import GeometryError
from medseg.evaluation.cells import surfel_sizes
from medseg.evaluation.overlap import Labels, Overlap, count_overlaps
from medseg.evaluation.surface import SurfaceMetrics, distances, surface_metrics, surface_of
from medseg.files import Record
from medseg.imaging.grid import Grid
from medseg.imaging.volume import LabelMap

Status = Literal["scored", "both_empty", "missed", "spurious"]
OVERLAPS = ("dice", "iou", "nsd", "boundary_f1")
DISTANCES = ("hd_mm", "hd95_mm", "assd_mm")
METRICS = ("dice", "iou", "hd_mm", "hd95_mm", "assd_mm", "nsd", "boundary_f1")


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


Number = Annotated[float, PlainSerializer(_finite, when_used="json")]
"""A number that may be infinite in memory; JSON has no such number and gets null."""


class StructureScore(Record):
    """Scores of one structure in one case; distances in mm, volumes in ml.

    `scored`: in both maps. `missed` (reference only) and `spurious` (prediction only): the worst of every metric, so
    distances are infinite. `both_empty`: nothing to measure, the metrics are None. On disk infinite distances are
    null, and infinite again when read back, by the status.
    """

    case: str
    structure: str
    status: Status
    dice: float | None
    iou: float | None
    hd_mm: Number | None
    hd95_mm: Number | None
    assd_mm: Number | None
    nsd: float | None
    boundary_f1: float | None
    volume_ref_ml: float
    volume_pred_ml: float

    @model_validator(mode="before")
    @classmethod
    def _infinite_again(cls, values: Any) -> Any:
        if isinstance(values, dict) and values.get("status") in ("missed", "spurious"):
            return {key: math.inf if key in DISTANCES and value is None else value for key, value in values.items()}
        return values


def score_case(
    case: str, reference: LabelMap, prediction: LabelMap, tolerance_mm: float = 1.0
) -> tuple[StructureScore, ...]:
    """Score every structure that either map names or holds, in the order of the label values.

    A volume of a single slice is scored in 2D: as a solid, its flat faces would outweigh its contour.

    Raises:
        GeometryError: the two grids differ.
    """
    _refuse_other_grid(reference.grid, prediction.grid)
    r, p, spacing_mm = _arranged(reference, prediction)
    overlaps = count_overlaps(r, p)
    in_both = {value for value, overlap in overlaps.items() if overlap.reference and overlap.prediction}
    surfaces = _surface_scores(r, p, spacing_mm, in_both, tolerance_mm)
    names = {**prediction.names, **reference.names}
    return tuple(
        _score(
            case,
            names.get(value, str(value)),
            overlaps.get(value, Overlap(0, 0, 0)),
            surfaces.get(value),
            reference.grid.voxel_ml,
        )
        for value in sorted({*overlaps, *names} - {0})
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
    r: Labels, p: Labels, spacing_mm: Sequence[float], values: set[int], tolerance_mm: float
) -> dict[int, SurfaceMetrics]:
    if not values:
        return {}
    sizes = surfel_sizes(spacing_mm)
    boxes_r, boxes_p = find_objects(r, max(values)), find_objects(p, max(values))
    scores = {}
    for value in values:
        box_r, box_p = boxes_r[value - 1], boxes_p[value - 1]
        surfaces = surface_of(r, value, box_r, sizes), surface_of(p, value, box_p, sizes)
        scores[value] = surface_metrics(*distances(*surfaces, spacing_mm), tolerance_mm)
    return scores


def _score(
    case: str, structure: str, overlap: Overlap, surface: SurfaceMetrics | None, voxel_ml: float
) -> StructureScore:
    if surface is not None:
        status: Status = "scored"
        metrics: dict[str, Any] = {name: getattr(surface, name) for name in SurfaceMetrics.__slots__}
        metrics |= {"dice": overlap.dice, "iou": overlap.iou}
    elif overlap.reference or overlap.prediction:
        status = "missed" if overlap.reference else "spurious"
        metrics = dict.fromkeys(OVERLAPS, 0.0) | dict.fromkeys(DISTANCES, math.inf)
    else:
        status, metrics = "both_empty", dict.fromkeys(METRICS)
    return StructureScore(
        case=case,
        structure=structure,
        status=status,
        **metrics,
        volume_ref_ml=overlap.reference * voxel_ml,
        volume_pred_ml=overlap.prediction * voxel_ml,
    )
