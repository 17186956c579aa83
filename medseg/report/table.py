"""A table as a value: the console shows it, and later pages do."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Table:
    """Columns and rows of text; `remarks` stand below it. whole: where all columns are, if some find no room."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    remarks: tuple[str, ...] = ()
    whole: str = "--json"


def number(value: float | None, digits: int = 3) -> str:
    """A number for a table: `inf` for a missed or spurious structure, a dash where there is nothing to tell."""
    if value is None or math.isnan(value):
        return "-"
    return "inf" if math.isinf(value) else f"{value:.{digits}f}"
