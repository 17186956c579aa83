from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import pytest
from numpy.typing import NDArray

from medseg.evaluation.case import score_case
from medseg.imaging.grid import Grid
from medseg.imaging.volume import LabelMap
from medseg.training.cleaning import choose_cleaning, dice_of, means

NAMES = {1: "liver", 2: "kidney"}
TARGETS = {"liver": (1,), "kidney": (2,)}
Map = NDArray[np.uint8]


def pairs_of(*maps: tuple[Map, Map], mm: float = 10.0) -> Callable[[], Iterator[tuple[LabelMap, LabelMap]]]:
    def again() -> Iterator[tuple[LabelMap, LabelMap]]:
        for reference, prediction in maps:
            grid = Grid(reference.shape, np.diag([mm, mm, mm, 1.0]))  # of 1 ml a voxel
            yield LabelMap(reference, grid, NAMES), LabelMap(prediction, grid, NAMES)

    return again


def organs(kidneys: int = 2) -> Map:
    """A liver of 64 voxels and up to two kidneys of 8 each, far apart."""
    array = np.zeros((16, 16, 16), np.uint8)
    array[1:5, 1:5, 1:5] = 1
    for k in range(kidneys):
        array[9:11, 2 + 8 * k : 4 + 8 * k, 9:11] = 2
    return array


def spoilt(array: Map, at: Sequence[tuple[int, int, int]], value: int) -> Map:
    out = array.copy()
    for place in at:
        out[place] = value
    return out


def words(steps: Sequence[object]) -> list[str]:
    return [step.words for step in steps]  # type: ignore[attr-defined]


def test_nothing_is_done_to_what_is_right() -> None:
    judged = choose_cleaning(pairs_of((organs(), organs()), (organs(1), organs(1))), TARGETS)
    assert judged.steps == ()
    assert judged.dice == {"liver": 1.0, "kidney": 1.0}


def test_strays_of_one_structure_go_and_two_kidneys_stay() -> None:
    """The strays are larger than a kidney: no volume tells them from it."""
    stray = [(x, 14, z) for x in range(6) for z in (13, 14)]
    judged = choose_cleaning(
        pairs_of((organs(), spoilt(organs(), stray, 1)), (organs(), spoilt(organs(), stray[::-1], 1))), TARGETS
    )
    assert words(judged.steps) == ["liver: only the largest component is kept"]
    assert judged.dice == {"liver": 1.0, "kidney": 1.0}


def test_small_components_go_where_a_structure_has_several() -> None:
    """The largest kidney alone would lose the other one."""
    wrong = [spoilt(organs(), [(14, 14, 14)], 2), spoilt(organs(), [(14, 1, 1), (14, 1, 2)], 2)]
    judged = choose_cleaning(pairs_of(*((organs(), prediction) for prediction in wrong)), TARGETS)
    assert words(judged.steps) == ["all structures together: components below 3 ml are removed"]
    liver = [spoilt(organs(), [(14, 14, 14)], 2), spoilt(spoilt(organs(), [(14, 1, 1)], 2), [(7, 7, 7)], 1)]
    true = [organs(), spoilt(organs(), [(7, 7, 7)], 1)]  # a small piece of liver is real: not all together
    judged = choose_cleaning(pairs_of(*zip(true, liver, strict=True)), TARGETS)
    assert words(judged.steps) == ["kidney: components below 3 ml are removed"]


def test_a_step_that_costs_another_structure_is_not_taken() -> None:
    """All together, the largest component is the liver: that would cost the kidneys."""
    judged = choose_cleaning(pairs_of((organs(1), spoilt(organs(1), [(14, 14, 14)], 1))), TARGETS)
    assert "all structures together: only the largest component is kept" not in words(judged.steps)
    assert judged.dice == {"liver": 1.0, "kidney": 1.0}


def test_holes_are_filled_where_that_helps_alone() -> None:
    whole = np.zeros((9, 9, 9), np.uint8)
    whole[1:8, 1:8, 1:8] = 1
    hollow = spoilt(whole, [(4, 4, 4), (4, 4, 5)], 0)
    judged = choose_cleaning(pairs_of((whole, hollow)), {"liver": (1,)})
    assert words(judged.steps) == ["liver: holes are filled"]
    assert judged.dice == {"liver": 1.0}
    assert choose_cleaning(pairs_of((hollow, hollow)), {"liver": (1,)}).steps == ()


def test_a_stray_where_there_should_be_nothing_counts_as_a_failure() -> None:
    """Removed, the case no longer counts for the structure; that is a gain."""
    nothing, stray = np.zeros((8, 8, 8), np.uint8), np.zeros((8, 8, 8), np.uint8)
    stray[3, 3, 3] = 2
    both = np.zeros((8, 8, 8), np.uint8)
    both[1:4, 1:4, 1:4] = 2
    judged = choose_cleaning(pairs_of((nothing, stray), (both, both)), {"kidney": (2,)})
    assert words(judged.steps) == ["kidney: components below 3 ml are removed"]
    assert judged.dice == {"kidney": 1.0}


def test_regions_are_judged_as_a_whole() -> None:
    """A region of two values: what is removed from it is removed from the smaller one too."""
    regions = {"tumour": (1, 2), "core": (2,)}
    true = np.zeros((12, 12, 12), np.uint8)
    true[2:7, 2:7, 2:7] = 1
    true[3:5, 3:5, 3:5] = 2
    wrong = spoilt(true, [(10, 10, 10)], 1)
    judged = choose_cleaning(pairs_of((true, wrong)), regions)
    assert len(judged.steps) == 1
    assert set(judged.steps[0].values) == {1, 2}
    assert judged.dice == {"tumour": 1.0, "core": 1.0}


def test_ignored_voxels_count_neither_for_nor_against() -> None:
    true, found = np.array([[[1, 1, 9, 0]]], np.uint8), np.array([[[1, 1, 1, 0]]], np.uint8)
    assert dice_of(true, found, {"liver": (1,)}) == {"liver": pytest.approx(0.8)}
    assert dice_of(true, found, {"liver": (1,)}, ignore=9) == {"liver": 1.0}
    assert dice_of(true, found, {"liver": (1, 3)}, ignore=9) == {"liver": 1.0}


def test_dice_is_that_of_the_evaluation() -> None:
    rng = np.random.default_rng(0)
    maps = [tuple(rng.integers(0, 3, (6, 7, 8)).astype(np.uint8) for _ in range(2)) for _ in range(3)]
    pairs = pairs_of(*maps)  # type: ignore[arg-type]
    by_structure: dict[str, list[float]] = {"liver": [], "kidney": []}
    for reference, prediction in pairs():
        for score in score_case("case", reference, prediction):
            by_structure[score.structure].append(score.dice)  # type: ignore[arg-type]
    found = means(pairs, (), TARGETS)
    assert found == {name: pytest.approx(np.mean(values)) for name, values in by_structure.items()}
