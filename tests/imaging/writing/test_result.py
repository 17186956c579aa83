"""The headers that results are made from: what a file says wrongly of itself is put right in the copy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydicom import dcmread

from medseg.imaging.dicom.headers import quiet, single_uid
from medseg.imaging.dicom.scanner import scan_dicom
from medseg.imaging.writing.result import Result, source_headers
from medseg.imaging.writing.rtstruct import write_rtstruct
from medseg.imaging.writing.seg import write_seg
from tests.imaging.build import change, enhanced, save_all, some_series
from tests.imaging.writing.results_build import result_of, with_study

UIDS = ("StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID", "SOPInstanceUID")
WRONG: dict[str, dict[str, Any]] = {
    "missing": dict.fromkeys(("StudyInstanceUID", "FrameOfReferenceUID")),
    "several": {"StudyInstanceUID": ["1", "2"], "FrameOfReferenceUID": ["1.2", "1.3"]},
    "of the series": {"SeriesInstanceUID": ["1.2.3", "1.2.4"]},
    "of the images": {"SOPInstanceUID": "several"},
    "names": {"SeriesInstanceUID": "Müller", "StudyInstanceUID": "a b", "FrameOfReferenceUID": "1.2.x"},
    "nothing": {"FrameOfReferenceUID": ["", ""], "StudyInstanceUID": ["", ""]},
    "no identity": {"SOPInstanceUID": None},
    "leading zeros": {"StudyInstanceUID": "1.2.03", "FrameOfReferenceUID": "1.2.04"},
}


def wrongly_named(folder: Path, name: str, multi_frame: bool) -> Result:
    built = some_series(4)
    datasets = [enhanced(built, [{"z": z} for z in range(4)])] if multi_frame else built.datasets()
    for ds in datasets:
        with_study(ds)
    with quiet():
        for ds in datasets:
            wrong = dict(WRONG[name])
            if wrong.get("SOPInstanceUID") == "several":
                wrong["SOPInstanceUID"] = [ds.SOPInstanceUID, "1.2"]
            change(ds, **wrong)
        (volume,) = scan_dicom(save_all(datasets, folder)).volumes
    return result_of(volume)


@pytest.mark.parametrize("name", WRONG)
@pytest.mark.parametrize("multi_frame", [False, True])
def test_results_are_written_whatever_the_uids_are(tmp_path: Path, name: str, multi_frame: bool) -> None:
    result = wrongly_named(tmp_path / "source", name, multi_frame)
    assert result.scan is not None
    headers = source_headers(result)
    for header in headers:
        assert all(single_uid(str(header[keyword].value)) for keyword in UIDS)
        assert header.SeriesInstanceUID == result.scan.series_uid
        assert header.FrameOfReferenceUID == result.scan.frame_of_reference
        assert header.StudyInstanceUID == (result.scan.study_uid or headers[0].StudyInstanceUID)
    assert {str(header.SOPInstanceUID) for header in headers} == {frame.uid for frame in result.scan.frames}
    write_seg(tmp_path / "seg.dcm", result)
    write_rtstruct(tmp_path / "rt.dcm", result)
    with quiet():
        for made in (dcmread(tmp_path / "seg.dcm"), dcmread(tmp_path / "rt.dcm")):
            assert made.StudyInstanceUID == headers[0].StudyInstanceUID
            assert made.FrameOfReferenceUID == result.scan.frame_of_reference
