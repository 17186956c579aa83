from __future__ import annotations

import pytest
from pydantic import ValidationError

from medseg.errors import InputError
from medseg.planning.plan import EPOCH_STEPS, Budget, Request, budget_from


@pytest.mark.parametrize(
    ("text", "budget"),
    [
        ("90s", Budget(seconds=90)),
        ("20min", Budget(seconds=1200)),
        ("20 min", Budget(seconds=1200)),
        ("1.5h", Budget(seconds=5400)),
        ("2D", Budget(seconds=172_800)),
        ("3000steps", Budget(steps=3000)),
        ("1 step", Budget(steps=1)),
        ("4epochs", Budget(steps=4 * EPOCH_STEPS)),
        ("0.001 epochs", Budget(steps=1)),
    ],
)
def test_budgets(text, budget):
    assert budget_from(text) == budget


@pytest.mark.parametrize("text", ["", "20", "min", "-5min", "0s", "0 steps", "0.4 steps", "5 weeks", "inf h", "1e3s"])
def test_other_budgets_are_refused(text):
    with pytest.raises(InputError, match="--budget"):
        budget_from(text)


def test_a_request_is_read_strictly():
    request = Request(spacing="median", budget=Budget(steps=5))
    assert Request.model_validate_json(request.model_dump_json()) == request
    with pytest.raises(ValidationError):
        Request.model_validate_json('{"spacing": "median", "colour": "red"}')
