"""Agreement of volumes against closed forms, scipy and the example of Bland and Altman."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from medseg.evaluation.agreement import points, volume_agreement
from medseg.evaluation.score import StructureScore

# Peak expiratory flow by two meters: Bland and Altman, Lancet 1986
WRIGHT = (494, 395, 516, 434, 476, 557, 413, 442, 650, 433, 417, 656, 267, 478, 178, 423, 427)
MINI = (512, 430, 520, 428, 500, 600, 364, 380, 658, 445, 432, 626, 260, 477, 259, 350, 451)


def volumes(references, predictions, structure="liver"):
    rows = []
    for k, (reference, prediction) in enumerate(zip(references, predictions, strict=True)):
        status = {(True, True): "scored", (True, False): "missed", (False, True): "spurious"}.get(
            (reference > 0, prediction > 0), "both_empty"
        )
        none = dict.fromkeys(("dice", "iou", "hd_mm", "hd95_mm", "assd_mm", "nsd", "boundary_f1"))
        rows.append(
            StructureScore(
                case=f"c{k:03}",
                structure=structure,
                status=status,
                volume_ref_ml=reference,
                volume_pred_ml=prediction,
                **none,
            )
        )
    return rows


def agreement(references, predictions, patients=None):
    (found,) = volume_agreement(volumes(references, predictions), patients or {})
    return found


def test_the_example_of_the_paper():
    found = agreement(MINI, WRIGHT)
    assert (found.n, found.n_patients) == (17, 17)
    assert found.bias_ml == pytest.approx(-2.1, abs=0.05)
    assert found.sd_ml == pytest.approx(38.8, abs=0.05)
    assert (found.loa_low_ml, found.loa_high_ml) == pytest.approx((-78.1, 73.9), abs=0.1)
    assert found.bias_interval == pytest.approx((-22.0, 17.8), abs=0.1)  # 1986: t of 16 degrees, SD / sqrt(n)
    of_limit = 38.765 * math.sqrt(1 / 17 + 1.96**2 / 32) * stats.t.ppf(0.975, 16)
    assert found.loa_high_interval == pytest.approx((73.86 - of_limit, 73.86 + of_limit), abs=0.1)
    assert found.pearson == pytest.approx(stats.pearsonr(MINI, WRIGHT).statistic)
    line = stats.linregress((np.array(MINI) + WRIGHT) / 2, np.array(WRIGHT) - MINI)
    assert found.slope == pytest.approx(line.slope)
    half = line.stderr * stats.t.ppf(0.975, 15)
    assert found.slope_interval == pytest.approx((line.slope - half, line.slope + half))


def test_concordance_is_correlation_that_counts_bias():
    x = np.arange(1.0, 11.0)
    assert agreement(x, x).ccc == pytest.approx(1)
    shifted = agreement(x, x + 2)
    assert (shifted.pearson, shifted.bias_ml) == pytest.approx((1, 2))
    assert shifted.ccc == pytest.approx(2 * x.var() / (2 * x.var() + 4))
    scaled = agreement(x, 2 * x)
    assert scaled.slope == pytest.approx(2 / 3)  # difference x over mean 1.5 x
    assert scaled.ccc < scaled.pearson


def test_missed_has_no_volume_and_what_is_in_neither_is_left_out():
    rows = volumes([5, 4, 0, 0], [5, 0, 3, 0])
    assert [(p.case, p.mean_ml, p.difference_ml) for p in points(rows, "liver")] == [
        ("c000", 5, 0),
        ("c001", 2, -4),
        ("c002", 1.5, 3),
    ]
    (found,) = volume_agreement(rows, {})
    assert (found.n, found.bias_ml) == (3, pytest.approx(-1 / 3))
    assert found.bias_interval is None
    assert volume_agreement(volumes([0, 0], [0, 0]), {}) == ()


def test_one_case_and_volumes_that_do_not_vary():
    one = agreement([5], [6])
    assert (one.n, one.bias_ml, one.sd_ml, one.ccc) == (1, 1, None, None)
    same = agreement([0.1 + 0.2] * 6, [0.3] * 6)
    assert (same.ccc, same.pearson, same.slope) == (None, None, None)
    assert same.bias_interval is not None


def test_cases_of_one_patient_do_not_narrow_intervals():
    references, predictions = np.tile(MINI, 3), np.tile(WRIGHT, 3)
    patients = {f"c{k:03}": k % 17 for k in range(51)}
    alone, three = agreement(MINI, WRIGHT), agreement(references, predictions, patients)
    assert (three.n, three.n_patients) == (51, 17)
    for name in ("bias_interval", "loa_low_interval", "slope_interval"):
        ours, theirs = (np.diff(getattr(found, name)).item() for found in (three, alone))
        assert ours == pytest.approx(theirs, rel=0.08)
    few = agreement(references, predictions, {f"c{k:03}": k % 4 for k in range(51)})
    assert (few.bias_interval, few.slope_interval) == (None, None)
    assert few.slope is not None
