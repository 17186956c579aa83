from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from medseg.errors import GeometryError
from medseg.imaging.dicom.extent import contour_points, contours_grid, extended, labelled_points, segments_grid
from medseg.imaging.dicom.rtstruct import Structure, filled
from medseg.imaging.dicom.seg import read_segments
from medseg.imaging.grid import Grid
from tests.imaging.build import some_series, tilted
from tests.imaging.dicom.test_seg import grid_of, made_seg, saved
from tests.imaging.test_grid import affine_of

GRID = Grid((6, 5, 4), affine_of((0.9, 1.1, 2.5), (10, -20, 30), (-5, 7, 30), False))


def at(*index: float) -> np.ndarray:
    return GRID.affine[:3, :3] @ index + GRID.affine[:3, 3]


def test_a_grid_grows_by_whole_voxels() -> None:
    assert extended(GRID, np.zeros((0, 3))) is GRID
    assert extended(GRID, np.array([at(-0.5, 4.5, 3.4)])) is GRID
    grown = extended(GRID, np.array([at(-2.3, 2, 1), at(5, 7.6, 3)]))
    assert grown.shape == (8, 9, 4)
    assert np.allclose(grown.affine[:3, :3], GRID.affine[:3, :3])
    assert np.allclose(grown.affine[:3, 3], at(-2, 0, 0))


@pytest.mark.parametrize("far", [1e9, np.inf])
def test_what_is_no_scan_any_more_is_refused(far: float) -> None:
    with pytest.raises(GeometryError, match=r"\[OFF_GRID\]"), np.errstate(invalid="ignore"):
        extended(GRID, np.array([[far, far, far]]))


def segment(path: Path, slices: tuple[int, ...], tilt: float = 0) -> Path:
    built = tilted(9, tilt) if tilt else some_series(9)
    array = np.zeros(built.stored.shape, np.uint8)
    array[list(slices), 1:3, 2:5] = 1
    return saved(path, made_seg(built, array, names=["a"]))


def test_the_slices_of_two_segmentations_make_one_grid(tmp_path: Path) -> None:
    one = read_segments(segment(tmp_path / "a", (5, 6)))
    other = read_segments(segment(tmp_path / "b", (1,)))
    whole = grid_of(some_series(9))
    for several in ((one, other), (other, one)):
        grid = segments_grid(several)
        assert grid.shape == (6, 5, 6)
        assert np.allclose(grid.affine[:3, 3], (whole.affine @ [0, 0, 1, 1])[:3])
        for given, slices in ((one, [4, 5]), (other, [0])):
            labels, notes = given.onto(grid)
            assert np.flatnonzero(labels.array.any(axis=(0, 1))).tolist() == slices
            assert (np.count_nonzero(labels.array), notes) == (np.count_nonzero(given.array), ())
            assert extended(grid, labelled_points(given)) is grid


def test_segmentations_of_different_places_are_refused(tmp_path: Path) -> None:
    one = read_segments(segment(tmp_path / "a", (5, 6)))
    away = replace(one, planes=replace(one.planes, positions_mm=one.planes.positions_mm + 1e6))
    with pytest.raises(GeometryError, match=r"\[OFF_GRID\]"):
        segments_grid((one, away))


def test_tilted_segmentations_lose_nothing(tmp_path: Path) -> None:
    pair = [read_segments(segment(tmp_path / n, slices, tilt=15)) for n, slices in (("a", (5, 6)), ("b", (1,)))]
    grid = segments_grid(pair)
    for one in pair:
        labels, notes = one.onto(extended(grid, labelled_points(one)))
        assert (np.count_nonzero(labels.array), notes) == (np.count_nonzero(one.array), ())


@pytest.mark.parametrize("turn", [(0, 0, 0), (90, 0, 0), (20, -35, 70)])
def test_a_grid_of_contours_alone(turn: tuple[float, ...]) -> None:
    axes = affine_of((1, 1, 1), turn, (3, 4, 5), False)
    angle = np.linspace(0, 2 * np.pi, 60, endpoint=False)
    rings = [np.c_[12 * np.cos(angle), 12 * np.sin(angle), np.full(60, z)] for z in (0, 2.5, 5, 7.5)]
    contours = tuple(ring @ axes[:3, :3].T + axes[:3, 3] for ring in rings)
    structures = (Structure(1, "a", "", contours, 0),)
    grid = contours_grid(structures)
    assert extended(grid, contour_points(structures)) is grid
    found = filled(structures, grid)
    assert found.notes == ()
    assert np.count_nonzero(found.labels.array) * grid.voxel_ml == pytest.approx(4 * 2.5 * np.pi * 144 / 1000, rel=0.02)


def test_no_contours_at_all() -> None:
    assert contours_grid((Structure(1, "a", "", (), 0),)).shape == (1, 1, 1)
