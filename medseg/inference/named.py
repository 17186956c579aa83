"""Structures by the names that a user gives: which are kept, and a label map of each of them alone."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np

from medseg.errors import InputError
from medseg.imaging.structures import alike
from medseg.imaging.volume import LabelMap
from medseg.inference.boxes import islands_of
from medseg.planning.plan import Plan

Named = Mapping[str, tuple[int, ...]]

LISTED = 20  # names that an error shows
LONGEST = 80  # characters of a name in a file name
_UNSAFE = re.compile(r"[^\w+-]+")
_RESERVED = re.compile(  # names of devices on Windows, and of the other maps of a case
    r"con|prn|aux|nul|com\d|lpt\d|probabilities|uncertainty", re.IGNORECASE
)


def named_values(plan: Plan) -> dict[str, tuple[int, ...]]:
    """The label values of every structure, and after them of every region, by name."""
    structures = {structure.name: (structure.value,) for structure in plan.structures}
    return structures | {region.name: region.values for region in plan.regions}


def known_name(asked: str, known: Iterable[str], option: str) -> str:
    """The name that is meant, whatever its case, underscores and spaces; as it is spelt where several are alike.

    Raises:
        InputError: there is none.
    """
    names = list(known)
    if asked in names:
        return asked
    meant = [name for name in names if alike(name) == alike(asked)]
    if len(meant) == 1:
        return meant[0]
    listed = ", ".join(names[:LISTED]) + (f" and {len(names) - LISTED} more" if len(names) > LISTED else "")
    raise InputError(f"{option}: the model finds no structure {asked!r}", fix=f"it finds {listed}")


def words_of(texts: Iterable[str], known: Iterable[str]) -> Iterator[str]:
    """What stands between commas; a comma may also be part of a name, if the whole text is one (or one and `=2`)."""
    names = set(map(alike, known))
    for text in texts:
        name, _, number = text.rpartition("=")
        whole = alike(text) in names or (alike(name) in names and "," not in number)
        yield from (text,) if whole else (word.strip() for word in text.split(",") if word.strip())


def kept(labels: LabelMap, names: Sequence[str], known: Named | None = None) -> LabelMap:
    """The label map with these structures alone, in their own values; all others become background.

    known: the values of every name, as `named_values` gives them; without it the names are those of the label map.

    Raises:
        InputError: a name is not known.
    """
    every = known if known is not None else {name: (value,) for value, name in labels.names.items()}
    wanted = {value for name in names for value in every[known_name(name, every, "--structures")]}
    table = np.zeros(int(np.iinfo(labels.array.dtype).max) + 1, labels.array.dtype)
    table[list(wanted)] = list(wanted)
    names_left = {value: name for value, name in labels.names.items() if value in wanted}
    return LabelMap(table[labels.array], labels.grid, names_left)


def split(labels: LabelMap, known: Named | None = None) -> Iterator[tuple[str, LabelMap]]:
    """Each structure or region alone, in its own values, with a name that is safe in a file's; empty ones as well.

    known: as in `kept`. The maps come one after the other, so that a caller need hold but one.
    """
    every = known if known is not None else {name: (value,) for value, name in labels.names.items()}
    safe = file_names(every)
    islands = islands_of(labels.array)
    for name, values in every.items():
        alone = np.zeros_like(labels.array)
        for value in values:
            for box in islands.get(value, ()):
                alone[box][labels.array[box] == value] = value
        yield safe[name], LabelMap(alone, labels.grid, {v: n for v, n in labels.names.items() if v in values})


def file_names(names: Iterable[str]) -> dict[str, str]:
    """For each name one that every file system takes; no two are equal, not even where case does not count.

    Letters and digits of any script stay, as do dashes and pluses; all else becomes an underscore, a dot as well, since
    it ends a case's name. Where two would be equal the later gets a number.
    """
    made: dict[str, str] = {}
    taken: set[str] = set()
    for name in names:
        safe = _UNSAFE.sub("_", unicodedata.normalize("NFC", name)).strip("_")[:LONGEST] or "structure"
        if _RESERVED.fullmatch(safe):
            safe = f"{safe}_"
        made[name] = safe
        n = 1
        while made[name].casefold() in taken:
            n += 1
            made[name] = f"{safe}-{n}"
        taken.add(made[name].casefold())
    return made
