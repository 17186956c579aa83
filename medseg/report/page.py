"""One self-contained HTML file that opens offline: template, style, scripts and viewer, and what it may do.

What a page is about stands in its sections; this file knows nothing of it. The content-security policy lets a browser
run nothing but the scripts written here (by their SHA-256), load nothing, and send nothing.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path
from typing import Any, Final

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from medseg.errors import MedsegError
from medseg.files import RESEARCH_USE, write_text

VIEWER: Final = "niivue.umd.js"
_SCRIPTS: Final = ("page.js",)
_VIEWER_SCRIPTS: Final = (VIEWER, "surface.js", "picture.js", "viewer.js")
EMPTY: Final = Markup("")


@dataclass(frozen=True, slots=True)
class Panel:
    """One case that can be chosen: `anchor` is its address on the page.

    head and body stand above and below its pictures. scene: what the viewer shows, as `viewer.Scene.as_json` writes it;
    empty where there is no viewer. montage: a PNG, with its size in pixels. printed: whether it stands in print without
    having been chosen. link: a file beside the page that shows this case alone.
    """

    anchor: str
    name: str
    head: Markup = EMPTY
    body: Markup = EMPTY
    scene: str = ""
    montage: bytes = b""
    montage_size: tuple[int, int] = (0, 0)
    montage_alt: str = ""
    caption: Markup = EMPTY
    remark: str = ""
    link: str = ""
    printed: bool = False

    @property
    def montage_uri(self) -> Markup:
        """The montage within the page."""
        return Markup("data:image/png;base64,") + Markup(base64.b64encode(self.montage).decode("ascii"))  # noqa: S704


@dataclass(frozen=True, slots=True)
class Section:
    """A part of a page with its own entry in the contents; `anchor` is a plain word."""

    anchor: str
    title: str
    body: Markup = EMPTY
    lead: str = ""
    panels: tuple[Panel, ...] = ()


@dataclass(frozen=True, slots=True)
class Page:
    """A whole page. data: values for its scripts, by the id of their element. provenance: terms at its foot.

    scripts: files of `assets/` that it needs besides those of every page.
    """

    title: str
    subtitle: str
    sections: tuple[Section, ...]
    provenance: tuple[tuple[str, str], ...] = ()
    data: Mapping[str, Any] = field(default_factory=dict)
    scripts: tuple[str, ...] = ()


def render(page: Page, now: datetime | None = None) -> str:
    """The page as HTML; `now` (UTC) is when it was written.

    Raises:
        MedsegError: the viewer in this installation is not the file that was released.
    """
    viewer = any(panel.scene for section in page.sections for panel in section.panels)
    scripts = [asset(name) for name in (*(_VIEWER_SCRIPTS if viewer else ()), *_SCRIPTS, *page.scripts)]
    style = asset("page.css")
    return (
        environment()
        .get_template("page.html")
        .render(
            page=page,
            policy=policy(scripts, style),
            style=Markup(style),  # noqa: S704
            scripts=[Markup(script) for script in scripts],  # noqa: S704
            data={name: data_block(values) for name, values in page.data.items()},
            viewer=viewer,
            licence=asset("niivue.LICENSE").splitlines(),
            version=version("medseg"),
            written=f"{now or datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
            notice=RESEARCH_USE,
        )
    )


def write_page(path: Path, page: Page, now: datetime | None = None) -> int:
    """Write the page, whole or not at all; returns its size in bytes.

    Raises:
        ResourceError: the disk is full or the folder cannot be written to.
    """
    write_text(path, render(page, now))
    return path.stat().st_size


def policy(scripts: list[str], style: str) -> str:
    """What a browser may do with the page: run these scripts, use this style, show pictures that it holds itself."""
    run = " ".join(_hash(script) for script in scripts)
    return (
        f"default-src 'none'; script-src {run}; style-src {_hash(style)}; img-src data: blob:; connect-src 'none'; "
        "base-uri 'none'; form-action 'none'"
    )


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode('utf-8')).digest()).decode('ascii')}'"


def data_block(values: Any) -> Markup:
    """Values as JSON that may stand in a script element: nothing in it can end the element or begin another.

    Raises:
        ValueError: a number is not finite.
    """
    text = json.dumps(values, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    return Markup(text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026"))  # noqa: S704


@cache
def asset(name: str) -> str:
    """A file of `assets/` as text.

    Raises:
        MedsegError: the viewer is not the file whose SHA-256 stands beside it.
    """
    raw = files("medseg.report").joinpath("assets", name).read_bytes()
    if name == VIEWER and hashlib.sha256(raw).hexdigest() != asset("niivue.sha256").split()[0]:
        raise MedsegError(f"{name} of this installation was changed", fix="install medseg again")
    return raw.decode("utf-8")


@cache
def environment() -> Environment:
    """The templates: everything is escaped, and what is not given is an error."""
    loader = PackageLoader("medseg.report", "templates")
    return Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)


def html(template: str, **values: Any) -> Markup:
    """A part of a page from a template of `templates/`."""
    return Markup(environment().get_template(template).render(**values))  # noqa: S704
