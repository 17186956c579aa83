from __future__ import annotations

import csv
import json
import math
import time

import numpy as np
import pytest

from medseg.evaluation.cohort import summarise
from medseg.evaluation.records import Scores, Summary
from medseg.evaluation.score import StructureScore
from medseg.evaluation.writing import as_csv, write_scores

DIAGONALS = dict.fromkeys("abcde", 100.0)


def row(case, structure="liver", status="scored", dice=0.9, distance=2.0, volume=1.0):
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
        volume_ref_ml=volume,
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


def cohort(n, missed=0):
    """Livers of n cases, of which some are missed; and a spleen that none holds."""
    rows = [row(f"c{k:02}", status="missed" if k < missed else "scored", dice=0.8 + k / 1000) for k in range(n)]
    return rows + [row(f"c{k:02}", "spleen", status="both_empty") for k in range(n)]


def summary_of(n, missed=0, metric="dice", **more):
    scores = summarise(cohort(n, missed), {f"c{k:02}": 100.0 for k in range(n)}, **more)
    assert Scores.model_validate_json(scores.model_dump_json()) == scores
    return scores.structures[0].metrics[metric]


def test_intervals():
    dice = summary_of(20)
    assert (dice.n, dice.n_patients) == (20, 20)
    assert dice.mean_low < dice.mean < dice.mean_high
    assert (dice.median_low, dice.median_high) == pytest.approx((0.805, 0.814))
    assert (dice.p5, dice.p95) == pytest.approx(np.percentile(0.8 + np.arange(20) / 1000, [5, 95]))
    few = summary_of(5)
    assert few.mean_low is not None
    assert (few.median_low, few.median_high) == (None, None)
    assert summary_of(4).mean_low is None


def test_intervals_are_of_patients():
    patients = {f"c{k:02}": k // 4 for k in range(20)}
    dice = summary_of(20, patients=patients)
    assert dice.n_patients == 5
    assert dice.mean_low is not None
    assert dice.median_low is None
    assert summary_of(16, patients=patients).mean_low is None
    alone = {f"c{k:02}": 30 - k for k in range(20)}
    assert summary_of(20, patients=alone) == summary_of(20)


def test_infinite_ends_of_intervals_come_back():
    hd = summary_of(20, missed=8, metric="hd_mm")
    assert (hd.median, hd.median_low, hd.median_high) == (2.0, 2.0, math.inf)
    assert hd.mean_low < hd.mean_penalised == (8 * 100 + 12 * 2) / 20 < hd.mean_high
    assert hd.mean == 2.0
    every = summary_of(20, missed=20, metric="hd_mm")
    assert (every.median_low, every.median_high, every.p5, every.mean) == (math.inf, math.inf, math.inf, None)
    assert (every.mean_low, every.mean_high) == (100, 100)
    assert summary_of(5, missed=5, metric="hd_mm").median_high is None


def test_the_mean_over_structures_has_an_interval():
    rows = [one for name in ("liver", "spleen") for one in (row(f"c{k}", name, dice=0.1 * k) for k in range(9))]
    scores = summarise(rows, {f"c{k}": 100.0 for k in range(9)})
    over, liver = scores.mean_over_structures["dice"], scores.structures[0].metrics["dice"]
    assert (over.mean_low, over.mean_high) == pytest.approx(
        (liver.mean_low, liver.mean_high)
    )  # they are drawn together
    assert summarise(rows, scores.diagonals_mm, mean_over=["none"]).mean_over_structures["dice"].mean_low is None
    assert summarise(ROWS, DIAGONALS).mean_over_structures["dice"].mean_low is None


def test_a_record_without_intervals_is_read():
    said = json.loads(summary_of(20, missed=8, metric="hd_mm").model_dump_json())
    for name in ("n_patients", "mean_low", "mean_high", "median_low", "median_high", "p5", "p95"):
        del said[name]
    old = Summary.model_validate(said)
    assert (old.max, old.median_high, old.p95, old.mean_low) == (math.inf, None, None, None)


def test_many_structures_take_a_moment():
    rows = [
        row(f"c{k:03}", f"s{n}", dice=(k * n % 97) / 97, distance=k * n % 89) for k in range(100) for n in range(20)
    ]
    began = time.process_time()
    summarise(rows, {f"c{k:03}": 100.0 for k in range(100)})
    assert time.process_time() - began < 10  # 0.4 s on an idle core


def test_what_is_written(tmp_path):
    scores = summarise(ROWS, DIAGONALS)
    write_scores(tmp_path, scores)
    assert {path.name for path in tmp_path.iterdir()} == {"scores.csv", "scores.json", "methods.txt"}
    assert (tmp_path / "methods.txt").read_text("utf-8") == scores.methods + "\n"
    assert set(scores.software) == {"numpy", "scipy"}


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
