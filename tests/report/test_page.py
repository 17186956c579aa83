from __future__ import annotations

import base64
import hashlib
import io
import json
import re
from importlib.resources import files
from itertools import pairwise

import numpy as np
import pytest
from markupsafe import Markup
from PIL import Image

from medseg.errors import MedsegError
from medseg.evaluation.case import score_case
from medseg.files import RESEARCH_USE
from medseg.report import page as engine
from medseg.report.page import Page, Panel, Section, asset, data_block, render, write_page
from medseg.report.viewer import Place, Window, scene_of
from tests.report.scenes import labels, scan

HOSTILE = "</script><script>alert(1)</script> \"'><img src=x onerror=alert(2)> \u202e\u2028 \U0001f9e0"


def scene(**options):
    reference, prediction = labels(), labels(shift=3, drop=True)
    return scene_of(
        {"reference": reference, "prediction": prediction},
        {1: "liver", 2: "kidney"},
        scan(reference),
        Window((-50, 150), (0, 120), "HU"),
        (Place((-4.0, -12.0, 124.0), "liver: 3.0 mm beyond"), Place((11.0, -12.0, 120.0), "kidney: missed")),
        **options,
    )


def page(*panels: Panel, title: str = "A report", **options) -> Page:
    sections = (
        Section("summary", "Summary", Markup("<p>All is well.</p>")),
        Section("cases", "Cases", lead="One after the other.", panels=panels),
    )
    return Page(title, "of two structures", sections, **options)


def test_assets_are_in_the_package_and_the_viewer_is_the_released_file():
    names = {path.name for path in files("medseg.report").joinpath("assets").iterdir()}
    assert {"niivue.umd.js", "niivue.LICENSE", "niivue.sha256", "page.css", "page.js", "viewer.js"} <= names
    assert files("medseg.report").joinpath("templates", "page.html").is_file()
    raw = files("medseg.report").joinpath("assets", "niivue.umd.js").read_bytes()
    released = "47b896b77ec4a5be3ef1949c33ad393b6f45629921f326c279000bcf51bdb4af"  # npm, @niivue/niivue 0.69.0
    assert hashlib.sha256(raw).hexdigest() == released == asset("niivue.sha256").split()[0]
    assert "BSD 2-Clause" in asset("niivue.LICENSE")
    assert b"</script" not in raw.lower()
    assert b"\r" not in raw


def test_a_changed_viewer_is_refused(monkeypatch):
    monkeypatch.setattr(engine, "asset", asset.__wrapped__)
    real = engine.asset
    monkeypatch.setattr(engine, "asset", lambda name: "00" if name.endswith(".sha256") else real(name))
    with pytest.raises(MedsegError, match="was changed"):
        real("niivue.umd.js")


def test_the_policy_allows_the_scripts_of_the_page_and_nothing_else():
    text = render(page(Panel("case-0", "a", scene=scene().as_json())))
    said = re.search(r'Content-Security-Policy" content="([^"]*)"', text)
    assert said is not None
    rules = said[1].replace("&#39;", "'")
    assert "unsafe" not in rules
    assert "default-src 'none'" in rules
    scripts = re.findall(r"<script>(.*?)</script>", text, flags=re.DOTALL)
    styles = re.findall(r"^<style>(.*?)</style>$", text, flags=re.DOTALL | re.MULTILINE)[:1]
    assert len(scripts) == 5  # the viewer, its three parts, and the page
    for part in (*scripts, *styles):
        digest = base64.b64encode(hashlib.sha256(part.encode()).digest()).decode()
        assert f"'sha256-{digest}'" in rules
    without_code = re.sub(r"<(script|style).*?</\1>", "", text, flags=re.DOTALL)
    assert not re.search(r"\s(style|on[a-z]+)=", without_code)
    assert "http" not in without_code.replace("http-equiv", "")
    assert RESEARCH_USE in text


def test_a_page_without_a_viewer_does_not_hold_it():
    text = render(page(Panel("case-0", "a")))
    assert len(text) < 100_000
    assert "NiiVue" not in text


def test_everything_given_is_escaped():
    made = page(
        Panel("case-0", HOSTILE, remark=HOSTILE, montage_alt=HOSTILE, montage=b"x"),
        title=HOSTILE,
        provenance=((HOSTILE, HOSTILE),),
        data={"values": {HOSTILE: [HOSTILE]}},
    )
    text = render(made)
    assert "<img src=x" not in text
    assert "<script>alert" not in text
    block = re.search(r'id="values">(.*?)</script>', text)
    assert block is not None
    assert json.loads(block[1]) == {HOSTILE: [HOSTILE]}


def test_data_that_is_not_finite_is_refused():
    with pytest.raises(ValueError, match="not JSON compliant"):
        data_block([float("nan")])


def test_without_webgl2_the_pictures_stand_and_the_page_says_so(tmp_path, every_browser):
    one = Panel("case-0", "a", scene=scene().as_json(), montage=png(), montage_size=(8, 8), montage_alt="slices")
    write_page(tmp_path / "report.html", page(one))
    opened = every_browser.with_flags("--disable-3d-apis")(tmp_path / "report.html", address="#case-0")
    opened.page.wait_for_selector(".viewer[data-state=failed]")
    assert "no WebGL2" in opened.page.locator(".viewer").inner_text()
    assert opened.page.locator(".montage img").is_visible()
    assert opened.complaints == []


def test_without_scripts_every_case_is_shown(tmp_path, browser):
    write_page(tmp_path / "report.html", page(Panel("case-0", "a"), Panel("case-1", "b")))
    opened = browser(tmp_path / "report.html", java_script_enabled=False)
    assert opened.page.locator("article.case").nth(1).is_visible()


def test_surfaces_lie_as_far_apart_as_the_scores_say(tmp_path, browser):
    write_page(tmp_path / "report.html", page(Panel("case-0", "a", scene=scene().as_json())))
    opened = browser(tmp_path / "report.html", 640, 560, address="#case-0")
    opened.settled()
    opened.page.locator(".viewer select").first.select_option("1")
    opened.page.get_by_role("button", name="3D").click()
    opened.page.wait_for_selector(".viewer[data-surface=reference]")
    found = opened.page.evaluate("document.querySelector('.viewer').medsegView.surface")
    scored = {row.structure: row for row in score_case("a", labels(), labels(shift=3, drop=True))}
    assert found["largest"] == pytest.approx(scored["liver"].hd_mm, rel=1e-5)
    opened.page.wait_for_timeout(300)
    first = opened.canvas()
    assert colours(first) > 50
    opened.page.get_by_role("button", name="Prediction").last.click()
    opened.page.wait_for_selector(".viewer[data-surface=prediction]")
    opened.page.wait_for_timeout(300)
    assert opened.canvas() != first
    assert opened.complaints == []


def test_controls_change_what_is_drawn(tmp_path, browser):
    write_page(tmp_path / "report.html", page(Panel("case-0", "a", scene=scene().as_json())))
    opened = browser(tmp_path / "report.html", 640, 560, address="#case-0")
    opened.settled()
    seen = [opened.canvas()]
    for act in (
        lambda: opened.page.get_by_label("Level (brightness)").fill("100"),
        lambda: opened.page.get_by_role("button", name="None").click(),
        lambda: opened.page.get_by_label("prediction", exact=True).uncheck(),
        lambda: opened.page.get_by_role("button", name="Coronal").click(),
        lambda: opened.page.locator(".slices input").fill("20"),
        lambda: opened.page.get_by_label("Go to an error").select_option("1"),
    ):
        act()
        opened.page.wait_for_timeout(700)
        seen.append(opened.canvas())
    assert all(one != other for one, other in pairwise(seen))
    opened.page.locator(".viewer canvas").first.click()
    opened.page.mouse.wheel(0, 100)
    opened.page.wait_for_timeout(300)
    assert opened.canvas() != seen[-1]
    assert opened.complaints == []


def png() -> bytes:
    file = io.BytesIO()
    Image.new("P", (8, 8)).save(file, "PNG")
    return file.getvalue()


def test_in_a_browser_the_viewer_draws_and_scrolls(browser, tmp_path):
    made = page(Panel("case-0", "a <b>", scene=scene().as_json()), Panel("case-1", "b", scene=scene().as_json()))
    size = write_page(tmp_path / "report.html", made)
    assert size < 3_000_000
    opened = browser(tmp_path / "report.html", 640, 560, address="#case-1")
    opened.settled()
    first = opened.canvas()
    assert colours(first) > 50
    opened.page.locator(".case.open .viewer canvas").first.focus()
    for _ in range(3):
        opened.page.keyboard.press("ArrowUp")
    opened.page.wait_for_timeout(200)
    assert opened.canvas() != first
    assert "Axial slice 16 of 24" in opened.page.locator(".case.open .viewer").inner_text()
    assert opened.complaints == []


def colours(png: bytes) -> int:
    array = np.asarray(Image.open(io.BytesIO(png)).convert("RGB")).reshape(-1, 3)
    return len(np.unique(array, axis=0))


def test_a_scene_without_a_reference_shows_its_structures(tmp_path, browser):
    alone = scene_of({"prediction": labels()}, {1: "liver", 2: "kidney"}, scan(labels()), Window((-50, 150), (0, 120)))
    write_page(tmp_path / "report.html", page(Panel("case-0", "a", scene=alone.as_json())))
    opened = browser(tmp_path / "report.html", 640, 560, address="#case-0")
    opened.settled()
    assert colours(opened.canvas()) > 50
    assert opened.page.get_by_role("button", name="Disagreement").count() == 0
    opened.page.get_by_role("button", name="3D").click()
    opened.page.wait_for_selector(".viewer[data-surface=prediction]")
    opened.page.wait_for_timeout(300)
    assert colours(opened.canvas()) > 20
    assert opened.complaints == []
