from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.special import softmax

from medseg.inference.trust.calibration import (
    AS_IT_IS,
    BINS,
    TEMPERATURES,
    ReliabilitySums,
    best_temperature,
    calibration_error,
)
from medseg.inference.trust.records import Reliability


def overconfident(times: float, seed: int = 0, n: int = 4000) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits (N, 3) whose true probabilities are those at the temperature `times`, and references drawn by these."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 2, (n, 3))
    p = softmax(logits, -1)
    reference = (rng.random((n, 1)) > p.cumsum(-1)).sum(-1).clip(max=2)
    return torch.from_numpy(logits * times).float(), torch.from_numpy(reference)


def reliability_of(logits: torch.Tensor, reference: torch.Tensor) -> Reliability:
    sums = ReliabilitySums()
    for piece in (slice(0, 100), slice(100, None)):
        sums.add_classes(logits[piece], logits[piece].argmax(-1), reference[piece])
    return sums.finished()


@pytest.mark.parametrize("times", [0.5, 1.0, 2.0])
def test_the_temperature_of_overconfident_probabilities_is_found(times: float) -> None:
    cases = [reliability_of(*overconfident(times, seed)) for seed in range(3)]
    best = best_temperature(cases)
    assert TEMPERATURES[best] == pytest.approx(times, rel=0.2)
    after, before = calibration_error(cases, best), calibration_error(cases, AS_IT_IS)
    assert after is not None
    assert before is not None
    assert after < 0.03
    assert before >= after


def test_the_error_is_that_of_the_definition() -> None:
    logits, reference = overconfident(3.0)
    p = softmax(logits.double().numpy(), -1)
    confidence, right = p.max(-1), p.argmax(-1) == reference.numpy()
    bins = np.minimum((confidence * BINS).astype(int), BINS - 1)
    expected = sum(
        (bins == b).mean() * abs(confidence[bins == b].mean() - right[bins == b].mean()) for b in np.unique(bins)
    )
    assert calibration_error([reliability_of(logits, reference)], AS_IT_IS) == pytest.approx(expected, abs=1e-4)


def test_cases_count_alike_whatever_their_size() -> None:
    large, small = (reliability_of(*overconfident(t, n=n)) for t, n in ((4.0, 8000), (1.0, 800)))
    errors = [calibration_error([case], AS_IT_IS) for case in (large, small)]
    assert calibration_error([large, small], AS_IT_IS) == pytest.approx(np.mean([e for e in errors if e is not None]))


def test_a_region_is_a_decision_of_two() -> None:
    logits, reference = torch.tensor([2.0, -1.0, 3.0]), torch.tensor([True, True, False])
    region, classes = ReliabilitySums(), ReliabilitySums()
    region.add_region(logits, reference)
    both = torch.stack([torch.zeros(3), logits], -1)
    classes.add_classes(both, both.argmax(-1), reference.long())
    assert region.finished() == classes.finished()


def test_nothing_is_changed_where_nothing_tells() -> None:
    nothing = ReliabilitySums().finished()
    assert best_temperature([nothing]) == AS_IT_IS
    assert calibration_error([nothing], AS_IT_IS) is None
