from __future__ import annotations

import numpy as np
import pytest

from medseg.errors import GeometryError
from medseg.imaging.grid import Grid
from medseg.imaging.volume import LabelMap
from medseg.planning.plan import Plan, Region
from medseg.training.validate import score_planned
from tests import tiny

REGIONS = (Region(name="both", values=(1, 2), value=1), Region(name="inner", values=(2,), value=2))


def plan_of(outputs: int, regions: tuple[Region, ...] = (), ignore: int | None = None) -> Plan:
    """For structures of the values 1 and 2, with a network that takes a channel for each of its outputs."""
    plan = tiny.plan_of(tiny.configuration(classes=3))
    network = plan.configuration.network.model_copy(update={"in_channels": outputs, "classes": outputs})
    made = plan.configuration.model_copy(update={"network": network})
    return plan.model_copy(update={"configurations": {"3d": made}, "regions": regions, "ignore": ignore})


def random_classes(n: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, n, (8, 8, 8))


def dice(ours: np.ndarray, theirs: np.ndarray) -> float:
    return float(2 * np.count_nonzero(ours & theirs) / (np.count_nonzero(ours) + np.count_nonzero(theirs)))


def labels(array: np.ndarray) -> LabelMap:
    return LabelMap(array.astype(np.uint8), Grid(array.shape, np.eye(4)), {1: "a", 2: "b"})


def test_structures_are_scored_each() -> None:
    reference, prediction = random_classes(3), np.roll(random_classes(3), 1, 0)
    rows = score_planned("c", labels(reference), labels(prediction), plan_of(3))
    assert [row.structure for row in rows] == ["a", "b"]
    assert rows[0].dice == pytest.approx(dice(reference == 1, prediction == 1))


def test_regions_are_scored_as_wholes() -> None:
    reference, prediction = random_classes(3), np.roll(random_classes(3), 1, 0)
    rows = score_planned("c", labels(reference), labels(prediction), plan_of(2, REGIONS))
    assert [(row.case, row.structure) for row in rows] == [("c", "both"), ("c", "inner")]
    assert rows[0].dice == pytest.approx(dice(reference > 0, prediction > 0))
    assert rows[1].dice == pytest.approx(dice(reference == 2, prediction == 2))


@pytest.mark.parametrize("regions", [(), REGIONS])
def test_what_nobody_labelled_is_not_scored(regions: tuple[Region, ...]) -> None:
    reference, prediction = random_classes(4), np.roll(random_classes(3), 1, 0)
    reference[reference == 3] = 9
    plan = plan_of(2 if regions else 3, regions, ignore=9)
    rows = score_planned("c", labels(reference), labels(prediction), plan)
    counted = np.where(reference == 9, 0, prediction)
    assert rows[-1].dice == pytest.approx(dice(reference == 2, counted == 2))
    assert rows[-1].volume_pred_ml == pytest.approx(np.count_nonzero(counted == 2) / 1000)
    other = np.where(reference == 9, 2, prediction)
    assert score_planned("c", labels(reference), labels(other), plan) == rows


def test_another_grid_is_refused() -> None:
    with pytest.raises(GeometryError):
        score_planned("c", labels(np.zeros((4, 4, 4))), labels(np.zeros((4, 4, 5))), plan_of(3, ignore=9))
