"""A real browser without a network: Debian's chromium, driven by Playwright; without either the tests are skipped."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest

GRAPHICS = ("--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader", "--ignore-gpu-blocklist")


class Opened:
    """A page that was opened, with everything that it complained about."""

    def __init__(self, page, complaints):
        self.page, self.complaints = page, complaints

    def settled(self):
        """The viewer of the open case has drawn."""
        self.page.locator(".case.open .viewer").scroll_into_view_if_needed()
        self.page.wait_for_selector(".viewer[data-state=ready]", timeout=60_000)
        self.page.wait_for_timeout(300)

    def canvas(self) -> bytes:
        """What the viewer shows, as a PNG."""
        return self.page.locator(".case.open .viewer canvas:not([hidden])").screenshot()


class Browsers:
    """One Playwright, and a browser for each set of flags."""

    def __init__(self, playwright, path):
        self.playwright, self.path, self.launched = playwright, path, {}

    def with_flags(self, *flags: str) -> Callable[..., Opened]:
        if flags not in self.launched:
            args = ["--no-sandbox", *GRAPHICS, *flags]
            self.launched[flags] = self.playwright.chromium.launch(executable_path=self.path, headless=True, args=args)
        return partial(opened, self.launched[flags])


def opened(browser, path: Path, width: int = 1280, height: int = 900, address: str = "", **options) -> Opened:
    """Open a page; whatever it asks the network for is refused, and counts as a complaint."""
    context = browser.new_context(viewport={"width": width, "height": height}, offline=True, **options)
    complaints: list[str] = []

    def pass_on(route):
        if route.request.url.split(":")[0] in ("file", "data", "blob"):
            route.continue_()
        else:
            complaints.append(f"asked for {route.request.url}")
            route.abort()

    context.route("**/*", pass_on)
    page = context.new_page()
    page.on("console", lambda said: complaints.append(said.text) if said.type == "error" else None)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.goto(path.resolve().as_uri() + address)
    return Opened(page, complaints)


@contextmanager
def browsers() -> Iterator[Browsers]:
    sync_api = pytest.importorskip("playwright.sync_api", reason="no playwright: reports are not tried in a browser")
    path = shutil.which("chromium") or shutil.which("chromium-browser")
    if path is None:
        pytest.skip("no chromium: reports are not tried in a browser")
    with sync_api.sync_playwright() as playwright:
        made = Browsers(playwright, path)
        yield made
        for browser in made.launched.values():
            browser.close()


@pytest.fixture(scope="session")
def every_browser():
    with browsers() as made:
        yield made


@pytest.fixture
def browser(every_browser):
    return every_browser.with_flags()
