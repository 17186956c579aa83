from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from medseg.planning import mirroring
from medseg.planning.fingerprint import Fingerprint
from medseg.planning.mirroring import mirror_axes
from medseg.planning.plan import Structure
from tests.planning.build import placed

LEFT_RIGHT, FRONT_BACK, HEAD_FOOT = range(3)


def places(n: int, *about: Sequence[float], spread: float = 0.02, seed: int = 0) -> Fingerprint:
    """`n` cases with structure k + 1 near `about[k]` of the way."""
    rng = np.random.default_rng(seed)
    found = [{k + 1: tuple(rng.normal(at, spread)) for k, at in enumerate(about)} for _ in range(n)]
    return placed(found)  # type: ignore[arg-type]


def named(*names: str) -> list[Structure]:
    return [Structure(value=k + 1, name=name) for k, name in enumerate(names)]


@pytest.mark.parametrize(
    "name", ["left kidney", "Kidney_L", "kidney-right", "LH_cortex", "kidney (left)", "KidneyLeft", "lung.r", "right"]
)
def test_names_of_sides_forbid_left_right(name):
    axes, reason = mirror_axes(places(10, (0.5, 0.5, 0.5)), named(name))
    assert axes == (FRONT_BACK, HEAD_FOOT)
    assert "names tell left from right" in reason.why


@pytest.mark.parametrize("name", ["liver", "aorta", "bright spot", "LV", "tumour", "rhabdoid", "vertebrae_L1"])
def test_other_names_do_not(name):
    axes, reason = mirror_axes(places(10, (0.5, 0.5, 0.5)), named(name))
    assert axes == (0, 1, 2)
    assert reason.fields == ("schedule.mirror_axes",)


def test_a_structure_on_one_side_forbids_its_axis():
    axes, reason = mirror_axes(places(20, (0.3, 0.5, 0.5)), named("liver"))
    assert axes == (FRONT_BACK, HEAD_FOOT)
    assert "not left-right (liver at 30 +- 2 %): left is not right" in reason.why
    assert reason.numbers["left-right: mean place of liver"] == pytest.approx(0.3, abs=0.02)


def test_a_small_but_certain_offset_forbids_left_right_alone():
    axes, _ = mirror_axes(places(100, (0.42, 0.42, 0.5), spread=0.05), named("liver"))
    assert axes == (FRONT_BACK, HEAD_FOOT)


def test_a_lesion_that_may_lie_anywhere_allows_all():
    rng = np.random.default_rng(1)
    anywhere = placed([{1: tuple(rng.uniform(0.2, 0.8, 3))} for _ in range(40)])  # type: ignore[arg-type,misc]
    axes, reason = mirror_axes(anywhere, named("lesion"))
    assert axes == (0, 1, 2)
    assert reason.choice == "left-right and front-back and head-foot"


def ordered() -> Fingerprint:
    """A pair that lies anywhere, the second always in front of the first."""
    rng = np.random.default_rng(2)
    cases = []
    for _ in range(30):
        at = rng.uniform(0.3, 0.7, 3)
        cases.append({1: tuple(at), 2: (at[0], at[1] + 0.1, at[2])})
    return placed(cases)  # type: ignore[arg-type]


def test_two_structures_that_keep_their_order_forbid_its_axis():
    axes, reason = mirror_axes(ordered(), named("posterior", "anterior"))
    assert axes == (LEFT_RIGHT, HEAD_FOOT)
    assert "posterior and anterior keep their order" in reason.why
    assert reason.numbers["front-back: posterior less anterior"] == pytest.approx(-0.1)


def test_axes_for_one_reason_are_told_together():
    _, reason = mirror_axes(places(20, (0.5, 0.2, 0.2)), named("liver"))
    told = "not front-back (liver at 20 +- 2 %), head-foot (liver at 20 +- 2 %): place tells these labels apart"
    assert reason.why == told


def test_cases_without_structures_do_not_matter():
    cases = placed([{}, {1: (0.5, 0.5, 0.5)}, {}])
    assert mirror_axes(cases, named("liver", "lesion"))[0] == (0, 1, 2)
    assert mirror_axes(placed([{}]), named("liver"))[0] == (0, 1, 2)


def test_few_cases_tell_nothing_of_places():
    rare = placed([{1: (0.5, 0.5, 0.5)}] * 30 + [{1: (0.5, 0.5, 0.5), 2: (0.2, 0.2, 0.2)}])
    assert mirror_axes(rare, named("liver", "rare lesion"))[0] == (0, 1, 2)
    axes, reason = mirror_axes(places(mirroring.FEWEST_CASES - 1, (0.3, 0.3, 0.3)), named("liver"))
    assert axes == (0, 1, 2)
    assert reason.why == f"no structure is in {mirroring.FEWEST_CASES} cases: too few to tell where it lies"
    assert mirror_axes(places(1, (0.5, 0.5, 0.5)), named("left kidney"))[0] == (FRONT_BACK, HEAD_FOOT)


def test_structures_that_were_not_chosen_do_not_matter():
    cases = placed([{1: (0.5, 0.5, 0.5), 2: (0.1, 0.1, 0.1)}] * 3)
    assert mirror_axes(cases, named("liver"))[0] == (0, 1, 2)
