from __future__ import annotations

import csv
import json
import math

import numpy as np
import pytest

from medseg.evaluation.cohort import Scores, as_csv, summarise
from medseg.evaluation.score import StructureScore

DIAGONALS = dict.fromkeys("abcde", 100.0)


def row(case, structure="liver", status="scored", dice=0.9, distance=2.0):
    if status in ("missed", "spurious"):
        dice, distance = 0.0, math.inf
    if status == "both_empty":
        dice = distance = None
    return StructureScore(
        case=case,
        structure=structure,
        status=status,
        dice=dice,
        iou=dice,
        hd_mm=distance,
        hd95_mm=distance,
        hd95_pooled_mm=distance,
        assd_mm=distance,
        masd_mm=distance,
        mean_ref_to_pred_mm=distance,
        mean_pred_to_ref_mm=distance,
        nsd=dice,
        boundary_f1=dice,
        volume_ref_ml=1.0,
        volume_pred_ml=1.0,
    )


ROWS = [
    row("a", dice=0.9, distance=1.0),
    row("b", dice=0.8, distance=3.0),
    row("c", status="missed"),
    row("d", status="spurious"),
    row("e", status="both_empty"),
    row("a", "spleen", dice=0.7, distance=5.0),
]


def test_failures_count():
    scores = summarise(ROWS, DIAGONALS)
    liver, spleen = scores.structures
    assert (liver.n, liver.n_scored, liver.n_missed, liver.n_spurious, liver.n_both_empty) == (5, 2, 1, 1, 1)
    dice = liver.metrics["dice"]
    assert (dice.n, dice.mean, dice.min, dice.max) == (4, pytest.approx(1.7 / 4), 0.0, 0.9)
    assert dice.sd == pytest.approx(np.std([0.9, 0.8, 0, 0], ddof=1))
    assert (dice.p25, dice.median, dice.p75) == pytest.approx(np.percentile([0.9, 0.8, 0, 0], [25, 50, 75]))
    assert liver.worst == ("c", "d", "b")
    assert spleen.metrics["dice"].sd is None


def test_distances_of_failures():
    hd = summarise(ROWS, DIAGONALS).structures[0].metrics["hd_mm"]
    assert (hd.n, hd.n_finite) == (4, 2)
    assert (hd.mean, hd.sd) == pytest.approx((2.0, math.sqrt(2)))
    assert hd.mean_penalised == pytest.approx((1 + 3 + 100 + 100) / 4)
    assert (hd.min, hd.p25, hd.median, hd.max) == (1.0, 2.5, math.inf, math.inf)


def test_means_over_structures_and_worst_cases():
    scores = summarise(ROWS, DIAGONALS)
    dice, hd = scores.mean_over_structures["dice"], scores.mean_over_structures["hd_mm"]
    assert (dice.n, dice.mean, dice.mean_penalised) == (2, pytest.approx((1.7 / 4 + 0.7) / 2), None)
    assert (hd.mean, hd.mean_penalised) == pytest.approx(((2 + 5) / 2, (51 + 5) / 2))
    assert [(worst.case, worst.dice) for worst in scores.worst_cases] == [
        ("c", 0.0),
        ("d", 0.0),
        ("a", pytest.approx(0.8)),
    ]


def test_a_structure_that_is_nowhere():
    (summary,) = summarise([row("e", status="both_empty")], DIAGONALS).structures
    assert summary.n_both_empty == 1
    assert summary.metrics["hd_mm"].mean is None
    assert summary.metrics["hd_mm"].median is None
    assert summary.worst == ()


def test_strict_json_and_back():
    scores = summarise(ROWS, DIAGONALS, failed={"f": "damaged"})
    text = scores.model_dump_json()
    json.loads(text, parse_constant=pytest.fail)
    assert Scores.model_validate_json(text) == scores


def test_no_cases_at_all():
    scores = summarise([], {})
    assert scores.mean_over_structures["dice"].mean is None
    assert Scores.model_validate_json(scores.model_dump_json()) == scores


def test_csv():
    rows = list(csv.DictReader(as_csv([*ROWS, row("a", "left, upper", dice=1 / 3)]).splitlines()))
    assert list(rows[0]) == list(StructureScore.model_fields)
    assert (rows[2]["hd_mm"], rows[2]["dice"]) == ("inf", "0.0")
    assert (rows[4]["hd_mm"], rows[4]["dice"]) == ("", "")
    assert rows[6]["structure"] == "left, upper"
    assert float(rows[6]["dice"]) == 1 / 3
