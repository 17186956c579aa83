"""How wide the columns of a table are where a terminal is narrow: numbers are never broken apart."""

from __future__ import annotations

import re
from collections.abc import Sequence

from rich.cells import cell_len

from medseg.report.table import Table

BETWEEN, EDGES = 2, 2  # spaces between columns, and at both ends together
NAME_PART = 3
LEAST = 8  # of a column of text

_NUMBER = re.compile(r"[~<]?[-+]?(\d[\d.,]*|inf)")
_EMPTY = ("", "-")


def layout(table: Table, width: int) -> dict[int, int]:
    """The columns that are shown, and how wide each is; without those of numbers that find no room, the last first.

    The first column holds names: they are kept whole where that takes no more than a third of the width.
    """
    cells = {k: [name, *(row[k] for row in table.rows)] for k, name in enumerate(table.columns)}
    numbers = [k for k, (_, *below) in cells.items() if k and _are_numbers(below)]
    natural = {k: max(map(cell_len, told)) for k, told in cells.items()}
    least = {k: _longest_word(told) if k in numbers else _least(told, natural[k]) for k, told in cells.items()}
    least[0] = min(natural[0], max(least[0], width // NAME_PART))
    while _total(least) > width and len(numbers) > 1:
        del least[numbers.pop()]
    if _total(least) > width:
        least[0] = _least(cells[0], natural[0])
    return _shared({k: natural[k] for k in least}, least, width)


def _are_numbers(cells: Sequence[str]) -> bool:
    told = [cell for cell in cells if cell not in _EMPTY]
    return bool(told) and all(_NUMBER.fullmatch(cell) for cell in told)


def _longest_word(cells: Sequence[str]) -> int:
    return max((cell_len(word) for cell in cells for word in cell.split()), default=1)


def _least(cells: Sequence[str], natural: int) -> int:
    """Of text: words may be folded, the numbers in it not."""
    words = [word for cell in cells for word in cell.split() if _NUMBER.fullmatch(word.strip("(),;:%"))]
    return min(natural, max(LEAST, _longest_word(words)))


def _total(widths: dict[int, int]) -> int:
    return sum(widths.values()) + BETWEEN * (len(widths) - 1) + EDGES


def _shared(natural: dict[int, int], least: dict[int, int], width: int) -> dict[int, int]:
    """The widest columns give way, none below its least."""
    found = {k: min(n, max(width, least[k])) for k, n in natural.items()}
    while _total(found) > width:
        able = [k for k in found if found[k] > least[k]]
        if not able:
            break
        widest = max(able, key=lambda k: found[k])
        found[widest] -= 1
    return found
