"""What the values of a dataset's label maps stand for: structures, regions made of several, and voxels to ignore."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from medseg.errors import InputError

LARGEST = 65535  # label maps are uint8 or uint16
IGNORE = "ignore"
_MADE_UP = re.compile(r"(segment )?\d+")
_MEND = "mend the file or make it anew"

Region = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Structures:
    """labels: the name of every plain value but the background. regions: name -> values, where any has several.

    region_order: as nnU-Net's `regions_class_order` says. ignore: the value of voxels that nobody labelled.
    stored: dataset value -> value in the files, for values that a label map cannot hold (negative, above 65535).
    """

    labels: Mapping[int, str] = field(default_factory=dict)
    regions: Mapping[str, Region] = field(default_factory=dict)
    region_order: tuple[int, ...] = ()
    ignore: int | None = None
    stored: Mapping[int, int] = field(default_factory=dict)

    @property
    def renames(self) -> dict[int, int]:
        """Value in the files -> dataset value, for every value that means something; empty if they are the same."""
        if not self.stored:
            return {}
        known = [*self.labels, *([] if self.ignore is None else [self.ignore])]
        return {self.stored.get(value, value): value for value in known}


def read_structures(said: Mapping[str, Any], where: Path) -> Structures:
    """What `labels`, `regions`, `regions_class_order` and `ignore` of a description say.

    Labels may be told in both directions: {"1": "liver"} (Decathlon) and {"liver": 1} (nnU-Net). A region is a name
    with several values, among the labels (nnU-Net) or in a key `regions` of its own. The value to ignore is called
    "ignore", or stands in a key of that name. A value that is only part of regions is named after the smallest of them.

    Raises:
        InputError: something is not as these forms write it, a value or a name is given twice, or nothing is named.
    """
    entries, ignore = _entries(said.get("labels"), where)
    more, _ = _entries(said.get("regions"), where)
    if said.get(IGNORE) is not None:
        ignore += _numbers([said[IGNORE]], where)
    plain = [(values[0], name) for name, values in entries if len(values) == 1]
    regions = {name: values for name, values in more or entries if values != (0,)}
    names = _named(_single(more) | dict(plain), regions, ignore)
    values_of = {name: (value,) for value, name in names.items()}
    unlike = any(values_of.get(name, values) != values for name, values in regions.items())
    if unlike or _repeated([v for v, _ in plain]) or _repeated([n for n, _ in entries]) or _repeated(names.values()):
        raise InputError("two of its labels share a number or a name", where, "give each its own")
    if len(ignore) > 1 or set(ignore) & {0, *dict(plain)}:
        raise InputError("its ignore label has several numbers, or that of another label", where, "give it its own")
    names.pop(0, None)
    if entries and not names:
        raise InputError("names no structure besides the background", where, "add the structures to its labels")
    if all(len(values) == 1 for values in regions.values()):
        return storable(Structures(names, ignore=next(iter(ignore), None)))
    return storable(Structures(names, regions, _order(said, regions, where), next(iter(ignore), None)))


def _repeated(values: Iterable[object]) -> bool:
    listed = list(values)
    return len(set(listed)) < len(listed)


def _order(said: Mapping[str, Any], regions: Mapping[str, Region], where: Path) -> tuple[int, ...]:
    order = _numbers(said.get("regions_class_order") or [], where)
    if any(0 in values for values in regions.values()):
        raise InputError("one of its regions holds the background", where, "leave 0 out of every region")
    if order and len(order) != len(regions):
        raise InputError(f"orders {len(order)} regions, but names {len(regions)}", where, _MEND)
    return tuple(order)


def _single(entries: Sequence[tuple[str, Region]]) -> dict[int, str]:
    return {values[0]: name for name, values in entries if len(values) == 1}


def named_by_number(values: Iterable[int]) -> Structures:
    """Structures that nobody named, called by the value that they have in the files."""
    return storable(Structures({value: str(value) for value in sorted(set(values)) if value != 0}))


def storable(told: Structures) -> Structures:
    """The same with free values in place of those that a label map cannot hold; `stored` keeps which."""
    every = sorted({*told.labels, *(value for region in told.regions.values() for value in region)})
    every += [] if told.ignore is None else [told.ignore]
    taken = {value for value in every if 0 <= value <= LARGEST}
    free = (value for value in range(1, LARGEST + 1) if value not in taken)
    instead = {value: next(free) for value in every if value not in taken}
    if not instead:
        return told

    def new(value: int) -> int:
        return instead.get(value, value)

    return Structures(
        dict(sorted((new(value), name) for value, name in told.labels.items())),
        {name: tuple(map(new, region)) for name, region in told.regions.items()},
        tuple(map(new, told.region_order)),
        None if told.ignore is None else new(told.ignore),
        {number: value for value, number in instead.items()},
    )


def _entries(said: Any, where: Path) -> tuple[list[tuple[str, Region]], list[int]]:
    """(name, values) of each entry, and the values to ignore."""
    if said is None:
        return [], []
    if not isinstance(said, dict):
        raise InputError("its labels are no names with numbers", where, 'write them as {"background": 0, "liver": 1}')
    if said and all(key.strip().lstrip("-").isdecimal() and isinstance(name, str) for key, name in said.items()):
        pairs = [(name, [int(key)]) for key, name in said.items()]
    else:
        pairs = [(key, value if isinstance(value, list) else [value]) for key, value in said.items()]
    entries = [(str(name).strip(), tuple(_numbers(values, where))) for name, values in pairs]
    if any(not name or not values or len(set(values)) < len(values) for name, values in entries):
        raise InputError(_NO_NUMBER, where, _MEND)
    return [entry for entry in entries if entry[0] != IGNORE], [v for name, vs in entries if name == IGNORE for v in vs]


_NO_NUMBER = "a label is no name with a whole number (or, for a region, a list of them)"


def _numbers(values: Any, where: Path) -> list[int]:
    try:
        found = [int(value) for value in values if not isinstance(value, bool | float)]
    except (TypeError, ValueError):
        found = []
    if not isinstance(values, list) or len(found) < len(values) or any(abs(value) >= 2**31 for value in found):
        raise InputError(_NO_NUMBER, where, _MEND)
    return found


def _named(plain: Mapping[int, str], regions: Mapping[str, Region], ignore: Sequence[int]) -> dict[int, str]:
    """A name for every value: its own, or one after the smallest region that holds it, if it is the only such value."""
    nameless = sorted({value for region in regions.values() for value in region} - {*plain, *ignore})
    smallest = {value: _smallest(value, regions) for value in nameless}
    names = dict(plain)
    for value, region in smallest.items():
        after = f"rest of {region}"
        alone = region and list(smallest.values()).count(region) == 1 and after not in regions
        names[value] = after if alone else f"label {value}"
    return dict(sorted(names.items()))


def _smallest(value: int, regions: Mapping[str, Region]) -> str:
    """The smallest region that holds the value; an empty text where two are equally small."""
    holding = sorted((len(region), name) for name, region in regions.items() if value in region)
    return "" if len(holding) > 1 and holding[0][0] == holding[1][0] else holding[0][1]


def alike(name: str) -> str:
    """What two spellings of one structure have in common: no case, underscores or repeated spaces."""
    return " ".join(name.casefold().replace("_", " ").split())


def asked_for(name: str, wanted: Collection[str] | None) -> bool:
    """True if a structure of this name is among the wanted ones, whatever their spelling; None wants all."""
    return wanted is None or alike(name) in {alike(one) for one in wanted}


def says_nothing(names: Iterable[str]) -> bool:
    """True if all names are those that programs make up (Segment_1)."""
    return all(_MADE_UP.fullmatch(alike(name)) for name in names)


def chosen(told: Structures, wanted: Collection[str], where: str | Path) -> Structures:
    """The structures of the wanted names, in their own values; regions that hold others are left out.

    Raises:
        InputError: a name is none of them.
    """
    known = {alike(name) for name in told.labels.values()}
    if unknown := sorted(name for name in wanted if alike(name) not in known):
        listed = ", ".join(list(told.labels.values())[:20])
        raise InputError(f"has no structure {unknown[0]}", where, f"choose with --labels among {listed}")
    labels = {value: name for value, name in told.labels.items() if asked_for(name, wanted)}
    kept = {*labels, *([] if told.ignore is None else [told.ignore])}
    regions = {name: values for name, values in told.regions.items() if kept.issuperset(values)}
    order = told.region_order if len(regions) == len(told.regions) else ()
    return Structures(labels, regions, order, told.ignore, {v: old for v, old in told.stored.items() if v in kept})


def numbered_by_name(tables: Iterable[Mapping[int, str]]) -> Structures:
    """Structures from the names that label objects give them, numbered 1 to n in the order of the objects' own numbers.

    Where objects number them differently, the smallest number of each counts, then the name. Of several spellings the
    first in alphabetical order is kept.
    """
    spelt: dict[str, str] = {}
    first: dict[str, int] = {}
    for number, name in sorted(((number, name.strip()) for table in tables for number, name in table.items())):
        key = alike(name)
        spelt[key] = min(name, spelt.get(key, name))
        first[key] = min(number, first.get(key, number))
    ordered = sorted(spelt, key=lambda key: (first[key], key))
    return Structures({value: spelt[key] for value, key in enumerate(ordered, start=1)})


def renames_by_name(table: Mapping[int, str], structures: Structures) -> dict[int, int]:
    """Value in a label object -> dataset value, by the name that both give it.

    Raises:
        InputError: the object names a structure that the dataset does not.
    """
    values = {alike(name): value for value, name in structures.labels.items()}
    if structures.ignore is not None:
        values.setdefault(IGNORE, structures.ignore)
    if unknown := sorted({name for name in table.values() if alike(name) not in values}):
        listed = ", ".join(unknown[:5])
        what = f"[UNKNOWN_VALUE] its label names {listed}, which the dataset does not"
        raise InputError(what, fix="add the name to the labels")
    return {value: values[alike(name)] for value, name in table.items()}
