from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from medseg.inference.measuring import intensities
from medseg.inference.measuring.intensities import mean_sd, quantiles

SHARES = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0)
FLOATS = st.floats(-(2.0**80), 2.0**80, width=32, allow_subnormal=False)


@settings(max_examples=40, deadline=None)
@given(arrays.arrays(np.float32, st.integers(1, 60), elements=FLOATS), st.integers(1, 7))
def test_quantiles_and_moments_are_those_of_numpy(values: np.ndarray, parts: int) -> None:
    pieces = np.array_split(values, parts)
    exact = values.astype(np.float64)
    expected = np.quantile(exact, SHARES)
    size = np.abs(exact).max()
    for few in (0, len(values)):  # counted, and sorted
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(intensities, "FEW", few)
            assert quantiles(lambda: pieces, SHARES) == pytest.approx(expected, rel=1e-12, abs=1e-12 * size)
    mean, sd = mean_sd(pieces)
    assert mean == pytest.approx(exact.mean(), rel=1e-9, abs=1e-12 * size)
    assert sd == pytest.approx(exact.std(), rel=1e-9, abs=1e-7 * size)


def test_a_small_spread_about_a_large_mean_is_kept() -> None:
    values = 1e6 + np.random.default_rng(0).standard_normal(5000)
    mean, sd = mean_sd(np.array_split(values, 9))
    assert mean == pytest.approx(values.mean(), rel=1e-14)
    assert sd == pytest.approx(values.std(), rel=1e-10)


@pytest.mark.parametrize("kind", [np.int16, np.uint8, np.float64, ">f4"])
def test_other_types_are_read_as_what_they_are(kind: str) -> None:
    values = np.arange(40).astype(kind)[::-1]
    assert quantiles(lambda: [values], (0.1, 0.5)) == pytest.approx(np.quantile(np.arange(40), (0.1, 0.5)))
