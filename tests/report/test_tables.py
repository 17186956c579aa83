from __future__ import annotations

import math
from pathlib import Path

import pytest

from medseg.imaging.inspect import Inspected, Inspection
from medseg.imaging.inspect import inspect as looking
from medseg.inference.records import RESEARCH_USE, Prediction, Predictions, Unread
from medseg.report.evaluation import scores_table
from medseg.report.inference import predictions_table
from medseg.report.inspection import inspection_table
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
            folds=("0",),
            device="cpu",
            cases=(done,),
            failed=(Unread(case="b", reason="is cut"),),
        )
    )
    assert cells(table) == "a|12.35|-|1.2|is odd; is small\nb|-|-|-|failed: is cut"
    assert table.columns == ("case", "liver ml", "lesion ml", "s", "look at")
    assert table.remarks == (RESEARCH_USE,)


def test_inspection_of_labelled_cases_and_of_scans(tmp_path: Path) -> None:
    data = write_dataset(tmp_path / "data", 2)
    (data / "images" / "case1.nii.gz").write_bytes(b"no scan")
    table = inspection_table(inspect(data, "ab"))
    assert "case0|" in cells(table)
    assert "|16 x 16 x 16|1 x 1 x 1|RAS|1, 2|" in cells(table)
    assert "[NOT_NIFTI]" in table.rows[1][-1]
    assert table.remarks[-1] == "2 cases, 1 with problems"
    assert inspection_table(inspect(data / "labels", "ab")).remarks[-1] == "2 scans, 0 with problems"
