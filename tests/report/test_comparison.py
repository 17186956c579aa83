from __future__ import annotations

from pathlib import Path

from medseg.evaluation.comparison import Comparison
from medseg.report.comparison import MOST_ROWS, comparison_tables
from tests.evaluation.test_compare import compared, scored
from tests.report.test_tables import cells


def of(folder: Path, *scores: object, **more: object) -> Comparison:
    return compared(folder, *scores, **more)[0]


def test_two_methods(tmp_path: Path) -> None:
    dice, hd, ranks = comparison_tables(of(tmp_path, scored(0.1), scored(seed=1), metrics=("dice", "hd95")))
    assert dice.columns[2:4] == ("a", "b")
    assert [row[0] for row in dice.rows] == ["liver", "spleen", "mean"]
    assert dice.rows[0][4].startswith("+0.")
    assert " to +0." in dice.rows[0][4]
    assert dice.rows[0][5] == "12/0/0"
    assert dice.rows[0][6] == "<0.001"
    assert "Dice: higher is better; the difference is a - b" in dice.remarks[0]
    assert "difference mm (95 %)" in hd.columns
    assert "lower is better" in hd.remarks[0]
    assert ranks.rows[0] == ("Dice", "a", "1.00", "1", "1 to 1", "100 %")
    assert ranks.rows[-1][0] == "all together"
    assert "12 patients are few" in " ".join(ranks.remarks)
    for table in (dice, hd, ranks):
        cells(table)


def test_three_methods_and_few_cases(tmp_path: Path) -> None:
    cases = ["x", "y"]
    three = of(tmp_path, *(scored(cases=cases, seed=k) for k in range(3)))
    dice, _, ranks = comparison_tables(three)
    assert dice.columns[2:5] == ("pair", "first", "second")
    assert dice.rows[0][2] == "a - b"
    assert dice.rows[0][5].endswith(" (-)")
    assert dice.rows[0][-2:] == ("-", "-")
    assert ranks.rows[0][-2:] == ("-", "-")
    cells(dice)


def test_of_many_structures_the_most_different_are_shown(tmp_path: Path) -> None:
    names = [f"s{k}" for k in range(60)]
    many = of(tmp_path, scored(0.02, structures=names), scored(structures=names, seed=1), metrics=("dice",))
    dice, _ = comparison_tables(many)
    assert len(dice.rows) == MOST_ROWS
    assert dice.rows[-1][0] == "mean"
    assert "not shown: 21 rows of larger p (see comparison.csv)" in dice.remarks
