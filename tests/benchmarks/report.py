"""The report of 200 cases: how long it takes, how large it is, how soon a browser has it.

    python -m tests.benchmarks.report [--real-data DIR] [--cases 200] [--out FILE]

Predictions are the references of the hippocampus data, moved, shrunk, grown, cut and with islands. `crops` are as they
are; `large` are 10 of them repeated to about 250 x 250 x 140 voxels each.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import tempfile
import time
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from scipy import ndimage

from medseg.evaluation.folders import evaluate_folders
from medseg.imaging.nifti import read_labels, read_volume, write_labels, write_volume
from medseg.imaging.volume import LabelMap, Volume
from medseg.report.evaluation_page import write_evaluation_report
from medseg.report.pictures import scans_by_case

ROOT = Path(__file__).parents[2]
NAMES = {1: "Anterior", 2: "Posterior"}
LARGE, TIMES = 10, (7, 5, 4)


def wronged(array: np.ndarray, n: int) -> np.ndarray:
    """A prediction with an error of the n-th kind."""
    inside = array > 0
    kinds = (
        lambda: array,
        lambda: np.roll(array, 1, 0),
        lambda: np.where(ndimage.binary_erosion(inside), array, 0),
        lambda: np.where(inside, array, ndimage.grey_dilation(array, size=(3, 3, 3))),
        lambda: np.roll(array, 2, 1),
        lambda: np.where(array == 2, 0, array) if n % 3 == 0 else array,
        lambda: np.where(np.indices(array.shape).max(axis=0) < 5, 1, array),
    )
    return np.asarray(kinds[n % len(kinds)](), array.dtype)


def make(folder: Path, real: Path, cases: int, large: bool) -> None:
    for n, path in enumerate(sorted((real / "hippocampus" / "labelsTr").glob("[!.]*.nii.gz"))[:cases]):
        labels, scan = read_labels(path), read_volume(real / "hippocampus" / "imagesTr" / path.name)
        predicted = wronged(labels.array, n)
        if large:
            labels = LabelMap(np.tile(labels.array, TIMES), _grid(labels, TIMES), labels.names)
            scan = Volume(np.tile(scan.array, TIMES), labels.grid)
            predicted = np.tile(predicted, TIMES)
        write_labels(folder / "labels" / path.name, labels)
        write_labels(folder / "out" / path.name, LabelMap(predicted, labels.grid, labels.names))
        write_volume(folder / "scans" / path.name, scan)


def _grid(labels: LabelMap, times: tuple[int, ...]) -> Any:
    shape = tuple(n * k for n, k in zip(labels.array.shape, times, strict=True))
    return type(labels.grid)(shape, labels.grid.affine, labels.grid.stored)


def measured(real: Path, cases: int, large: bool) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        make(folder, real, cases, large)
        *_, evaluation = evaluate_folders(folder / "out", folder / "labels", folder / "scores", names=NAMES)
        began = time.monotonic()
        scans = scans_by_case(folder / "scans", folder / "out")
        *_, written = write_evaluation_report(evaluation, folder / "scores", scans)
        return {
            "cases": written.cases,
            "seconds": round(time.monotonic() - began, 1),
            "megabytes": round(written.bytes / 1e6, 1),
            "viewers": written.viewers,
            "browser_ready_s": in_browser(written.path),
        }


def in_browser(path: Path) -> float | None:
    """Seconds until a browser has the page; None without one."""
    import pytest

    from tests.report.conftest import browsers

    try:
        with browsers() as every:
            began = time.monotonic()
            opened = every.with_flags()(path)
            opened.page.wait_for_selector("#case-count:not(:empty)")
            return round(time.monotonic() - began, 1) if not opened.complaints else None
    except pytest.skip.Exception:
        return None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--real-data", type=Path, default=ROOT.parent / "shared" / "data")
    parser.add_argument("--cases", type=int, default=200)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "report.json")
    asked = parser.parse_args()
    found = {
        "measured": f"{datetime.now(UTC):%Y-%m-%d}",
        "machine": {"cores": os.cpu_count(), "processor": platform.machine(), "python": platform.python_version()},
        "medseg": version("medseg"),
        "crops": measured(asked.real_data, asked.cases, large=False),
        "large": measured(asked.real_data, LARGE, large=True),
    }
    asked.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(found, indent=1))  # noqa: T201


if __name__ == "__main__":
    main()
