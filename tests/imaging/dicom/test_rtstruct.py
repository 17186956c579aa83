from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import ImplicitVRLittleEndian, RTStructureSetStorage

from medseg.errors import GeometryError, InputError
from medseg.imaging.dicom.headers import quiet
from medseg.imaging.dicom.raster import fill
from medseg.imaging.dicom.rtstruct import (
    read_rtstruct,
    read_rtstruct_noted,
    read_structures,
    roi_names,
    rtstruct_references,
)
from medseg.imaging.grid import Grid
from medseg.imaging.nifti import read_labels
from medseg.imaging.planes import Plane, arrange
from medseg.imaging.regrid import map_onto
from tests.imaging.build import FRAME_OF_REFERENCE, PATIENT, ROOT_UID
from tests.imaging.test_grid import affine_of

GRID = Grid((16, 14, 9), affine_of((0.9, 1.1, 2.5), (0, 0, 0), (-5, 7, 30), False))


def on_grid(points: np.ndarray, at: float, grid: Grid = GRID, axis: int = 2) -> np.ndarray:
    """Points (n, 2) in voxel indices of a slice as LPS+ mm (n, 3)."""
    index = np.insert(np.asarray(points, float), axis, at, axis=1)
    world = index @ grid.affine[:3, :3].T + grid.affine[:3, 3]
    return world * [-1, -1, 1]


def square(low: float, high: float) -> np.ndarray:
    return np.array([[low, low], [high, low], [high, high], [low, high]], float)


def contour(points: np.ndarray, kind: str = "CLOSED_PLANAR", digits: int = 9) -> Dataset:
    made = Dataset()
    made.ContourGeometricType, made.NumberOfContourPoints = kind, len(points)
    made.ContourData = [f"{value:.{digits}g}" for value in np.ravel(points)]
    return made


def structure_set(
    path: Path, structures: Sequence[tuple[int, str, Sequence[Dataset]]], frame: str = FRAME_OF_REFERENCE
) -> Path:
    """Structures as (number, name, contours)."""
    meta = FileMetaDataset()
    meta.TransferSyntaxUID, meta.MediaStorageSOPClassUID = ImplicitVRLittleEndian, RTStructureSetStorage
    meta.MediaStorageSOPInstanceUID = f"{ROOT_UID}.77"
    ds = FileDataset("", Dataset(), preamble=b"\0" * 128, file_meta=meta)
    ds.SpecificCharacterSet, ds.PatientName = "ISO_IR 192", PATIENT
    ds.SOPClassUID, ds.SOPInstanceUID = RTStructureSetStorage, meta.MediaStorageSOPInstanceUID
    rois, drawn = [], []
    for number, name, contours in structures:
        roi, lines = Dataset(), Dataset()
        roi.ROINumber, roi.ROIName, lines.ReferencedROINumber = number, name, number
        if frame:
            roi.ReferencedFrameOfReferenceUID = frame
        if contours:
            lines.ContourSequence = list(contours)
        rois.append(roi)
        drawn.append(lines)
    ds.StructureSetROISequence, ds.ROIContourSequence = rois, drawn[::-1]
    with quiet():
        ds.save_as(path, enforce_file_format=True)
    return path


def refer(path: Path, series: Sequence[str], images: Sequence[str]) -> Path:
    with quiet():
        ds = pydicom.dcmread(path)
        frame, study = Dataset(), Dataset()
        frame.FrameOfReferenceUID = FRAME_OF_REFERENCE
        study.RTReferencedSeriesSequence = []
        for uid in series:
            one = Dataset()
            one.SeriesInstanceUID, one.ContourImageSequence = uid, []
            for image in images:
                item = Dataset()
                item.ReferencedSOPInstanceUID = image
                one.ContourImageSequence.append(item)
            study.RTReferencedSeriesSequence.append(one)
        frame.RTReferencedStudySequence = [study]
        ds.ReferencedFrameOfReferenceSequence = [frame]
        ds.save_as(path)
    return path


@settings(max_examples=40, deadline=None)
@given(
    turn=st.tuples(*[st.floats(-180, 180)] * 3),
    origin=st.tuples(*[st.floats(-300, 300)] * 3),
    axis=st.sampled_from([0, 1, 2]),
    flip=st.booleans(),
    seed=st.integers(0, 999),
)
def test_contours_across_any_axis_of_an_oblique_grid(
    tmp_path_factory: pytest.TempPathFactory,
    turn: tuple[float, ...],
    origin: tuple[float, ...],
    axis: int,
    flip: bool,
    seed: int,
) -> None:
    rng = np.random.default_rng(seed)
    grid = Grid(GRID.shape, affine_of((0.9, 1.1, 2.5), turn, origin, flip))
    shape = tuple(n for i, n in enumerate(GRID.shape) if i != axis)
    expected = np.zeros(GRID.shape, np.uint8)
    drawn = []
    for k in range(1, GRID.shape[axis] - 2):
        angle = np.sort(rng.uniform(0, 2 * np.pi, 9))
        points = np.array(shape) / 2 + np.stack([np.cos(angle), np.sin(angle)], 1) * rng.uniform(1, 9, (9, 1))
        np.moveaxis(expected, axis, 0)[k] = fill([points], shape)
        drawn.append(contour(on_grid(points, k, grid, axis)))
    path = structure_set(
        tmp_path_factory.mktemp("rt") / "rs", [(1, "a", [drawn[i] for i in rng.permutation(len(drawn))])]
    )
    assert np.count_nonzero(read_rtstruct(path, grid).array != expected) <= 2  # a centre within rounding of an edge


def test_holes_islands_and_keyholes(tmp_path: Path) -> None:
    outer, inner, island = square(0.5, 11.5), square(3.5, 8.5), square(5.5, 6.5)
    expected = np.zeros(GRID.shape, np.uint8)
    expected[1:12, 1:12, 2:5], expected[4:9, 4:9, 2:5], expected[6, 6, 2:4] = 1, 0, 1
    keyhole = np.vstack([outer, outer[:1], inner, inner[:1]])
    drawn = [
        *[contour(on_grid(points, 2)) for points in (outer, inner, island)],
        *[contour(on_grid(points, 3), "CLOSEDPLANAR_XOR") for points in (island, outer, inner)],
        contour(on_grid(keyhole, 4)),
    ]
    labels, notes = read_rtstruct_noted(structure_set(tmp_path / "rs", [(1, "ring", drawn)]), GRID)
    assert np.array_equal(labels.array, expected)
    assert notes == ()
    assert labels.grid is GRID


def test_values_and_names(tmp_path: Path) -> None:
    some = [contour(on_grid(square(1.5, 4.5), 3))]
    path = structure_set(tmp_path / "a", [(7, "liver", some), (3, "Niere\r\nlinks", []), (300, "", [])])
    assert roi_names(path) == {7: "liver", 3: "Niere links", 300: "300"}
    labels = read_rtstruct(path, GRID)
    assert dict(labels.names) == roi_names(path)
    assert labels.array.dtype == np.uint16
    assert labels.present == (7,)
    odd = structure_set(tmp_path / "b", [(0, "liver", some), (70000, "spleen", [])])  # no values of a label map
    assert roi_names(odd) == {1: "liver", 2: "spleen"}
    assert read_rtstruct(odd, GRID).present == (1,)


def test_where_structures_overlap_the_later_counts(tmp_path: Path) -> None:
    first, second = [contour(on_grid(square(0.5, 6.5), 3))], [contour(on_grid(square(4.5, 9.5), 3))]
    labels, notes = read_rtstruct_noted(structure_set(tmp_path / "rs", [(2, "a", first), (1, "b", second)]), GRID)
    assert labels.array[5, 5, 3] == 1
    assert np.count_nonzero(labels.array == 2) == 36 - 4
    assert notes == ("4 voxel(s) belong to several structures: the later one counts",)


@pytest.mark.parametrize(("at", "slice_"), [(2.9, 3), (3.49, 3), (3.5, 4), (3.51, 4), (-0.4, 0), (8.4, 8)])
def test_contours_between_slices_go_to_the_nearest(tmp_path: Path, at: float, slice_: int) -> None:
    path = structure_set(tmp_path / "rs", [(1, "a", [contour(on_grid(square(1.5, 4.5), at))])])
    labels = read_rtstruct(path, GRID)
    assert np.flatnonzero(labels.array.any(axis=(0, 1))).tolist() == [slice_]


def test_of_planes_that_stand_closer_than_slices_the_nearest_counts(tmp_path: Path) -> None:
    drawn = [contour(on_grid(square(0.5, 0.5 + n), at)) for n, at in ((3, 2.6), (5, 3.1), (7, 3.4), (9, 4.0))]
    labels, notes = read_rtstruct_noted(structure_set(tmp_path / "rs", [(1, "a", drawn)]), GRID)
    assert [np.count_nonzero(labels.array[:, :, k]) for k in (2, 3, 4, 5)] == [0, 25, 81, 0]
    assert notes == ("2 plane(s) of contours stand closer than slices: the nearest to each slice counts",)


def test_contours_of_one_slice_belong_together_in_spite_of_rounding(tmp_path: Path) -> None:
    drawn = [contour(on_grid(square(0.5, 9.5), 3.0)), contour(on_grid(square(3.5, 6.5), 3.04))]  # 0.1 mm apart
    labels, notes = read_rtstruct_noted(structure_set(tmp_path / "rs", [(1, "a", drawn)]), GRID)
    assert np.count_nonzero(labels.array) == 81 - 9
    assert notes == ()


def test_slices_without_a_contour_stay_empty_and_that_is_said(tmp_path: Path) -> None:
    drawn = [contour(on_grid(square(1.5, 4.5), k)) for k in (0, 2, 4, 6)]
    labels, notes = read_rtstruct_noted(structure_set(tmp_path / "rs", [(1, "a", drawn)]), GRID)
    assert np.flatnonzero(labels.array.any(axis=(0, 1))).tolist() == [0, 2, 4, 6]
    assert notes == ("1 structure(s) have contours on every second slice or fewer: slices between stay empty",)


def test_points_and_open_lines_are_left_and_told(tmp_path: Path) -> None:
    drawn = [
        contour(on_grid(square(1.5, 4.5), 3)),
        contour(on_grid(square(6.5, 9.5), 3), "OPEN_PLANAR"),
        contour(on_grid(square(6.5, 9.5)[:1], 3), "POINT"),
        contour(on_grid(square(6.5, 9.5)[:2], 3)),
    ]
    labels, notes = read_rtstruct_noted(structure_set(tmp_path / "rs", [(1, "a", drawn), (2, "b", drawn[1:3])]), GRID)
    assert np.count_nonzero(labels.array) == 9
    assert notes == ("5 contour(s) are points or open lines: they are left",)


def test_what_lies_elsewhere(tmp_path: Path) -> None:
    inside, beyond = contour(on_grid(square(1.5, 4.5), 3)), contour(on_grid(square(1.5, 4.5), 50))
    beside = contour(on_grid(square(100, 120), 3))
    path = structure_set(tmp_path / "a", [(1, "a", [inside, beyond, beside])])
    labels, notes = read_rtstruct_noted(path, GRID)
    assert np.count_nonzero(labels.array) == 9
    assert notes == ("2 contour(s) lie outside the scan: they are left",)
    with pytest.raises(GeometryError, match=r"case-1: \[OFF_GRID\] its contours lie nowhere on its scan"):
        read_rtstruct(structure_set(tmp_path / "b", [(1, "a", [beyond, beside])]), GRID, "case-1")
    for other in (f"{FRAME_OF_REFERENCE}.1", "1.2.3"):
        with pytest.raises(GeometryError, match=r"\[OFF_GRID\].*another frame of reference"):
            read_rtstruct(path, GRID, "case-1", other)
    assert read_rtstruct(path, GRID, "case-1", FRAME_OF_REFERENCE).array.any()
    unknown = structure_set(tmp_path / "c", [(1, "a", [inside])], frame="")
    assert read_rtstruct(unknown, GRID, "case-1", "1.2.3").array.any()


def test_structures_of_two_frames_of_reference(tmp_path: Path) -> None:
    path = structure_set(
        tmp_path / "rs",
        [(1, "a", [contour(on_grid(square(1.5, 4.5), 3))]), (2, "b", [contour(on_grid(square(1.5, 9.5), 4))])],
    )
    with quiet():
        ds = pydicom.dcmread(path)
        ds.StructureSetROISequence[1].ReferencedFrameOfReferenceUID = "1.2.3"
        ds.save_as(path)
    for frame, expected in (("", (1,)), (FRAME_OF_REFERENCE, (1,)), ("1.2.3", (2,))):
        labels, notes = read_rtstruct_noted(path, GRID, "", frame)
        assert labels.present == expected
        assert notes == ("1 structure(s) belong to another frame of reference: they are left",)


def test_a_structure_smaller_than_a_voxel_is_told(tmp_path: Path) -> None:
    labels, notes = read_rtstruct_noted(
        structure_set(tmp_path / "rs", [(1, "a", [contour(on_grid(square(1.2, 1.8), 3))])]), GRID
    )
    assert labels.present == ()
    assert notes == ("1 structure(s) are too small to hold the centre of a voxel",)


def test_contours_that_are_not_parallel_to_the_slices_are_refused(tmp_path: Path) -> None:
    points = on_grid(square(1.5, 9.5), 3)
    points[2:, 2] += 1.0
    path = structure_set(tmp_path / "rs", [(1, "a", [contour(points)])])
    with pytest.raises(GeometryError, match=r"case-1: \[OBLIQUE\]"):
        read_rtstruct(path, GRID, "case-1")
    points[2:, 2] -= 0.95  # rounding
    assert read_rtstruct(structure_set(tmp_path / "rs", [(1, "a", [contour(points)])]), GRID).array.any()


def test_a_sheared_grid(tmp_path: Path) -> None:
    """The grid of a tilted scan's own slices: contours lie in its slices all the same."""
    bent = np.array([[1.0, 0, 0, 0], [0, 1, 0.4, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
    grid = Grid(GRID.shape, GRID.affine @ bent)
    drawn = [contour(on_grid(square(1.5, 5.5), k, grid)) for k in range(2, 6)]
    labels = read_rtstruct(structure_set(tmp_path / "rs", [(1, "a", drawn)]), grid)
    assert np.array_equal(np.argwhere(labels.array).min(0), [2, 2, 2])
    assert labels.array.sum() == 4 * 16


def test_an_empty_structure_set(tmp_path: Path) -> None:
    labels, notes = read_rtstruct_noted(structure_set(tmp_path / "rs", [(1, "liver", [])]), GRID)
    assert not labels.array.any()
    assert dict(labels.names) == {1: "liver"}
    assert notes == ()
    assert read_rtstruct(structure_set(tmp_path / "none", []), GRID).present == ()


def test_references(tmp_path: Path) -> None:
    path = structure_set(tmp_path / "rs", [(1, "a", [])])
    assert rtstruct_references(path).frame_of_reference == FRAME_OF_REFERENCE
    assert rtstruct_references(path).series_uids == ()
    found = rtstruct_references(refer(path, ["1.2", "1.3"], ["1.4", "1.5"]))
    assert found.series_uids == ("1.2", "1.3")
    assert found.sop_uids == ("1.4", "1.5")


def test_contours_are_given_in_ras(tmp_path: Path) -> None:
    points = on_grid(square(1, 4), 3)
    (found,) = read_structures(structure_set(tmp_path / "rs", [(5, "a", [contour(points)])]))
    assert found.value == 5
    assert np.allclose(found.contours[0], points * [-1, -1, 1])


@pytest.mark.parametrize(
    ("keyword", "value"), [("ContourData", ["1", "2"]), ("NumberOfContourPoints", 9), ("ContourData", ["1", "2", "x"])]
)
def test_a_damaged_contour_is_refused(tmp_path: Path, keyword: str, value: Any) -> None:
    broken = contour(on_grid(square(1.5, 4.5), 3))
    with quiet():
        if value == ["1", "2", "x"]:
            broken.add_new("ContourData", "LO", value)
        else:
            setattr(broken, keyword, value)
        path = structure_set(tmp_path / "rs", [(1, "a", [broken])])
    with pytest.raises(InputError, match=r"case-1: \[DAMAGED\]"):
        read_rtstruct(path, GRID, "case-1")


def test_damage_is_said_without_a_name(tmp_path: Path) -> None:
    (tmp_path / PATIENT).mkdir()
    path = structure_set(tmp_path / PATIENT / "rs.dcm", [(1, PATIENT, [contour(on_grid(square(1.5, 4.5), 3))])])
    whole = path.read_bytes()
    for n in range(len(whole) - 1):
        path.write_bytes(whole[:n])
        with pytest.raises(InputError) as caught:
            read_rtstruct(path, GRID, "case-1")
        assert "rg" not in str(caught.value)
        assert str(caught.value).startswith("case-1: [")
    path.unlink()
    for read in (roi_names, rtstruct_references, read_structures):
        with pytest.raises(InputError, match=r"\[NOT_FOUND\]"):
            read(path)  # type: ignore[operator]


@pytest.mark.parametrize("modality", ["CT", "PET"])
def test_a_real_structure_set_against_its_mask(real_data: Path, modality: str) -> None:
    """Drawn in a planning system; the mask beside it was made by other software."""
    folder = real_data / "dicom_ct_pet" / modality
    planes, frame = [], ""
    for file in sorted((folder / "dicom" / "image").iterdir()):
        with quiet():
            ds = pydicom.dcmread(file, stop_before_pixels=True)
        values = (ds.ImageOrientationPatient, ds.ImagePositionPatient, ds.PixelSpacing)
        planes.append(Plane(ds.Rows, ds.Columns, *(tuple(map(float, value)) for value in values)))
        frame = str(ds.FrameOfReferenceUID)
    grid = arrange(planes).grid
    assert grid is not None
    labels, notes = read_rtstruct_noted(folder / "dicom" / "mask" / "RS.dcm", grid, "case-1", frame)
    assert notes == ()
    assert dict(labels.names) == {1: f"GTV_Mass_{modality}"}
    mask = map_onto(read_labels(folder / "nifti" / "mask" / "mask.nii.gz"), grid).array > 0
    assert np.array_equal(labels.array > 0, mask)


def test_a_contour_that_is_stored_twice_counts_once(tmp_path: Path) -> None:
    outer, inner = square(0.5, 11.5), square(3.5, 8.5)
    drawn = [contour(on_grid(points, 2)) for points in (outer, outer, inner, np.roll(inner, 2, axis=0)[::-1])]
    labels, notes = read_rtstruct_noted(structure_set(tmp_path / "rs", [(1, "ring", drawn)]), GRID)
    expected = np.zeros(GRID.shape, np.uint8)
    expected[1:12, 1:12, 2], expected[4:9, 4:9, 2] = 1, 0
    assert np.array_equal(labels.array, expected)
    assert notes == ()


def test_contours_that_cancel_are_told(tmp_path: Path) -> None:
    drawn = [contour(on_grid(points, 2)) for points in (square(0.5, 11.5), square(0.6, 11.6))]
    labels, notes = read_rtstruct_noted(structure_set(tmp_path / "rs", [(1, "a", drawn)]), GRID)
    assert not labels.array.any()
    assert notes == ("1 slice(s) hold contours that cover each other and cancel out: they stay empty",)


def test_only_structures_that_are_asked_for_are_drawn(tmp_path: Path) -> None:
    liver, body = [contour(on_grid(square(low, 9.5), 2)) for low in (3.5, 0.5)]
    path = structure_set(tmp_path / "rs", [(1, "Liver", [liver]), (2, "BODY", [body])])
    labels, notes = read_rtstruct_noted(path, GRID, wanted=["liver"])
    assert (labels.present, int(labels.array.sum()), dict(labels.names), notes) == ((1,), 36, {1: "Liver"}, ())
