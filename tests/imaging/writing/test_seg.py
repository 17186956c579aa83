"""DICOM segmentations: what highdicom wrote is what was meant, to pydicom, dciodvfy, highdicom and dcmqi."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from pydicom import dcmread
from pydicom.dataset import FileDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, RLELossless

from medseg.errors import GeometryError, InputError
from medseg.imaging.dicom.headers import quiet
from medseg.imaging.volume import LabelMap
from medseg.imaging.writing import seg
from medseg.imaging.writing.codes import Code
from medseg.imaging.writing.result import Algorithm, Made, Result, native
from medseg.imaging.writing.rtstruct import write_rtstruct
from medseg.imaging.writing.seg import read_back, segments, write_seg
from medseg.imaging.writing.snomed import ABNORMAL_STRUCTURE, LEFT, TISSUE
from medseg.imaging.writing.sr import write_sr
from tests.imaging.build import PATIENT, some_series
from tests.imaging.writing.results_build import (
    ALGORITHM,
    FRAME_OF_REFERENCE,
    bare,
    blobs,
    enhanced_of,
    gapped,
    oblique,
    result_of,
    scan_in,
    scan_of,
    some_result,
    tilted,
    with_study,
)

SOURCES: Mapping[str, Callable[[Path], Result]] = {
    "as scanners send it": some_result,
    "oblique": lambda folder: some_result(folder, oblique()),
    "tilted": lambda folder: some_result(folder, tilted()),
    "with a gap": lambda folder: some_result(folder, gapped()),
    "with nothing but pixels": lambda folder: result_of(scan_of(bare(some_series()), folder)),
    "enhanced": lambda folder: result_of(enhanced_of(some_series(), folder)),
    "enhanced and tilted": lambda folder: result_of(enhanced_of(tilted(), folder)),
}


@pytest.fixture(params=SOURCES)
def result(request: pytest.FixtureRequest, tmp_path: Path) -> Result:
    return SOURCES[request.param](tmp_path / "source")


def by_reference(ds: FileDataset, result: Result) -> NDArray[np.uint8]:
    """Labels (X, Y, N) put together by the source image that each frame refers to, whatever the frame's place says."""
    assert result.scan is not None
    where = {(frame.uid, frame.index): k for k, frame in enumerate(result.scan.frames)}
    value = {segment.number: segment.value for segment in segments(result.labels)}
    out = np.zeros(native(result).shape, np.uint8)
    for group, frame in zip(ds.PerFrameFunctionalGroupsSequence, np.atleast_3d(ds.pixel_array), strict=True):
        (derivation,) = group.DerivationImageSequence
        (image,) = derivation.SourceImageSequence
        k = where[str(image.ReferencedSOPInstanceUID), int(image.get("ReferencedFrameNumber", 1)) - 1]
        if ds.SegmentationType == "BINARY":
            said = group if "SegmentIdentificationSequence" in group else ds.SharedFunctionalGroupsSequence[0]
            number = said.SegmentIdentificationSequence[0].ReferencedSegmentNumber
            out[:, :, k][frame.T > 0] = value[int(number)]
        else:
            out[:, :, k] = np.vectorize(lambda v: value.get(int(v), 0), otypes=[np.uint8])(frame.T)
    return out


@pytest.mark.parametrize("labelmap", [False, True])
def test_every_frame_refers_to_the_slice_that_its_labels_lie_on(tmp_path: Path, result: Result, labelmap: bool) -> None:
    written = write_seg(tmp_path / "out" / "a.dcm", result, labelmap)
    ds = dcmread(written.path)
    assert np.array_equal(by_reference(ds, result), native(result))
    assert written.deviation_mm < 1e-4
    assert ds.file_meta.TransferSyntaxUID == (RLELossless if labelmap else ExplicitVRLittleEndian)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["a.dcm"]


def test_all_files_of_the_source_are_named(tmp_path: Path, result: Result) -> None:
    ds = dcmread(write_seg(tmp_path / "a.dcm", result).path)
    assert result.scan is not None
    uids = list(dict.fromkeys(frame.uid for frame in result.scan.frames))
    (series,) = ds.ReferencedSeriesSequence
    assert [str(item.ReferencedSOPInstanceUID) for item in series.ReferencedInstanceSequence] == uids
    assert [str(item.ReferencedSOPInstanceUID) for item in ds.SourceImageSequence] == uids
    kinds = {str(dcmread(path).SOPClassUID) for path in result.scan.paths}
    assert {str(item.ReferencedSOPClassUID) for item in ds.SourceImageSequence} == kinds
    assert str(series.SeriesInstanceUID) == result.scan.series_uid
    assert str(ds.FrameOfReferenceUID) == FRAME_OF_REFERENCE


def test_no_error_by_dciodvfy(tmp_path: Path, result: Result, faults: Callable[[Path], list[str]]) -> None:
    assert faults(write_seg(tmp_path / "a.dcm", result).path) == []


def test_the_labels_touch_every_border_and_lie_on_the_slices_own_pixels(tmp_path: Path) -> None:
    result = some_result(tmp_path, tilted())
    labels = native(result)
    assert labels.shape == (6, 5, 6) != result.labels.grid.shape
    assert all(np.take(labels, end, axis).any() for axis in range(3) for end in (0, -1))


def test_what_a_segment_says(tmp_path: Path) -> None:
    result = some_result(tmp_path / "in", names={1: "kidney_left", 2: "liver tumour"})
    ds = dcmread(write_seg(tmp_path / "a.dcm", result).path)
    kidney, tumour = ds.SegmentSequence
    (of_type,) = kidney.SegmentedPropertyTypeCodeSequence
    assert (of_type.CodeValue, of_type.CodingSchemeDesignator, of_type.CodeMeaning) == ("64033007", "SCT", "Kidney")
    assert of_type.SegmentedPropertyTypeModifierCodeSequence[0].CodeMeaning == "Left"
    assert kidney.SegmentLabel == kidney.TrackingID == "kidney_left"
    assert tumour.SegmentedPropertyTypeCodeSequence[0].CodeMeaning == "Neoplasm"
    assert tumour.AnatomicRegionSequence[0].CodeMeaning == "Liver"
    assert (tumour.SegmentAlgorithmType, tumour.SegmentAlgorithmName) == ("AUTOMATIC", "medseg test")
    assert kidney.TrackingUID != tumour.TrackingUID
    assert kidney.SegmentAlgorithmType == "AUTOMATIC"
    (algorithm,) = kidney.SegmentationAlgorithmIdentificationSequence
    assert (algorithm.AlgorithmName, algorithm.AlgorithmVersion) == (ALGORITHM.name, ALGORITHM.version)
    assert ALGORITHM.model in algorithm.AlgorithmParameters
    assert list(kidney.RecommendedDisplayCIELabValue) != list(tumour.RecommendedDisplayCIELabValue)
    assert "RESEARCH USE ONLY" in ds.SeriesDescription
    assert (ds.SegmentsOverlap, ds.ContentLabel) == ("NO", "SEGMENTATION")


def test_the_side_of_an_abnormality_is_that_of_its_region(tmp_path: Path, faults: Callable[[Path], list[str]]) -> None:
    own = {"odd": Code(ABNORMAL_STRUCTURE, TISSUE, (("1", "99X", "Old"), LEFT), TISSUE)}
    result = some_result(tmp_path / "in", names={1: "kidney tumor left", 2: "odd"}, codes=own)
    path = write_seg(tmp_path / "a.dcm", result).path
    for segment, of_type in zip(dcmread(path).SegmentSequence, ([], ["Old"]), strict=True):
        (region,), (kind,) = segment.AnatomicRegionSequence, segment.SegmentedPropertyTypeCodeSequence
        assert [item.CodeMeaning for item in region.AnatomicRegionModifierSequence] == ["Left"]
        found = kind.get("SegmentedPropertyTypeModifierCodeSequence", [])
        assert [item.CodeMeaning for item in found] == of_type
    assert faults(path) == []


def test_long_names_stay_apart(tmp_path: Path) -> None:
    long = "x" * 70
    names = {1: f"{long} left", 2: f"{long} right", 3: f"{long[:50]} 2", 4: f"{long} 4"}
    result = some_result(tmp_path / "in", names=names)
    path = write_seg(tmp_path / "a.dcm", result).path
    said = [str(segment.SegmentLabel) for segment in dcmread(path).SegmentSequence]
    assert said == [long[:64], f"{long[:50]} 2", f"{long[:50]} 3", f"{long[:50]} 4"]
    assert max(map(len, said)) <= 64
    assert write_sr(tmp_path / "b.dcm", result, path).path.is_file()


@pytest.mark.parametrize(("made", "said"), [("MANUAL", "MANUAL"), ("SEMIAUTOMATIC", "SEMIAUTOMATIC"), ("", "MANUAL")])
def test_how_labels_were_drawn(tmp_path: Path, made: Made, said: str, faults: Callable[[Path], list[str]]) -> None:
    result = some_result(tmp_path / "in", made=made)
    path = write_seg(tmp_path / "a.dcm", result).path
    for segment in dcmread(path).SegmentSequence:
        assert segment.SegmentAlgorithmType == said
        assert ("SegmentAlgorithmName" in segment) == (said != "MANUAL")
        assert ("SegmentationAlgorithmIdentificationSequence" in segment) == (said != "MANUAL")
    contours = write_rtstruct(tmp_path / "b.dcm", result).path
    for roi in dcmread(contours).StructureSetROISequence:
        assert roi.ROIGenerationAlgorithm == made
        assert ("ROIGenerationDescription" in roi) == (said != "MANUAL")
    assert faults(path) == faults(contours) == []


def test_structures_that_are_empty_or_unnamed_or_numbered_with_gaps_are_described(tmp_path: Path) -> None:
    names = {1: "spleen", 4: "liver", 9: "heart"}
    scan = scan_of(some_series().datasets(), tmp_path / "in")
    result = result_of(scan, names, blobs((6, 5, 4), (4, 7)))
    for labelmap in (False, True):
        ds = dcmread(write_seg(tmp_path / "a.dcm", result, labelmap).path)
        described = [s for s in ds.SegmentSequence if s.SegmentNumber]
        assert [(s.SegmentNumber, s.SegmentLabel) for s in described] == [
            (1, "spleen"),
            (2, "liver"),
            (3, "7"),
            (4, "heart"),
        ]
        assert np.array_equal(by_reference(ds, result), result.labels.array)


def test_a_result_without_any_label_is_a_finding_too(tmp_path: Path, faults: Callable[[Path], list[str]]) -> None:
    result = some_result(tmp_path / "in", array=np.zeros((6, 5, 4), np.uint8))
    written = write_seg(tmp_path / "a.dcm", result)
    ds = dcmread(written.path)
    assert [s.SegmentLabel for s in ds.SegmentSequence] == ["kidney_left", "liver"]
    assert ds.NumberOfFrames == 4
    assert not ds.pixel_array.any()
    assert faults(written.path) == []
    assert not dcmread(write_seg(tmp_path / "b.dcm", result, labelmap=True).path).pixel_array.any()


@pytest.mark.parametrize("character_set", ["ISO_IR 192", "ISO_IR 100", None])
def test_a_name_with_umlauts_stays_in_its_character_set(tmp_path: Path, character_set: str | None) -> None:
    datasets = [with_study(ds) for ds in some_series().datasets()]
    for ds in datasets:
        ds.SpecificCharacterSet = character_set
        ds.PatientName = PATIENT if character_set else "Plain^Name"
        if character_set is None:
            del ds.SpecificCharacterSet
    ds = dcmread(write_seg(tmp_path / "a.dcm", result_of(scan_of(datasets, tmp_path / "in"))).path)
    assert ds.get("SpecificCharacterSet") == character_set
    assert ds.PatientName == (PATIENT if character_set else "Plain^Name")
    name = str(ds.PatientName)
    assert name.encode({"ISO_IR 192": "utf-8"}.get(str(character_set), "latin-1")) in (tmp_path / "a.dcm").read_bytes()


def test_a_structures_name_beyond_the_character_set_of_the_source_takes_a_wider_one(tmp_path: Path) -> None:
    datasets = [with_study(ds) for ds in some_series().datasets()]
    for ds in datasets:
        ds.SpecificCharacterSet, ds.PatientName = "ISO_IR 100", PATIENT
    scan = scan_of(datasets, tmp_path / "in")
    kept = dcmread(write_seg(tmp_path / "a.dcm", result_of(scan, {1: "Läsion", 2: "x"})).path)
    assert (kept.SpecificCharacterSet, kept.SegmentSequence[0].SegmentLabel) == ("ISO_IR 100", "Läsion")
    wider = dcmread(write_seg(tmp_path / "a.dcm", result_of(scan, {1: "λ", 2: "x"})).path)
    assert (wider.SpecificCharacterSet, wider.SegmentSequence[0].SegmentLabel) == ("ISO_IR 192", "λ")
    assert wider.PatientName == PATIENT


def test_what_the_source_lacks_is_added_empty_and_never_invented(tmp_path: Path) -> None:
    scan = scan_of(bare(some_series()), tmp_path / "in")
    ds = dcmread(write_seg(tmp_path / "a.dcm", result_of(scan)).path)
    assert (ds.PatientName, ds.PatientID) == (PATIENT, "12345678")
    for keyword in ("PatientBirthDate", "PatientSex", "StudyDate", "StudyTime", "StudyID", "AccessionNumber"):
        assert keyword in ds
        assert not ds[keyword].value
    assert b"UNKNOWN" not in (tmp_path / "a.dcm").read_bytes().upper()


def test_odd_values_of_the_source_stop_nothing_and_stay_as_they_are(tmp_path: Path) -> None:
    datasets = [with_study(ds) for ds in some_series().datasets()]
    odd = {"PatientSex": "X", "PatientBirthDate": "1950", "StudyDate": "gestern", "PatientAge": "70"}
    for ds in datasets:
        for keyword, value in odd.items():
            ds[keyword]._value = value
        ds["SliceThickness"]._value = ""
    scan = scan_of(datasets, tmp_path / "in")
    ds = dcmread(write_seg(tmp_path / "a.dcm", result_of(scan)).path)
    with quiet():
        assert {keyword: str(ds[keyword].value) for keyword in odd} == odd
    assert ds.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0].SliceThickness == 2.5


def test_a_second_run_writes_the_same_object_and_another_model_another(tmp_path: Path) -> None:
    scan = scan_of(some_series().datasets(), tmp_path / "in")
    first, again = (dcmread(write_seg(tmp_path / "a.dcm", result_of(scan)).path) for _ in range(2))
    other = dcmread(
        write_seg(tmp_path / "b.dcm", result_of(scan, algorithm=Algorithm("medseg test", "1.2.3", "cd" * 32))).path
    )
    assert (first.SOPInstanceUID, first.SeriesInstanceUID) == (again.SOPInstanceUID, again.SeriesInstanceUID)
    assert first.SOPInstanceUID != other.SOPInstanceUID
    assert first.SeriesInstanceUID != other.SeriesInstanceUID


def test_two_volumes_of_one_series_make_two_objects(tmp_path: Path) -> None:
    scans = [scan_of(bare(some_series(first=first)), tmp_path / str(first)) for first in (1, 5)]
    of_one = [result_of(replace(scan, number=i, of=2)) for i, scan in enumerate(scans, start=1)]
    found = [dcmread(write_seg(tmp_path / "a.dcm", result).path) for result in of_one]
    assert found[0].SOPInstanceUID != found[1].SOPInstanceUID
    assert found[0].SegmentSequence[0].TrackingUID != found[1].SegmentSequence[0].TrackingUID


@pytest.mark.parametrize(("length", "digits"), [(0.996, 6), (1.0, 4)])
def test_the_source_keeps_its_own_digits_of_direction(tmp_path: Path, length: float, digits: int) -> None:
    """Directions that are not quite of length 1, or rounded, lie in the same place for a reader of both objects."""
    built = oblique()
    built.row, built.column = np.round(built.row * length, digits), np.round(built.column * length, digits)
    written = write_seg(tmp_path / "a.dcm", some_result(tmp_path / "in", built))
    shared = dcmread(written.path).SharedFunctionalGroupsSequence[0]
    said = [float(v) for v in shared.PlaneOrientationSequence[0].ImageOrientationPatient]
    assert said == [*built.row, *built.column]
    assert written.deviation_mm < 1e-9


def test_a_source_without_study_or_class_in_its_header_has_them_made_up_from_what_is_known(tmp_path: Path) -> None:
    datasets = bare(some_series())
    for ds in datasets:
        del ds.SOPClassUID
    scan = replace(scan_of(datasets, tmp_path / "in"), study_uid="")
    ds = dcmread(write_seg(tmp_path / "a.dcm", result_of(scan)).path)
    assert ds.StudyInstanceUID.is_valid
    assert ds.SourceImageSequence[0].ReferencedSOPClassUID == CTImageStorage


def test_refusals_say_nothing_of_paths_or_patients(tmp_path: Path) -> None:
    scan = scan_of(some_series().datasets(), tmp_path / "Mueller")
    nameless = result_of(scan, {}, np.zeros((6, 5, 4), np.uint8))
    with pytest.raises(InputError, match="NO_STRUCTURES"):
        write_seg(tmp_path / "a.dcm", nameless)
    whole = result_of(scan)
    with pytest.raises(InputError, match="NO_SOURCE"):
        write_seg(tmp_path / "a.dcm", Result(whole.labels, whole.own, None, ALGORITHM))
    shutil.rmtree(tmp_path / "Mueller")
    with pytest.raises(InputError, match="SOURCE_GONE") as caught:
        write_seg(tmp_path / "a.dcm", whole)
    assert "Mueller" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_reading_back_finds_a_changed_voxel_name_or_place(tmp_path: Path) -> None:
    result = some_result(tmp_path / "in")
    assert result.scan is not None
    assert result.scan.planes is not None
    described, planes = segments(result.labels), result.scan.planes
    meant = np.ascontiguousarray(native(result).T)
    path = write_seg(tmp_path / "a.dcm", result).path
    assert read_back(path, meant, described, planes) < 1e-9
    changed = meant.copy()
    changed[2, 3, 4] = (changed[2, 3, 4] + 1) % 3
    with pytest.raises(GeometryError, match="READ_BACK"):
        read_back(path, changed, described, planes)
    with pytest.raises(GeometryError, match="segments"):
        read_back(path, meant, segments(LabelMap(result.labels.array, result.labels.grid, {1: "a", 2: "b"})), planes)
    ds = dcmread(path)
    for group in ds.PerFrameFunctionalGroupsSequence:
        position = group.PlanePositionSequence[0].ImagePositionPatient
        group.PlanePositionSequence[0].ImagePositionPatient = [position[0], position[1] + 1, position[2]]
    ds.save_as(tmp_path / "b.dcm")
    with pytest.raises(GeometryError, match=r"1\.000 mm"):
        read_back(tmp_path / "b.dcm", meant, described, planes)


def test_an_object_that_differs_never_appears(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> float:
        raise GeometryError("[READ_BACK] it differs")

    result = some_result(tmp_path / "in")
    monkeypatch.setattr(seg, "read_back", refuse)
    with pytest.raises(GeometryError, match="READ_BACK"):
        write_seg(tmp_path / "out" / "a.dcm", result)
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize("labelmap", [False, True])
def test_highdicom_reads_the_same_volume(tmp_path: Path, labelmap: bool) -> None:
    from highdicom.seg import segread

    result = some_result(tmp_path / "in", oblique(), {1: "spleen", 2: "heart", 3: "liver"})
    assert result.scan is not None
    volume = segread(write_seg(tmp_path / "a.dcm", result, labelmap).path).get_volume(combine_segments=True)
    index = np.linalg.inv(volume.affine) @ np.diag([-1.0, -1, 1, 1]) @ result.labels.grid.affine
    for x, y, z in np.argwhere(result.labels.array > 0):
        there = np.rint(index @ (x, y, z, 1)).astype(int)[:3]
        assert volume.array[tuple(there)] == result.labels.array[x, y, z]
    assert np.count_nonzero(volume.array) == np.count_nonzero(result.labels.array)


@pytest.mark.parametrize("labelmap", [False, True])
def test_dcmqi_reads_the_same_volume(tmp_path: Path, labelmap: bool) -> None:
    import SimpleITK

    reader = shutil.which("segimage2itkimage", path=str(Path(sys.executable).parent))
    if reader is None:
        pytest.skip("no dcmqi (pip install dcmqi)")
    result = some_result(tmp_path / "in", oblique())
    path = write_seg(tmp_path / "a.dcm", result, labelmap).path
    command = [reader, "--inputDICOM", str(path), "--outputDirectory", str(tmp_path / "out"), "-t", "nrrd"]
    (tmp_path / "out").mkdir()
    subprocess.run(command, check=True, capture_output=True, timeout=60)
    found = np.zeros(result.labels.grid.shape, np.uint8)
    for file in sorted((tmp_path / "out").glob("*.nrrd")):
        image = SimpleITK.ReadImage(str(file))
        for z, y, x in np.argwhere(SimpleITK.GetArrayFromImage(image)):
            lps = image.TransformIndexToPhysicalPoint((int(x), int(y), int(z)))
            at = np.linalg.inv(result.labels.grid.affine) @ (-lps[0], -lps[1], lps[2], 1)
            assert np.abs(at - np.rint(at)).max() < 1e-3
            value = int(SimpleITK.GetArrayFromImage(image)[z, y, x])
            found[tuple(np.rint(at).astype(int)[:3])] = value
    assert np.array_equal(found, result.labels.array)


@pytest.mark.parametrize("folder", ["dicom_mr/hippocampus_crop", "dicom_mr/t1_post", "dicom_ct_pet/CT/dicom/image"])
def test_real_series(tmp_path: Path, real_data: Path, folder: str, faults: Callable[[Path], list[str]]) -> None:
    scan = scan_in(real_data / folder)
    assert scan.grid is not None
    array = np.zeros(scan.grid.shape, np.uint8)
    x, y, z = (n // 4 for n in scan.grid.shape)
    array[x : 2 * x, y : 3 * y, z : 2 * z] = 1
    array[:x, : y + 3, :2] = 2
    result = result_of(scan, {1: "GTV", 2: "hippocampus"}, array)
    written = write_seg(tmp_path / "a.dcm", result)
    source = dcmread(scan.paths[0], stop_before_pixels=True)
    ds = dcmread(written.path)
    assert np.array_equal(by_reference(ds, result), array)
    assert written.deviation_mm < 1e-3
    assert set(faults(written.path)) <= set(faults(scan.paths[0]))  # the CT's study has an identifier that is too long
    for keyword in ("PatientName", "PatientID", "StudyInstanceUID", "StudyDate", "FrameOfReferenceUID"):
        assert ds[keyword].value == source[keyword].value
    assert str(ds.SOPInstanceUID) not in {frame.uid for frame in scan.frames}
