from __future__ import annotations

import json
import shutil
import subprocess
import sys

import pytest

from medseg.evaluation.cohort import summarise
from medseg.events import Note
from medseg.files import read_record, write_record
from medseg.inference.card import ModelCard
from medseg.inference.model import run_plan
from medseg.planning.plan import Alternative, Budget, Reason
from medseg.report import trained as reading
from medseg.report.trained import run_seen
from medseg.report.training_page import Written, write_training_report
from medseg.training.run import train
from tests.report.test_inference_page import shown
from tests.report.test_page import HOSTILE, colours
from tests.report.test_training import score
from tests.tiny import CPU, planned_run
from tests.training.test_without_imaging import BLOCKED

WITHOUT = BLOCKED.replace(
    "from medseg.cli.app import main\nmain(sys.argv[1:])",
    "from pathlib import Path\nfrom medseg.report.training_page import write_training_report\n"
    "print([event for event in write_training_report(Path(sys.argv[1]))])",
)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run of two folds, whose plan has a hostile reason."""
    run = planned_run(tmp_path_factory.mktemp("trained"), Budget(steps=4), n=4)
    plan = run_plan(run)
    reason = Reason(topic="patch", choice=HOSTILE, why="it fits", fields=())
    other = Alternative(what="--dims 2d", cost="less", why_not=HOSTILE)
    write_record(run / "plan.json", plan.model_copy(update={"reasons": (reason,), "alternatives": (other,)}))
    *_, last = train(run, ["0", "1"], Budget(steps=4), CPU)
    assert len(last.folds) == 2
    return run


@pytest.fixture
def run(trained, tmp_path):
    shutil.copytree(trained, tmp_path / "run")
    return tmp_path / "run"


def report(run, *given, **options) -> tuple[Written, list, str]:
    *events, last = write_training_report(run, *given, **options)
    assert isinstance(last, Written)
    return last, events, last.path.read_text(encoding="utf-8")


def test_a_page_of_a_training(run):
    written, events, text = report(run, None, ("the plan was made for a GPU",))
    assert written.bytes == written.path.stat().st_size < 5_000_000
    assert written.cases > 0
    assert not [event for event in events if isinstance(event, Note)]
    said = shown(text)
    for words in (
        "of 4",
        "the plan was made for a GPU",
        "What was chosen, and why",
        "it fits",
        "--dims 2d",
        "fold 0",
        "fold 1",
        "Learning rate",
        "The scan is shown as the network sees it",
        "Research use only",
    ):
        assert words in said, words
    assert "<img src=x" not in text
    assert str(run) not in text


def test_without_what_reads_scans_the_page_has_no_pictures(run):
    done = subprocess.run([sys.executable, "-c", WITHOUT, str(run)], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "report.html has no pictures: nibabel is not installed" in done.stdout
    text = (run / "report.html").read_text(encoding="utf-8")
    assert "There are no pictures: nibabel is not installed." in shown(text)
    assert "fold 1" in shown(text)


def test_what_weakens_the_figures_is_told(run):
    card = read_record(run / "folds" / "3d" / "0" / "model.json", ModelCard)
    weak = card.model_copy(update={"steps": 1, "origin": card.origin.model_copy(update={"known": 2})})
    write_record(run / "folds" / "3d" / "0" / "model.json", weak)
    (run / "folds" / "3d" / "2").mkdir()
    (run / "folds" / "3d" / "2" / "events.jsonl").write_text(
        json.dumps({"step": 1, "elapsed_s": 1.0, "loss": 1.0, "rate": 0.1, "dice": None, "note": "all is well"})
        + '\n{"st'
    )
    said = shown(report(run)[2])
    assert "Not finished: fold 2." in said
    assert "very different numbers of steps (fold 0 1, fold 1 4)" in said
    assert "fold 0 began with was trained on 2 cases of its held-out ones" in said
    assert "Fold 2: all is well" in said


def test_a_case_that_cannot_be_drawn_is_told(run):
    seen = run_seen(run)
    case = seen.folds[0].scores.scores[0].case
    (run / "folds" / "3d" / "0" / "validation" / f"{case}.nii.gz").unlink()
    _, events, text = report(run)
    (told,) = [event for event in events if isinstance(event, Note)]
    assert told.warning
    assert told.text.startswith(f"{case} is not shown in the report")
    assert case in shown(text)


def test_a_run_that_is_only_planned(tmp_path):
    run = planned_run(tmp_path)
    said = shown(report(run)[2])
    assert "no case was held out" in said
    assert "What was chosen, and why" in said


def test_in_a_browser_the_worst_cases_are_seen(run, browser):
    written, _, _ = report(run)
    opened = browser(written.path)
    page = opened.page
    first = page.locator(".case.open h3").inner_text()
    opened.settled()
    assert colours(opened.canvas()) > 20
    if written.cases > 1:
        page.get_by_role("button", name="Next case").locator("visible=true").click()
        page.wait_for_function(f"document.querySelector('.case.open h3').textContent !== '{first}'")
    page.locator("#case-table").get_by_role("button", name="Fold").click()
    assert opened.page.evaluate("document.documentElement.scrollWidth") <= 1280
    assert opened.complaints == []


def test_scores_of_the_first_version_get_intervals(tmp_path):
    rows = [score(f"c{k}", 0.8 + k / 100) for k in range(9)]
    now = summarise(rows, {f"c{k}": 100.0 for k in range(9)})
    old = now.model_dump(mode="json") | {"version": 1, "agreement": [], "methods": ""}
    for structure in old["structures"]:
        for summary in structure["metrics"].values():
            summary |= {"mean_low": None, "mean_high": None, "n_patients": 0}
    (tmp_path / "scores.json").write_text(json.dumps(old))
    found = reading._scores(tmp_path)
    assert found is not None
    assert found.structures[0].metrics["dice"].mean_low == now.structures[0].metrics["dice"].mean_low
    assert reading._scores(tmp_path / "nowhere") is None
