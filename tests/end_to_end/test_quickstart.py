"""The main job on the sample data through the real command line, as a newcomer runs it."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

ROOT = Path(__file__).parents[2]
STRUCTURES = {"liver", "kidney", "lesion"}


def run(out: Path, *settings: str) -> subprocess.CompletedProcess[str]:
    words = ["run", str(ROOT / "pipelines/quickstart.yaml"), "-o", str(out), *settings]
    return subprocess.run([sys.executable, "-m", "medseg", *words], capture_output=True, text=True)


def rows(out: Path) -> list[dict[str, str]]:
    with (out / "scores.csv").open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_a_few_steps_give_everything_but_the_promised_scores(tmp_path: Path) -> None:
    done = run(tmp_path, "--set", "budget=8steps")
    assert done.returncode == 1, done.stderr
    assert "MISSED" in done.stdout
    assert "Traceback" not in done.stderr
    for scores, cases in (("scores", 3), ("scores_dicom", 1)):
        found = rows(tmp_path / scores)
        assert len(found) == cases * len(STRUCTURES)
        assert {row["structure"] for row in found} == STRUCTURES
    for name in ("phantom_13", "phantom_14", "phantom_15"):
        scan = nib.load(ROOT / f"sample_data/test/images/{name}.nii.gz")
        labels = nib.load(tmp_path / f"predictions/{name}.nii.gz")
        assert labels.shape == scan.shape
        np.testing.assert_allclose(labels.affine, scan.affine, atol=1e-4)
    (series,) = (tmp_path / "predictions_dicom").glob("case-*.nii.gz")
    reference = nib.load(ROOT / "sample_data/dicom_labels/subject_a.nii.gz")
    np.testing.assert_allclose(nib.load(series).affine, reference.affine, atol=1e-3)
    for path in tmp_path.rglob("*"):
        if path.suffix in (".json", ".csv", ".jsonl") and path.name != "case_map.json":
            text = path.read_text(encoding="utf-8")
            assert "Phantom" not in text
            assert "PHANTOM" not in text
            assert str(ROOT) not in text

    again = run(tmp_path, "--set", "budget=8steps")  # all is done: the same command only scores again
    assert again.returncode == 1
    assert "3 of 3 already done" in again.stderr
    assert "trained already" in again.stderr


@pytest.mark.slow
def test_the_quickstart_keeps_its_promises(tmp_path: Path) -> None:
    done = run(tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert all(outcome["met"] for outcome in json.loads((tmp_path / "outcome.json").read_text())["outcomes"])
