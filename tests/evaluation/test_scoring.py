from __future__ import annotations

import numpy as np
import pytest

from medseg.errors import InputError
from medseg.evaluation.pairing import Pair
from medseg.evaluation.scoring import score_pair
from medseg.evaluation.settings import DEFAULT
from medseg.imaging.grid import Grid
from medseg.imaging.nifti import write_labels
from medseg.imaging.structures import Structures
from medseg.imaging.volume import LabelMap
from tests.imaging.build import Built
from tests.imaging.dicom.test_rtstruct import contour, structure_set
from tests.imaging.dicom.test_seg import grid_of, made_seg, saved
from tests.imaging.test_itk import seg_nrrd
from tests.imaging.test_nifti import with_affines

SHAPE = (9, 16, 14)  # slices, rows, columns
BUILT = Built(np.zeros(SHAPE, np.int16))
GRID = grid_of(BUILT)
LIVER = Structures({1: "liver"})
BOTH = Structures({1: "tumour", 2: "liver"})


def boxes(*ranges):
    """A mask (slice, row, column): of ranges of slices and of rows and columns alike."""
    mask = np.zeros(SHAPE, bool)
    for k, i in ranges:
        mask[slice(*k), slice(*i), slice(*i)] = True
    return mask


def seg(path, *masks, names=("liver",)):
    return saved(path, made_seg(BUILT, np.stack(masks, -1).astype(np.uint8), names=names))


def nifti(path, mask, grid=GRID, value=1):
    write_labels(path, LabelMap(np.ascontiguousarray(mask.T).astype(np.uint8) * value, grid, {}))
    return path


def rtstruct(path, *structures):
    """Structures as (name, slices, low, high): squares around the pixels from low to high."""
    drawn = []
    for number, (name, slices, low, high) in enumerate(structures, 1):
        low, high = low - 0.5, high + 0.5
        corners = np.array([[low, low], [high, low], [high, high], [low, high]])
        scale = np.array([BUILT.between_columns_mm, BUILT.between_rows_mm])
        places = [np.c_[corners * scale, np.zeros(4)] + BUILT.position_mm(k) for k in range(*slices)]
        drawn.append((number, name, [contour(points) for points in places]))
    return structure_set(path, drawn)


def dice(one, other):
    return 2 * np.count_nonzero(one & other) / (np.count_nonzero(one) + np.count_nonzero(other))


def scored(reference, prediction, known=LIVER, **options):
    found = score_pair(Pair("a", reference, prediction), DEFAULT, known, **options)
    return found, {row.structure: row for row in found.rows}


def test_the_extent_of_a_prediction_does_not_cut_the_reference(tmp_path):
    reference, prediction = boxes(((2, 6), (3, 8))), boxes(((3, 5), (3, 8)))
    theirs = seg(tmp_path / "r", reference)
    for ours in (seg(tmp_path / "p", prediction), rtstruct(tmp_path / "q", ("liver", (3, 5), 3, 7))):
        _, rows = scored(theirs, ours)
        assert rows["liver"].dice == pytest.approx(dice(reference, prediction))
    theirs = rtstruct(tmp_path / "s", ("liver", (2, 6), 3, 7))
    _, rows = scored(theirs, tmp_path / "p")
    assert rows["liver"].dice == pytest.approx(dice(reference, prediction))
    assert rows["liver"].volume_ref_ml == pytest.approx(np.count_nonzero(reference) * GRID.voxel_ml)


def test_segmentations_that_do_not_meet_are_scored_all_the_same(tmp_path):
    found, rows = scored(seg(tmp_path / "r", boxes(((6, 9), (3, 6)))), seg(tmp_path / "p", boxes(((1, 2), (3, 6)))))
    assert (found.failure, rows["liver"].status, rows["liver"].dice) == ("", "scored", 0)
    assert rows["liver"].hd_mm == pytest.approx(7 * BUILT.step_mm)


def test_the_grid_of_a_file_grows_where_labels_reach_beyond_it(tmp_path):
    part = Grid((14, 16, 4), GRID.affine)
    prediction = boxes(((2, 4), (3, 8)))
    ours = nifti(tmp_path / "p.nii.gz", prediction[:4], part)
    reference = boxes(((2, 7), (3, 8)))
    for theirs in (seg(tmp_path / "r", reference), rtstruct(tmp_path / "s", ("liver", (2, 7), 3, 7))):
        found, rows = scored(theirs, ours)
        assert found.failure == ""
        assert rows["liver"].dice == pytest.approx(dice(reference, prediction))
        _, rows = scored(ours, theirs)
        assert rows["liver"].dice == pytest.approx(dice(reference, prediction))


def test_structures_that_nobody_asks_for_cover_nothing(tmp_path):
    liver, body = boxes(((2, 6), (3, 8))), boxes(((0, 9), (1, 13)))
    ours = nifti(tmp_path / "p.nii.gz", liver)
    for theirs in (
        seg(tmp_path / "r", liver, body, names=("liver", "BODY")),
        rtstruct(tmp_path / "s", ("liver", (2, 6), 3, 7), ("BODY", (0, 9), 1, 12)),
    ):
        found, rows = scored(theirs, ours)
        assert (rows["liver"].dice, list(rows), found.notes) == (1.0, ["liver"], ())


@pytest.mark.parametrize("side", ["reference", "prediction"])
def test_overlapping_structures_are_scored_each_by_its_own_voxels(tmp_path, side):
    tumour, liver = boxes(((3, 5), (4, 6))), boxes(((2, 6), (3, 8)))
    plain = boxes(((2, 6), (3, 9)))
    write_labels(tmp_path / "p.nii.gz", LabelMap(np.where(tumour, 1, 2 * plain).T.astype(np.uint8), GRID, {}))
    for named in (
        seg(tmp_path / "r", tumour, liver, names=("tumour", "liver")),
        rtstruct(tmp_path / "s", ("tumour", (3, 5), 4, 5), ("liver", (2, 6), 3, 7)),
    ):
        pair = (named, tmp_path / "p.nii.gz")
        found, rows = scored(*(pair if side == "reference" else pair[::-1]), known=BOTH)
        assert rows["tumour"].dice == 1.0
        assert rows["liver"].dice == pytest.approx(dice(liver, plain & ~tumour))
        assert "structures overlap: in the scores each counts with all of its own voxels" in found.notes


@pytest.mark.parametrize("prediction", [None, "damaged"])
def test_contours_without_a_usable_prediction_count_as_missed(tmp_path, prediction):
    theirs = rtstruct(tmp_path / "r", ("liver", (2, 6), 3, 8), ("cyst", (4, 5), 5, 5))
    ours = tmp_path / "p.nii.gz"
    ours.write_bytes(b"nothing")
    found, rows = scored(theirs, ours if prediction else None, known=Structures({1: "liver", 2: "cyst"}))
    assert [(row.structure, row.status, row.dice) for row in found.rows] == [
        ("liver", "missed", 0),
        ("cyst", "missed", 0),
    ]
    assert bool(found.failure) == bool(prediction)
    assert rows["liver"].volume_ref_ml == pytest.approx(4 * 36 * GRID.voxel_ml, rel=0.2)
    assert 5 < found.diagonal_mm < 100


def test_contours_on_both_sides(tmp_path):
    ours, theirs = rtstruct(tmp_path / "p", ("liver", (2, 6), 3, 8)), rtstruct(tmp_path / "r", ("liver", (2, 8), 3, 8))
    found, rows = scored(theirs, ours)
    assert rows["liver"].dice == pytest.approx(2 * 4 / 10, abs=0.02)
    assert "contours alone" in found.notes[0]


def test_regions_and_ignored_voxels(tmp_path):
    reference, prediction = np.zeros(SHAPE, np.uint8), np.zeros(SHAPE, np.uint8)
    reference[2:4], reference[4:6], reference[6:7] = 1, 2, 3
    prediction[2:5], prediction[5:8] = 1, 2
    for name, array in (("r", reference), ("p", prediction)):
        write_labels(tmp_path / f"{name}.nii.gz", LabelMap(np.ascontiguousarray(array.T), GRID, {}))
    known = Structures({1: "edema", 2: "core"}, {"whole": (1, 2), "core": (2,)}, ignore=3)
    _, rows = scored(tmp_path / "r.nii.gz", tmp_path / "p.nii.gz", known)
    assert list(rows) == ["edema", "core", "whole"]
    assert rows["edema"].dice == pytest.approx(2 * 2 / 5)
    assert rows["core"].dice == pytest.approx(2 * 1 / (2 + 2))  # the ignored slice counts on neither side
    assert rows["whole"].dice == pytest.approx(2 * 4 / (4 + 5))


def test_values_that_no_label_map_holds(tmp_path):
    array = np.zeros(SHAPE[::-1], np.int32)
    array[2:5], array[6:8] = -1, 100000
    with_affines(tmp_path / "r.nii.gz", GRID.affine, GRID.affine, array=array)
    ours = LabelMap(np.where(array == -1, 1, np.where(array > 0, 2, 0)).astype(np.uint8), GRID, {})
    write_labels(tmp_path / "p.nii.gz", ours)
    known = Structures({1: "a", 2: "b"}, stored={1: -1, 2: 100000})
    for prediction in ("p.nii.gz", "r.nii.gz"):
        _, rows = scored(tmp_path / "r.nii.gz", tmp_path / prediction, known)
        assert [row.dice for row in rows.values()] == [1.0, 1.0]


def slicer(path, array, grid, **segments):
    """A .seg.nrrd of one layer: segments by name, with their values."""
    said = [{"Name": name, "LabelValue": str(value), "Layer": "0"} for name, value in segments.items()]
    directions = " ".join(f"({','.join(f'{v:.9f}' for v in grid.affine[:3, i])})" for i in range(3))
    origin = ",".join(f"{v:.9f}" for v in grid.affine[:3, 3])
    fields = f"space: right-anterior-superior\nspace directions: {directions}\nspace origin: ({origin})"
    return seg_nrrd(path, array, *said, kinds=fields)


def part_of(begin, end):
    affine = np.array(GRID.affine)
    affine[:3, 3] += affine[:3, :3] @ begin
    return Grid(tuple(int(n) for n in np.subtract(end, begin)), affine)


@pytest.mark.parametrize(("begin", "end"), [((2, 2, 1), (9, 9, 7)), ((2, 2, 1), (18, 9, 7)), ((-3, 1, 2), (9, 9, 7))])
def test_a_cropped_file_is_put_on_the_voxels_of_the_other(tmp_path, begin, end):
    array = np.zeros(np.subtract(end, begin), np.uint8)
    array[0:5, 1:5, 1:4] = 1
    theirs = slicer(tmp_path / "r.seg.nrrd", array, part_of(begin, end), liver=1)
    whole = np.zeros(SHAPE[::-1], np.uint8)
    at = [slice(max(b, 0), b + n) for b, n in zip(np.add(begin, (0, 1, 1)), (5, 4, 3), strict=True)]
    whole[tuple(at)] = 1
    write_labels(tmp_path / "p.nii.gz", LabelMap(whole, GRID, {}))
    expected = 2 * whole.sum() / (whole.sum() + array.sum())
    for pair in ((theirs, tmp_path / "p.nii.gz"), (tmp_path / "p.nii.gz", theirs)):
        found, rows = scored(*pair)
        assert (found.failure, rows["liver"].dice) == ("", pytest.approx(expected))


def test_another_order_of_axes_is_the_same_place(tmp_path):
    array = np.zeros(SHAPE[::-1], np.uint8)
    array[2:5, 3:9, 1:4] = 1
    turn = np.array([[0, 0, 1.0, 0], [-1, 0, 0, 15], [0, 1, 0, 0], [0, 0, 0, 1]])  # (x, y, z) <- (z, 15 - x, y)
    turned = LabelMap(np.flip(array, 1).transpose(1, 2, 0), Grid((16, 9, 14), GRID.affine @ turn), {})
    write_labels(tmp_path / "r.nii.gz", turned)
    write_labels(tmp_path / "p.nii.gz", LabelMap(array, GRID, {}))
    found, rows = scored(tmp_path / "r.nii.gz", tmp_path / "p.nii.gz")
    assert (found.failure, rows["liver"].dice) == ("", 1.0)


def test_an_empty_segmentation_of_slicer(tmp_path):
    empty = slicer(tmp_path / "r.seg.nrrd", np.zeros((1, 1, 1), np.uint8), Grid((1, 1, 1), np.eye(4)), liver=1)
    ours = nifti(tmp_path / "p.nii.gz", boxes(((2, 4), (3, 8))))
    assert [row.status for row in scored(empty, ours)[0].rows] == ["spurious"]
    assert [row.status for row in scored(ours, empty)[0].rows] == ["missed"]


def test_files_that_contradict_themselves_are_read_as_asked(tmp_path):
    array = np.zeros(SHAPE[::-1], np.uint8)
    array[2:5] = 1
    aside = np.array(GRID.affine)
    aside[0, 3] += 5
    with_affines(tmp_path / "r.nii.gz", GRID.affine, aside, array=array)
    nifti(tmp_path / "p.nii.gz", array.T > 0)
    with pytest.raises(InputError, match=r"reference: \[AFFINE_CONFLICT\]"):
        scored(tmp_path / "r.nii.gz", tmp_path / "p.nii.gz")
    found, rows = scored(tmp_path / "r.nii.gz", tmp_path / "p.nii.gz", prefer="sform")
    assert (found.failure, rows["liver"].dice) == ("", 1.0)
    assert "lie 5 mm apart" in scored(tmp_path / "r.nii.gz", tmp_path / "p.nii.gz", prefer="qform")[0].failure
