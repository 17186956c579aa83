from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from medseg.imaging.grid import Grid
from medseg.imaging.volume import LabelMap, Volume
from medseg.inference.measuring.field_of_view import acquired_box, faces_reached
from medseg.inference.measuring.structures import measure

SHAPE = (12, 11, 10)


def box(*sides: tuple[int, int]) -> tuple[slice, ...]:
    return tuple(slice(*side) for side in sides)


def noise() -> NDArray[np.float64]:
    return np.random.default_rng(0).normal(0, 10, SHAPE)


def test_a_scan_without_padding_is_acquired_to_its_ends() -> None:
    assert acquired_box(noise()) == box((0, 12), (0, 11), (0, 10))
    assert acquired_box(np.zeros(SHAPE)) == box((0, 12), (0, 11), (0, 10))
    assert acquired_box(np.zeros((1, 1, 1))) == box((0, 1), (0, 1), (0, 1))


def test_planes_of_one_value_around_the_scan_are_no_part_of_it() -> None:
    padded = np.full((12, 15, 14), -1024.0)
    padded[:, 1:12, 3:13] = noise()
    assert acquired_box(padded) == box((0, 12), (1, 12), (3, 13))


def test_where_a_body_fades_out_into_one_value_the_field_goes_on() -> None:
    at = np.indices((20, 20, 20)) - 9.6
    stripped = np.where(np.linalg.norm(at, axis=0) < 7.3, 100.0, 0.0)  # a skull-stripped head
    assert acquired_box(stripped) == box((0, 20), (0, 20), (0, 20))
    stripped[:, :, :8] = 0  # the same, cut across
    assert acquired_box(stripped)[2] == slice(8, 20)


@pytest.mark.parametrize(
    ("affine", "faces"),
    [
        (np.eye(4), ("left", "anterior")),
        (np.diag([-1.0, -1.0, 1.0, 1.0]), ("right", "posterior")),
        (np.eye(4)[[2, 0, 1, 3]], ("posterior", "superior")),
    ],
)
def test_faces_are_called_by_the_direction_in_the_patient(affine: NDArray[np.float64], faces: tuple[str, ...]) -> None:
    grid = Grid(SHAPE, affine)
    field = box((0, 12), (0, 11), (0, 10))
    assert faces_reached(box((0, 4), (5, 11), (2, 9)), field, grid) == faces
    assert faces_reached(box((1, 4), (5, 10), (2, 9)), field, grid) == ()


def test_a_structure_at_the_padding_is_cut_and_says_so() -> None:
    image = np.full(SHAPE, -1024.0, np.float32)
    image[:, :, 2:] = noise()[:, :, 2:]
    array = np.zeros(SHAPE, np.uint8)
    array[4:7, 4:7, 2:5] = 1
    array[8:10, 8:10, 4:6] = 2
    grid = Grid(SHAPE, np.eye(4))
    cut, whole = measure(LabelMap(array, grid, {1: "liver", 2: "cyst"}), Volume(image, grid))
    assert cut.remark == "liver is cut by the field of view (inferior): its volume is that of a part"
    assert whole.remark == ""
