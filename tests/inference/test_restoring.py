from __future__ import annotations

import numpy as np
import pytest

from medseg.inference.restoring import restored
from medseg.planning.plan import Plan, Region, Structure
from medseg.preprocessing.prepare import Undo
from tests import tiny
from tests.tiny import restore

NAMES = {2: "rest of whole", 5: "rest of core", 9: "enhancing"}
BRATS = (
    Region(name="whole", values=(2, 5, 9), value=2),
    Region(name="core", values=(5, 9), value=5),
    Region(name="enhancing", values=(9,), value=9),
)


def plan_of(regions: tuple[Region, ...] = ()) -> Plan:
    structures = tuple(Structure(value=v, name=name) for v, name in NAMES.items())
    return tiny.plan_of(tiny.configuration(classes=4)).model_copy(update={"structures": structures, "regions": regions})


@pytest.fixture
def undo() -> Undo:
    return tiny.loaded(np.zeros((1, 4, 3, 2), np.float32), np.zeros((4, 3, 2), np.uint8)).undo


def test_regions_are_painted_in_order_where_they_are_more_likely_than_not(undo: Undo) -> None:
    logits = np.random.default_rng(0).normal(size=(3, 4, 3, 2)).astype(np.float32)
    found = restored(tiny.slabs_of(logits), undo, plan_of(BRATS))
    expected = np.zeros((4, 3, 2), np.uint8)
    for logit, region in zip(logits, BRATS, strict=True):
        expected[1 / (1 + np.exp(-logit)) > 0.5] = region.value
    np.testing.assert_array_equal(found.array, expected)
    assert found.present == (2, 5, 9)
    assert dict(found.names) == NAMES


def test_what_a_network_says_of_a_label_map_gives_it_back(undo: Undo) -> None:
    labels = np.random.default_rng(1).choice([0, 2, 5, 9], (4, 3, 2)).astype(np.uint8)
    logits = np.stack([np.where(np.isin(labels, region.values), 3, -3) for region in BRATS]).astype(np.float32)
    np.testing.assert_array_equal(restored(tiny.slabs_of(logits), undo, plan_of(BRATS)).array, labels)


def test_structures_are_the_likeliest(undo: Undo) -> None:
    logits = np.random.default_rng(0).normal(size=(4, 4, 3, 2)).astype(np.float32)
    found = restored(tiny.slabs_of(logits, 0, 3), undo, plan_of())
    np.testing.assert_array_equal(found.array, np.array([0, 2, 5, 9])[logits.argmax(0)])
    np.testing.assert_array_equal(found.array, restore(logits, undo, (2, 5, 9), NAMES).array)
