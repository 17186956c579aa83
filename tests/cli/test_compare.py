"""`medseg compare` by the words that one types."""

from __future__ import annotations

from pathlib import Path

import pytest

from medseg.evaluation.writing import write_scores
from tests.cli.test_verbs import call, strictly
from tests.evaluation.test_compare import scored


def test_compare(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, better in (("unet", 0.05), ("resenc", 0.0)):
        write_scores(tmp_path / name / "scores", scored(better, seed=len(name)))
    paths = [tmp_path / name / "scores" for name in ("unet", "resenc")]
    code, out, err = call(capsys, "compare", *paths, "-o", tmp_path / "out")
    assert code == 0, err
    for word in ("Dice", "NSD", "Ranks", "unet - resenc", "p Holm", "Research use only"):
        assert word in out
    assert "comparison.json" in err
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"comparison.csv", "comparison.json"}
    asked = ("compare", *paths, "-o", tmp_path / "out", "--metric", "iou,hd95", "--names", "ours,theirs", "--json")
    code, out, _ = call(capsys, *asked)
    said = strictly(out)
    assert (code, said["names"], list(said["metrics"])) == (0, ["ours", "theirs"], ["iou", "hd95_mm"])
    assert str(tmp_path) not in out


def test_what_cannot_be_compared(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_scores(tmp_path / "a", scored())
    code, out, err = call(capsys, "compare", tmp_path / "a", tmp_path / "b", "-o", tmp_path / "out")
    assert (code, out) == (2, "")
    assert err == f"medseg: {tmp_path / 'b'}: there are no scores; name a folder that medseg evaluate wrote\n"
    code, _, err = call(capsys, "compare", tmp_path / "a", "-o", tmp_path / "out")
    assert (code, "there is nothing to compare with" in err) == (2, True)
    assert not (tmp_path / "out").exists()
