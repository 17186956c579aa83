from __future__ import annotations

from typing import get_args

import pytest

from medseg.errors import InputError
from medseg.planning.plan import LossName, Region, Structure
from medseg.planning.volumes import Volumes
from medseg.planning.weights import check_weights, class_weights, loss_named, outputs_of
from medseg.training.losses.table import LOSSES

STRUCTURES = (
    Structure(value=1, name="Liver"),
    Structure(value=2, name="tumour"),
    Structure(value=3, name="vein"),
    Structure(value=4, name="cyst"),
)
REGIONS = (Region(name="organ", values=(1, 2), value=1), Region(name="tumour", values=(2,), value=2))


def sizes(*ml: float) -> list[Volumes]:
    return [Volumes(s.name, int(v > 0), v, v, v) for s, v in zip(STRUCTURES, ml, strict=True)]


SIZES = sizes(900, 100, 0.009, 0)


def weights(asked: str, regions: tuple[Region, ...] = ()) -> tuple[float, ...]:
    return class_weights(asked, STRUCTURES, regions, SIZES)


def test_all_alike_unless_asked() -> None:
    assert weights("even") == ()


def test_by_volume_the_small_weigh_more_but_none_without_bounds() -> None:
    assert weights("volume") == (1, 1, 3, 10, 1)


def test_a_region_is_as_large_as_its_structures_together() -> None:
    assert weights("volume", REGIONS) == (1, round(10**0.5, 3))


def test_weights_may_be_named() -> None:
    assert weights(" TUMOUR = 4, liver=0.5,") == (1, 0.5, 4, 1, 1)
    assert weights("background=0.1") == (0.1, 1, 1, 1, 1)
    assert weights("organ=2", REGIONS) == (2, 1)


@pytest.mark.parametrize("asked", ["kidney=2", "even=1"])
def test_what_is_no_output_of_the_network_cannot_be_weighed(asked: str) -> None:
    with pytest.raises(InputError, match="--class-weights names") as caught:
        weights(asked)
    assert "background, Liver, tumour, vein, cyst" in str(caught.value)
    with pytest.raises(InputError, match="names background"):
        weights("background=1", REGIONS)


@pytest.mark.parametrize(
    "asked", ["", ",", "many", "tumour", "tumour=", "tumour=0", "tumour=-1", "tumour=inf", "tumour=x", "=2", "a=1,A=2"]
)
def test_what_cannot_be_understood_is_refused_at_once(asked: str) -> None:
    with pytest.raises(InputError, match="cannot be used"):
        check_weights(asked)


def test_what_can_be_understood_is_kept() -> None:
    assert [check_weights(a) for a in ("even", "volume", "a=1, b=2")] == ["even", "volume", "a=1, b=2"]


def test_outputs_are_the_background_and_structures_or_regions_alone() -> None:
    assert outputs_of(STRUCTURES, ()) == ("background", "Liver", "tumour", "vein", "cyst")
    assert outputs_of(STRUCTURES, REGIONS) == ("organ", "tumour")


def test_losses_are_named_as_one_likes() -> None:
    assert set(LOSSES) == set(get_args(LossName))
    assert [loss_named(n) for n in ("dice_ce", "Focal-Tversky")] == ["dice_ce", "focal_tversky"]
    with pytest.raises(InputError, match="--loss best is no loss") as caught:
        loss_named("best")
    assert "dice_ce, dice_focal, tversky, focal_tversky, iou, boundary" in str(caught.value)
