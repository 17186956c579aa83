from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from medseg.inference.tiles import line_weights
from medseg.inference.trust import disagreement as module
from medseg.inference.trust.disagreement import Disagreement
from medseg.planning.plan import Plan, Region
from tests.tiny import configuration, plan_of

PLAN = plan_of(configuration())
REGIONS = (Region(name="whole", values=(1, 2), value=1), Region(name="core", values=(2,), value=2))
PATCH = (4, 3, 5)


def agreement(logits_MBLXYZ: torch.Tensor, plan: Plan) -> dict[str, float]:
    watch = Disagreement(plan, PATCH)
    ballot = watch.ballot()
    for member in logits_MBLXYZ:
        ballot.vote(member)
    watch.count(ballot)
    return watch.finished()


@settings(max_examples=25, deadline=None)
@given(st.integers(2, 5), st.integers(1, 3), st.booleans(), st.integers(0, 99))
def test_it_is_the_mean_dice_of_all_pairs(members: int, batch: int, regions: bool, seed: int) -> None:
    torch.manual_seed(seed)
    plan = PLAN.model_copy(update={"regions": REGIONS}) if regions else PLAN
    logits = torch.randn(members, batch, 2 if regions else 3, *PATCH)
    logits += 1.5 * logits[:1]
    weights = np.einsum("x,y,z->xyz", *map(line_weights, PATCH))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "AT_ONCE", 50)
        found = agreement(logits, plan)
    for k, one in enumerate(REGIONS if regions else PLAN.structures):
        masks = (logits[:, :, k] > 0 if regions else logits.argmax(2) == k + 1).numpy()
        common = sum((weights * (a & b)).sum() for a, b in itertools.combinations(masks, 2))
        sizes = sum((weights * a).sum() + (weights * b).sum() for a, b in itertools.combinations(masks, 2))
        assert found[one.name] == pytest.approx(2 * common / sizes, abs=1e-5)


def test_one_member_or_nothing_found_says_nothing() -> None:
    assert agreement(torch.randn(1, 1, 3, *PATCH), PLAN) == {}
    background = torch.zeros(2, 1, 3, *PATCH)
    background[:, :, 0] = 1
    assert agreement(background, PLAN) == {}


def test_members_that_agree_have_a_dice_of_1() -> None:
    assert agreement(torch.randn(1, 2, 3, *PATCH).repeat(3, 1, 1, 1, 1, 1), PLAN) == {"blob1": 1.0, "blob2": 1.0}
