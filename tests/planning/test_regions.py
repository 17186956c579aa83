from __future__ import annotations

from pathlib import Path

import pytest

from medseg.errors import InputError
from medseg.imaging.dataset import Dataset
from medseg.planning.plan import Region
from medseg.planning.regions import left_out, regions_of

BRATS = {"whole": (1, 2, 3), "core": (2, 3), "enhancing": (3,)}


def dataset(regions: dict[str, tuple[int, ...]], order: tuple[int, ...], n: int = 3) -> Dataset:
    names = {value: f"label {value}" for value in range(1, n + 1)}
    return Dataset("d", "nnunet", ("MR",), names, (), (), Path("d"), regions=regions, region_order=order)


def test_regions_are_taken_in_the_order_in_which_they_are_painted() -> None:
    found = regions_of(dataset(BRATS, (1, 2, 3)))
    assert found[1] == Region(name="core", values=(2, 3), value=2)
    assert [region.value for region in found] == [1, 2, 3]


def test_regions_without_an_order_are_not_trained() -> None:
    assert regions_of(dataset(BRATS, ())) == ()


@pytest.mark.parametrize(
    ("regions", "order"),
    [
        (BRATS, (2, 2, 3)),  # the whole would be painted as part of the core
        (dict(reversed(BRATS.items())), (3, 2, 1)),  # the whole would cover its parts
        ({"a": (1, 2), "b": (2, 3)}, (1, 2)),  # what is b alone would be a as well
        ({"a": (1,), "b": (2, 3)}, (1, 9)),  # 9 is no value
    ],
)
def test_an_order_in_which_regions_get_lost_is_refused(
    regions: dict[str, tuple[int, ...]], order: tuple[int, ...]
) -> None:
    with pytest.raises(InputError, match="regions_class_order paints label"):
        regions_of(dataset(regions, order))


def test_structures_in_no_region_are_named() -> None:
    partly = dataset({"both": (1, 2), "second": (2,)}, (1, 2))
    assert left_out(partly, regions_of(partly)) == ["label 3"]
    assert left_out(partly, ()) == []
