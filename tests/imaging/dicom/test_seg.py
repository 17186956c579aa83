from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.dataset import Dataset
from pydicom.uid import UID, ExplicitVRLittleEndian, JPEG2000Lossless, JPEGLSLossless, RLELossless
from scipy.spatial.transform import Rotation

from medseg.errors import GeometryError, InputError
from medseg.imaging.dicom.headers import quiet
from medseg.imaging.dicom.seg import read_seg, read_seg_noted, read_segments, seg_references, segment_names
from medseg.imaging.grid import Grid
from medseg.imaging.planes import Arranged, Plane, arrange
from tests.imaging.build import FRAME_OF_REFERENCE, PATIENT, Built, some_series, tilted

ROWS, COLUMNS, SLICES = 5, 6, 9
TYPES = ("BINARY", "FRACTIONAL", "LABELMAP")


def images(built: Built) -> list[Any]:
    made = built.datasets()
    for ds in made:
        ds.StudyInstanceUID = f"{built.dataset(0).SeriesInstanceUID}.5"
        for keyword in ("StudyDate", "StudyTime", "StudyID", "AccessionNumber", "ReferringPhysicianName"):
            setattr(ds, keyword, "")
        ds.PatientBirthDate, ds.PatientSex, ds.Manufacturer, ds.SeriesNumber = "", "", "", 1
        ds.SliceThickness = built.step_mm
        del ds.PixelData
    return made


def arranged(built: Built) -> Arranged:
    return arrange(
        [
            Plane(
                ds.Rows,
                ds.Columns,
                tuple(map(float, ds.ImageOrientationPatient)),
                tuple(map(float, ds.ImagePositionPatient)),
                tuple(map(float, ds.PixelSpacing)),
            )
            for ds in built.datasets()
        ]
    )


def grid_of(built: Built) -> Grid:
    grid = arranged(built).grid
    assert grid is not None
    return grid


def made_seg(
    built: Built,
    labels: np.ndarray,
    kind: str = "BINARY",
    names: Sequence[str] = ("liver", "left kidney"),
    syntax: UID = ExplicitVRLittleEndian,
    omit: bool = True,
) -> Dataset:
    """`labels` (slice, row, column), or with segments last, or fractions."""
    import highdicom
    from highdicom.sr import CodedConcept

    organ = CodedConcept("10200004", "SCT", "Liver")
    described = [
        highdicom.seg.SegmentDescription(
            i, name, organ, organ, "MANUAL", tracking_uid=highdicom.UID(), tracking_id=f"{i}"
        )
        for i, name in enumerate(names, start=1)
    ]
    with quiet(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return highdicom.seg.Segmentation(
            source_images=images(built),
            pixel_array=labels,
            segmentation_type=kind,
            segment_descriptions=described,
            series_instance_uid=highdicom.UID(),
            series_number=9,
            sop_instance_uid=highdicom.UID(),
            instance_number=1,
            manufacturer="m",
            manufacturer_model_name="m",
            software_versions="1",
            device_serial_number="1",
            transfer_syntax_uid=syntax,
            omit_empty_frames=omit,
        )


def saved(path: Path, made: Dataset) -> Path:
    with quiet():
        made.save_as(path)
    return path


def some_labels(seed: int = 0, empty: Sequence[int] = (0, 3, 4, 8)) -> np.ndarray:
    labels = np.random.default_rng(seed).integers(0, 3, (SLICES, ROWS, COLUMNS)).astype(np.uint8)
    labels[list(empty)] = 0
    return labels


def fractions(labels: np.ndarray) -> np.ndarray:
    """(slice, row, column, segment): above a half inside and below outside."""
    noise = np.random.default_rng(5).uniform(0, 0.49, (*labels.shape, 2))
    return noise + 0.5 * (labels[..., None] == np.array([1, 2]))


@pytest.mark.parametrize("omit", [True, False])
@pytest.mark.parametrize("kind", TYPES)
def test_all_types_on_the_grid_of_their_scan(tmp_path: Path, kind: str, omit: bool) -> None:
    built, labels = some_series(SLICES), some_labels()
    made = made_seg(built, fractions(labels) if kind == "FRACTIONAL" else labels, kind, omit=omit)
    path = saved(tmp_path / "seg", made)
    grid = grid_of(built)
    read = read_seg(path, grid)
    assert np.array_equal(read.array, labels.T)
    assert read.grid is grid
    assert dict(read.names) == {1: "liver", 2: "left kidney"}
    assert segment_names(path) == {1: "liver", 2: "left kidney"}
    references = seg_references(path)
    assert references.series_uids == (str(built.dataset(0).SeriesInstanceUID),)
    assert references.frame_of_reference == FRAME_OF_REFERENCE
    assert set(references.sop_uids) == {str(ds.SOPInstanceUID) for ds in built.datasets()}


@pytest.mark.parametrize("kind", TYPES)
def test_the_grid_of_the_object_itself(tmp_path: Path, kind: str) -> None:
    built, labels = some_series(SLICES), some_labels()
    made = made_seg(built, fractions(labels) if kind == "FRACTIONAL" else labels, kind)
    read, notes = read_seg_noted(saved(tmp_path / "seg", made))
    assert notes == ()
    whole = grid_of(built)
    first = 1 if read.grid.shape[2] == 7 else 0  # from the first slice with a frame to the last
    assert read.grid.shape == (COLUMNS, ROWS, SLICES - 2 * first)
    expected = np.array(whole.affine)
    expected[:3, 3] += first * expected[:3, 2]
    assert np.allclose(read.grid.affine, expected, atol=1e-5)
    assert np.array_equal(read.array, labels.T[:, :, first : SLICES - first])


def shuffled(made: Dataset, seed: int) -> Dataset:
    """The same frames in another order, packed anew bit by bit."""
    order = np.random.default_rng(seed).permutation(int(made.NumberOfFrames))
    n = made.Rows * made.Columns
    bits = np.unpackbits(np.frombuffer(made.PixelData, np.uint8), bitorder="little")[: len(order) * n]
    packed = np.packbits(bits.reshape(-1, n)[order].ravel(), bitorder="little").tobytes()
    made.PixelData = packed + b"\0" * (len(packed) % 2)
    groups = list(made.PerFrameFunctionalGroupsSequence)
    made.PerFrameFunctionalGroupsSequence = [groups[i] for i in order]
    return made


@settings(max_examples=8, deadline=None)
@given(
    seed=st.integers(0, 99),
    turn=st.tuples(*[st.floats(-180, 180)] * 3),
    rows=st.integers(3, 11),
    columns=st.integers(3, 11),
)
def test_oblique_frames_in_any_order(
    tmp_path_factory: pytest.TempPathFactory, seed: int, turn: tuple[float, ...], rows: int, columns: int
) -> None:
    rng = np.random.default_rng(seed)
    row, column, _ = Rotation.from_euler("xyz", turn, degrees=True).as_matrix().T
    built = Built(np.zeros((6, rows, columns), np.int16), row=row, column=column)
    labels = rng.integers(0, 3, (6, rows, columns)).astype(np.uint8) * rng.integers(0, 2, (6, 1, 1), np.uint8)
    labels[2, 1, 1] = 1
    path = saved(tmp_path_factory.mktemp("seg") / "seg", shuffled(made_seg(built, labels), seed))
    assert np.array_equal(read_seg(path, grid_of(built)).array, labels.T)
    own = read_seg(path)
    for k, j, i in np.argwhere(labels):
        x, y, z = np.rint(np.linalg.solve(own.grid.affine, [*built.world_ras(i, j, k), 1]))[:3].astype(int)
        assert own.array[x, y, z] == labels[k, j, i]
    assert np.count_nonzero(own.array) == np.count_nonzero(labels)


def test_another_grid_takes_the_nearest_pixel(tmp_path: Path) -> None:
    built, labels = some_series(SLICES), some_labels()
    path = saved(tmp_path / "seg", made_seg(built, labels))
    grid = grid_of(built)
    fine = np.array(grid.affine) @ np.array([[0, 0.5, 0, -0.25], [0.5, 0, 0, -0.25], [0, 0, -1, 8], [0, 0, 0, 1]])
    read = read_seg(path, Grid((2 * ROWS, 2 * COLUMNS, SLICES), fine))
    expected = np.flip(np.repeat(np.repeat(labels.T, 2, 0), 2, 1), 2).transpose(1, 0, 2)
    assert np.array_equal(read.array, expected)


@pytest.mark.parametrize("stated", [True, False])
@pytest.mark.parametrize("drawn", [(4,), (2, 7), (1, 2, 6), (0, 8)])
def test_slices_that_stand_alone_do_not_spread(tmp_path: Path, drawn: tuple[int, ...], stated: bool) -> None:
    built = some_series(SLICES)
    labels = some_labels(1, empty=[k for k in range(SLICES) if k not in drawn])
    made = made_seg(built, labels)
    if not stated:
        del made.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0].SpacingBetweenSlices
        made.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0].SliceThickness = "1"
    path = saved(tmp_path / "seg", made)
    assert np.array_equal(read_seg(path, grid_of(built)).array, labels.T)
    between = np.array(grid_of(built).affine)  # half the step, every second slice between those of the scan
    between[:3, 2] /= 2
    fine = read_seg(path, Grid((COLUMNS, ROWS, 2 * SLICES - 1), between))
    assert np.array_equal(fine.array[:, :, ::2], labels.T)
    if stated:
        empty = ~labels.any(axis=(1, 2))
        assert not fine.array[:, :, 1::2][:, :, empty[:-1] & empty[1:]].any()


def test_thick_slices_reach_the_slices_of_a_finer_scan(tmp_path: Path) -> None:
    built = some_series(SLICES)
    labels = some_labels(1, empty=(0, 8))
    made = made_seg(built, labels)
    del made.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0].SpacingBetweenSlices
    fine = np.array(grid_of(built).affine)
    fine[:3, 2] /= 5
    read = read_seg(saved(tmp_path / "seg", made), Grid((COLUMNS, ROWS, 5 * SLICES), fine))
    assert np.array_equal(read.array[:, :, 10:13], np.repeat(labels.T[:, :, 2:3], 3, axis=2))
    assert np.array_equal(read.array[:, :, 13:16], np.repeat(labels.T[:, :, 3:4], 3, axis=2))


def test_a_tilted_scan(tmp_path: Path) -> None:
    built, labels = tilted(SLICES, 18.5), some_labels()
    path = saved(tmp_path / "seg", made_seg(built, labels))
    there = arranged(built)
    assert there.planes is not None
    found = read_segments(path)
    frames = found.array[:, :, np.isin(np.arange(len(found.planes)), np.arange(SLICES))]
    assert np.array_equal(frames, labels.T[:, :, labels.any(axis=(1, 2))])
    read = read_seg(path, there.grid)
    assert np.count_nonzero(read.array == 1) == np.count_nonzero(labels == 1)
    own, notes = read_seg_noted(path)
    assert "straight grid" in notes[0]
    assert np.count_nonzero(own.array) == np.count_nonzero(labels)


def test_where_segments_overlap_the_later_counts(tmp_path: Path) -> None:
    built = some_series(SLICES)
    both = np.zeros((SLICES, ROWS, COLUMNS, 2), np.uint8)
    both[2:5, :, :3, 0], both[4:6, :, 2:, 1] = 1, 1
    made = shuffled(made_seg(built, both), 3)
    read, notes = read_seg_noted(saved(tmp_path / "seg", made), grid_of(built))
    expected = np.zeros((SLICES, ROWS, COLUMNS))
    expected[2:5, :, :3], expected[4:6, :, 2:] = 1, 2
    assert np.array_equal(read.array, expected.T)
    assert notes == (f"{ROWS} voxel(s) belong to several segments: the later one counts",)


@pytest.mark.parametrize(
    ("kind", "syntax"),
    [
        ("LABELMAP", RLELossless),
        ("LABELMAP", JPEG2000Lossless),
        ("LABELMAP", JPEGLSLossless),
        ("FRACTIONAL", RLELossless),
    ],
)
def test_compressed_frames(tmp_path: Path, kind: str, syntax: UID) -> None:
    built = Built(np.zeros((4, 34, 40), np.int16))
    labels = np.zeros((4, 34, 40), np.uint8)
    labels[1:3, 5:20, 7:30], labels[2, 12:30, 20:35] = 1, 2
    made = made_seg(built, fractions(labels) if kind == "FRACTIONAL" else labels, kind, syntax=syntax)
    path = saved(tmp_path / "seg", made)
    assert np.array_equal(read_seg(path, grid_of(built)).array, labels.T)
    for cut in (12, 100, 300):
        path.write_bytes(path.read_bytes()[:-cut])
        with pytest.raises(InputError, match=r"\[(TRUNCATED|DAMAGED)\]"):
            read_seg(path, grid_of(built))


def test_a_fraction_counts_from_a_half_of_the_largest(tmp_path: Path) -> None:
    built = some_series(SLICES)
    made = made_seg(built, fractions(some_labels()), "FRACTIONAL", omit=False)
    made.MaximumFractionalValue = 201
    values = np.zeros((int(made.NumberOfFrames), ROWS, COLUMNS), np.uint8)
    values[3, 0, :4] = 100, 101, 200, 1
    made.PixelData = values.tobytes()
    read = read_seg(saved(tmp_path / "seg", made))
    assert np.count_nonzero(read.array) == 2


def test_more_than_255_segments(tmp_path: Path) -> None:
    built = some_series(SLICES)
    made = made_seg(built, (some_labels() == 1).astype(np.uint8), names=["liver"])
    made.SegmentSequence[0].SegmentNumber = 300
    made.SharedFunctionalGroupsSequence[0].SegmentIdentificationSequence[0].ReferencedSegmentNumber = 300
    read = read_seg(saved(tmp_path / "seg", made), grid_of(built))
    assert read.array.dtype == np.uint16
    assert dict(read.names) == {300: "liver"}
    assert np.array_equal(read.array > 0, (some_labels() == 1).T)


def test_what_lies_elsewhere_is_refused(tmp_path: Path) -> None:
    built, labels = some_series(SLICES), some_labels()
    path = saved(tmp_path / "seg", made_seg(built, labels))
    away = np.array(grid_of(built).affine)
    away[0, 3] += 500
    with pytest.raises(GeometryError, match=r"case-1: \[OFF_GRID\] its labels lie nowhere on its scan"):
        read_seg(path, Grid((COLUMNS, ROWS, SLICES), away), "case-1")
    with pytest.raises(GeometryError, match=r"\[OFF_GRID\].*another frame of reference"):
        read_seg(path, grid_of(built), "case-1", f"{FRAME_OF_REFERENCE}.1")
    assert read_seg(path, grid_of(built), "case-1", FRAME_OF_REFERENCE).array.any()
    part, notes = read_seg_noted(path, Grid((COLUMNS, ROWS, 3), grid_of(built).affine))
    assert np.array_equal(part.array, labels.T[:, :, :3])
    assert notes == (f"{np.count_nonzero(labels[3:])} labelled voxel(s) lie outside the scan: they are left",)


@pytest.mark.parametrize("kind", ["BINARY", "LABELMAP"])
def test_an_empty_segmentation_is_a_finding(tmp_path: Path, kind: str) -> None:
    built = some_series(SLICES)
    made = made_seg(built, np.zeros((SLICES, ROWS, COLUMNS), np.uint8), kind, omit=False)
    read = read_seg(saved(tmp_path / "seg", made), grid_of(built))
    assert not read.array.any()
    assert dict(read.names) == {1: "liver", 2: "left kidney"}


def test_a_frame_of_a_segment_that_comes_twice_is_refused(tmp_path: Path) -> None:
    made = made_seg(some_series(SLICES), some_labels())
    made.PerFrameFunctionalGroupsSequence[1] = made.PerFrameFunctionalGroupsSequence[0]
    with pytest.raises(InputError, match=r"\[DUPLICATE_POSITION\]"):
        read_seg(saved(tmp_path / "seg", made))


def test_damage_is_said_without_a_name(tmp_path: Path) -> None:
    folder = tmp_path / PATIENT
    folder.mkdir()
    path = saved(folder / f"{PATIENT}.dcm", made_seg(some_series(SLICES), some_labels()))
    whole = path.read_bytes()
    texts = []
    for n in (len(whole) - 20, *range(0, len(whole), len(whole) // 40)):
        path.write_bytes(whole[:n])
        with pytest.raises(InputError) as caught:
            read_seg(path, name="case-1")
        texts.append(str(caught.value))
    assert "[TRUNCATED]" in texts[0]
    path.unlink()
    for read in (read_seg, segment_names, seg_references):
        with pytest.raises(InputError, match=r"\[NOT_FOUND\]"):
            read(path)  # type: ignore[operator]
    image = some_series(1).dataset(0)
    image.save_as(path, enforce_file_format=True)
    with pytest.raises(InputError, match=r"\[NOT_LABELS\] is no DICOM segmentation"):
        read_seg(path)
    assert not any("rg" in text or str(tmp_path) in text for text in texts)


@pytest.mark.parametrize(
    ("keyword", "value", "code"),
    [
        ("SegmentationType", "OTHER", "DAMAGED"),
        ("TotalPixelMatrixColumns", 100, "NO_GEOMETRY"),
        ("PerFrameFunctionalGroupsSequence", [], "NO_GEOMETRY"),
        ("NumberOfFrames", 3, "DAMAGED"),
        ("Rows", 500, "TRUNCATED"),
        ("Rows", 65535, "TOO_LARGE"),
        ("BitsAllocated", 32, "DAMAGED"),
        ("SamplesPerPixel", 3, "DAMAGED"),
    ],
)
def test_headers_that_cannot_be(tmp_path: Path, keyword: str, value: Any, code: str) -> None:
    made = made_seg(some_series(SLICES), some_labels())
    setattr(made, keyword, value)
    made.Columns = 65535 if code == "TOO_LARGE" else made.Columns
    with quiet(), pytest.raises(InputError, match=rf"\[{code}\]"):
        read_seg(saved(tmp_path / "seg", made))


def test_frames_that_make_no_slices(tmp_path: Path) -> None:
    def changed(edit: Any) -> Path:
        made = made_seg(some_series(SLICES), some_labels())
        edit(made)
        return saved(tmp_path / "seg", made)

    def other_direction(made: Dataset) -> None:
        item = Dataset()
        item.ImageOrientationPatient = [0, 1, 0, 0, 0, 1]
        made.PerFrameFunctionalGroupsSequence[1].PlaneOrientationSequence = [item]

    def beside(made: Dataset) -> None:
        made.PerFrameFunctionalGroupsSequence[1].PlanePositionSequence[0].ImagePositionPatient = [-15, -30, 45]

    def nowhere(made: Dataset) -> None:
        del made.PerFrameFunctionalGroupsSequence[1].PlanePositionSequence

    for edit, code in ((other_direction, "MIXED_ORIENTATION"), (beside, "SHIFTED"), (nowhere, "NO_GEOMETRY")):
        with pytest.raises(InputError, match=rf"\[{code}\]"):
            read_seg(changed(edit))


def test_names_stay_in_one_line(tmp_path: Path) -> None:
    made = made_seg(some_series(SLICES), some_labels(), names=["a", "b"])
    made.SpecificCharacterSet = "ISO_IR 192"
    made.SegmentSequence[0].SegmentLabel = "Milz\r\n vergrößert "
    made.SegmentSequence[1].SegmentLabel = ""
    assert segment_names(saved(tmp_path / "seg", made)) == {1: "Milz vergrößert", 2: "2"}


def test_a_real_fractional_segmentation(real_data: Path) -> None:
    path = next((real_data / "dicom_seg" / "mask").iterdir())
    planes = []
    for file in sorted((real_data / "dicom_seg" / "image").iterdir()):
        with quiet():
            ds = pydicom.dcmread(file, stop_before_pixels=True)
        values = (ds.ImageOrientationPatient, ds.ImagePositionPatient, ds.PixelSpacing)
        planes.append(Plane(ds.Rows, ds.Columns, *(tuple(map(float, value)) for value in values)))
    phase = arrange(list({plane.position_mm: plane for plane in planes}.values()))  # three phases on the same slices
    assert phase.grid is not None
    with quiet():
        made = pydicom.dcmread(path)
        stored = made.pixel_array
    labels, notes = read_seg_noted(path, phase.grid, frame_of_reference=str(made.FrameOfReferenceUID))
    assert notes == ()
    assert dict(labels.names) == {1: "Breast"}
    assert np.count_nonzero(labels.array) == np.count_nonzero(stored >= 128) > 10000
    first = made.PerFrameFunctionalGroupsSequence[0].PlanePositionSequence[0].ImagePositionPatient
    x, y, z = np.linalg.solve(phase.grid.affine, [-first[0], -first[1], first[2], 1])[:3]
    assert (round(x), round(y)) == (0, 0)
    assert np.array_equal(labels.array[:, :, round(z)].T > 0, stored[0] >= 128)
    own = read_seg(path)
    assert own.grid.shape == (256, 256, 42)
    assert np.count_nonzero(own.array) == np.count_nonzero(labels.array)


@pytest.mark.parametrize("kind", TYPES)
def test_only_segments_that_are_asked_for_are_drawn(tmp_path: Path, kind: str) -> None:
    built, labels = some_series(SLICES), some_labels()
    path = saved(tmp_path / "seg", made_seg(built, fractions(labels) if kind == "FRACTIONAL" else labels, kind))
    read, notes = read_seg_noted(path, grid_of(built), wanted=["Left_Kidney"])
    assert np.array_equal(read.array.T, np.where(labels == 2, 2, 0))
    assert (dict(read.names), notes) == ({2: "left kidney"}, ())
