"""The pages that verbs write beside their results, and what happens where they cannot."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from medseg.errors import ResourceError
from medseg.events import Note
from medseg.inference.folder import Inferred
from medseg.pipeline import steps
from tests.imaging.build import write_nifti
from tests.tiny import blobs, planned_run, untrained_run


def scans_of(folder: Path, n: int = 2) -> Path:
    for k in range(n):
        write_nifti(folder / f"scan{k}_0000.nii.gz", blobs(k)[0])
    return folder


def told(events: list[Any]) -> str:
    return "\n".join(event.text for event in events if isinstance(event, Note))


def test_infer_writes_its_page_once_all_parts_are_done(tmp_path: Path) -> None:
    run, scans, out = untrained_run(tmp_path / "run"), scans_of(tmp_path / "scans", 4), tmp_path / "out"
    first = list(steps.infer(run, scans, out, "cpu", part="0/2"))
    assert isinstance(first[-1], Inferred)
    if len(first[-1].predictions.cases) < 4:
        assert "report.html is written when all other parts are done" in told(first)
        assert not (out / "report.html").exists()
    list(steps.infer(run, scans, out, "cpu", part="1/2"))
    assert (out / "report.html").is_file()
    (out / "report.html").unlink()
    again = list(steps.infer(run, scans, out, "cpu"))
    assert again[-1].skipped == 4
    assert "report.html" in told(again)
    assert (out / "report.html").is_file()


def test_infer_without_a_page(tmp_path: Path) -> None:
    run, scans, out = untrained_run(tmp_path / "run"), scans_of(tmp_path / "scans", 1), tmp_path / "out"
    list(steps.infer(run, scans, out, "cpu", report=False))
    assert (out / "predictions.json").is_file()
    assert not (out / "report.html").exists()


@pytest.mark.parametrize(
    ("error", "words"),
    [(ResourceError("the disk is full"), "the disk is full"), (KeyError("x"), r"[UNEXPECTED] report.html was not")],
)
def test_a_page_that_cannot_be_written_is_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, words: str
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr("medseg.report.training_page.write_page", fail)
    monkeypatch.setattr("medseg.report.inference_page.write_page", fail)
    run = planned_run(tmp_path)
    *events, trained = steps.train(run, "0", steps=1, device="cpu")
    assert trained.folds
    assert any(isinstance(event, Note) and event.warning and words in event.text for event in events)
    *events, inferred = steps.infer(run, scans_of(tmp_path / "scans", 1), tmp_path / "out", "cpu")
    assert len(inferred.predictions.cases) == 1
    assert any(isinstance(event, Note) and event.warning and words in event.text for event in events)


def test_train_writes_its_page_at_the_end_of_each_fold(tmp_path: Path) -> None:
    run = planned_run(tmp_path)
    seen = []
    for event in steps.train(run, folds=2, steps=1, device="cpu"):
        if isinstance(event, Note) and event.text.startswith("report: "):
            seen.append((run / "report.html").read_text(encoding="utf-8"))
    assert len(seen) == 2
    assert "all folds" not in seen[0]
    assert "all folds" in seen[1]
