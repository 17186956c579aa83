"""What medseg measures: each metric's name, unit, direction, version and definition, in one table.

A metric measured at several tolerances is one entry with `at_tolerances`; its further columns are called by
`at_tolerance` (`nsd_2mm`), and `metric` finds an entry by either name. A version changes when the same label maps give
another value.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Final, Literal

Unit = Literal["", "mm", "ml", "count"]
Better = Literal["higher", "lower", "nearest zero", ""]
Group = Literal["overlap", "volume", "distance", "boundary", "centreline", "lesions", "calibration"]


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric of a structure in a case.

    worst: what it is where the structure is missed (in the reference alone) or spurious (in the prediction alone); None
    where it then has no value. A distance is infinite then, and counts as the image's diagonal in penalised means.
    """

    name: str
    label: str
    unit: Unit
    better: Better
    group: Group
    definition: str
    missed: float | None = 0.0
    spurious: float | None = 0.0
    at_tolerances: bool = False
    version: int = 1
    at_mm: float | None = None  # of a further tolerance

    @property
    def is_distance(self) -> bool:
        """Whether it is infinite for a missed or spurious structure."""
        return self.group == "distance"


_INF: Final = float("inf")


def _distance(name: str, label: str, definition: str) -> Metric:
    return Metric(name, label, "mm", "lower", "distance", definition, _INF, _INF)


METRICS: Final[tuple[Metric, ...]] = (
    Metric("dice", "Dice", "", "higher", "overlap", "2 |R n P| / (|R| + |P|), of voxels"),
    Metric("iou", "IoU", "", "higher", "overlap", "|R n P| / |R u P|, of voxels (Jaccard index)"),
    Metric("precision", "Precision", "", "higher", "overlap", "|R n P| / |P|, of voxels", 0.0, 0.0),
    Metric("recall", "Recall", "", "higher", "overlap", "|R n P| / |R|, of voxels (sensitivity)", 0.0, None),
    _distance("hd_mm", "HD", "largest distance from one surface to the other, the larger of both directions"),
    _distance("hd95_mm", "HD95", "95th percentile of the distances of each direction, the larger of the two"),
    _distance("hd95_pooled_mm", "HD95 pooled", "95th percentile of the distances of both directions together"),
    _distance("assd_mm", "ASSD", "mean distance over both surfaces together, weighted by their size"),
    _distance("masd_mm", "MASD", "mean of the two directed mean distances"),
    _distance("mean_ref_to_pred_mm", "mean ref->pred", "mean distance of the reference's surface to the prediction's"),
    _distance("mean_pred_to_ref_mm", "mean pred->ref", "mean distance of the prediction's surface to the reference's"),
    Metric(
        "nsd",
        "NSD",
        "",
        "higher",
        "boundary",
        "share of both surfaces that lies within the tolerance of the other (normalised surface Dice, Nikolov 2018)",
        at_tolerances=True,
    ),
    Metric(
        "boundary_f1",
        "BF1",
        "",
        "higher",
        "boundary",
        "harmonic mean of boundary precision and boundary recall (Csurka 2013)",
        at_tolerances=True,
    ),
    Metric(
        "boundary_precision",
        "boundary precision",
        "",
        "higher",
        "boundary",
        "share of the prediction's surface within the tolerance of the reference's",
        at_tolerances=True,
    ),
    Metric(
        "boundary_recall",
        "boundary recall",
        "",
        "higher",
        "boundary",
        "share of the reference's surface within the tolerance of the prediction's",
        at_tolerances=True,
    ),
    Metric(
        "boundary_iou",
        "Boundary IoU",
        "",
        "higher",
        "boundary",
        "IoU of the voxels of each mask that lie no farther than a given distance (2 mm unless said otherwise) from "
        "its own border voxels (Cheng 2021)",
    ),
    Metric("volume_ref_ml", "volume ref", "ml", "", "volume", "volume of the reference", None, None),
    Metric("volume_pred_ml", "volume pred", "ml", "", "volume", "volume of the prediction", None, None),
    Metric("volume_diff_ml", "volume difference", "ml", "nearest zero", "volume", "prediction - reference", None, None),
    Metric(
        "volume_abs_diff_ml", "absolute difference", "ml", "lower", "volume", "|prediction - reference|", None, None
    ),
    Metric(
        "volume_rel_diff",
        "relative difference",
        "",
        "nearest zero",
        "volume",
        "(prediction - reference) / reference",
        -1.0,
        None,
    ),
    Metric(
        "volume_abs_rel_diff",
        "absolute relative difference",
        "",
        "lower",
        "volume",
        "|prediction - reference| / reference",
        1.0,
        None,
    ),
    Metric(
        "centreline_dice",
        "clDice",
        "",
        "higher",
        "centreline",
        "harmonic mean of centreline precision and sensitivity (Shit 2021), of skeletons at isotropic spacing",
    ),
    Metric(
        "centreline_precision",
        "centreline precision",
        "",
        "higher",
        "centreline",
        "share of the prediction's skeleton (isotropic voxels) inside the reference",
    ),
    Metric(
        "centreline_sensitivity",
        "centreline sensitivity",
        "",
        "higher",
        "centreline",
        "share of the reference's skeleton (isotropic voxels) inside the prediction",
    ),
    Metric(
        "lesions_ref",
        "lesions ref",
        "count",
        "",
        "lesions",
        "26-connected components of the reference, of the least volume or more",
        None,
        None,
    ),
    Metric("lesions_pred", "lesions pred", "count", "", "lesions", "those of the prediction", None, None),
    Metric(
        "lesion_sensitivity",
        "lesion sensitivity",
        "",
        "higher",
        "lesions",
        "share of the reference's lesions that a lesion of the prediction meets with more than the least IoU (0.1 "
        "unless said otherwise)",
        0.0,
        None,
    ),
    Metric(
        "lesion_precision",
        "lesion precision",
        "",
        "higher",
        "lesions",
        "share of the prediction's lesions that meet a lesion of the reference so",
        None,
        0.0,
    ),
    Metric(
        "lesion_f1",
        "lesion F1",
        "",
        "higher",
        "lesions",
        "2 TP / (2 TP + FP + FN), of lesions; TP are those of the reference that are met so",
    ),
    Metric(
        "lesion_f1_overlap",
        "lesion F1 (any overlap)",
        "",
        "higher",
        "lesions",
        "lesion F1 where a single common voxel is enough to meet",
    ),
    Metric(
        "lesion_false_positives",
        "false lesions",
        "count",
        "lower",
        "lesions",
        "lesions of the prediction that meet none of the reference so",
        0.0,
        None,
    ),
    Metric(
        "rq", "RQ", "", "higher", "lesions", "recognition quality: F1 of lesions matched one to one, with IoU > 0.5"
    ),
    Metric("sq", "SQ", "", "higher", "lesions", "segmentation quality: mean IoU of the matched lesions", None, None),
    Metric(
        "pq", "PQ", "", "higher", "lesions", "panoptic quality: RQ times SQ, 0 where nothing matches (Kirillov 2019)"
    ),
    Metric(
        "ece",
        "ECE",
        "",
        "lower",
        "calibration",
        "mean gap between probability and frequency, in 15 even bins of the structure's probability, of voxels within "
        "10 mm of either mask (expected calibration error, Guo 2017)",
        None,
        None,
    ),
    Metric(
        "brier",
        "Brier",
        "",
        "lower",
        "calibration",
        "mean squared error of the structure's probability, of voxels within 10 mm of either mask (Brier 1950)",
        None,
        None,
    ),
)
"""Every metric that medseg knows, in the order of its columns."""

_BY_NAME = {metric.name: metric for metric in METRICS}
_ORDER = {metric.name: n for n, metric in enumerate(METRICS)}
_AT = re.compile(r"(?P<name>[a-z0-9_]+)_(?P<mm>[0-9.]+(e-[0-9]+)?)mm")


def at_tolerance(name: str, tolerance_mm: float) -> str:
    """The column of a metric at a further tolerance: `nsd_2mm`, `nsd_0.5mm`."""
    return f"{name}_{tolerance_mm:g}mm"


@lru_cache(maxsize=1024)
def metric(name: str) -> Metric | None:
    """The metric of a column: one of the table, or one of its entries at a further tolerance; None if it is none."""
    if name in _BY_NAME:
        return _BY_NAME[name]
    said = _AT.fullmatch(name)
    of = _BY_NAME.get(said["name"]) if said else None
    if said is None or of is None or not of.at_tolerances:
        return None
    return replace(of, name=name, label=f"{of.label} {said['mm']} mm", at_mm=float(said["mm"]))


def in_order(names: Iterable[str]) -> tuple[Metric, ...]:
    """The metrics among these names in the order of the table, each before its further tolerances."""
    found = {one for name in names if (one := metric(name)) is not None}
    return tuple(sorted(found, key=lambda one: (_ORDER[base(one)], one.at_mm or 0.0)))


def base(of: Metric) -> str:
    """The name of its entry in the table."""
    return of.name if of.at_mm is None else of.name.removesuffix(f"_{of.at_mm:g}mm")
