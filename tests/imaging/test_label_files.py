from __future__ import annotations

from pathlib import Path
from typing import get_args

import numpy as np
import pytest

from medseg.errors import GeometryError, InputError
from medseg.imaging.grid import Grid
from medseg.imaging.label_files import (
    LABEL_READERS,
    LabelKind,
    common_voxels,
    label_kind,
    label_names_in,
    label_references,
    placed,
    read_label_file,
    read_label_file_noted,
    read_label_grid,
)
from medseg.imaging.nifti import read_labels, write_labels
from medseg.imaging.regrid import map_onto, straight_cover
from medseg.imaging.volume import LabelMap
from tests.imaging.build import FRAME_OF_REFERENCE, ROOT_UID, some_label, some_series
from tests.imaging.dicom.test_rtstruct import contour, refer, structure_set
from tests.imaging.dicom.test_seg import grid_of, made_seg, saved
from tests.imaging.test_itk import STRAIGHT, itk_image, nrrd, seg_nrrd, write
from tests.imaging.test_nifti import with_affines

BUILT = some_series(4)  # 6 columns, 5 rows, 4 slices
GRID = grid_of(BUILT)
LABELS = some_label(1)  # of the same shape
NAMES = {1: "liver"}


def boxes() -> list[np.ndarray]:
    """The outline of `LABELS` on its two slices, in LPS+ mm."""
    corners = np.array([[0.5, 0.5], [2.5, 0.5], [2.5, 2.5], [0.5, 2.5]])
    scale = np.array([BUILT.between_columns_mm, BUILT.between_rows_mm])
    return [np.c_[corners * scale, np.zeros(4)] + BUILT.position_mm(k) for k in (1, 2)]


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    """The same labels in every format."""
    labels = LabelMap(LABELS, GRID, NAMES)
    write_labels(tmp_path / "a.nii.gz", labels)
    drawn = [contour(points) for points in boxes()]
    segment = {"Name": "liver", "LabelValue": "1", "Layer": "0"}
    directions = " ".join(f"({','.join(f'{v:.9f}' for v in GRID.affine[:3, i])})" for i in range(3))
    origin = ",".join(f"{v:.9f}" for v in GRID.affine[:3, 3])
    fields = f"space: right-anterior-superior\nspace directions: {directions}\nspace origin: ({origin})"
    return {
        "nifti": tmp_path / "a.nii.gz",
        "itk": seg_nrrd(tmp_path / "a.seg.nrrd", LABELS, segment, kinds=fields),
        "seg": saved(tmp_path / "no suffix", made_seg(BUILT, np.ascontiguousarray(LABELS.T), names=["liver"])),
        "rtstruct": refer(structure_set(tmp_path / "rs.dcm", [(1, "liver", drawn)]), [f"{ROOT_UID}.1"], ["1.2.3"]),
    }


def test_the_table_holds_every_kind() -> None:
    assert tuple(LABEL_READERS) == get_args(LabelKind)


@pytest.mark.parametrize("kind", LABEL_READERS)
def test_every_format_on_the_grid_of_the_scan(files: dict[str, Path], kind: LabelKind) -> None:
    path = files[kind]
    assert label_kind(path) == kind
    labels, notes = read_label_file_noted(path, GRID, frame_of_reference=FRAME_OF_REFERENCE)
    assert np.array_equal(labels.array, LABELS)
    assert labels.grid is GRID
    assert notes == ()
    assert dict(labels.names) == ({1: "1"} if kind == "nifti" else NAMES)
    assert label_names_in(path) == (None if kind == "nifti" else NAMES)
    assert dict(read_label_file(path, GRID, {1: "other"}).names) == {1: "other"}
    own = read_label_grid(path)
    assert (own is None) == (kind in ("seg", "rtstruct"))
    assert own is None or own.agrees(GRID)


@pytest.mark.parametrize("kind", LABEL_READERS)
def test_every_format_without_a_scan(files: dict[str, Path], kind: LabelKind) -> None:
    if LABEL_READERS[kind].needs_grid:
        with pytest.raises(InputError, match=r"case-1: \[NEEDS_SCAN\] contours alone.*give the scan"):
            read_label_file(files[kind], name="case-1")
        return
    labels = read_label_file(files[kind])
    assert np.count_nonzero(labels.array) == np.count_nonzero(LABELS)
    there = placed(labels, GRID, may_be_cropped=True)[0]
    assert np.array_equal(there.array, LABELS)


@pytest.mark.parametrize("kind", LABEL_READERS)
def test_every_format_names_the_case_where_labels_lie_elsewhere(files: dict[str, Path], kind: LabelKind) -> None:
    away = np.array(GRID.affine)
    away[:3, 3] += 300.3
    with pytest.raises(GeometryError, match=r"case-1: \[(OFF_GRID|OTHER_GRID|OBLIQUE)\]"):
        read_label_file(files[kind], Grid(GRID.shape, away), name="case-1")


@pytest.mark.parametrize("kind", ["seg", "rtstruct"])
def test_dicom_labels_of_another_frame_of_reference(files: dict[str, Path], kind: LabelKind) -> None:
    with pytest.raises(GeometryError, match=r"case-1: \[OFF_GRID\]"):
        read_label_file_noted(files[kind], GRID, None, "case-1", "1.2.3")


def test_references(files: dict[str, Path]) -> None:
    for kind, path in files.items():
        expected = (f"{ROOT_UID}.1", FRAME_OF_REFERENCE) if kind in ("seg", "rtstruct") else ()
        assert label_references(path) == expected


def test_what_is_no_label_file(tmp_path: Path) -> None:
    (tmp_path / "x.txt").write_text("text")
    some_series(1).dataset(0).save_as(tmp_path / "image", enforce_file_format=True)
    for name in ("x.txt", "image"):
        assert label_kind(tmp_path / name) is None
        assert label_names_in(tmp_path / name) is None
        assert read_label_grid(tmp_path / name) is None
        with pytest.raises(InputError, match=r"case-1: \[FORMAT\]"):
            read_label_file(tmp_path / name, name="case-1")
    with pytest.raises(InputError, match=r"case-1: \[NOT_FOUND\]"):
        read_label_file(tmp_path / "none", name="case-1")


def moved(grid: Grid, *, by: tuple[float, ...] = (0, 0, 0), shape: tuple[int, int, int] | None = None) -> Grid:
    affine = np.array(grid.affine)
    affine[:3, 3] += affine[:3, :3] @ np.array(by)
    return Grid(shape or grid.shape, affine)


def test_labels_stored_in_another_direction_are_put_on_the_scan() -> None:
    turn = np.array([[0, 0, 1.0, 0], [-1, 0, 0, 4], [0, 1, 0, 0], [0, 0, 0, 1]])  # (x, y, z) <- (z, 4 - x, y)
    turned = LabelMap(np.flip(LABELS, 1).transpose(1, 2, 0), Grid((5, 4, 6), GRID.affine @ turn), NAMES)
    there, notes = placed(turned, GRID)
    assert np.array_equal(there.array, LABELS)
    assert there.grid is GRID
    assert notes == ()


@pytest.mark.parametrize("by", [(0.2, 0, 0), (1, 0, 0), (0, 0, -2), (100, 0, 0)])
def test_labels_beside_their_scan_are_refused_with_the_distance(by: tuple[float, ...]) -> None:
    away = np.linalg.norm(GRID.affine[:3, :3] @ np.array(by))
    for may_be_cropped in (True, False):
        with pytest.raises(GeometryError, match=rf"case-1: \[OTHER_GRID\].*up to {away:.3g} mm away"):
            placed(LabelMap(LABELS, moved(GRID, by=by), NAMES), GRID, "case-1", may_be_cropped)


def test_labels_of_another_shape_are_refused() -> None:
    fine = Grid((12, 10, 8), GRID.affine @ np.diag([0.5, 0.5, 0.5, 1]))
    labels = LabelMap(np.kron(LABELS, np.ones((2, 2, 2), np.uint8)), fine, NAMES)
    with pytest.raises(GeometryError, match=r"\[OTHER_SHAPE\].*shape \(12, 10, 8\), its scan \(6, 5, 4\)"):
        placed(labels, GRID, may_be_cropped=True)


def test_cropped_labels_of_slicer_are_put_where_they_belong(tmp_path: Path) -> None:
    onto = Grid((6, 5, 4), np.array([[1.0, 0, 0, 4], [0, 2, 0, 5], [0, 0, 3, 6], [0, 0, 0, 1]]))
    origin = ",".join(str(v) for v in onto.affine[:3, :3] @ [1, 1, 1] + onto.affine[:3, 3])
    fields = STRAIGHT.replace("(4,5,6)", f"({origin})")
    path = nrrd(tmp_path / "x.seg.nrrd", LABELS[1:4, 1:4, 1:3], fields)
    labels, notes = read_label_file_noted(path, onto)
    assert np.array_equal(labels.array, LABELS)
    assert notes == ()
    bigger = nrrd(tmp_path / "y.seg.nrrd", np.ones((9, 5, 4), np.uint8), STRAIGHT)
    assert read_label_file_noted(bigger, onto)[1] == ("60 labelled voxel(s) lie outside the scan: they are left",)
    far = nrrd(tmp_path / "z.seg.nrrd", np.ones((3, 3, 3), np.uint8), STRAIGHT.replace("(4,5,6)", "(104,5,6)"))
    with pytest.raises(GeometryError, match=r"\[OFF_GRID\]"):
        read_label_file(far, onto)
    write_labels(tmp_path / "x.nii.gz", LabelMap(LABELS[1:4, 1:4, 1:3], moved(onto, by=(1, 1, 1), shape=(3, 3, 2)), {}))
    with pytest.raises(GeometryError, match=r"\[OTHER_SHAPE\]"):
        read_label_file(tmp_path / "x.nii.gz", onto)


def test_an_empty_segmentation_of_slicer(tmp_path: Path) -> None:
    path = seg_nrrd(tmp_path / "x.seg.nrrd", np.zeros((1, 1, 1), np.uint8), {"Name": "liver", "LabelValue": "1"})
    labels = read_label_file(path, GRID)
    assert labels.array.shape == GRID.shape
    assert not labels.array.any()
    assert dict(labels.names) == NAMES


def test_labels_of_a_sheared_scan_follow_it_onto_the_straight_grid(tmp_path: Path) -> None:
    sheared = Grid((6, 5, 4), GRID.affine @ np.array([[1, 0, 0, 0], [0, 1, 0.4, 0], [0, 0, 1, 0], [0, 0, 0, 1.0]]))
    write_labels(tmp_path / "x.nii.gz", LabelMap(LABELS, sheared, NAMES))
    labels = read_label_file(tmp_path / "x.nii.gz", straight_cover(sheared))
    assert np.array_equal(map_onto(labels, sheared).array, LABELS)


def test_plain_files_state_no_names(tmp_path: Path) -> None:
    assert label_names_in(write(tmp_path / "x.mha", itk_image(LABELS))) is None


def test_of_contradicting_affines_the_preferred_counts(tmp_path: Path) -> None:
    away = np.array(GRID.affine)
    away[0, 3] += 7
    path = with_affines(tmp_path / "x.nii.gz", GRID.affine, away, (1, 1), LABELS)
    with pytest.raises(GeometryError, match="AFFINE_CONFLICT"):
        read_label_file(path, GRID)
    assert np.array_equal(read_label_file_noted(path, GRID, prefer="sform")[0].array, LABELS)
    with pytest.raises(GeometryError, match="OTHER_GRID"):
        read_label_file_noted(path, GRID, prefer="qform")


def test_real_labels(real_data: Path) -> None:
    path = real_data / "ct" / "example_seg.nii.gz"
    grid = read_label_grid(path)
    assert grid is not None
    assert np.array_equal(read_label_file(path, grid).array, read_labels(path).array)


def test_a_grid_that_holds_the_voxels_of_two() -> None:
    part = moved(GRID, by=(2, -1, 1), shape=(3, 4, 5))
    whole = common_voxels(GRID, part, may_be_cropped=True)
    assert whole is not None
    assert whole.agrees(moved(GRID, by=(0, -1, 0), shape=(6, 6, 6)))
    assert common_voxels(GRID, part, may_be_cropped=False) is None
    assert common_voxels(GRID, moved(GRID, by=(1, 0, 0)), may_be_cropped=True) is None  # as large, and elsewhere
    assert common_voxels(GRID, moved(part, by=(0.3, 0, 0)), may_be_cropped=True) is None
    assert common_voxels(GRID, moved(part, by=(1e8, 0, 0)), may_be_cropped=True) is None
    assert common_voxels(GRID, GRID, may_be_cropped=False) is GRID
