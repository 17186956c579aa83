from __future__ import annotations

import json
import math

import numpy as np
import pytest
from pydantic import ValidationError

from medseg.errors import GeometryError
from medseg.evaluation.case import StructureScore, diagonal_mm, score_case
from medseg.imaging.grid import Grid
from medseg.imaging.volume import LabelMap

GRID = Grid((6, 6, 6), np.diag([1.0, 1.0, 2.0, 1.0]))


def label_map(names=None, grid=GRID, **boxes):
    array = np.zeros(grid.shape, np.uint8)
    for value, side in boxes.items():
        array[side] = int(value[1:])
    return LabelMap(array, grid, names or {})


def test_every_status_and_its_values():
    names = {0: "background", 1: "liver", 2: "spleen", 3: "cyst", 4: "stent"}
    reference = label_map(names, _1=slice(0, 2), _2=slice(2, 3))
    prediction = label_map(names, _1=slice(0, 2), _3=slice(4, 5))
    rows = {row.structure: row for row in score_case("a", reference, prediction)}

    assert {name: row.status for name, row in rows.items()} == {
        "liver": "scored",
        "spleen": "missed",
        "cyst": "spurious",
        "stent": "both_empty",
    }
    assert (rows["liver"].dice, rows["liver"].nsd, rows["liver"].boundary_f1, rows["liver"].hd_mm) == (1, 1, 1, 0)
    assert rows["liver"].volume_ref_ml == pytest.approx(72 * 2 / 1000)
    for name in ("spleen", "cyst"):
        row = rows[name]
        assert (row.dice, row.iou, row.nsd, row.boundary_f1) == (0, 0, 0, 0)
        assert row.hd_mm == row.hd95_mm == row.assd_mm == math.inf
    assert (rows["spleen"].volume_pred_ml, rows["cyst"].volume_ref_ml) == (0, 0)
    assert [rows["stent"].dice, rows["stent"].iou, rows["stent"].hd_mm, rows["stent"].nsd] == [None] * 4


def test_values_without_a_name_are_called_by_their_number():
    rows = score_case("a", label_map({1: "liver"}, _1=0, _7=2), label_map(_1=0, _9=4))
    assert [row.structure for row in rows] == ["liver", "7", "9"]


def test_two_empty_maps_have_no_structures():
    assert score_case("a", label_map(), label_map()) == ()


def test_refuses_another_shape():
    other = Grid((6, 6, 5), GRID.affine)
    with pytest.raises(GeometryError, match=r"\(6, 6, 5\) is not the reference's \(6, 6, 6\)"):
        score_case("a", label_map(), label_map(grid=other))


def test_refuses_another_place():
    moved = GRID.affine.copy()
    moved[0, 3] = 3.2
    with pytest.raises(GeometryError, match=r"3\.2 mm apart"):
        score_case("a", label_map(), label_map(grid=Grid((6, 6, 6), moved)))


def test_an_oblique_grid_gives_the_same_scores():
    angle = 0.4
    turn = np.eye(4)
    turn[:2, :2] = [[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]]
    oblique = Grid((6, 6, 6), turn @ GRID.affine)
    sides = {"_1": (slice(1, 3), slice(1, 3), slice(1, 3))}, {"_1": (slice(2, 5), slice(1, 3), slice(1, 4))}
    (straight,) = score_case("a", *(label_map(**side) for side in sides))
    (turned,) = score_case("a", *(label_map(grid=oblique, **side) for side in sides))
    assert turned.assd_mm == pytest.approx(straight.assd_mm)
    assert turned.volume_ref_ml == pytest.approx(straight.volume_ref_ml)


def test_strict_json_and_back():
    rows = score_case("a", label_map({3: "none"}, _1=0, _4=3), label_map(_2=0, _4=4))
    assert {row.status for row in rows} == {"scored", "missed", "spurious", "both_empty"}
    for row in rows:
        text = row.model_dump_json()
        json.loads(text, parse_constant=pytest.fail)
        assert StructureScore.model_validate_json(text) == row


def test_a_score_is_frozen_and_refuses_what_it_does_not_know():
    (row,) = score_case("a", label_map(_1=0), label_map(_1=0))
    with pytest.raises(ValidationError):
        row.dice = 0.5
    with pytest.raises(ValidationError):
        StructureScore.model_validate({**row.model_dump(), "score": 1})


def test_diagonal():
    assert diagonal_mm(Grid((240, 240, 155), np.eye(4))) == pytest.approx(373.13, abs=5e-3)
