from __future__ import annotations

import math
from pathlib import Path

import pytest

from medseg.imaging.inspect import Inspected, Inspection
from medseg.imaging.inspect import inspect as looking
from medseg.inference.records import (
    RESEARCH_USE,
    Candidate,
    Cleaning,
    Prediction,
    Predictions,
    Selection,
    Unread,
)
from medseg.report.evaluation import scores_table
from medseg.report.inference import predictions_table
from medseg.report.inspection import inspection_table
from medseg.report.selection import selection_table
from medseg.report.table import Table, number
from tests.pipeline.test_expect import scores
from tests.tiny import write_dataset


def inspect(path: Path, key: str) -> Inspection:
    *_, found = looking(path, key)
    assert isinstance(found, Inspected)
    return found.inspection


def cells(table: Table) -> str:
    assert all(len(row) == len(table.columns) for row in table.rows)
    return "\n".join("|".join(row) for row in table.rows)


@pytest.mark.parametrize(
    ("value", "digits", "text"),
    [
        (None, 3, "-"),
        (math.nan, 3, "-"),
        (math.inf, 3, "inf"),
        (0.12345, 3, "0.123"),
        (7.0, 1, "7.0"),
        (0.0, 2, "0.00"),
    ],
)
def test_numbers(value: float | None, digits: int, text: str) -> None:
    assert number(value, digits) == text


def test_scores_count_failures_and_end_in_the_mean() -> None:
    table = scores_table(scores(("liver", 0.9), ("liver", 0.7), ("lesion", None)))
    assert table.rows[0][:4] == ("liver", "2", "0", "0")
    assert table.rows[1][:6] == ("lesion", "1", "1", "0", "0.000", "0.000")
    assert table.rows[1][6] == "30.0"  # the diagonal, not nothing
    assert table.rows[2][:4] == ("mean", "", "", "")
    assert table.rows[2][4] == "0.400"
    cells(table)
    remarks = " ".join(table.remarks)
    assert "at 1 mm" in remarks
    assert "missed or spurious" in remarks
    assert "worst cases: c2 (Dice 0.00)" in remarks


def test_one_structure_has_no_mean_row_and_no_cases_no_rows() -> None:
    assert len(scores_table(scores(("liver", 0.9))).rows) == 1
    assert scores_table(scores()).rows == ()


def test_predictions_with_failures_and_warnings() -> None:
    done = Prediction(
        case="a",
        input="a.nii.gz",
        seconds=1.25,
        volumes_ml={"liver": 12.345},
        warnings=("is odd", "is small"),
        deviation_mm=0.0,
        key="",
        model="",
        outputs=(),
    )
    table = predictions_table(
        Predictions(
            labels={"1": "liver", "2": "lesion"},
            configurations=("3d", "2d"),
            folds=("0",),
            postprocessing=("liver: holes are filled",),
            device="cpu",
            cases=(done,),
            failed=(Unread(case="b", reason="is cut"),),
        )
    )
    assert cells(table) == "b|-|-|-|failed: is cut\na|12.35|-|1.2|is odd; is small"
    assert table.columns == ("case", "liver ml", "Dice ~", "s", "look at")  # no case has a volume of the lesion
    assert table.remarks == ("by 3d + 2d", "post-processing of liver: holes are filled", RESEARCH_USE)


def test_volumes_of_regions_and_what_a_mean_is_over() -> None:
    made = Predictions(
        labels={"1": "rest of whole", "2": "core"},
        regions={"whole": (1, 2), "core": (2,)},
        configurations=("3d",),
        folds=("0",),
        postprocessing=(),
        device="cpu",
        cases=(),
        failed=(),
    )
    assert predictions_table(made).columns == ("case", "whole ml", "core ml", "Dice ~", "s", "look at")
    of_regions = scores(("liver", 0.9)).model_copy(update={"mean_over": ("whole", "core")})
    assert "the mean, and that of a case, is over the regions: whole, core" in scores_table(of_regions).remarks
    assert "over the regions" not in " ".join(scores_table(scores(("liver", 0.9))).remarks)


def test_a_selection() -> None:
    pair = Candidate(members=("2d", "3d"), dice=0.81234, structures={"liver": 0.9, "lesion": 0.72468})
    one = Candidate(members=("3d",), dice=0.7, structures={"liver": 0.7})
    step = Cleaning(kind="at_least", values=(1,), what="liver", ml=0.3)
    made = Selection(members=("2d", "3d"), cleaning=(step,), cases=7, models="", candidates=(one, pair), cleaned=pair)
    table = selection_table(made)
    assert table.columns == ("configuration", "mean", "liver", "lesion")
    assert cells(table) == (
        "3d|0.7000|0.7000|-\n2d + 3d|0.8123|0.9000|0.7247\nchosen: 2d + 3d, cleaned|0.8123|0.9000|0.7247"
    )
    assert table.remarks[0].startswith("Dice over 7 cases")
    assert table.remarks[1] == "post-processing of liver: components below 0.3 ml are removed"


def test_inspection_of_labelled_cases_and_of_scans(tmp_path: Path) -> None:
    data = write_dataset(tmp_path / "data", 2)
    (data / "images" / "case1.nii.gz").write_bytes(b"no scan")
    table = inspection_table(inspect(data, "ab"))
    assert "case0|" in cells(table)
    assert "|16 x 16 x 16|1 x 1 x 1|RAS|1, 2|" in cells(table)
    assert "[NOT_NIFTI]" in table.rows[1][-1]
    assert table.remarks[-1] == "2 cases, 1 with problems"
    assert inspection_table(inspect(data / "labels", "ab")).remarks[-1] == "2 scans, 0 with problems"
