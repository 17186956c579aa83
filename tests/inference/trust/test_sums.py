from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import ndimage
from scipy.special import expit, softmax

from medseg.inference.blending import Slab
from medseg.inference.trust import sums as module
from medseg.inference.trust.records import CaseTrust
from medseg.inference.trust.sums import CERTAIN, TrustSums, entropy
from medseg.planning.plan import Plan, Region
from tests.tiny import configuration, plan_of

PLAN = plan_of(configuration())
REGIONS = (Region(name="whole", values=(1, 2), value=1), Region(name="core", values=(2,), value=2))
PAINTED = PLAN.model_copy(update={"regions": REGIONS})


def logits_of(seed: int, *shape: int, lead: float = 6.0) -> NDArray[np.float32]:
    """Smooth logits (X, Y, Z, L) whose winners are blobs, with leads of all sizes."""
    noise = np.random.default_rng(seed).normal(size=shape)
    smooth = ndimage.gaussian_filter(noise, (1, 1, 1, 0))
    return (lead * smooth / smooth.std()).astype(np.float32)


def summed(
    logits_XYZL: NDArray[np.float32], axis: int = 0, cuts: tuple[int, ...] = (), plan: Plan = PLAN, **how: Any
) -> CaseTrust:
    sums = TrustSums(plan, **how)
    planes = np.moveaxis(logits_XYZL, axis, 0)
    edges = [0, *sorted({c for c in cuts if 0 < c < len(planes)}), len(planes)]
    slabs = (Slab(axis, a, torch.from_numpy(planes[a:b].copy())) for a, b in itertools.pairwise(edges))
    assert len(list(sums.taking(slabs))) == len(edges) - 1
    return sums.finished()


def in_plane_contour(found: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Of planes along the first axis: what erosion by a cross takes away; outside of the scan nothing counts."""
    cross = np.zeros((3, 3, 3), bool)
    cross[1, 1, :] = cross[1, :, 1] = True
    return found & ~ndimage.binary_erosion(found, cross, border_value=1)


def test_sums_are_those_of_softmax() -> None:
    logits = logits_of(0, 9, 8, 7, 3)
    winner, p = logits.argmax(-1), softmax(logits.astype(np.float64), -1)
    unsure = -(p * np.log(p)).sum(-1) / np.log(3)
    for k, found in enumerate(summed(logits, temperature=2.0).structures, 1):
        here = winner == k
        contour = in_plane_contour(here)
        assert found.voxels == here.sum()
        assert found.contour == contour.sum()
        bound = 2 * np.exp(-CERTAIN) * logits[..., 0].size
        assert found.inside == pytest.approx(p[here, k].sum(), abs=bound)
        assert found.everywhere == pytest.approx(p[..., k].sum(), abs=bound)
        assert found.entropy == pytest.approx(unsure[contour].mean(), abs=2e-3)
        assert found.confidence == pytest.approx(softmax(logits / 2, -1)[here, k].mean(), abs=2 * np.exp(-CERTAIN / 2))
        assert found.soft_dice == pytest.approx(2 * found.inside / (here.sum() + found.everywhere))


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 2), st.lists(st.integers(1, 8), max_size=4), st.integers(150, 900))
def test_how_slabs_are_cut_and_worked_on_does_not_matter(axis: int, cuts: list[int], at_once: int) -> None:
    logits = logits_of(1, 6, 7, 8, 3)
    classes = logits_of(2, 6, 7, 8, 4).argmax(-1).astype(np.uint8)
    whole = summed(logits, axis, classes_XYZ=classes)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "AT_ONCE", {"cpu": at_once})
        in_pieces = summed(logits, axis, tuple(cuts), classes_XYZ=classes)
    for a, b in zip(whole.structures, in_pieces.structures, strict=True):
        assert (a.voxels, a.contour) == (b.voxels, b.contour)
        assert a.inside == pytest.approx(b.inside, abs=2e-3)
        assert a.everywhere == pytest.approx(b.everywhere, abs=2e-3)
        assert a.entropy == pytest.approx(b.entropy, abs=1e-5)
    assert whole.reliability is not None
    assert in_pieces.reliability is not None
    assert whole.reliability.hits == in_pieces.reliability.hits


def test_regions_are_summed_one_by_one() -> None:
    logits = logits_of(3, 8, 7, 6, 2)
    for k, found in enumerate(summed(logits, plan=PAINTED).structures):
        here, p = logits[..., k] > 0, expit(logits[..., k].astype(np.float64))
        assert found.structure == REGIONS[k].name
        assert found.voxels == here.sum()
        assert found.contour == in_plane_contour(here).sum()
        assert found.inside == pytest.approx(p[here].sum(), rel=1e-4)
        assert found.everywhere == pytest.approx(p.sum(), rel=1e-4)
        assert found.confidence == pytest.approx(p[here].mean(), rel=1e-4)


def test_calibration_counts_what_is_labelled_or_doubtful_and_has_a_reference() -> None:
    logits = logits_of(4, 6, 6, 6, 3, lead=12)
    ordered = np.sort(logits, -1)
    counts = (logits.argmax(-1) > 0) | (ordered[..., -1] - ordered[..., -2] < CERTAIN)
    classes = np.zeros((6, 6, 6), np.uint8)
    classes[0] = 3  # nobody labelled the first plane
    reliability = summed(logits, 2, classes_XYZ=classes).reliability
    assert reliability is not None
    assert reliability.decisions == counts[1:].sum()
    assert sum(reliability.hits[0]) == (counts & (logits.argmax(-1) == 0))[1:].sum()


def test_calibration_of_regions_knows_their_values() -> None:
    logits = np.full((2, 2, 2, 2), 3.0, np.float32)
    classes = np.full((2, 2, 2), 1, np.uint8)  # in the whole, not in the core
    reliability = summed(logits, plan=PAINTED, classes_XYZ=classes).reliability
    assert reliability is not None
    assert reliability.decisions == 16
    assert sum(reliability.hits[0]) == 8


def test_a_scan_in_which_nothing_is_found_has_no_figures() -> None:
    logits = np.zeros((3, 3, 3, 3), np.float32)
    logits[..., 0] = 50
    for found in summed(logits).structures:
        assert (found.voxels, found.contour, found.everywhere) == (0, 0, 0.0)
        assert found.soft_dice is found.entropy is found.confidence is None


def test_large_scans_are_calibrated_on_evenly_spread_voxels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LOOKED_AT", 27)
    reliability = summed(logits_of(5, 6, 6, 6, 3, lead=1), classes_XYZ=np.zeros((6, 6, 6), np.uint8)).reliability
    assert reliability is not None
    assert reliability.decisions == 20  # every eleventh: 8, 9 and 10 share divisors with 6


@pytest.mark.parametrize("plan", [PLAN, PAINTED])
def test_voxels_that_are_looked_at_do_not_lie_on_a_line(monkeypatch: pytest.MonkeyPatch, plan: Plan) -> None:
    """Every 64th voxel of planes of 16 x 16 is the first of a line."""
    monkeypatch.setattr(module, "LOOKED_AT", 64)
    classes = np.full((16, 16, 16), 3, np.uint8)
    classes[..., 0] = 1  # nobody labelled the others
    logits = logits_of(7, 16, 16, 16, 3 if plan is PLAN else 2, lead=1)
    reliability = summed(logits, plan=plan, classes_XYZ=classes).reliability
    assert reliability is not None
    assert 1 <= reliability.decisions / (1 if plan is PLAN else 2) <= 6


def test_a_record_can_be_read_again() -> None:
    found = summed(logits_of(6, 4, 4, 4, 3), classes_XYZ=np.ones((4, 4, 4), np.uint8))
    assert CaseTrust.model_validate_json(found.model_dump_json()) == found


@given(st.floats(-40, 40), st.floats(0.3, 5))
def test_entropy_is_0_where_all_is_clear_and_1_where_nothing_is(value: float, temperature: float) -> None:
    two = entropy(torch.tensor([value, 0.0]), temperature, regions=False)
    one = entropy(torch.tensor([value]), temperature, regions=True)
    assert float(one) == pytest.approx(float(two), abs=1e-4)
    assert 0 <= float(one) <= 1 + 1e-6
    assert float(entropy(torch.zeros(5, 7), temperature, regions=False).mean()) == pytest.approx(1)
    assert float(entropy(torch.tensor([[99.0, 0.0]]), 1.0, regions=True)) == pytest.approx(1)  # the least decided one
