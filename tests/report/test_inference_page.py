from __future__ import annotations

import itertools
import re
import shutil
from dataclasses import replace

import numpy as np
import pytest

from medseg.events import Note, Stage
from medseg.files import output_of
from medseg.imaging.grid import Grid
from medseg.imaging.nifti import write_labels, write_shares, write_volume
from medseg.imaging.scans import find_scans
from medseg.imaging.volume import LabelMap
from medseg.inference.records import Prediction, Predictions, Unread
from medseg.inference.trust.records import Oddity, StructureTrust
from medseg.report.inference_page import NOT_DRAWN, Written, in_order, write_inference_report
from medseg.report.page import RESEARCH_USE
from tests.report.scenes import labels, scan
from tests.report.test_page import HOSTILE, colours

CASES = tuple(f"scan{n}" for n in range(9))
ODD, LARGE, CUT, HOSTILE_NAME = "scan8", "scan7", "scan6", "<img src=x onerror=alert(1)>'\"&"


def trusted(structure: str, dice: float | None, look: bool = False) -> StructureTrust:
    return StructureTrust(
        structure=structure,
        confidence=0.93,
        entropy=0.2,
        agreement=0.95,
        predicted_dice=dice,
        dice_low=None if dice is None else dice - 0.1,
        dice_high=None if dice is None else dice + 0.05,
        volume_ml=1.0,
        volume_low_ml=0.9,
        volume_high_ml=1.1,
        coverage=0.9,
        concern=0.2 if dice is None else 1 - dice,
        look=look,
        words="look at it" if look else "",
    )


def prediction(case: str, n: int, outputs=(), **more) -> Prediction:
    return Prediction(
        case=case,
        input="folder/" + case,
        seconds=1.0,
        volumes_ml={"liver": 100.0 + n + (300 if case == LARGE else 0), "kidney": 20.0 + n % 3},
        odd=(Oddity(code="NOISE", what="it holds 1.9 times the usual noise", times=1.9),) if case == ODD else (),
        trust=(trusted("liver", None if case == ODD else 0.9), trusted("kidney", None if case == ODD else 0.8)),
        cut=("kidney is cut by the field of view (left): its volume is that of a part",) if case == CUT else (),
        warnings=more.pop("warnings", ()),
        deviation_mm=0.0,
        key="0" * 64,
        model="1" * 64,
        outputs=outputs,
    )


def predictions(cases, failed=()) -> Predictions:
    return Predictions(
        labels={"1": "liver", "2": "kidney"},
        configurations=("3d",),
        folds=("0", "1"),
        postprocessing=("liver: only the largest component is kept",),
        device="cpu",
        cases=tuple(cases),
        failed=tuple(failed),
    )


@pytest.fixture(scope="module")
def predicted(tmp_path_factory):
    """Nine cases; the scan of one is gone, one has a map of uncertainty, one comes as a file a structure."""
    folder = tmp_path_factory.mktemp("predicted")
    out, scans = folder / "out", folder / "scans"
    made = []
    for n, case in enumerate(CASES):
        found = labels(shift=n % 3)
        written = [out / f"{case}.nii.gz"]
        if case == "scan1":
            written = [out / f"{case}.liver.nii.gz", out / f"{case}.kidney.nii.gz"]
            for value, path in enumerate(written, 1):
                write_labels(path, replace(found, array=np.where(found.array == value, value, 0).astype(np.uint8)))
        else:
            write_labels(written[0], found)
        if case == ODD:
            written.append(out / f"{case}.uncertainty.nii.gz")
            write_shares(written[-1], (found.array > 0).astype(np.uint16) * 50_000, found.grid)
        write_volume(scans / f"{case}_0000.nii.gz", scan(found))
        made.append(prediction(case, n, tuple(map(output_of, written))))
    found = {one.name: one for one in find_scans(scans, b"").scans}
    (scans / "scan0_0000.nii.gz").unlink()
    return predictions(made, [Unread(case="broken", reason="is cut short")]), out, found


def report(given, out, scans, **options) -> tuple[Written, list, str]:
    *events, last = write_inference_report(out, given, scans, **options)
    assert isinstance(last, Written)
    return last, events, last.path.read_text(encoding="utf-8")


def shown(text: str) -> str:
    """What stands in a page without its scripts, style and tags."""
    return re.sub(r"<[^>]*>", " ", re.sub(r"<(script|style).*?</\1>", " ", text, flags=re.DOTALL))


def test_those_to_look_at_stand_first(predicted):
    given, _, _ = predicted
    seen = in_order(given.cases, ("liver", "kidney"), {})
    assert [one.of.case for one in seen[:3]] == [ODD, LARGE, CUT]
    assert list(seen[1].far) == ["liver"]
    assert seen[1].states == ("look", "unusual")
    assert seen[3].states == ()


def test_a_page_of_predictions(predicted):
    given, out, scans = predicted
    written, events, text = report(given, out, scans)
    assert events[0] == Stage("report", 9, "pictures of 9 cases of 9")
    assert (written.cases, written.pictures) == (9, 8)
    assert written.bytes == written.path.stat().st_size < 5_000_000
    (told,) = [event for event in events if isinstance(event, Note)]
    assert told.warning
    assert told.text.startswith("scan0 has no pictures in the report")
    said = shown(text)
    for words in (
        "1 failed",
        "is cut short",
        "1 case is unlike the scans that the model was trained on",
        "In 1 case a volume lies far from those of the other cases.",
        "its volume is larger than in the other cases of this folder",
        "kidney is cut by the field of view",
        "Tinted where the prediction is unsure",
        "liver: only the largest component is kept",
        RESEARCH_USE,
    ):
        assert words in said, words
    assert said.index("is cut short") < said.index("Name contains")
    assert text.count("data-scene=") == 8


def test_no_path_and_no_place_is_told(predicted):
    given, out, scans = predicted
    _, _, text = report(given, out, scans)
    for private in (str(out), str(out.parent), "folder/", "_0000"):
        assert private not in text


def test_few_cases_are_drawn_and_the_page_says_so(predicted):
    given, out, scans = predicted
    written, _, text = report(given, out, scans, most_pictures=2)
    assert written.pictures == 2
    assert NOT_DRAWN[1:] in shown(text)


def test_drawing_takes_no_longer_than_it_may(predicted):
    given, out, scans = predicted
    ticks = itertools.count(0, 30)
    written, events, text = report(given, out, scans, clock=lambda: float(next(ticks)))
    assert written.pictures == 3
    assert Note("3 cases have pictures in the report: more would take too long") in events
    assert NOT_DRAWN[1:] in shown(text)


def test_a_small_page_leaves_out_viewers_then_pictures(predicted):
    given, out, scans = predicted
    written, _, text = report(given, out, scans, limit=4_150_000)
    assert written.bytes <= 4_150_000
    assert "no more room for" in shown(text)


def test_a_folder_of_failures_and_one_of_a_single_case(predicted, tmp_path):
    given, out, scans = predicted
    _, _, text = report(predictions((), [Unread(case="a", reason=HOSTILE)]), tmp_path, {})
    assert "Cases that failed" in text
    assert "<img src=x" not in text
    _, _, text = report(predictions(given.cases[2:3]), out, scans)
    assert "Volumes are compared with each other in folders of 8 cases or more." in shown(text)


def test_labels_that_cannot_be_drawn_are_told(predicted, tmp_path):
    given, _, scans = predicted
    bare = given.cases[2].model_copy(update={"outputs": ()})
    _, _, text = report(predictions([bare]), tmp_path, scans)
    assert "None of its files holds labels that can be drawn." in shown(text)
    _, _, text = report(predictions(given.cases[2:3]), tmp_path, {})
    assert "Its scan is not among those that were given last" in shown(text)


def test_more_structures_than_colours_and_columns(tmp_path):
    names = {value: f"part {value}" for value in range(1, 15)}
    array = np.zeros((30, 12, 6), np.uint8)
    for value in names:
        array[2 * value - 2 : 2 * value, 2:9, 1:5] = value
    found = LabelMap(array, Grid(array.shape, np.eye(4)), names)
    write_labels(tmp_path / "a.nii.gz", found)
    write_volume(tmp_path / "scans" / "a.nii.gz", scan(found))
    one = prediction("a", 0, (output_of(tmp_path / "a.nii.gz"),), warnings=("it was mended",))
    one = one.model_copy(update={"volumes_ml": dict.fromkeys(names.values(), 1.0), "trust": ()})
    given = predictions([one]).model_copy(update={"labels": {str(v): n for v, n in names.items()}})
    _, _, text = report(given, tmp_path, {s.name: s for s in find_scans(tmp_path / "scans", b"").scans})
    assert "The colours of the other 2 structures repeat these." in shown(text)
    assert "Of 1 case something was mended on reading" in shown(text)
    assert "No Dice can be told" in shown(text)


def test_in_a_browser_cases_are_sorted_and_rated(predicted, tmp_path, browser):
    given, out, scans = predicted
    hostile = given.cases[3].model_copy(update={"case": HOSTILE_NAME})
    shutil.copytree(out, tmp_path / "out")
    written, _, _ = report(predictions([*given.cases, hostile]), tmp_path / "out", scans)
    opened = browser(written.path)
    page = opened.page
    names = lambda: page.locator("#case-table tbody tr:visible th").all_inner_texts()  # noqa: E731
    assert names()[0] == ODD
    page.locator("#case-table").get_by_role("button", name="Case", exact=True).click()
    assert names()[1:] == list(CASES)
    page.get_by_label("Show").select_option("cut")
    assert names() == [CUT]
    page.get_by_label("Show").select_option("")
    page.locator("#find-structure").select_option("1")
    assert page.locator(f"tr:has(a:text-is('{CASES[3]}')) td[data-metric]").first.inner_text() == "0.80"
    opened.settled()
    assert colours(opened.canvas()) > 50
    plain = opened.canvas()
    page.get_by_role("button", name="Uncertainty").click()
    page.wait_for_timeout(300)
    assert opened.canvas() != plain
    save = page.get_by_role("button", name="Download the ratings")
    assert save.is_disabled()
    page.locator(".case.open .rating button").first.focus()
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")  # usable
    page.keyboard.press("Tab")
    page.keyboard.press("Tab")
    page.keyboard.type("one\ttwo <b>")
    assert page.locator("tr.chosen td.rated").inner_text().lower() == "usable"
    page.locator(".case .rating").last.evaluate("field => field.querySelector('[data-value=redo]').click()")
    assert "2 of 10 cases rated. Not yet downloaded" in page.locator("#rating-count").inner_text()
    save.focus()
    with page.expect_download() as download:
        page.keyboard.press("Enter")
    assert download.value.suggested_filename == "ratings.tsv"
    download.value.save_as(tmp_path / "ratings.tsv")
    lines = (tmp_path / "ratings.tsv").read_text(encoding="utf-8").splitlines()
    assert lines[:2] == ["case\trating\tcomment", f"{ODD}\tusable\tone two <b>"]
    assert len(lines) == 3
    assert "Downloaded" in page.locator("#rating-count").inner_text()
    assert opened.complaints == []


@pytest.mark.parametrize("width", [390, 1440])
def test_nothing_is_wider_than_the_screen(predicted, browser, width):
    given, out, scans = predicted
    written, _, _ = report(given, out, scans, most_pictures=1)
    opened = browser(written.path, width=width)
    assert opened.page.evaluate("document.documentElement.scrollWidth") <= width
    assert opened.complaints == []
