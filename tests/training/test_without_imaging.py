"""Training runs from the cache alone: nothing that reads or writes scans need be installed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from medseg.evaluation.records import Scores
from medseg.files import read_record
from tests.tiny import planned_run

BLOCKED = """
import importlib.abc, sys

class Blocked(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {"SimpleITK", "nibabel", "pydicom", "highdicom"}:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Blocked())
from medseg.cli.app import main
main(sys.argv[1:])
"""


def test_a_run_is_trained_and_validated_without_what_reads_scans(tmp_path: Path) -> None:
    run = planned_run(tmp_path)
    asked = ["train", str(run), "--steps", "2", "--device", "cpu"]
    done = subprocess.run([sys.executable, "-c", BLOCKED, *asked], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "nibabel is not installed: what is found in validation cases is scored, but not written" in " ".join(
        (done.stdout + done.stderr).split()
    )
    fold = run / "folds" / "3d" / "0"
    assert (fold / "model.json").is_file()
    scores = read_record(fold / "validation" / "scores.json", Scores)
    assert {row.structure for row in scores.scores}
    assert not list((fold / "validation").glob("*.nii.gz"))
