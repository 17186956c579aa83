from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import image as pictures

from medseg.evaluation.cohort import summarise
from medseg.evaluation.score import StructureScore
from medseg.evaluation.settings import Settings
from medseg.report.training import crossvalidation_table, draw_curves


def fold_with(folder: Path, lines: list[dict[str, Any]]) -> Path:
    folder.mkdir(parents=True)
    (folder / "events.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def line(step: int, dice: dict[str, float] | None = None, loss: float | None = 0.5) -> dict[str, Any]:
    return {"step": step, "elapsed_s": 2.0 * step, "loss": loss, "rate": 0.01 - step * 1e-4, "dice": dice}


def height(folder: Path) -> int:
    return int(pictures.imread(folder / "curves.png").shape[0])


def ink(folder: Path) -> int:
    """Dots of the picture that are neither white nor grey."""
    rgb = pictures.imread(folder / "curves.png")[..., :3]
    assert rgb.shape[1:] == (1000, 3)
    return int(np.count_nonzero(rgb.max(axis=2) - rgb.min(axis=2) > 0.2))


def test_curves_of_a_training(tmp_path: Path) -> None:
    few = [line(k, {"liver": 0.05 * k} if k % 5 == 0 else None) for k in range(1, 21)]
    drawn = fold_with(tmp_path / "3d" / "0", few)
    draw_curves(drawn)
    assert [p.name for p in drawn.iterdir() if p.suffix != ".jsonl"] == ["curves.png"]
    without = fold_with(tmp_path / "3d" / "1", [{**one, "dice": None} for one in few])
    draw_curves(without)
    assert height(without) < height(drawn)  # no empty axes
    assert ink(drawn) > ink(without) > 500


def test_curves_of_many_structures_and_of_none_yet(tmp_path: Path) -> None:
    many = fold_with(tmp_path / "a", [line(k, {f"s{n}": 0.02 * n for n in range(30 - k % 2)}) for k in range(1, 5)])
    draw_curves(many)
    assert ink(many) > 1000
    begun = fold_with(tmp_path / "b", [line(1, None, None)])
    draw_curves(begun)
    assert (begun / "curves.png").is_file()
    empty = fold_with(tmp_path / "c", [])
    draw_curves(empty)
    draw_curves(tmp_path / "none")
    assert not (empty / "curves.png").exists()


def score(case: str, dice: float, status: Any = "scored", structure: str = "liver") -> StructureScore:
    far = math.inf if status != "scored" else 2.0
    return StructureScore(
        case=case,
        structure=structure,
        status=status,
        dice=dice,
        iou=dice,
        hd_mm=far,
        hd95_mm=far,
        assd_mm=far,
        nsd=dice,
        boundary_f1=dice,
        volume_ref_ml=1.0,
        volume_pred_ml=1.0,
    )


def test_where_no_case_is_scored_or_all_have_intervals_nothing_is_said_of_few() -> None:
    rows = [score(f"c{k}", 0.8) for k in range(5)]
    table = crossvalidation_table(summarise(rows, {f"c{k}": 100.0 for k in range(5)}))
    assert not any("too few" in remark for remark in table.remarks)


def test_a_crossvalidation_as_a_table() -> None:
    rows = [score(f"c{k}", 0.8 + 0.02 * k) for k in range(5)] + [score("c5", 0.0, "missed")]
    rows += [score(f"c{k}", 0.5, structure="[spleen]") for k in range(2)]
    table = crossvalidation_table(summarise(rows, {f"c{k}": 100.0 for k in range(6)}, Settings(tolerances_mm=(1.5,))))
    assert table.columns == ("structure", "cases", "Dice", "HD95 mm", "NSD", "BF1")
    liver, spleen, mean = table.rows
    assert liver[:2] == ("liver", "6")
    assert liver[2].startswith("0.700 (0.")
    assert liver[3].startswith(f"{(5 * 2 + 100) / 6:.2f} (2.00 to ")
    assert spleen[2] == "0.500 (-)"
    assert "(-): fewer than 5 cases are too few for an interval" in table.remarks
    assert not any("(-)" in cell for cell in liver)
    assert mean[:2] == ("mean", "")
    assert mean[2].startswith("0.600 (0.")
    assert "at 1.5 mm" in table.remarks[0]
    assert "bootstrap over cases" in table.remarks[0]
    one = dict.fromkeys((f"c{k}" for k in range(6)), 1)
    of_one = crossvalidation_table(summarise(rows, {f"c{k}": 100.0 for k in range(6)}, patients=one))
    assert of_one.rows[0][2] == "0.700 (-)"
    assert "(-): fewer than 5 patients are too few for an interval" in of_one.remarks
