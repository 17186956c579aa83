"""Structured reports: the numbers are those of the voxels, and they belong to the segments of the segmentation."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset

from medseg.errors import GeometryError, InputError
from medseg.imaging.volume import LabelMap, Volume
from medseg.imaging.writing import snomed, sr
from medseg.imaging.writing.codes import Code
from medseg.imaging.writing.result import Result
from medseg.imaging.writing.seg import write_seg
from medseg.imaging.writing.sr import measure, write_sr
from tests.imaging.build import PATIENT, some_series
from tests.imaging.writing.results_build import (
    bare,
    blobs,
    enhanced_of,
    image_of,
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
    "tilted": lambda folder: some_result(folder, tilted()),
    "with nothing but pixels": lambda folder: result_of(scan_of(bare(some_series()), folder)),
    "enhanced": lambda folder: result_of(enhanced_of(some_series(), folder)),
}


@pytest.fixture(params=SOURCES)
def result(request: pytest.FixtureRequest, tmp_path: Path) -> Result:
    return SOURCES[request.param](tmp_path / "source")


def written(folder: Path, result: Result) -> tuple[Path, Dataset]:
    path = write_sr(folder / "sr.dcm", result, write_seg(folder / "seg.dcm", result).path).path
    return path, dcmread(path)


def items(ds: Dataset, meaning: str) -> Iterator[Dataset]:
    """All content items of this concept name."""
    for item in ds.get("ContentSequence", []):
        if "ConceptNameCodeSequence" in item and item.ConceptNameCodeSequence[0].CodeMeaning == meaning:
            yield item
        yield from items(item, meaning)


def number(item: Dataset) -> tuple[float, str]:
    (value,) = item.MeasuredValueSequence
    return float(value.NumericValue), str(value.MeasurementUnitsCodeSequence[0].CodeValue)


def test_no_error_by_dciodvfy(tmp_path: Path, result: Result, faults: Callable[[Path], list[str]]) -> None:
    assert faults(written(tmp_path, result)[0]) == []


def test_volumes_and_intensities_are_those_of_the_voxels(tmp_path: Path) -> None:
    result = some_result(tmp_path / "in", oblique())
    assert result.image is not None
    _, ds = written(tmp_path, result)
    for group, value in zip(items(ds, "Measurement Group"), (1, 2), strict=True):
        inside = result.labels.array == value
        values = result.image.array[inside].astype(np.float64)
        assert number(next(items(group, "Volume"))) == (pytest.approx(inside.sum() * 1.4e-3, rel=1e-5), "mL")
        mean, sd = items(group, "Attenuation Coefficient")
        assert number(mean) == (pytest.approx(values.mean()), "[hnsf'U]")
        assert number(sd) == (pytest.approx(values.std()), "[hnsf'U]")
        assert mean.ContentSequence[0].ConceptCodeSequence[0].CodeMeaning == "Mean"
        assert sd.ContentSequence[0].ConceptCodeSequence[0].CodeMeaning == "Standard Deviation"


def test_values_far_from_zero_keep_their_spread(tmp_path: Path) -> None:
    result = some_result(tmp_path / "in")
    image = np.where(blobs((6, 5, 4), (1,)) > 0, 4.9e5, 4.9e5 + 0.5).astype(np.float32)
    far = result_of(result.scan, image=Volume(image, result.labels.grid)) if result.scan else result
    for measured in measure(far):
        inside = image[far.labels.array == measured.segment.value].astype(np.float64)
        assert measured.sd == pytest.approx(inside.std(), rel=1e-9)


@pytest.mark.parametrize(
    ("modality", "name", "unit"), [("MR", "MR signal intensity", "1"), ("PT", "Mean", "1"), ("PT", None, "1")]
)
def test_intensities_of_other_modalities_have_no_unit(
    tmp_path: Path, modality: str, name: str | None, unit: str
) -> None:
    built = some_series()
    datasets = [with_study(ds) for ds in built.datasets()]
    for ds in datasets:
        ds.Modality = modality
    scan = scan_of(datasets, tmp_path / "in")
    result = result_of(scan, image=image_of(built, scan) if name else None)
    _, report = written(tmp_path, result)
    if name:
        assert number(next(items(report, name)))[1] == unit
    assert not list(items(report, "Attenuation Coefficient"))
    assert {str(i.ValueType) for i in items(report, "Volume")} == {"NUM"}


def test_an_empty_structure_has_the_volume_zero_and_no_mean(
    tmp_path: Path, faults: Callable[[Path], list[str]]
) -> None:
    for array in (blobs((6, 5, 4), (1,)), np.zeros((6, 5, 4), np.uint8)):
        path, ds = written(tmp_path, some_result(tmp_path / "in", array=array))
        assert number(list(items(ds, "Volume"))[1]) == (0.0, "mL")
        assert len(list(items(ds, "Attenuation Coefficient"))) == 2 * (len(np.unique(array)) - 1)
        assert faults(path) == []


def test_groups_point_to_the_segments_and_the_source(tmp_path: Path, result: Result) -> None:
    _, ds = written(tmp_path, result)
    seg = dcmread(tmp_path / "seg.dcm")
    assert result.scan is not None
    for group, segment in zip(items(ds, "Measurement Group"), seg.SegmentSequence, strict=True):
        (image,) = next(items(group, "Referenced Segment")).ReferencedSOPSequence
        assert (image.ReferencedSOPInstanceUID, image.ReferencedSOPClassUID) == (seg.SOPInstanceUID, seg.SOPClassUID)
        assert image.ReferencedSegmentNumber == segment.SegmentNumber
        assert segment.TrackingUID == next(items(group, "Tracking Unique Identifier")).UID
        assert result.scan.series_uid == next(items(group, "Source Series for Segmentation")).UID
        assert next(items(group, "Finding")).ConceptCodeSequence[0].CodeMeaning in ("Kidney", "Liver")
    (study,) = ds.CurrentRequestedProcedureEvidenceSequence
    named = {str(i.ReferencedSOPInstanceUID) for s in study.ReferencedSeriesSequence for i in s.ReferencedSOPSequence}
    assert named == {str(seg.SOPInstanceUID), *(frame.uid for frame in result.scan.frames)}
    series = {str(s.SeriesInstanceUID) for s in study.ReferencedSeriesSequence}
    assert series == {str(seg.SeriesInstanceUID), result.scan.series_uid}


def test_it_is_preliminary_and_says_research_use_only(tmp_path: Path, result: Result) -> None:
    _, ds = written(tmp_path, result)
    assert (ds.VerificationFlag, ds.PreliminaryFlag) == ("UNVERIFIED", "PRELIMINARY")
    assert "RESEARCH USE ONLY" in ds.SeriesDescription
    assert "RESEARCH USE ONLY" in next(items(ds, "Comment")).TextValue
    assert ds.PatientName == PATIENT
    assert ds.SpecificCharacterSet == "ISO_IR 192"


def test_warnings_and_foreign_letters_are_kept(tmp_path: Path) -> None:
    datasets = [with_study(ds) for ds in some_series().datasets()]
    for ds in datasets:
        ds.SpecificCharacterSet = "ISO_IR 100"
    own = {"x": Code(snomed.TISSUE, ("1", "99LOCAL", "δ"))}
    scan = scan_of(datasets, tmp_path / "in")
    _, ds = written(tmp_path, result_of(scan, {1: "x", 2: "y"}, warnings=("a slice was made up",), codes=own))
    assert [item.TextValue for item in items(ds, "Comment")][1:] == ["a slice was made up"]
    assert next(items(ds, "Finding")).ConceptCodeSequence[0].CodeMeaning == "δ"
    assert (ds.SpecificCharacterSet, ds.PatientName) == ("ISO_IR 192", PATIENT)


def test_the_side_stands_with_the_finding_site(tmp_path: Path) -> None:
    _, ds = written(tmp_path, some_result(tmp_path / "in", names={1: "kidney_left", 2: "kidney cyst right"}))
    first, second = items(ds, "Finding Site")
    assert [site.ConceptCodeSequence[0].CodeMeaning for site in (first, second)] == ["Kidney", "Kidney"]
    assert [next(items(site, "Laterality")).ConceptCodeSequence[0].CodeMeaning for site in (first, second)] == [
        "Left",
        "Right",
    ]


def test_a_segmentation_of_other_structures_is_refused(tmp_path: Path) -> None:
    result = some_result(tmp_path / "in")
    other = some_result(tmp_path / "in", names={1: "spleen", 2: "liver"})
    seg = write_seg(tmp_path / "seg.dcm", other).path
    for wrong in (seg, tmp_path / "in" / "IM0000", tmp_path / "none.dcm"):
        with pytest.raises(InputError, match="SEG_MISMATCH"):
            write_sr(tmp_path / "sr.dcm", result, wrong)
    elsewhere = write_seg(tmp_path / "other.dcm", some_result(tmp_path / "2", some_series(series="2"))).path
    with pytest.raises(InputError, match="of another series"):
        write_sr(tmp_path / "sr.dcm", result, elsewhere)
    assert not (tmp_path / "sr.dcm").exists()


def test_an_image_on_another_grid_or_without_numbers_is_refused(tmp_path: Path) -> None:
    result = some_result(tmp_path / "in")
    moved = some_result(tmp_path / "other", some_series(first_mm=np.array([-20.0, -30, 41])))
    with pytest.raises(GeometryError, match="GRID"):
        measure(replace(result, image=moved.image))
    nothing = Volume(np.full((6, 5, 4), np.nan, np.float32), result.labels.grid)
    with pytest.raises(InputError, match="INTENSITIES"):
        measure(replace(result, image=nothing))


def test_numbers_that_read_back_differently_never_appear(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    result = some_result(tmp_path / "in")
    path, ds = written(tmp_path, result)
    next(items(ds, "Volume")).MeasuredValueSequence[0].NumericValue = "1.5"
    ds.save_as(tmp_path / "changed.dcm")
    with pytest.raises(GeometryError, match="READ_BACK"):
        sr._compare(tmp_path / "changed.dcm", result, measure(result))
    less = replace(result, labels=LabelMap(result.labels.array * 0, result.labels.grid, result.labels.names))
    with pytest.raises(GeometryError, match="READ_BACK"):
        sr._compare(path, less, measure(less))
    monkeypatch.setattr(sr, "measure", lambda _: measure(less))
    monkeypatch.setattr(sr, "_compare", lambda *_: sr_differs())
    with pytest.raises(GeometryError, match="READ_BACK"):
        write_sr(tmp_path / "new.dcm", result, tmp_path / "seg.dcm")
    assert not (tmp_path / "new.dcm").exists()


def sr_differs() -> None:
    raise GeometryError("[READ_BACK] it differs")


def test_dcmqi_reads_the_report(tmp_path: Path) -> None:
    reader = shutil.which("tid1500reader", path=str(Path(sys.executable).parent))
    if reader is None:
        pytest.skip("no dcmqi (pip install dcmqi)")
    path, _ = written(tmp_path, some_result(tmp_path / "in"))
    command = [reader, "--inputDICOM", str(path), "--outputMetadata", str(tmp_path / "a.json")]
    subprocess.run(command, check=True, capture_output=True, timeout=60)
    said = (tmp_path / "a.json").read_text(encoding="utf-8")
    assert "kidney_left" in said
    assert said.count('"CodeMeaning" : "Volume"') == 2


def test_a_real_series(tmp_path: Path, real_data: Path, faults: Callable[[Path], list[str]]) -> None:
    scan = scan_in(real_data / "dicom_mr" / "hippocampus_crop")
    assert scan.grid is not None
    result = result_of(scan, {1: "hippocampus anterior", 2: "hippocampus posterior"}, blobs(scan.grid.shape))
    path, ds = written(tmp_path, result)
    assert set(faults(path)) <= set(faults(scan.paths[0]))
    voxels = np.count_nonzero(result.labels.array)
    assert sum(number(item)[0] for item in items(ds, "Volume")) == pytest.approx(voxels * scan.grid.voxel_ml)
