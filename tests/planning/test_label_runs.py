"""Structures from the runs of a label map, beside SciPy's own label, centre of mass and distances."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import ndimage

from medseg.planning import label_runs
from medseg.planning.label_runs import SmallPiece, middle, pieces, runs_by_value, small_pieces, touches, voxels_within

CORNERS = np.ones((3, 3, 3))


def random_labels(seed: int, values: int = 2) -> NDArray[np.uint8]:
    rng = np.random.default_rng(seed)
    shape = tuple(int(n) for n in rng.integers(1, 22, 3))
    labels = rng.integers(1, values + 1, shape) * (rng.random(shape) < rng.choice([0.03, 0.2, 0.6]))
    return labels.astype(np.uint8)


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10_000), order=st.permutations([0, 1, 2]), fortran=st.booleans())
def test_structures_are_those_that_scipy_finds(seed: int, order: list[int], fortran: bool) -> None:
    labels = random_labels(seed).transpose(order)
    labels = np.asfortranarray(labels) if fortran else labels
    found = runs_by_value(labels)
    assert list(found) == [int(v) for v in np.unique(labels) if v]
    for value, runs in found.items():
        mask = labels == value
        assert runs.lengths.sum() == mask.sum()
        assert middle(runs) == pytest.approx(ndimage.center_of_mass(mask))
        box = [(n // 3, n - n // 4) for n in labels.shape]
        assert voxels_within(runs, box) == mask[tuple(slice(*ends) for ends in box)].sum()
        sides = [(side, axis) for axis in range(3) for side in (0, -1)]
        borders = "".join(
            letter for letter, (side, axis) in zip("LRPAIS", sides, strict=True) if np.take(mask, side, axis).any()
        )
        assert touches(runs, labels.shape) == borders
    for (value, runs), piece in zip(found.items(), pieces(list(found.values())) if found else [], strict=True):
        expected, n = ndimage.label(labels == value, CORNERS)
        assert int(piece.max()) + 1 == n
        assert len(set(zip(piece.tolist(), expected[runs.x, runs.y, runs.z].tolist(), strict=True))) == n


def test_runs_do_not_go_from_row_to_row_or_slab_to_slab() -> None:
    labels = np.ones((3, 4, label_runs.SLAB + 2), np.uint8)
    (runs,) = runs_by_value(labels).values()
    assert runs.x.size == 4 * (label_runs.SLAB + 2)
    assert set(runs.lengths.tolist()) == {3}


def test_nothing_labelled_and_what_is_left_out() -> None:
    assert runs_by_value(np.zeros((3, 4, 5), np.uint8)) == {}
    assert list(runs_by_value(np.arange(4, dtype=np.uint16).reshape(4, 1, 1), without=2)) == [1, 3]
    assert small_pieces([], (1, 1, 1)) == []


def test_small_pieces_and_how_far_they_lie_from_the_body() -> None:
    labels = np.zeros((40, 20, 20), np.uint8)
    labels[5:15, 5:15, 5:15] = 3
    labels[18:20, 9, 9] = 3  # 3 voxels from voxel 14
    labels[30, 19, 14] = 3  # 16, 5 and 0 voxels away
    spacing = (1.0, 2.0, 5.0)
    ((n, small),) = small_pieces(list(runs_by_value(labels).values()), spacing)
    assert n == 3
    assert small == (SmallPiece(1, pytest.approx(np.hypot(16, 10))), SmallPiece(2, pytest.approx(4.0)))
    others = ndimage.distance_transform_edt(ndimage.label(labels, CORNERS)[0] != 1, sampling=spacing)
    assert small[0].away_mm == pytest.approx(others[30, 19, 14])


def test_two_large_pieces_are_both_body_and_a_scatter_is_not_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    labels = np.zeros((40, 10, 10), np.uint8)
    labels[:10], labels[20:30] = 1, 1
    labels[33, 0, 0] = 1
    ((n, small),) = small_pieces(list(runs_by_value(labels).values()), (1, 1, 1))
    assert (n, [p.away_mm for p in small]) == (3, [4.0])
    labels[::2, ::2, ::2] = 2
    assert small_pieces(list(runs_by_value(labels).values()), (1, 1, 1))[1][1] == ()
    monkeypatch.setattr(label_runs, "MOST_RUNS", 10)
    assert small_pieces(list(runs_by_value(labels).values()), (1, 1, 1)) == [(0, ()), (0, ())]
