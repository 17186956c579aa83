from __future__ import annotations

from typing import Any

import pytest

from medseg.errors import InputError
from medseg.inference.overrides import overridden
from medseg.inference.records import Cleaning
from medseg.planning.plan import Plan, Region, Structure
from tests.tiny import configuration, plan_of

TOGETHER = "all structures together"
LIVER = Cleaning(kind="largest", values=(1,), what="liver")
SPLEEN = Cleaning(kind="at_least", values=(2,), what="spleen", ml=0.3)
EVERY = Cleaning(kind="largest", values=(1, 2, 3), what=TOGETHER)
FILL = Cleaning(kind="fill", values=(1, 2, 3), what=TOGETHER)


def plan(*regions: Region) -> Plan:
    named = enumerate(("liver", "spleen", "tumour, left"), 1)
    structures = tuple(Structure(value=value, name=name) for value, name in named)
    return plan_of(configuration()).model_copy(update={"structures": structures, "regions": regions})


def said(steps: tuple[Cleaning, ...]) -> list[tuple[Any, ...]]:
    return [(step.kind, step.values, step.ml) if step.ml else (step.kind, step.values) for step in steps]


def test_what_is_not_asked_for_stays_as_chosen() -> None:
    assert overridden((EVERY, LIVER, SPLEEN), plan()) == (EVERY, LIVER, SPLEEN)


def test_a_step_that_is_asked_for_replaces_the_chosen_one_of_its_kind() -> None:
    found = overridden((LIVER, SPLEEN), plan(), min_volume=["spleen=2"], fill=["Spleen"])
    assert said(found) == [("largest", (1,)), ("at_least", (2,), 2.0), ("fill", (2,))]
    assert [step.what for step in found] == ["liver", "spleen", "spleen"]


def test_a_step_of_all_together_is_left_to_the_others() -> None:
    found = overridden((EVERY, FILL), plan(), largest=["liver"])
    assert said(found) == [("largest", (2, 3)), ("fill", (1, 2, 3)), ("largest", (1,))]
    assert found[0].words == "all structures together but liver: only the largest component is kept"


def test_all_is_each_on_its_own_and_none_is_nothing_of_what_was_chosen() -> None:
    each = [("largest", (1,)), ("largest", (2,)), ("largest", (3,))]
    assert said(overridden((EVERY, LIVER, SPLEEN), plan(), largest=["all"])) == [("at_least", (2,), 0.3), *each]
    assert overridden((EVERY, LIVER, SPLEEN), plan(), largest=["none"]) == (SPLEEN,)
    assert said(overridden((EVERY, FILL), plan(), largest=["none,liver"], fill=["None"])) == [("largest", (1,))]


def test_volumes_are_of_one_or_of_all_and_the_one_counts_more() -> None:
    found = overridden((SPLEEN,), plan(), min_volume=["liver=2,0.5"])
    assert said(found) == [("at_least", (1,), 2.0), ("at_least", (2,), 0.5), ("at_least", (3,), 0.5)]
    assert overridden((SPLEEN, LIVER), plan(), min_volume=["spleen=0"]) == (LIVER,)


def test_a_name_may_hold_a_comma_and_options_may_be_repeated() -> None:
    assert said(overridden((), plan(), fill=["tumour, left", "liver, spleen"])) == [
        ("fill", (3,)),
        ("fill", (1,)),
        ("fill", (2,)),
    ]
    assert said(overridden((), plan(), min_volume=["tumour, left=0.1"])) == [("at_least", (3,), 0.1)]


def test_regions_are_asked_for_by_name_and_leave_other_regions_alone() -> None:
    whole, core = Region(name="whole", values=(1, 2, 3), value=1), Region(name="core", values=(2, 3), value=2)
    chosen = Cleaning(kind="largest", values=(1, 2, 3), what="whole")
    found = overridden((EVERY, chosen), plan(whole, core), largest=["core"])
    assert said(found) == [("largest", (1,)), ("largest", (1, 2, 3)), ("largest", (2, 3))]
    assert [step.what for step in found] == ["all structures together but core", "whole", "core"]
    assert said(overridden((), plan(whole, core), fill=["all"])) == [("fill", (1, 2, 3)), ("fill", (2, 3))]


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"largest": ["lung"]}, "--largest: the model finds no structure 'lung'; it finds liver, spleen, tumour, left"),
        ({"min_volume": ["lung=1"]}, "--min-volume: the model finds no structure 'lung'"),
        ({"min_volume": ["liver"]}, "--min-volume liver is no volume"),
        ({"min_volume": ["liver=-1"]}, "--min-volume liver=-1 is no volume"),
        ({"min_volume": ["nan"]}, "--min-volume nan is no volume"),
    ],
)
def test_what_cannot_be_meant_is_refused(asked: dict[str, list[str]], words: str) -> None:
    with pytest.raises(InputError) as refused:
        overridden((LIVER,), plan(), **asked)
    assert str(refused.value).startswith(words)
