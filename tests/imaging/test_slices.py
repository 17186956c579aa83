from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from medseg.errors import InputError
from medseg.imaging.slices import Plane, stack

FLAT = (1.0, 0, 0, 0, 1, 0)


def planes(*heights_mm: float, orientation: tuple[float, ...] = FLAT) -> list[Plane]:
    return [Plane(5, 6, orientation, (-10.0, 20, z), (0.8, 0.7)) for z in heights_mm]


def code(given: list[Plane]) -> str:
    with pytest.raises(InputError) as caught:
        stack(given, "case-1")
    line = str(caught.value)
    assert line.startswith("case-1: [")
    assert "\n" not in line
    return line[line.index("[") + 1 : line.index("]")]


def test_order_and_affine() -> None:
    order, affine = stack(planes(5, 0, 2.5), "case-1")
    assert order == [1, 2, 0]
    assert np.allclose(affine, [[-0.7, 0, 0, 10], [0, -0.8, 0, -20], [0, 0, 2.5, 0], [0, 0, 0, 1]])


def test_rounded_positions_are_regular() -> None:
    stack(planes(0, 3.27, 6.53, 9.8, 13.07), "case-1")  # two decimals
    stack(planes(0, 0.625, 1.25, 1.875), "case-1")


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ([], "TOO_FEW"),
        (planes(0), "TOO_FEW"),
        (planes(0, 5, 10, 20, 25), "GAP"),
        (planes(0, 5, 10, 15.5, 20), "GAP"),
        (planes(0, 1.14, 5.36, 12.74), "GAP"),
        (planes(0, 5, 5, 10), "DUPLICATE_POSITION"),
        (planes(0, 0, 5, 5, 10, 10), "MULTI_VOLUME"),
        (planes(0, 5) + planes(10, orientation=(0, 1, 0, 0, 0, 1)), "MIXED_ORIENTATION"),
        (planes(0, 5, orientation=(1, 0, 0, 0.5, 0.5, 0)), "NO_GEOMETRY"),
        (planes(0, 5, orientation=(1, 0, 0, 1, 0, 0)), "NO_GEOMETRY"),
        ([*planes(0, 5), replace(planes(10)[0], rows=9)], "MIXED_SIZE"),
        ([*planes(0, 5), replace(planes(10)[0], spacing_mm=(0.9, 0.7))], "MIXED_SIZE"),
        ([replace(p, position_mm=(0, 0.3 * p.position_mm[2], p.position_mm[2])) for p in planes(0, 5, 10)], "TILT"),
        ([*planes(0, 5), replace(planes(10)[0], position_mm=(-10, 21, 10)), *planes(15)], "TILT"),
    ],
)
def test_what_makes_no_regular_volume_is_refused(given: list[Plane], expected: str) -> None:
    assert code(given) == expected


def test_a_gap_is_named_with_its_positions() -> None:
    with pytest.raises(InputError, match=r"missing between 10\.00 and 20\.00 mm \(usual step 5\.00 mm\)"):
        stack(planes(0, 5, 10, 20, 25), "case-1")


def test_a_tilt_is_named_with_its_angle() -> None:
    tilted = [
        replace(p, position_mm=(0, np.tan(np.radians(18)) * p.position_mm[2], p.position_mm[2])) for p in planes(0, 5)
    ]
    with pytest.raises(InputError, match=r"18\.0 degrees"):
        stack(tilted, "case-1")
