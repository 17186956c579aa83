"""Lesions against a loop over all pairs of components, the conventions, and laws that hold for any masks."""

from __future__ import annotations

import math
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from medseg.evaluation.lesions import LesionMatch, lesion_metrics, match_lesions
from medseg.evaluation.metrics import METRICS

NAMES = [one.name for one in METRICS if one.group == "lesions"]
MM = (1.0, 1.0, 1.0)


def mask(*boxes, shape=(20, 20, 20)):
    array = np.zeros(shape, bool)
    for box in boxes:
        array[tuple(slice(*side) for side in box)] = True
    return array


def cube(at, side=4):
    return tuple((n, n + side) for n in at)


def lone(array, spacing, least):
    """Each component as a set of voxels, found one voxel at a time."""
    left, found = {tuple(voxel) for voxel in np.argwhere(array).tolist()}, []
    while left:
        component, edge = set(), [left.pop()]
        while edge:
            voxel = edge.pop()
            component.add(voxel)
            near = {tuple(map(sum, zip(voxel, step, strict=True))) for step in product((-1, 0, 1), repeat=array.ndim)}
            edge += near & left
            left -= near
        if len(component) * math.prod(spacing) >= least - 1e-9:
            found.append(component)
    return found


def by_definition(r, p, spacing, least, t):
    lesions_r, lesions_p = lone(r, spacing, least), lone(p, spacing, least)
    iou = np.array([[len(a & b) / len(a | b) for b in lesions_p] for a in lesions_r])
    iou = iou.reshape(len(lesions_r), len(lesions_p))

    def f1(threshold):
        tp = (iou > threshold).any(axis=1).sum()
        fp, fn = (~(iou > threshold).any(axis=0)).sum(), len(lesions_r) - tp
        return 2 * tp / (2 * tp + fp + fn) if tp + fp + fn else None

    matched, n_r, n_p = iou[iou > 0.5], *iou.shape
    rq = len(matched) / ((n_r + n_p) / 2) if n_r + n_p else None
    return {
        "lesions_ref": n_r,
        "lesions_pred": n_p,
        "lesion_sensitivity": (iou > t).any(axis=1).mean() if n_r else None,
        "lesion_precision": (iou > t).any(axis=0).mean() if n_p else None,
        "lesion_f1": f1(t),
        "lesion_f1_overlap": f1(0),
        "lesion_false_positives": (~(iou > t).any(axis=0)).sum(),
        "rq": rq,
        "sq": matched.mean() if len(matched) else None,
        "pq": None if rq is None else rq * (matched.mean() if len(matched) else 0),
    }


def test_names_and_a_case_counted_by_hand():
    # found exactly, found with IoU 1/3, touched with IoU 4/124, missed; and one false lesion
    r = mask(cube((0, 0, 0)), cube((0, 0, 8)), cube((0, 8, 0)), cube((8, 0, 0)))
    p = mask(cube((0, 0, 0)), cube((2, 0, 8)), cube((3, 11, 0)), cube((14, 14, 14), 2))
    found = lesion_metrics(r, p, MM)
    assert list(found) == NAMES
    assert (found["lesions_ref"], found["lesions_pred"], found["lesion_false_positives"]) == (4, 4, 2)
    assert (found["lesion_sensitivity"], found["lesion_precision"], found["lesion_f1"]) == (0.5, 0.5, 0.5)
    assert found["lesion_f1_overlap"] == 0.75
    assert (found["rq"], found["sq"], found["pq"]) == (0.25, 1, 0.25)
    assert lesion_metrics(r, p, MM, lesion_iou=1 / 3)["lesion_sensitivity"] == 0.25  # an IoU of just the least is none
    assert match_lesions(r, p, MM) == (
        LesionMatch(0.064, 1.0, True),
        LesionMatch(0.064, 32 / 96, True),
        LesionMatch(0.064, 4 / 124, False),
        LesionMatch(0.064, 0.0, False),
    )


def test_one_lesion_may_meet_several():
    r = mask(((0, 4), (0, 4), (0, 12)))
    p = mask(cube((0, 0, 0)), cube((0, 0, 8)))
    found = lesion_metrics(r, p, MM)
    assert (found["lesion_sensitivity"], found["lesion_precision"], found["lesion_f1"], found["pq"]) == (1, 1, 1, 0)
    assert found["sq"] is None


def test_corners_connect():
    diagonal = mask(*(cube((n, n, n), 1) for n in range(5)))
    assert lesion_metrics(diagonal, diagonal, MM)["lesions_ref"] == 1
    assert lesion_metrics(diagonal[:, 2], diagonal[:, 2], MM[:2])["lesions_ref"] == 1


@pytest.mark.parametrize("least", [0.0, 65.0])
def test_what_a_side_without_lesions_leaves_open(least):
    """The same where all lesions of a side are below the least volume."""
    some, none = mask(cube((2, 2, 2), 6), cube((12, 12, 12), 5)), mask(cube((5, 5, 5))) if least else mask()
    missed, spurious, neither = (
        lesion_metrics(*pair, MM, least) for pair in ((some, none), (none, some), (none, none))
    )
    for one in METRICS:
        if one.group == "lesions" and one.name not in ("lesions_ref", "lesions_pred", "lesion_false_positives"):
            assert missed[one.name] == one.missed, one.name
            assert spurious[one.name] == one.spurious, one.name
            assert neither[one.name] is None, one.name
    counts = ("lesions_ref", "lesions_pred", "lesion_false_positives")
    told = [[found[name] for name in counts] for found in (missed, spurious, neither)]
    assert told == [[2, 0, 0], [0, 2, 2], [0, 0, 0]]
    assert match_lesions(none, some, MM, least) == ()
    assert [one.best_iou for one in match_lesions(some, none, MM, least)] == [0, 0]


def test_a_lesion_of_exactly_the_least_volume_counts():
    array = mask(((0, 1), (0, 1), (0, 3)))
    for spacing, least in (((0.1, 0.1, 0.1), 0.003), ((0.8, 0.8, 2.5), 4.8), ((0.7, 0.7, 3.3), 0.7 * 0.7 * 3.3 * 3)):
        assert lesion_metrics(array, array, spacing, least)["lesions_ref"] == 1
        assert lesion_metrics(array, array, spacing, least * 1.001)["lesions_ref"] == 0


@st.composite
def pairs(draw):
    """Two masks of one to three dimensions' size and any density; some hold nothing."""
    shape = draw(st.one_of(st.tuples(*[st.integers(1, 8)] * 3), st.tuples(*[st.integers(1, 12)] * 2)))
    rng = np.random.default_rng(draw(st.integers(0, 10_000)))
    density = draw(st.sampled_from([0.0, 0.05, 0.15, 0.5]))
    r, p = (rng.random(shape) < density for _ in range(2))
    if draw(st.booleans()):
        p = np.where(rng.random(shape) < 0.1, p, r)
    spacing = draw(st.tuples(*[st.sampled_from([0.5, 0.8, 1.0, 2.5])] * len(shape)))
    return r, p, spacing


few = settings(max_examples=60, deadline=None)
leasts, ious = st.sampled_from([0.0, 1.0, 3.0]), st.sampled_from([0.0, 0.1, 0.3, 0.5])


@few
@given(pairs(), leasts, ious)
def test_as_a_loop_over_all_pairs_finds(pair, least, iou):
    found, expected = lesion_metrics(*pair, least, iou), by_definition(*pair, least, iou)
    assert list(found) == list(expected)
    for name, value in expected.items():
        assert found[name] == (None if value is None else pytest.approx(value, rel=1e-12)), name
    matches = match_lesions(*pair, least, iou)
    assert len(matches) == found["lesions_ref"]
    if matches:
        assert sum(one.matched for one in matches) / len(matches) == found["lesion_sensitivity"]


@few
@given(pairs(), leasts, ious)
def test_swapping_the_sides_swaps_sensitivity_and_precision(pair, least, iou):
    r, p, spacing = pair
    there, back = lesion_metrics(r, p, spacing, least, iou), lesion_metrics(p, r, spacing, least, iou)
    assert there["lesion_sensitivity"] == back["lesion_precision"]
    assert there["lesion_precision"] == back["lesion_sensitivity"]
    assert [there[name] for name in ("rq", "sq", "pq")] == [back[name] for name in ("rq", "sq", "pq")]


@few
@given(pairs(), leasts, st.data())
def test_turning_the_arrays_and_empty_space_change_nothing(pair, least, data):
    r, p, spacing = pair
    order = data.draw(st.permutations(range(r.ndim)))
    steps = data.draw(st.tuples(*[st.sampled_from([1, -1])] * r.ndim))
    pad = data.draw(st.tuples(st.integers(0, 3), st.integers(0, 3)))
    turned = [np.pad(a[tuple(slice(None, None, s) for s in steps)].transpose(order), pad) for a in (r, p)]
    there = [spacing[axis] for axis in order]
    assert lesion_metrics(*turned, there, least) == lesion_metrics(r, p, spacing, least)
    assert [one.best_iou for one in match_lesions(*turned, there, least)] == [
        one.best_iou for one in match_lesions(r, p, spacing, least)
    ]


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int64, np.float32])
@pytest.mark.parametrize("order", ["C", "F"])
def test_type_and_order_in_memory_change_nothing(dtype, order):
    rng = np.random.default_rng(1)
    r, p = (ndimage.gaussian_filter(rng.standard_normal((16, 15, 14)), 1) > 0.2 for _ in range(2))
    others = [np.asarray(array * 7, dtype=dtype, order=order) for array in (r, p)]
    assert lesion_metrics(*others, MM, 4) == lesion_metrics(r, p, MM, 4)
    assert lesion_metrics(r[::-1], p[::-1], MM, 4) == lesion_metrics(r, p, MM, 4)


def test_a_single_slice_is_the_same_in_two_dimensions():
    rng = np.random.default_rng(2)
    r, p = (rng.random((12, 12)) < 0.3 for _ in range(2))
    assert lesion_metrics(r, p, (0.5, 0.7)) == lesion_metrics(r[..., None], p[..., None], (0.5, 0.7, 5.0))
