from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medseg.errors import InputError
from medseg.imaging.structures import (
    LARGEST,
    Structures,
    chosen,
    named_by_number,
    numbered_by_name,
    read_structures,
    renames_by_name,
    says_nothing,
    storable,
)

HERE = Path("dataset.json")


def told(**said: Any) -> Structures:
    return read_structures(said, HERE)


def test_both_directions() -> None:
    assert told(labels={"background": 0, "liver": 1}) == told(labels={"0": "background", "1": "liver"})
    assert told(labels={"background": 0, "liver": "1"}).labels == {1: "liver"}
    assert told() == Structures()


def test_values_without_a_name_are_named_after_the_smallest_region() -> None:
    brats = told(labels={"background": 0, "whole": [1, 2, 3], "core": [2, 3], "enhancing": 3})
    assert brats.labels == {1: "rest of whole", 2: "rest of core", 3: "enhancing"}
    assert brats.regions == {"whole": (1, 2, 3), "core": (2, 3), "enhancing": (3,)}
    assert told(labels={"a": [1, 2, 3], "c": 3}).labels == {1: "label 1", 2: "label 2", 3: "c"}
    assert told(labels={"a": [1, 2], "b": [1, 3]}).labels == {1: "label 1", 2: "rest of a", 3: "rest of b"}


def test_regions_of_one_value_each_are_plain_labels() -> None:
    assert told(labels={"background": 0, "a": [1], "b": 2}) == Structures({1: "a", 2: "b"})


def test_regions_may_stand_apart() -> None:
    apart = told(labels={"0": "background", "1": "rest of w", "2": "e"}, regions={"w": [1, 2], "e": [2]}, ignore=3)
    together = told(labels={"background": 0, "w": [1, 2], "e": 2, "ignore": 3})
    assert apart == together


def test_the_ignore_label_is_no_structure() -> None:
    assert told(labels={"background": 0, "a": 1, "ignore": 2}) == Structures({1: "a"}, ignore=2)
    assert told(labels={"0": "background", "1": "a", "2": "ignore"}).ignore == 2


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ({"labels": [1]}, "no names with numbers"),
        ({"labels": {"a": 1.5}}, "whole number"),
        ({"labels": {"a": "one"}}, "whole number"),
        ({"labels": {"a": True}}, "whole number"),
        ({"labels": {"a": {}}}, "whole number"),
        ({"labels": {"a": None}}, "whole number"),
        ({"labels": {"a": []}}, "whole number"),
        ({"labels": {"a": 2**31}}, "whole number"),
        ({"labels": {"": 1}}, "whole number"),
        ({"labels": {"a": [1, 1]}}, "whole number"),
        ({"labels": {"a": 1, "b": 1}}, "share a number"),
        ({"labels": {"0": "background", "1": "a", "2": "a"}}, "share a number or a name"),
        ({"labels": {"background": 0, "void": 0, "a": 1}}, "share a number"),
        ({"labels": {"t": 1, "r": 2}, "regions": {"t": [1, 2]}}, "share a number or a name"),
        ({"labels": {"a": 1, "ignore": 1}}, "that of another label"),
        ({"labels": {"a": 1, "ignore": 2}, "ignore": 3}, "several numbers"),
        ({"labels": {"a": [0, 1]}}, "holds the background"),
        ({"labels": {"a": [1, 2]}, "regions_class_order": [1, 2]}, "orders 2 regions, but names 1"),
        ({"labels": {"background": 0}}, "no structure"),
    ],
)
def test_what_contradicts_itself_is_refused(said: Any, expected: str) -> None:
    with pytest.raises(InputError, match=expected):
        read_structures(said, HERE)


def test_values_that_no_label_map_can_hold_get_free_ones() -> None:
    found = told(labels={"background": 0, "a": [1, -5], "b": 100_000, "ignore": -1}, regions_class_order=[-5, 100_000])
    assert found.stored == {2: -5, 3: 100_000, 4: -1}
    assert found.labels == {1: "label 1", 2: "label 2", 3: "b"} or found.labels == {1: "label 1", 2: "label -5", 3: "b"}
    assert found.regions == {"a": (1, 2), "b": (3,)}
    assert (found.region_order, found.ignore) == ((2, 3), 4)
    assert found.renames == {1: 1, -5: 2, 100_000: 3, -1: 4}


@given(st.sets(st.integers(-(2**31) + 1, 2**31 - 1), min_size=1, max_size=20))
def test_every_value_has_one_of_its_own(values: set[int]) -> None:
    found = named_by_number(values)
    assert set(found.labels.values()) == {str(value) for value in values if value != 0}
    assert all(0 < value <= LARGEST for value in found.labels)
    for value, name in found.labels.items():
        assert found.stored.get(value, value) == int(name)
    if found.stored:
        assert {int(name): value for value, name in found.labels.items()} == found.renames
    assert storable(Structures(found.labels)) == Structures(found.labels)


def test_names_of_label_objects_are_numbered_in_their_order() -> None:
    tables = [{2: "Liver", 3: "left_Kidney"}, {7: " liver ", 3: "Left  kidney"}, {1: "aorta"}]
    found = numbered_by_name(tables)
    assert found.labels == {1: "aorta", 2: "Liver", 3: "Left  kidney"}
    assert numbered_by_name(reversed(tables)) == found
    assert renames_by_name(tables[0], found) == {2: 2, 3: 3}
    assert renames_by_name(tables[1], found) == {7: 2, 3: 3}
    with pytest.raises(InputError, match="names spleen, which the dataset does not"):
        renames_by_name({1: "spleen"}, found)


@pytest.mark.parametrize(
    ("names", "expected"),
    [(["Segment_1", "segment 12", "3"], True), (["Segment_1", "liver"], False), (["Segment left"], False)],
)
def test_names_that_programs_make_up(names: list[str], expected: bool) -> None:
    assert says_nothing(names) is expected


def test_chosen_structures_keep_their_values() -> None:
    brats = told(labels={"background": 0, "whole": [1, 2, 3], "core": [2, 3], "enhancing": 3, "ignore": 4})
    some = chosen(brats, ["Rest_of core", "enhancing"], HERE)
    assert some.labels == {2: "rest of core", 3: "enhancing"}
    assert some.regions == {"core": (2, 3), "enhancing": (3,)}
    assert some.ignore == 4
    with pytest.raises(InputError, match="has no structure x; choose with --labels among rest of whole, rest of core"):
        chosen(brats, ["x"], HERE)


def test_a_file_may_name_the_voxels_to_ignore() -> None:
    assert renames_by_name({1: "liver", 2: "ignore"}, told(labels={"liver": 7, "ignore": 9})) == {1: 7, 2: 9}
