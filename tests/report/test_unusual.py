from __future__ import annotations

import numpy as np
import pytest

from medseg.report.unusual import FAR, robust_z


def test_a_wild_value_stands_out_however_wild_it_is():
    values = {str(n): 100.0 + n for n in range(9)}
    z = robust_z({**values, "wild": 1000.0})
    assert [name for name, one in z.items() if abs(one) > FAR] == ["wild"]
    assert robust_z({**values, "wild": 1e6})["0"] == pytest.approx(z["0"])


def test_of_normal_values_it_is_a_z_score():
    drawn = np.random.default_rng(0).normal(50, 5, 20_000)
    z = robust_z({str(n): float(value) for n, value in enumerate(drawn)})
    assert np.std(list(z.values())) == pytest.approx(1, abs=0.03)


def test_few_values_and_equal_values():
    assert robust_z({str(n): float(n) for n in range(7)}) == {}
    assert set(robust_z(dict.fromkeys("abcdefgh", 3.0)).values()) == {0.0}
    mostly = robust_z({**dict.fromkeys("abcdefg", 3.0), "h": 9.0})
    assert mostly["a"] == 0
    assert mostly["h"] > FAR
