"""The score of one structure in one case, as a record, and what each metric is where a map holds nothing of it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, PlainSerializer, model_validator

from medseg.evaluation.metrics import METRICS, Group, Metric, at_tolerance, in_order, metric
from medseg.evaluation.overlap import Overlap
from medseg.evaluation.settings import Settings
from medseg.files import Record

Status = Literal["scored", "both_empty", "missed", "spurious"]


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


Number = Annotated[float, PlainSerializer(_finite, when_used="json")]
"""A number that may be infinite in memory; JSON has no such number and gets null."""


class StructureScore(Record):
    """Scores of one structure in one case; distances in mm, volumes in ml; what each metric is, `metrics` says.

    `scored`: in both maps. `missed` (reference only) and `spurious` (prediction only): the worst of every metric, so
    distances are infinite. `both_empty`: nothing to measure, the metrics are None. On disk infinite distances are
    null, and infinite again when read back, by the status. tolerance_mm: of NSD and of boundary metrics.
    touches_border: either mask reaches the border of the image. Further tolerances (`nsd_2mm`) and metrics of some
    structures alone are extra fields, called as in `metrics`; a record of an older version lacks what was not measured
    then.
    """

    model_config = ConfigDict(frozen=True, extra="allow")
    __pydantic_extra__: dict[str, Number | None] = Field(init=False)

    case: str
    structure: str
    status: Status
    dice: float | None
    iou: float | None
    precision: float | None = None
    recall: float | None = None
    hd_mm: Number | None
    hd95_mm: Number | None
    hd95_pooled_mm: Number | None = None
    assd_mm: Number | None
    masd_mm: Number | None = None
    mean_ref_to_pred_mm: Number | None = None
    mean_pred_to_ref_mm: Number | None = None
    tolerance_mm: float | None = None
    nsd: float | None
    boundary_f1: float | None
    boundary_precision: float | None = None
    boundary_recall: float | None = None
    boundary_iou: float | None = None
    volume_ref_ml: float
    volume_pred_ml: float
    volume_diff_ml: float | None = None
    volume_abs_diff_ml: float | None = None
    volume_rel_diff: float | None = None
    volume_abs_rel_diff: float | None = None
    touches_border: bool | None = None

    @model_validator(mode="before")
    @classmethod
    def _infinite_again(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        unknown = [name for name in values if name not in cls.model_fields and metric(name) is None]
        if unknown:
            raise ValueError(f"there is no metric {unknown[0]}")
        if values.get("status") in ("missed", "spurious"):
            return {key: math.inf if value is None and _is_distance(key) else value for key, value in values.items()}
        return values

    def value(self, name: str) -> float | None:
        """The metric of this name; None where it was not measured or has no value."""
        found: float | None = getattr(self, name, None)
        return found


def _is_distance(name: str) -> bool:
    known = metric(name)
    return known is not None and known.is_distance


def measured(scores: Iterable[StructureScore]) -> tuple[Metric, ...]:
    """The metrics that any of these scores has, in the order of the table, each before its further tolerances."""
    found = {name for score in scores for name, value in score if value is not None}
    return in_order(found)


def structure_score(
    case: str,
    structure: str,
    overlap: Overlap,
    voxel_ml: float,
    settings: Settings,
    found: Mapping[str, float | None],
    touches_border: bool,
) -> StructureScore:
    """The row of a structure; `found`: what was measured of it beyond voxel counts."""
    reference_ml, prediction_ml = overlap.reference * voxel_ml, overlap.prediction * voxel_ml
    volumes = {"volume_ref_ml": reference_ml, "volume_pred_ml": prediction_ml}
    off = prediction_ml - reference_ml
    differences = {"volume_diff_ml": off, "volume_abs_diff_ml": abs(off)}
    relative = (
        {"volume_rel_diff": off / reference_ml, "volume_abs_rel_diff": abs(off) / reference_ml} if reference_ml else {}
    )
    of_it = expected(settings, structure)
    status: Status = "scored"
    values: dict[str, float | None]
    if overlap.reference and overlap.prediction:
        shares = {"precision": overlap.precision, "recall": overlap.recall}
        values = {
            **dict.fromkeys(one.name for one in of_it),
            "dice": overlap.dice,
            "iou": overlap.iou,
            **shares,
            **found,
        }
    elif overlap.reference:
        status, values = "missed", {one.name: one.missed for one in of_it} | dict(found)
    elif overlap.prediction:
        status, values = "spurious", {one.name: one.spurious for one in of_it} | dict(found)
    else:
        perfect = settings.both_empty == "perfect"
        status, values = "both_empty", {one.name: _perfect(one) if perfect else None for one in of_it}
    return StructureScore.model_validate(
        {"case": case, "structure": structure, "status": status, "tolerance_mm": settings.tolerances(structure)[0]}
        | values
        | volumes
        | differences
        | relative
        | {"touches_border": touches_border}
    )


def expected(settings: Settings, structure: str) -> tuple[Metric, ...]:
    """The metrics that a structure is given wherever a map holds it, but volumes and calibration."""
    groups: set[Group] = {"overlap", "distance", "boundary"}
    groups |= {"centreline"} if structure in settings.tubular else set()
    groups |= {"lesions"} if structure in settings.instances else set()
    names = [one.name for one in METRICS if one.group in groups]
    further = settings.tolerances(structure)[1:]
    return in_order([*names, *(at_tolerance(one.name, mm) for one in METRICS if one.at_tolerances for mm in further)])


def _perfect(of: Metric) -> float | None:
    return 1.0 if of.better == "higher" else 0.0 if of.better == "lower" else None
