from __future__ import annotations

import math

import pytest
from pydantic import ValidationError

from medseg.evaluation.metrics import METRICS, at_tolerance, in_order, metric
from medseg.evaluation.overlap import Overlap
from medseg.evaluation.score import StructureScore, expected, measured, structure_score
from medseg.evaluation.settings import DEFAULT, Settings


def row(reference: int, prediction: int, settings: Settings = DEFAULT, structure: str = "liver") -> StructureScore:
    both = min(reference, prediction)
    measures = [one.name for one in expected(settings, structure) if one.group != "overlap"] if both else []
    found = dict.fromkeys(measures, 0.5)
    return structure_score("a", structure, Overlap(reference, prediction, both), 0.001, settings, found, False)


def test_every_metric_is_told_once_and_whole():
    assert len({one.name for one in METRICS}) == len(METRICS)
    for one in METRICS:
        assert metric(one.name) is one
        assert one.label
        assert one.definition
        assert one.name.endswith("_mm") == (one.unit == "mm")
        assert one.name.endswith("_ml") == (one.unit == "ml")


def test_further_tolerances_follow_their_metric():
    names = [one.name for one in in_order(["nsd_10mm", "dice", "nsd_0.5mm", "nsd", "hd_mm", "nsd_2mm", "nothing"])]
    assert names == ["dice", "hd_mm", "nsd", "nsd_0.5mm", "nsd_2mm", "nsd_10mm"]
    assert at_tolerance("nsd", 2.0) == "nsd_2mm"
    assert metric("dice_2mm") is None
    assert metric("nsd_2mm").label == "NSD 2 mm"


def test_a_missed_structure_has_the_worst_of_everything():
    missed = row(10, 0, Settings(tubular=("liver",), instances=("liver",)))
    assert missed.status == "missed"
    for one in expected(Settings(tubular=("liver",), instances=("liver",)), "liver"):
        assert missed.value(one.name) == one.missed
    assert (missed.precision, missed.recall, missed.volume_rel_diff, missed.volume_abs_rel_diff) == (0, 0, -1, 1)
    assert (missed.hd_mm, missed.value("nsd_2mm")) == (math.inf, 0)


def test_a_spurious_structure_has_no_recall_and_no_relative_volume():
    spurious = row(0, 10)
    assert (spurious.status, spurious.dice, spurious.precision, spurious.recall) == ("spurious", 0, 0, None)
    assert (spurious.volume_diff_ml, spurious.volume_rel_diff) == (pytest.approx(0.01), None)


def test_a_structure_in_neither_map_is_left_out_or_perfect():
    assert row(0, 0).dice is None
    perfect = row(0, 0, Settings(both_empty="perfect"))
    assert (perfect.status, perfect.dice, perfect.hd_mm, perfect.nsd) == ("both_empty", 1, 0, 1)


def test_there_and_back():
    for one in (row(5, 4), row(5, 0), row(0, 4), row(0, 0), row(5, 4, Settings(tolerances_mm=(2.0, 0.25)))):
        assert StructureScore.model_validate_json(one.model_dump_json()) == one


def test_a_record_of_the_first_version_is_read():
    old = {"case": "a", "structure": "b", "status": "missed", "dice": 0.0, "iou": 0.0, "hd_mm": None, "hd95_mm": None}
    old |= {"assd_mm": None, "nsd": 0.0, "boundary_f1": 0.0, "volume_ref_ml": 1.0, "volume_pred_ml": 0.0}
    read = StructureScore.model_validate(old)
    assert (read.hd_mm, read.masd_mm, read.precision) == (math.inf, None, None)
    assert "masd_mm" not in {one.name for one in measured([read])}


def test_an_unknown_metric_is_refused():
    with pytest.raises(ValidationError, match="no metric fame"):
        StructureScore.model_validate(row(5, 4).model_dump() | {"fame": 1.0})


def test_a_structure_may_have_its_own_tolerances():
    settings = Settings(tolerances_of={"vessel": (0.5, 4.0)})
    names = {one.name for one in expected(settings, "vessel")}
    assert {"nsd", "nsd_4mm", "boundary_recall_4mm"} <= names
    assert "nsd_2mm" not in names
    assert row(5, 4, settings, "vessel").tolerance_mm == 0.5
