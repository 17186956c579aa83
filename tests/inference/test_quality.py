from __future__ import annotations

import pytest

from medseg.inference.quality import folds_of, quality_told, with_quality, work_of
from medseg.planning.plan import Configuration
from tests.tiny import configuration


def made(trained_mirrored: tuple[int, ...] = ()) -> Configuration:
    one = configuration(patch=(8, 8, 8), mirror_axes=trained_mirrored)
    return one.model_copy(update={"median_shape": (32, 32, 32)})


def test_standard_is_what_was_planned() -> None:
    assert with_quality(made(), "standard") == made()
    assert folds_of("standard") is None


def test_fast_takes_larger_steps_and_one_fold() -> None:
    fast = with_quality(made((0,)), "fast")
    assert fast.window.step == 0.75
    assert fast.window.mirror_axes == ()
    assert folds_of("fast") == 1
    assert work_of(fast) == 5**3
    assert work_of(made()) == 7**3
    assert "0.36 times" in quality_told(made(), "fast")
    assert quality_told(made(), "fast").endswith("one fold alone")


def test_what_a_quality_gains_is_told_where_it_was_measured() -> None:
    told = quality_told(made(), "fast", {"fast": 0.88, "standard": 0.9})
    assert told.endswith("one fold alone; Dice of held-out cases, one network each, 0.880 for 0.900")
    assert quality_told(made(), "fast", {}) == quality_told(made(), "fast")


def test_max_mirrors_where_the_network_knows_it() -> None:
    best = with_quality(made((0, 1)), "max")
    assert best.window.mirror_axes == (0, 1)
    assert best.window.step == made().window.step
    assert "4 times" in quality_told(made((0, 1)), "max")
    assert with_quality(made(), "max") == made()
    assert "not trained to see mirrored scans" in quality_told(made(), "max")


@pytest.mark.parametrize("quality", ["fast", "standard", "max"])
def test_nothing_but_the_window_changes(quality: str) -> None:
    changed = with_quality(made((2,)), quality)  # type: ignore[arg-type]
    assert changed.model_copy(update={"window": made().window}) == made((2,))


def test_max_of_what_mirrors_already_says_so() -> None:
    planned = made((0, 1))
    planned = planned.model_copy(update={"window": planned.window.model_copy(update={"mirror_axes": (0, 1)})})
    assert "mirrored as planned already" in quality_told(planned, "max")
