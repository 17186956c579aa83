"""Cells of tables in pages: what is shown, what is sorted by, and a second line."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from medseg.report.svg import MINUS
from medseg.report.table import number


@dataclass(frozen=True, slots=True)
class Cell:
    """sort: a number as text, empty where there is none, so that it stands last; `more` stands below."""

    text: str
    sort: str = ""
    more: str = ""


@dataclass(frozen=True, slots=True)
class Column:
    """A heading with its second line, and which values are the better ones."""

    head: str
    sub: str = ""
    better: str = ""
    metric: str = ""
    digits: int = 3


def cell(value: float | None, digits: int = 3, more: str = "") -> Cell:
    """A number as a cell; infinite stands above every number."""
    if value is None or math.isnan(value):
        return Cell("-", "", more)
    if math.isinf(value):
        return Cell("\u221e" if value > 0 else f"{MINUS}\u221e", "1e99" if value > 0 else "-1e99", more)
    return Cell(shown(value, digits), f"{value:.6g}", more)


def shown(value: float | None, digits: int = 3) -> str:
    """A number as text, with a true minus."""
    text = "\u221e" if value is not None and math.isinf(value) and value > 0 else number(value, digits)
    return text if text == "-" else text.replace("-", MINUS)


def plain(of: Cell) -> list[Any]:
    """For the scripts of a page: the text, and the number that is sorted by."""
    return [of.text, float(of.sort) if of.sort else None]
