from __future__ import annotations

import itertools
import math
import time
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medseg.evaluation.score import StructureScore
from medseg.inference.trust.assess import assess
from medseg.inference.trust.fit import FEWEST, SHRUNK, fit_trust, predicted_dice
from medseg.inference.trust.records import CaseTrust, Oddity, StructureSums, Trust


def sums(soft: float, structure: str = "liver", voxels: int = 1000) -> StructureSums:
    """A structure whose probabilities promise a Dice of `soft`."""
    inside = soft * voxels
    return StructureSums(
        structure=structure,
        voxels=voxels,
        inside=inside if voxels else 0.0,
        everywhere=float(voxels),
        contour=100 if voxels else 0,
        entropy=0.4 if voxels else None,
        confidence=soft if voxels else None,
    )


def case_of(*structures: StructureSums) -> CaseTrust:
    return CaseTrust(temperature=1.0, structures=structures)


def score(case: str, dice: float | None, ref_ml: float, pred_ml: float, structure: str = "liver") -> StructureScore:
    status = "both_empty" if dice is None else "scored" if ref_ml and pred_ml else "missed" if ref_ml else "spurious"
    metrics = dict.fromkeys(("iou", "hd_mm", "hd95_mm", "assd_mm", "nsd", "boundary_f1"), None if dice is None else 0.0)
    return StructureScore.model_validate(
        {"case": case, "structure": structure, "status": status, "dice": dice, **metrics}
        | {"volume_ref_ml": ref_ml, "volume_pred_ml": pred_ml}
    )


def cohort(n: int, seed: int = 0, ratio: float = 2.0) -> tuple[dict[str, CaseTrust], list[StructureScore]]:
    """Cases whose error of Dice is about `ratio` times the promised one."""
    rng = np.random.default_rng(seed)
    soft = rng.uniform(0.9, 0.98, n)
    errors = np.clip(ratio * (1 - soft) * np.exp(rng.normal(0, 0.3, n)), 0, 1)
    volumes = 10 * (1 + errors * rng.normal(0, 0.5, n))
    cases = {f"c{k}": case_of(sums(float(soft[k]))) for k in range(n)}
    return cases, [score(f"c{k}", float(1 - errors[k]), float(volumes[k]), 10.0) for k in range(n)]


@pytest.mark.parametrize("n", [5, 20, 200])
def test_the_error_is_some_times_what_probabilities_promise(n: int) -> None:
    (fit,) = fit_trust(*cohort(n)).structures
    assert fit.errors == n
    assert fit.ratio == pytest.approx(2.0, rel=0.3 if n < 20 else 0.15)
    assert fit.coverage == pytest.approx(1 - 2 / 6 if n == 5 else 0.9, abs=0.006)


def test_intervals_hold_in_as_many_new_cases_as_they_say() -> None:
    inside, volumes, total = 0, 0, 0
    for seed in range(12):
        trust = fit_trust(*cohort(40, seed))
        cases, scores = cohort(40, 1000 + seed)
        for (name, case), row in zip(cases.items(), scores, strict=True):
            (found,) = assess(trust, case, {"liver": row.volume_pred_ml})
            assert name == row.case
            assert None not in (found.dice_low, row.dice, found.volume_low_ml)
            inside += found.dice_low <= row.dice <= found.dice_high
            volumes += found.volume_low_ml <= row.volume_ref_ml <= found.volume_high_ml
            total += 1
    assert 0.86 <= inside / total <= 0.97
    assert 0.86 <= volumes / total <= 0.97


@settings(max_examples=30, deadline=None)
@given(st.integers(5, 12), st.integers(0, 50))
def test_what_is_predicted_falls_with_what_is_promised(n: int, seed: int) -> None:
    (fit,) = fit_trust(*cohort(n, seed)).structures
    dices = [predicted_dice(fit, sums(float(soft))) for soft in np.linspace(0.2, 1, 9)]
    for a, b in itertools.pairwise(dices):
        assert a is not None
        assert b is not None
        assert 0 <= a <= b <= 1


def test_too_few_cases_say_nothing() -> None:
    trust = fit_trust(*cohort(FEWEST - 1))
    (fit,) = trust.structures
    assert fit.ratio is fit.low is fit.volume_high is fit.coverage is trust.dice_error is None
    (found,) = assess(trust, case_of(sums(0.95)), {"liver": 10.0})
    assert found.predicted_dice is found.dice_low is found.volume_low_ml is None
    assert found.confidence == 0.95
    assert "no cross-validation tells" in found.words


def test_a_rare_structure_borrows_from_the_others() -> None:
    cases, scores = cohort(30)
    cases["c0"] = case_of(*cases["c0"].structures, sums(0.9, "node"))
    scores.append(score("c0", 0.8, 1.0, 1.0, "node"))
    liver, node = fit_trust(cases, scores).structures
    assert not liver.pooled
    assert node.pooled
    assert node.errors == 30  # cases, not structures
    assert node.ratio == pytest.approx(2.0, rel=0.2)


def many(n: int, structures: int, of_each: int = 0, seed: int = 0) -> tuple[dict[str, CaseTrust], list[StructureScore]]:
    """Cases of several structures (all, or `of_each` of them), whose errors of Dice are alike within a case."""
    rng = np.random.default_rng(seed)
    cases, scores = {}, []
    for k in range(n):
        soft = rng.uniform(0.9, 0.98, structures)
        errors = np.clip((1 - soft) * np.exp(rng.normal(0, 0.6) + rng.normal(0, 0.1, structures)), 0, 1)
        here = rng.permutation(structures)[: of_each or structures]
        cases[f"c{k}"] = case_of(*(sums(float(soft[s]), f"s{s}") for s in here))
        scores += [score(f"c{k}", float(1 - errors[s]), 10.0, 10.0, f"s{s}") for s in here]
    return cases, scores


def test_structures_of_one_case_are_not_cases() -> None:
    trust = fit_trust(*many(FEWEST - 1, 30))
    assert trust.dice_error is None
    assert {fit.errors for fit in trust.structures} == {FEWEST - 1}
    for fit in trust.structures:
        assert fit.ratio is fit.low is fit.volume_high is fit.coverage is None


def test_intervals_of_all_structures_hold_in_as_many_new_cases_as_they_say() -> None:
    inside = []
    for seed in range(20):
        trust = fit_trust(*many(12, 40, 4, seed))
        pooled = {fit.structure for fit in trust.structures if fit.pooled}
        new, scores = many(20, 40, 4, 1000 + seed)
        dices = {(row.case, row.structure): row.dice for row in scores}
        for name, case in new.items():
            held = []
            for one in assess(trust, case, {s.structure: 10.0 for s in case.structures}):
                if one.structure in pooled:
                    dice = dices[name, one.structure]
                    assert None not in (one.dice_low, dice, one.dice_high)
                    assert one.coverage == pytest.approx(1 - 2 / 13, abs=1e-4)
                    held.append(one.dice_low <= dice <= one.dice_high)  # type: ignore[operator]
            if held:
                inside.append(all(held))
    assert np.mean(inside) >= 1 - 2 / 13 - 0.03


def test_every_case_is_predicted_by_the_others_alone() -> None:
    cases, scores = many(9, 3)
    rows = [(row.case, row.structure, 1 - (row.dice or 0.0), 1 - (sums_of(cases, row) or 0.0)) for row in scores]
    away = []
    for case, structure, error, promised in rows:
        whole = [math.log(e / p) for c, _, e, p in rows if c != case]
        own = [math.log(e / p) for c, s, e, p in rows if c != case and s == structure]
        ratio = math.exp((len(own) * np.median(own) + SHRUNK * np.median(whole)) / (len(own) + SHRUNK))
        away.append(abs(min(ratio * promised, 1) - error))
    assert fit_trust(cases, scores).dice_error == pytest.approx(np.mean(away), rel=1e-4)


def sums_of(cases: dict[str, CaseTrust], row: StructureScore) -> float | None:
    return next(s.soft_dice for s in cases[row.case].structures if s.structure == row.structure)


def test_ten_thousand_structures_are_learned_from_in_seconds() -> None:
    held_out = many(200, 50)
    began = time.monotonic()
    assert fit_trust(*held_out).cases == 200
    assert time.monotonic() - began < 10


def test_the_error_of_what_is_predicted() -> None:
    trust = fit_trust(*cohort(60))
    assert trust.dice_error is not None
    assert 0.01 < trust.dice_error < 0.05


def test_scores_of_other_cases_are_not_looked_at() -> None:
    cases, scores = cohort(20)
    assert fit_trust(cases, [*scores, score("stranger", 0.0, 1.0, 0.0)]) == fit_trust(cases, scores)


def with_absent(right: int, wrong: int) -> Trust:
    cases, scores = cohort(10)
    for k in range(right + wrong):
        cases[f"a{k}"] = case_of(sums(0, voxels=0))
        scores.append(score(f"a{k}", None if k < right else 0.0, 0.0 if k < right else 5.0, 0.0))
    return fit_trust(cases, scores)


@pytest.mark.parametrize(
    ("right", "wrong", "said"),
    [
        (0, 0, "found in every held-out scan; look for it"),
        (5, 1, "of 6 held-out scans in which it was not, 5 did not hold it"),
        (0, 3, "of 3 held-out scans in which it was not, 0 did not hold it: look for it"),
    ],
)
def test_a_structure_that_was_not_found_is_told_as_such(right: int, wrong: int, said: str) -> None:
    (found,) = assess(with_absent(right, wrong), case_of(sums(0, voxels=0)), {"liver": 0.0})
    assert found.words.endswith(said)
    assert found.predicted_dice is found.confidence is None
    assert (found.concern > 0.5) == ("look for it" in said)


def test_spurious_structures_count_as_errors() -> None:
    cases, scores = cohort(30)
    worse = [row if k > 3 else score(row.case, 0.0, 0.0, 10.0) for k, row in enumerate(scores)]
    (fit,) = fit_trust(cases, worse).structures
    (found,) = assess(fit_trust(cases, worse), case_of(sums(0.95)), {"liver": 10.0})
    assert fit.errors == 30
    assert found.dice_low == 0
    assert found.volume_low_ml == 0


def said(soft: float, agreement: float | None = None, odd: Sequence[Oddity] = ()) -> tuple[str, float]:
    agreed = {} if agreement is None else {"liver": agreement}
    (found,) = assess(fit_trust(*cohort(40)), case_of(sums(soft)), {"liver": 10.0}, agreed, odd)
    return found.words, found.concern


def test_words_say_what_to_do() -> None:
    assert said(0.95)[0].startswith("as held-out scans: Dice of about 0.89")
    assert said(0.85)[0].startswith("look at it: Dice of about 0.66")
    assert said(0.6)[0].startswith("do not use it unseen")
    assert "agree by 0.40 only" in said(0.95, 0.4)[0]
    odd = Oddity(code="noise", what="it is noisy", times=1.5)
    words, concern = said(0.95, odd=[odd])
    assert words.startswith("look at it")
    assert "unlike the training scans" in words
    assert concern == 0.75
    assert said(0.6)[1] > said(0.85)[1] > said(0.95)[1]


def test_of_a_scan_that_is_unlike_nothing_is_predicted_and_all_is_to_be_looked_at() -> None:
    odd = [Oddity(code="noise", what="it is noisy", times=1.5)]
    (found,) = assess(fit_trust(*cohort(40)), case_of(sums(0.95)), {"liver": 10.0}, odd=odd)
    assert found.predicted_dice is found.dice_low is found.volume_low_ml is found.coverage is None
    assert found.look
    assert "Dice of 0.89 would be expected, but the scan is unlike the training scans" in found.words
