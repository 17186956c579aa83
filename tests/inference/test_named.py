from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medseg.errors import InputError
from medseg.imaging.grid import Grid
from medseg.imaging.volume import LabelMap
from medseg.inference.named import file_names, kept, known_name, named_values, split
from medseg.planning.plan import Region
from tests.tiny import configuration, plan_of

NAMES = {1: "liver", 2: "left kidney", 5: "Tumour"}


def labels() -> LabelMap:
    array = np.random.default_rng(0).choice(np.array([0, 1, 2, 5], np.uint8), (6, 5, 4))
    return LabelMap(array, Grid(array.shape, np.eye(4)), NAMES)


def test_the_structures_asked_for_stay_in_their_own_values() -> None:
    whole = labels()
    found = kept(whole, ["Left_Kidney", "Tumour"])
    np.testing.assert_array_equal(found.array, np.where(np.isin(whole.array, [2, 5]), whole.array, 0))
    assert (found.array.dtype, found.grid, dict(found.names)) == (np.uint8, whole.grid, {2: "left kidney", 5: "Tumour"})


def test_a_region_is_kept_by_its_values() -> None:
    whole = labels()
    found = kept(whole, ["both"], {"both": (1, 5), "liver": (1,)})
    assert set(np.unique(found.array)) == {0, 1, 5}
    assert dict(found.names) == {1: "liver", 5: "Tumour"}


def test_an_unknown_structure_is_refused_with_the_names_that_there_are() -> None:
    with pytest.raises(InputError) as refused:
        kept(labels(), ["liver", "spleen"])
    assert str(refused.value) == (
        "--structures: the model finds no structure 'spleen'; it finds liver, left kidney, Tumour"
    )
    with pytest.raises(InputError, match="s19 and 5 more"):
        known_name("x", [f"s{k}" for k in range(25)], "--instances")
    assert known_name("A b", ["a_b", "A b"], "-") == "A b"
    with pytest.raises(InputError):  # which of the two is meant cannot be told
        known_name("a b", ["a_b", "A b"], "-")


def test_structures_come_one_by_one_and_make_up_the_whole() -> None:
    whole = labels()
    parts = dict(split(whole))
    assert list(parts) == ["liver", "left_kidney", "Tumour"]
    np.testing.assert_array_equal(np.sum([part.array for part in parts.values()], axis=0), whole.array)
    assert dict(parts["left_kidney"].names) == {2: "left kidney"}
    regions = dict(split(whole, {"both": (1, 5), "none": (9,)}))
    np.testing.assert_array_equal(regions["both"].array, np.where(whole.array == 2, 0, whole.array))
    assert not regions["none"].array.any()


def test_a_plan_names_its_structures_and_its_regions() -> None:
    plan = plan_of(configuration())
    assert named_values(plan) == {"blob1": (1,), "blob2": (2,)}
    regions = (Region(name="both", values=(1, 2), value=1), Region(name="blob2", values=(2,), value=2))
    assert named_values(plan.model_copy(update={"regions": regions})) == {"blob1": (1,), "blob2": (2,), "both": (1, 2)}


@settings(max_examples=40, deadline=None)
@given(st.lists(st.text(max_size=100), unique=True, max_size=12))
def test_file_names_are_safe_and_never_collide(names: list[str]) -> None:
    made = file_names(names)
    assert list(made) == names
    assert len({name.casefold() for name in made.values()}) == len(names)
    for name in made.values():
        assert name
        assert not set(name) & set('/\\:*?"<>| \0\n\t')
        assert "." not in name
        assert name.casefold() not in {"con", "nul", "aux", "prn", "com1", "lpt1"}


def test_file_names_keep_what_can_be_kept() -> None:
    given = ["Liver", "liver", "GTV.1 / left-", "Größe", "..", "aux", "肝", "Uncertainty"]
    made = ["Liver", "liver-2", "GTV_1_left-", "Größe", "structure", "aux_", "肝", "Uncertainty_"]
    assert list(file_names(given).values()) == made
