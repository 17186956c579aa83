from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from medseg.errors import InputError
from medseg.evaluation.cohort import summarise
from medseg.evaluation.records import Scores
from medseg.evaluation.score import StructureScore
from medseg.files import write_record
from medseg.pipeline.expect import Expectation, check_expectations, outcomes_table


def scores(*dices: tuple[str, float | None]) -> Scores:
    """Scores of one case each; None for a structure that was missed."""
    rows = []
    for k, (structure, dice) in enumerate(dices):
        far = float("inf") if dice is None else 2.0
        share = dice or 0.0
        rows.append(
            StructureScore(
                case=f"c{k}",
                structure=structure,
                status="missed" if dice is None else "scored",
                dice=share,
                iou=share,
                hd_mm=far,
                hd95_mm=far,
                assd_mm=far,
                nsd=share,
                boundary_f1=share,
                volume_ref_ml=1.0,
                volume_pred_ml=0.0 if dice is None else 1.0,
            )
        )
    return summarise(rows, {f"c{k}": 30.0 for k in range(len(rows))})


def checked(folder: Path, **what: Any) -> tuple[bool, float | None]:
    write_record(folder / "s" / "scores.json", scores(("liver", 0.9), ("liver", 0.7), ("lesion", None)))
    (outcome,) = check_expectations([Expectation(scores="s", **what)], folder)
    return outcome.met, outcome.value


@pytest.mark.parametrize(
    ("what", "met", "value"),
    [
        ({"structure": "liver", "metric": "dice", "min": 0.8}, True, 0.8),
        ({"structure": "liver", "metric": "dice", "min": 0.81}, False, 0.8),
        ({"structure": "liver", "metric": "hd95_mm", "max": 2.0}, True, 2.0),
        ({"structure": "liver", "metric": "hd95_mm", "max": 1.9}, False, 2.0),
        ({"structure": "liver", "metric": "dice", "min": 0.5, "max": 0.7}, False, 0.8),
        ({"structure": "mean", "metric": "dice", "min": 0.3}, True, 0.4),
        ({"structure": "lesion", "metric": "dice", "min": 0.1}, False, 0.0),
        ({"structure": "lesion", "metric": "hd_mm", "max": 29.0}, False, 30.0),  # missed: the image's diagonal
        ({"structure": "spleen", "metric": "dice", "min": 0.0}, False, None),
        ({"structure": "mean", "metric": "nsd_7mm", "min": 0.0}, False, None),
    ],
)
def test_an_expectation_is_compared_with_the_mean(tmp_path: Path, what: Any, met: bool, value: float | None) -> None:
    assert checked(tmp_path, **what) == (met, pytest.approx(value) if value is not None else None)


def test_scores_that_are_missing(tmp_path: Path) -> None:
    promise = Expectation(scores="none", structure="liver", metric="dice", min=0.5)
    with pytest.raises(InputError, match="there is no such file"):
        check_expectations([promise], tmp_path)


def test_an_expectation_needs_a_bound_and_a_known_metric() -> None:
    with pytest.raises(ValidationError, match="needs min or max"):
        Expectation(scores="s", structure="liver", metric="dice")
    with pytest.raises(ValidationError, match="metric"):
        Expectation(scores="s", structure="liver", metric="dise", min=0.5)


def test_outcomes_as_a_table(tmp_path: Path) -> None:
    write_record(tmp_path / "s" / "scores.json", scores(("liver", 0.9)))
    promises = [
        Expectation(scores="s", structure="liver", metric="dice", min=0.8, max=0.95),
        Expectation(scores="s", structure="spleen", metric="dice", min=0.8),
    ]
    rows = outcomes_table(check_expectations(promises, tmp_path)).rows
    assert rows[0] == ("s", "liver", "dice", ">= 0.8 <= 0.95", "0.900", "met")
    assert rows[1] == ("s", "spleen", "dice", ">= 0.8", "-", "MISSED")
