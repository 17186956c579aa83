from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pydicom
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from matplotlib.path import Path as Polygon
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from medseg.errors import GeometryError, InputError
from medseg.imaging.dicom.headers import quiet
from medseg.imaging.volume import LabelMap
from medseg.imaging.writing import rtstruct
from medseg.imaging.writing.contours import outlines
from medseg.imaging.writing.result import Algorithm, Result, native
from medseg.imaging.writing.rtstruct import roi_names, write_rtstruct
from tests.imaging.build import PATIENT, Built, some_series
from tests.imaging.writing.results_build import (
    enhanced_of,
    gapped,
    oblique,
    result_of,
    scan_of,
    some_result,
    tilted,
    with_study,
)

Faults = Callable[[Path], list[str]]
SOURCES: dict[str, Callable[[], Built]] = {
    "straight": some_series,
    "oblique": oblique,
    "tilted": tilted,
    "gapped": gapped,
}


@pytest.fixture(params=[*SOURCES, "enhanced"])
def result(request: pytest.FixtureRequest, tmp_path: Path) -> Result:
    if request.param == "enhanced":
        return result_of(enhanced_of(some_series(), tmp_path / "scan"))
    return some_result(tmp_path / "scan", SOURCES[request.param]())


def placed_images(result: Result) -> dict[tuple[str, int], Dataset]:
    """Where each image lies, as its own file says; frames of a multi-frame file count from 1."""
    placed = {}
    assert result.scan is not None
    for path in result.scan.paths:
        ds = pydicom.dcmread(path)
        groups = ds.get("PerFrameFunctionalGroupsSequence")
        for i, group in enumerate(groups or [None], start=1 if groups else 0):
            image = Dataset()
            image.ImagePositionPatient = (group.PlanePositionSequence[0] if group else ds).ImagePositionPatient
            image.ImageOrientationPatient = (group.PlaneOrientationSequence[0] if group else ds).ImageOrientationPatient
            image.PixelSpacing = (group.PixelMeasuresSequence[0] if group else ds).PixelSpacing
            image.Rows, image.Columns = ds.Rows, ds.Columns
            placed[str(ds.SOPInstanceUID), i] = image
    return placed


def on_image(points: NDArray[np.float64], image: Dataset) -> tuple[NDArray[np.float64], float]:
    """Points (n, 3) as column and row of an image (n, 2), and how far off its plane they are."""
    row, column = np.array(image.ImageOrientationPatient, float).reshape(2, 3)
    away = points - np.array(image.ImagePositionPatient, float)
    down, across = image.PixelSpacing
    index = np.stack([away @ row / float(across), away @ column / float(down)], axis=1)
    return index, float(np.abs(away @ np.cross(row, column)).max())


def drawn(path: Path, result: Result) -> dict[int, NDArray[np.bool_]]:
    """The structures of a file on the source's images, by matplotlib and the images' own headers: (X, Y, N) each."""
    ds, images = pydicom.dcmread(path), placed_images(result)
    assert result.scan is not None
    order = [(f.uid, f.index + 1 if len(result.scan.paths) == 1 else 0) for f in result.scan.frames]
    found = {}
    for roi in ds.ROIContourSequence:
        some = images[order[0]]
        mask = np.zeros((some.Columns, some.Rows, len(order)), bool)
        for contour in roi.get("ContourSequence", []):
            assert contour.ContourGeometricType == "CLOSED_PLANAR"
            (reference,) = contour.ContourImageSequence
            key = (str(reference.ReferencedSOPInstanceUID), int(reference.get("ReferencedFrameNumber", 0)))
            points = np.array(contour.ContourData, float).reshape(-1, 3)
            assert len(points) == contour.NumberOfContourPoints >= 3
            index, off = on_image(points, images[key])
            assert off < 1e-3
            low = np.maximum(np.floor(index.min(axis=0)).astype(int), 0)
            box = tuple(slice(*ends) for ends in zip(low, np.ceil(index.max(axis=0)).astype(int) + 1, strict=True))
            pixels = np.argwhere(np.ones_like(mask[(*box, 0)])) + low
            inside = Polygon(np.vstack([index, index[:1]]), closed=True).contains_points(pixels)
            mask[(*box, order.index(key))] ^= inside.reshape(mask[(*box, 0)].shape)
        found[int(roi.ReferencedROINumber)] = mask
    return found


def assert_same(path: Path, result: Result) -> None:
    labels = native(result)
    for value, mask in drawn(path, result).items():
        assert np.array_equal(mask, labels == value)


def test_contours_give_the_labels_back_on_every_kind_of_source(result: Result, tmp_path: Path) -> None:
    written = write_rtstruct(tmp_path / "a.dcm", result)
    assert written.path == tmp_path / "a.dcm"
    assert written.deviation_mm < 1e-3
    assert_same(written.path, result)


def test_the_validator_finds_no_fault(result: Result, tmp_path: Path, faults: Faults) -> None:
    assert faults(write_rtstruct(tmp_path / "a.dcm", result).path) == []


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 2**32 - 1), share=st.floats(0.1, 0.9), source=st.sampled_from([*SOURCES]))
def test_holes_islands_in_holes_and_single_pixels_come_back(
    seed: int, share: float, source: str, tmp_path: Path
) -> None:
    rng = np.random.default_rng(seed)
    plain = SOURCES[source]()
    stored = np.zeros((len(plain.stored), 13, 11), np.int16)
    built = Built(stored, plain.row, plain.column, positions_mm=plain.positions_mm, series=str(seed))
    result = some_result(tmp_path / str(seed), built)
    array = (rng.random(result.labels.array.shape) < share) * rng.integers(1, 3, result.labels.array.shape)
    result = Result(
        LabelMap(array.astype(np.uint8), result.labels.grid, {1: "one", 2: "two"}), result.own, result.scan,
        result.algorithm,
    )  # fmt: skip
    assert_same(write_rtstruct(tmp_path / f"{seed}.dcm", result).path, result)


def test_a_contour_may_be_longer_than_64_kilobytes(tmp_path: Path) -> None:
    built = Built(np.zeros((2, 130, 120), np.int16))
    array = (np.random.default_rng(0).random((120, 130, 2)) < 0.7).astype(np.uint8)
    result = some_result(tmp_path / "scan", built, {1: "sponge"}, array=array)
    path = write_rtstruct(tmp_path / "a.dcm", result).path
    (roi,) = pydicom.dcmread(path).ROIContourSequence
    assert max(len(contour.get_item("ContourData").value) for contour in roi.ContourSequence) > 65536
    assert_same(path, result)


def test_a_hole_is_joined_by_a_channel_so_that_filling_each_contour_alone_keeps_it(tmp_path: Path) -> None:
    array = np.zeros((6, 5, 4), np.uint8)
    array[1:6, 0:5, 1] = 1
    array[3, 2, 1] = 0
    path = write_rtstruct(tmp_path / "a.dcm", some_result(tmp_path / "scan", names={1: "ring"}, array=array)).path
    (roi,) = pydicom.dcmread(path).ROIContourSequence
    assert len(roi.ContourSequence) == 1


def test_coordinates_have_no_more_characters_than_allowed_and_are_exact(tmp_path: Path) -> None:
    far = some_series(first_mm=np.array([-12345.678912345, 1 / 3, 1e-7]), between_columns_mm=0.48828125)
    path = write_rtstruct(tmp_path / "a.dcm", some_result(tmp_path / "scan", far)).path
    for roi in pydicom.dcmread(path).ROIContourSequence:
        for contour in roi.ContourSequence:
            parts = contour.get_item("ContourData").value.split(b"\\")
            assert max(len(part.strip()) for part in parts) <= 16
            assert not any(part.strip() in (b"-0.0", b"-0") or b"e" in part for part in parts)


def test_an_empty_structure_is_listed_without_contours(tmp_path: Path, faults: Faults) -> None:
    result = some_result(tmp_path / "scan", names={1: "liver", 7: "spleen"}, array=np.zeros((6, 5, 4), np.uint8))
    written = write_rtstruct(tmp_path / "a.dcm", result)
    ds = pydicom.dcmread(written.path)
    assert [(roi.ROINumber, roi.ROIName) for roi in ds.StructureSetROISequence] == [(1, "liver"), (7, "spleen")]
    assert [int(roi.ReferencedROINumber) for roi in ds.ROIContourSequence] == [1, 7]
    assert not any("ContourSequence" in roi for roi in ds.ROIContourSequence)
    assert faults(written.path) == []
    assert written.deviation_mm == 0


def test_every_image_of_the_series_is_referenced(tmp_path: Path) -> None:
    result = some_result(tmp_path / "scan")
    ds = pydicom.dcmread(write_rtstruct(tmp_path / "a.dcm", result).path)
    (frame,) = ds.ReferencedFrameOfReferenceSequence
    (study,) = frame.RTReferencedStudySequence
    (series,) = study.RTReferencedSeriesSequence
    images = [pydicom.dcmread(path) for path in result.scan.paths] if result.scan else []
    assert {frame.FrameOfReferenceUID, ds.FrameOfReferenceUID} == {images[0].FrameOfReferenceUID}
    assert study.ReferencedSOPInstanceUID == ds.StudyInstanceUID == images[0].StudyInstanceUID
    assert series.SeriesInstanceUID == images[0].SeriesInstanceUID
    assert {(i.ReferencedSOPClassUID, i.ReferencedSOPInstanceUID) for i in series.ContourImageSequence} == {
        (i.SOPClassUID, i.SOPInstanceUID) for i in images
    }
    assert {roi.ReferencedFrameOfReferenceUID for roi in ds.StructureSetROISequence} == {frame.FrameOfReferenceUID}


def test_of_a_multi_frame_file_the_used_frames_are_referenced(tmp_path: Path) -> None:
    result = result_of(enhanced_of(some_series(4), tmp_path / "scan", before=2))
    ds = pydicom.dcmread(write_rtstruct(tmp_path / "a.dcm", result).path)
    study = ds.ReferencedFrameOfReferenceSequence[0].RTReferencedStudySequence[0]
    (image,) = study.RTReferencedSeriesSequence[0].ContourImageSequence
    assert sorted(image.ReferencedFrameNumber) == [3, 4, 5, 6]


def test_it_says_what_it_is_and_for_what_it_is_not(tmp_path: Path) -> None:
    names = {1: "kidney_left", 2: "GTV", 3: "liver tumour", 4: "thing"}
    ds = pydicom.dcmread(write_rtstruct(tmp_path / "a.dcm", some_result(tmp_path / "scan", names=names)).path)
    assert "RESEARCH USE ONLY" in ds.SeriesDescription
    assert "Research use only" in ds.StructureSetDescription
    assert "ab" * 32 in ds.StructureSetDescription
    assert (ds.StructureSetLabel, ds.ApprovalStatus, ds.Modality) == ("medseg", "UNAPPROVED", "RTSTRUCT")
    assert {roi.ROIGenerationAlgorithm for roi in ds.StructureSetROISequence} == {"AUTOMATIC"}
    kinds = [item.RTROIInterpretedType for item in ds.RTROIObservationsSequence]
    assert kinds == ["ORGAN", "GTV", "", ""]
    coded = ["RTROIIdentificationCodeSequence" in item for item in ds.RTROIObservationsSequence]
    assert coded == [True, True, True, False]
    colours = [tuple(roi.ROIDisplayColor) for roi in ds.ROIContourSequence]
    assert len(set(colours)) == 4


def test_the_same_result_has_the_same_uids_and_another_model_others(tmp_path: Path) -> None:
    scan = some_result(tmp_path / "scan").scan
    assert scan is not None

    def uids(name: str, model: str) -> tuple[str, str]:
        result = result_of(scan, algorithm=Algorithm("a", "1", model))
        ds = pydicom.dcmread(write_rtstruct(tmp_path / name, result).path)
        return ds.SOPInstanceUID, ds.SeriesInstanceUID

    assert uids("a.dcm", "x") == uids("b.dcm", "x")
    assert len({*uids("a.dcm", "x"), *uids("b.dcm", "y")}) == 4


@pytest.mark.parametrize("own", ["ISO_IR 100", "ISO_IR 192", None])
@pytest.mark.parametrize("name", ["liver", "Größe/Niere", "ήπαρ"])
def test_names_keep_their_letters(own: str | None, name: str, tmp_path: Path, faults: Faults) -> None:
    datasets = [with_study(ds) for ds in some_series(3).datasets()]
    patient = PATIENT if own else "Mueller^Joerg"
    for ds in datasets:
        ds.SpecificCharacterSet, ds.PatientName = own, patient
        if own is None:
            del ds.SpecificCharacterSet
    result = result_of(scan_of(datasets, tmp_path / "scan"), {1: name})
    path = write_rtstruct(tmp_path / "a.dcm", result).path
    ds = pydicom.dcmread(path)
    assert str(ds.PatientName) == patient
    assert ds.StructureSetROISequence[0].ROIName == name
    fits = name.isascii() or own == "ISO_IR 192" or (own == "ISO_IR 100" and name != "ήπαρ")
    assert ds.get("SpecificCharacterSet") == (own if fits else "ISO_IR 192")
    assert faults(path) == []


def test_names_fit_into_dicom_and_stay_apart(tmp_path: Path, faults: Faults) -> None:
    long = "a very long name " * 6
    names = {1: long + "left", 2: long + "right", 3: "a\\b\n", 4: " ", 5: "L/R"}
    path = write_rtstruct(tmp_path / "a.dcm", some_result(tmp_path / "scan", names=names)).path
    found = [roi.ROIName for roi in pydicom.dcmread(path).StructureSetROISequence]
    assert len(set(found)) == 5
    assert max(map(len, found)) <= 64
    assert found[2] == "a_b_"
    assert found[4] == "L/R"
    assert faults(path) == []


def test_a_structure_without_a_name_is_called_by_its_value(tmp_path: Path) -> None:
    array = np.zeros((6, 5, 4), np.uint16)
    array[2, 2, 2] = 300
    result = some_result(tmp_path / "scan", names={}, array=array)
    assert roi_names(result.labels) == {300: "300"}
    assert_same(write_rtstruct(tmp_path / "a.dcm", result).path, result)


def test_what_the_source_lacks_is_empty_and_not_invented(tmp_path: Path, faults: Faults) -> None:
    result = result_of(scan_of(some_series().datasets(), tmp_path / "scan"))  # no study, no birth date, no frame
    path = write_rtstruct(tmp_path / "a.dcm", result).path
    ds = pydicom.dcmread(path)
    for keyword in ("PatientBirthDate", "PatientSex", "StudyDate", "StudyTime", "AccessionNumber", "StudyID"):
        assert keyword in ds
        assert not ds[keyword].value
    assert result.scan is not None
    assert (ds.StudyInstanceUID, ds.FrameOfReferenceUID) == (result.scan.study_uid, result.scan.frame_of_reference)
    assert faults(path) == []


def test_odd_headers_do_not_stop_it(tmp_path: Path) -> None:
    datasets = [with_study(ds) for ds in some_series(3).datasets()]
    with quiet():
        for ds in datasets:
            ds.PatientAge, ds.StudyDate, ds.StudyDescription = "seventy", "yesterday", "x" * 200
    result = result_of(scan_of(datasets, tmp_path / "scan"))
    ds = pydicom.dcmread(write_rtstruct(tmp_path / "a.dcm", result).path)
    assert ds.StudyInstanceUID == datasets[0].StudyInstanceUID


def test_no_path_and_no_patient_stands_in_texts_of_ours(tmp_path: Path) -> None:
    path = write_rtstruct(tmp_path / "a.dcm", some_result(tmp_path / PATIENT)).path
    ds = pydicom.dcmread(path)
    said = " ".join(str(ds.get(k)) for k in ("SeriesDescription", "StructureSetDescription", "StructureSetName"))
    assert "ller" not in said
    assert str(tmp_path) not in said


def test_contours_elsewhere_are_found_on_reading_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    result = some_result(tmp_path / "scan")
    monkeypatch.setattr(rtstruct, "outlines", lambda mask: [polygon + 1 for polygon in outlines(mask)])
    with pytest.raises(GeometryError, match=r"\[READ_BACK\]"):
        write_rtstruct(tmp_path / "a.dcm", result)
    assert [path.name for path in tmp_path.iterdir()] == ["scan"]


def test_a_lost_contour_is_found_on_reading_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    result = some_result(tmp_path / "scan")
    monkeypatch.setattr(rtstruct, "outlines", lambda mask: outlines(mask)[1:])
    with pytest.raises(GeometryError, match=r"\[READ_BACK\]"):
        write_rtstruct(tmp_path / "a.dcm", result)
    assert not (tmp_path / "a.dcm").exists()


def test_numbers_changed_in_the_file_are_found_on_reading_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rtstruct, "_DECIMALS", -1)
    with pytest.raises(GeometryError, match=r"\[READ_BACK\]"):
        write_rtstruct(tmp_path / "a.dcm", some_result(tmp_path / "scan"))


def test_a_scan_that_is_no_dicom_is_refused(tmp_path: Path) -> None:
    made = some_result(tmp_path / "scan")
    with pytest.raises(InputError, match=r"\[NO_SOURCE\]"):
        write_rtstruct(tmp_path / "a.dcm", Result(made.labels, made.own, None, made.algorithm))


def test_labels_without_any_structure_are_refused(tmp_path: Path) -> None:
    result = some_result(tmp_path / "scan", names={}, array=np.zeros((6, 5, 4), np.uint8))
    with pytest.raises(InputError, match=r"\[NO_STRUCTURES\]"):
        write_rtstruct(tmp_path / "a.dcm", result)


@pytest.mark.parametrize("series", ["flair", "t1_post", "hippocampus_crop"])
def test_real_scans_take_contours(series: str, real_data: Path, tmp_path: Path, faults: Faults) -> None:
    folder = real_data / "dicom_mr" / series
    if not folder.is_dir():
        pytest.skip("no such series")
    scan = scan_of([pydicom.dcmread(path) for path in sorted(folder.iterdir())], tmp_path / "scan")
    assert scan.grid is not None
    x, y, z = np.ogrid[tuple(slice(-1, 1, n * 1j) for n in scan.grid.shape)]
    radius = np.sqrt(x**2 + y**2 + z**2)
    array = np.where(radius < 0.4, 1, np.where((radius > 0.5) & (radius < 0.6), 2, 0)).astype(np.uint8)
    result = result_of(scan, {1: "brain", 2: "shell"}, array=array)
    written = write_rtstruct(tmp_path / "a.dcm", result)
    assert written.deviation_mm < 1e-3
    assert faults(written.path) == []
    assert_same(written.path, result)
