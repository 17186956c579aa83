"""What a table says of the cases besides their labels: site, scanner, slice thickness, and which patient each is of.

Patients get numbers here, and what a table calls them goes no further.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np

from medseg.errors import InputError, explained
from medseg.evaluation.case_name import case_name

NOT_GIVEN = "(not given)"
MOST_VALUES = 6  # numbers of a column that are groups of their own; more are put together by quartiles
MOST_GROUPS = 50
_CASE, _PATIENT = "case", "patient"
_SEPARATORS = ",;\t"


@dataclass(frozen=True, slots=True)
class Metadata:
    """Values by case and column, empty where nothing is said; `patients`: a number from 1 for each case that has one.

    decimal_comma: numbers may be written 1,5.
    """

    columns: tuple[str, ...]
    values: Mapping[str, Mapping[str, str]]
    patients: Mapping[str, int]
    path: Path
    decimal_comma: bool = False

    def check(self, by: Iterable[str]) -> None:
        """See that cases can be broken down by these columns.

        Raises:
            InputError: there is no such column, it holds the patients, or it has too many different texts.
        """
        for column in by:
            if column.casefold() == _PATIENT:
                raise InputError("patients are no group to compare", self.path, "name another column")
            if column not in self.columns:
                known = f"it has {', '.join(self.columns)}" if self.columns else "it has none besides the cases"
                raise InputError(f"there is no column {column}", self.path, known)
            texts = {values[column] for values in self.values.values()}
            if len(texts) > MOST_GROUPS and self.numbers(column, self.values) is None:
                what = f"column {column} has {len(texts)} different texts, which are no groups to compare"
                raise InputError(what, self.path, f"put them together to {MOST_GROUPS} at most")

    def numbers(self, column: str, cases: Iterable[str]) -> dict[str, float] | None:
        """The column as numbers, of these cases where it says anything; None if it holds any other text, or nothing."""
        said = {case: text for case in cases if (text := self.values.get(case, {}).get(column, ""))}
        found = {case: _number(text, self.decimal_comma) for case, text in said.items()}
        return {case: n for case, n in found.items() if n is not None} if found and None not in found.values() else None

    def groups(self, column: str, cases: Sequence[str]) -> dict[str, list[str]]:
        """These cases by their value in a column, in its order; numbers of more than 6 values by quartiles, in words.

        Cases of which nothing is said are a group as well, the last.
        """
        numbers = self.numbers(column, cases)
        if numbers is None:
            of_case = {case: self.values.get(case, {}).get(column, "") for case in cases}
            order: Sequence[str] = sorted(set(filter(None, of_case.values())))
        else:
            of_case, order = _in_words(numbers)
        groups: dict[str, list[str]] = {label: [] for label in (*order, NOT_GIVEN)}
        for case in cases:
            groups[of_case.get(case) or NOT_GIVEN].append(case)
        return {label: own for label, own in groups.items() if own}


def read_metadata(path: Path) -> Metadata:
    """Read a CSV: a case a row, named in the column `case`, else the first; a column `patient` says who it is of.

    UTF-8, with comma, semicolon or tab between the columns, whose names stand in the first line. Names of cases may
    have the extension of a file.

    Raises:
        InputError: there is no such file, it is no such table, or it names a case twice.
    """
    columns, lines, separator = _table(path)
    folded = [name.casefold() for name in columns]
    at_case = folded.index(_CASE) if _CASE in folded else 0
    at_patient = folded.index(_PATIENT) if _PATIENT in folded else -1
    others = {name: at for at, name in enumerate(columns) if at not in (at_case, at_patient) and name}
    values: dict[str, dict[str, str]] = {}
    patients: dict[str, int] = {}
    numbers: dict[str, int] = {}
    first_in: dict[str, int] = {}
    for number, cells in lines:
        case = case_name(cells[at_case])
        if not case:
            raise InputError(f"line {number} names no case", path, f"fill the column {columns[at_case]}")
        if case in values:
            raise InputError(f"lines {first_in[case]} and {number} are of one case", path, "keep one of them")
        first_in[case], values[case] = number, {name: cells[at] for name, at in others.items()}
        if at_patient >= 0 and at_patient != at_case and cells[at_patient]:
            patients[case] = numbers.setdefault(cells[at_patient], len(numbers) + 1)
    return Metadata(tuple(others), values, patients, path, decimal_comma=separator != ",")


def left_out(metadata: Metadata, cases: Iterable[str]) -> tuple[str, ...]:
    """A line for rows of cases that are not scored, and one for scored cases without a row, if there are any."""
    scored = set(cases)
    without_score, without_row = len(metadata.values.keys() - scored), len(scored - metadata.values.keys())
    lines = []
    if without_score:
        lines.append(f"{without_score} case(s) of {metadata.path.name} are not scored")
    if without_row:
        lines.append(f"{without_row} scored case(s) are not in {metadata.path.name}: their group is {NOT_GIVEN}")
    return tuple(lines)


def _table(path: Path) -> tuple[list[str], list[tuple[int, list[str]]], str]:
    """The names of the columns, the cells of each line that is not blank with its number, and the separator."""
    if not path.is_file():
        raise InputError("there is no such file", path, "give the CSV that tells of the cases")
    try:
        with explained(path):
            text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise InputError("is not UTF-8 text", path, "save it as CSV in UTF-8") from None
    head = text.split("\n", 1)[0]
    separator = max(_SEPARATORS, key=head.count)
    lines = list(_cells(path, text, separator))
    if len(lines) < 2:
        raise InputError("holds no line of a case", path, "give the names of the columns, and below a line a case")
    columns = lines[0][1]
    named = [name for name in columns if name]
    if twice := sorted({name for name in named if named.count(name) > 1}):
        raise InputError(f"has two columns {twice[0]}", path, "give each its own name")
    for number, cells in lines[1:]:
        if any(cells[len(columns) :]):
            raise InputError(f"line {number} has more cells than there are columns", path, "mend it")
        cells += [""] * (len(columns) - len(cells))
    return columns, lines[1:], separator


def _cells(path: Path, text: str, separator: str) -> Iterator[tuple[int, list[str]]]:
    reader = csv.reader(text.splitlines(keepends=True), delimiter=separator)
    try:
        for cells in reader:
            stripped = [cell.strip() for cell in cells]
            if any(stripped):
                yield reader.line_num, stripped
    except csv.Error as error:
        raise InputError(f"line {reader.line_num} is not CSV ({error})", path, "mend it") from None


def _number(text: str, decimal_comma: bool) -> float | None:
    try:
        value = float(text.replace(",", ".") if decimal_comma else text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _in_words(numbers: Mapping[str, float]) -> tuple[dict[str, str], Sequence[str]]:
    """The group of each case, and the groups in their order."""
    distinct = sorted(set(numbers.values()))
    if len(distinct) <= MOST_VALUES:
        return {case: f"{n:g}" for case, n in numbers.items()}, [f"{n:g}" for n in distinct]
    quartiles = np.quantile(list(numbers.values()), [0.25, 0.5, 0.75], method="inverted_cdf")  # values that there are
    edges = sorted({float(edge) for edge in quartiles} - {distinct[-1]})
    between = [f"over {low:g} to {high:g}" for low, high in pairwise(edges)]
    labels = [f"up to {edges[0]:g}", *between, f"over {edges[-1]:g}"] if edges else [f"up to {distinct[-1]:g}"]
    bins = np.searchsorted(edges, list(numbers.values()))
    return {case: labels[k] for case, k in zip(numbers, bins.tolist(), strict=True)}, labels
