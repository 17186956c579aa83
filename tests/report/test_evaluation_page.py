from __future__ import annotations

import json
import re
from dataclasses import replace

import numpy as np
import pytest

from medseg.evaluation.cohort import summarise
from medseg.evaluation.folders import Evaluation, evaluate_folders
from medseg.evaluation.metadata import read_metadata
from medseg.events import Note, Stage
from medseg.imaging.grid import Grid
from medseg.imaging.nifti import write_labels, write_volume
from medseg.imaging.volume import LabelMap
from medseg.report import evaluation_page
from medseg.report.evaluation_cases import ranked
from medseg.report.evaluation_page import Written, page_names, write_evaluation_report
from medseg.report.pictures import scans_by_case
from tests.report.scenes import labels, scan
from tests.report.test_page import HOSTILE, colours

NAMES = {1: "liver", 2: "kidney"}


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory):
    """Four cases: perfect, shifted, a structure dropped, no prediction; the scan of one is missing."""
    folder = tmp_path_factory.mktemp("evaluated")
    places = [folder / name for name in ("out", "labels", "scans")]
    for n, case in enumerate(("good", "shifted", "dropped", "absent")):
        reference = labels()
        write_labels(places[1] / f"{case}.nii.gz", reference)
        if case != "absent":
            write_labels(places[0] / f"{case}.nii.gz", labels(shift=3 * (n == 1), drop=n == 2))
        if case != "good":
            write_volume(places[2] / f"{case}_0000.nii.gz", scan(reference))
    *_, last = evaluate_folders(places[0], places[1], folder / "scores", names=NAMES)
    assert isinstance(last, Evaluation)
    return last, places, folder / "scores"


def report(evaluation, out, **options) -> tuple[Written, list, str]:
    *events, last = write_evaluation_report(evaluation, out, **options)
    assert isinstance(last, Written)
    return last, events, last.path.read_text(encoding="utf-8")


def test_the_worst_stands_first(evaluated):
    evaluation, _, _ = evaluated
    assert [one.case for one in ranked(evaluation.scores)] == ["absent", "dropped", "shifted", "good"]


def test_a_report_of_a_cohort(evaluated, tmp_path):
    evaluation, places, _ = evaluated
    written, events, text = report(evaluation, tmp_path, scans=scans_by_case(places[2], places[0]))
    assert events[0] == Stage("report", 4, "about 1 s")
    assert (written.cases, written.viewers) == (4, 4)
    assert written.bytes == written.path.stat().st_size < 4_000_000
    assert "4 of 4 cases have a viewer" in written.said()
    for words in (
        "References without a prediction: 1",
        "kidney: missed",
        "Bias ",
        "No scan was given",
        "tolerances 1, 2, 3 mm",
    ):
        assert words in text
    assert str(places[0]) not in text
    assert text.count('class="montage"') == 4
    assert re.search("liver: (reaches|falls) 3.0 mm (beyond|short) on its (right|left) side", text)
    assert re.search(r"Shown from .* to ", text)


def test_a_small_limit_leaves_viewers_out_but_keeps_the_worst(evaluated, tmp_path, monkeypatch):
    evaluation, _, _ = evaluated
    _, _, text = report(evaluation, tmp_path / "whole")
    sizes = [len(one) for one in re.findall(r'id="case-\d-scene">(.*?)</script>', text)]
    monkeypatch.setattr(evaluation_page, "MONTAGE", (30_000, 30_000))
    limit = evaluation_page.FIXED + 8 * evaluation_page.ROW + 4 * (400 + 30_000 * 4 / 3 + evaluation_page.PANEL)
    written, _, text = report(evaluation, tmp_path / "some", limit=int(limit + sizes[0] + sizes[1] + 10))
    assert written.viewers == 2
    assert 'id="case-2-scene"' in text
    assert 'id="case-3-scene"' not in text
    assert "--all-viewers" in text


def test_a_page_that_comes_out_too_large_loses_its_last_viewers(evaluated, tmp_path, monkeypatch):
    evaluation, _, _ = evaluated
    whole, _, _ = report(evaluation, tmp_path / "whole")
    monkeypatch.setattr(evaluation_page, "FIXED", -100_000_000)
    written, _, _ = report(evaluation, tmp_path / "some", limit=whole.bytes - 1000)
    assert written.bytes < whole.bytes - 1000
    assert 0 < written.viewers < 4


def test_a_page_for_every_case(evaluated, tmp_path, browser):
    evaluation, places, _ = evaluated
    written, _, text = report(
        evaluation, tmp_path, scans=scans_by_case(places[2], places[0]), all_viewers=True, limit=100_000
    )
    assert sorted(path.name for path in (tmp_path / "cases").iterdir()) == [
        f"{case}.html" for case in ("absent", "dropped", "good", "shifted")
    ]
    assert written.viewers == 0
    assert 'href="cases/shifted.html"' in text
    opened = browser(tmp_path / "cases" / "shifted.html", 640, 560)
    opened.settled()
    assert colours(opened.canvas()) > 50
    assert opened.complaints == []


def test_in_a_browser_tables_sort_and_cases_are_chosen(evaluated, tmp_path, browser):
    evaluation, _, _ = evaluated
    written, _, _ = report(evaluation, tmp_path)
    opened = browser(written.path, 800, 560)
    page = opened.page
    names = lambda: page.locator("#case-table tbody tr:visible th").all_inner_texts()  # noqa: E731
    assert names() == ["absent", "dropped", "shifted", "good"]
    page.get_by_role("button", name="Case", exact=True).click()
    assert names() == ["absent", "dropped", "good", "shifted"]
    page.locator("#case-table").get_by_role("button", name="NSD").focus()
    page.keyboard.press("Enter")
    page.keyboard.press("Enter")
    assert names()[0] == "good"
    page.locator("#find-structure").select_option("1")  # the kidney
    assert page.locator("tr[data-case=case-2] td").first.inner_text() == "0.000"
    page.locator("#find-structure").select_option("")
    page.get_by_label("Status").select_option("missed")
    assert sorted(names()) == ["absent", "dropped"]
    page.get_by_label("Status").select_option("")
    page.get_by_label("Name contains").fill("SHIFT")
    assert names() == ["shifted"]
    page.get_by_role("link", name="shifted").last.click()
    page.locator(".case.open h3", has_text="shifted").wait_for()
    opened.settled()
    first = opened.canvas()
    page.get_by_label("Name contains").fill("")
    page.get_by_role("button", name="Next case").locator("visible=true").click()
    page.locator(".case.open h3", has_not_text="shifted").wait_for()
    opened.settled()
    assert opened.canvas() != first
    assert opened.complaints == []


@pytest.mark.parametrize("width", [390, 1440])
def test_nothing_is_wider_than_the_screen(evaluated, tmp_path, browser, width):
    evaluation, _, _ = evaluated
    written, _, _ = report(evaluation, tmp_path)
    opened = browser(written.path, width=width)
    assert opened.page.evaluate("document.documentElement.scrollWidth") <= width
    assert opened.complaints == []


def test_a_point_of_a_plot_leads_to_its_case(evaluated, tmp_path, browser):
    evaluation, _, _ = evaluated
    written, _, _ = report(evaluation, tmp_path)
    opened = browser(written.path)
    opened.page.locator("svg.plot a.pt[tabindex='0']").first.focus()
    opened.page.keyboard.press("ArrowRight")
    opened.page.keyboard.press("Enter")
    opened.page.wait_for_timeout(300)
    assert opened.page.evaluate("location.hash.startsWith('#case-')")
    assert opened.page.evaluate("location.hash.slice(1) === document.querySelector('.case.open').id")


def test_hostile_names(tmp_path, browser):
    names = {1: HOSTILE, 2: "x" * 300}
    references, predictions = tmp_path / "labels", tmp_path / "out"
    case = "<b onclick=alert(1)>'\"&\u202e \U0001f9e0" + "y" * 120
    write_labels(references / f"{case}.nii.gz", labels())
    write_labels(predictions / f"{case}.nii.gz", labels(shift=2))
    *_, evaluation = evaluate_folders(predictions, references, tmp_path / "scores", names=names)
    written, _, text = report(evaluation, tmp_path / "scores", all_viewers=True)
    assert "<b onclick" not in text
    assert "<img src=x" not in text
    (page,) = (tmp_path / "scores" / "cases").glob("*.html")
    assert re.fullmatch(r"[A-Za-z0-9._-]{1,90}\.html", page.name)
    opened = browser(written.path, width=390, address="#case-1")
    opened.settled()
    assert opened.complaints == []
    assert opened.page.evaluate("document.documentElement.scrollWidth") <= 390


def test_names_of_pages_are_safe_and_differ():
    names = page_names(["a/b", "a:b", "A_B", "CON", "../..", "", "é"])
    assert len({name.lower() for name in names.values()}) == len(names)
    assert names["CON"] == "case_CON.html"
    assert all(re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9._-]*\.html", name) for name in names.values())


def test_a_hundred_structures_in_one_case_of_a_single_slice(tmp_path, browser):
    array = np.zeros((60, 60, 1), np.uint8)
    for n in range(100):
        array[6 * (n % 10) : 6 * (n % 10) + 4, 6 * (n // 10) : 6 * (n // 10) + 4] = n + 1
    grid = Grid(array.shape, np.diag([0.5, 0.5, 80.0, 1.0]))
    write_labels(tmp_path / "labels" / "a.nii.gz", LabelMap(array, grid, {}))
    write_labels(tmp_path / "out" / "a.nii.gz", LabelMap(np.roll(array, 1, 0), grid, {}))
    *_, evaluation = evaluate_folders(tmp_path / "out", tmp_path / "labels", tmp_path / "scores")
    written, _, text = report(evaluation, tmp_path / "scores")
    assert "label 100" in text
    opened = browser(written.path, 640, 560, address="#case-1")
    opened.settled()
    assert colours(opened.canvas()) > 3
    assert opened.complaints == []


def test_when_nothing_could_be_scored(evaluated, tmp_path, browser):
    evaluation, _, _ = evaluated
    scores = evaluation.scores.model_copy(
        update={"scores": (), "structures": (), "mean_over_structures": {}, "failed": {"a": "[CUT] is cut short"}}
    )
    written, _, text = report(Evaluation(scores, tmp_path / "a", tmp_path / "b"), tmp_path)
    assert "No case could be scored" in text
    assert "is cut short" in text
    opened = browser(written.path)
    assert opened.complaints == []


def test_intervals_are_shown_where_there_are_any(evaluated, tmp_path):
    evaluation, _, _ = evaluated
    raw = json.loads(evaluation.scores.model_dump_json())
    raw["structures"][0]["metrics"]["dice"] |= {"mean_low": 0.123, "mean_high": 0.987}
    scores = type(evaluation.scores).model_validate(raw)
    _, _, text = report(Evaluation(scores, tmp_path / "a", tmp_path / "b"), tmp_path)
    assert "0.123 to 0.987" in text
    assert "95 % interval" in text


def test_a_scan_that_cannot_be_read_is_said(evaluated, tmp_path):
    evaluation, places, _ = evaluated
    scans = scans_by_case(places[2], places[0])
    (broken,) = scans["shifted"].paths
    whole = broken.read_bytes()
    broken.write_bytes(whole[:100])
    try:
        _, events, text = report(evaluation, tmp_path, scans=scans)
    finally:
        broken.write_bytes(whole)
    assert "Its scan cannot be shown" in text
    assert not any(isinstance(event, Note) and event.warning for event in events)


def test_groups_of_cases_stand_in_the_report(evaluated, tmp_path, browser):
    evaluation, _, _ = evaluated
    table = tmp_path / "cases.csv"
    table.write_text("case,<site>\nabsent,north\ndropped,north\nshifted,<b>south</b>\ngood,<b>south</b>\n")
    old = evaluation.scores
    scores = summarise(old.scores, old.diagonals_mm, old.settings, metadata=read_metadata(table), by=["<site>"])
    written, _, text = report(replace(evaluation, scores=scores), tmp_path)
    assert "&lt;b&gt;south&lt;/b&gt;" in text
    assert "<b>south" not in text
    opened = browser(written.path)
    rows = opened.page.locator("#groups tbody tr").all_inner_texts()
    assert len(rows) == 6  # two groups, each as a whole and by its two structures
    assert opened.complaints == []
