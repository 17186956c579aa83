"""The contract of every format of results: it writes, what it wrote says the same, and nothing half stays behind."""

from __future__ import annotations

import signal
import sys
from pathlib import Path

import numpy as np
import pydicom
import pytest
import SimpleITK
from numpy.typing import NDArray

from medseg.errors import InputError, ResourceError
from medseg.imaging.grid import Grid
from medseg.imaging.volume import LabelMap, Volume
from medseg.imaging.writing.result import Result
from medseg.imaging.writing.table import FORMATS, check_formats, write_all
from tests.imaging.build import PATIENT, Built, some_image, some_label
from tests.imaging.writing.results_build import ALGORITHM, some_result, tilted

PLAIN = [name for name, form in FORMATS.items() if not form.needs_dicom]
NAMES = {1: "Größe/Niere links", 2: "liver", 7: "leer"}


def file_result(array: NDArray[np.uint8] | None = None) -> Result:
    """A result on a scan that was a file."""
    grid = Grid((6, 5, 4), np.diag([0.7, 0.8, 2.5, 1.0]))
    labels = LabelMap(some_label(2) if array is None else array, grid, NAMES)
    return Result(labels, grid, None, ALGORITHM, Volume(some_image().astype(np.float32), grid))


def names_in(path: Path) -> list[str]:
    """The names of the structures that a file states; none for a format without names."""
    if path.name.endswith(".seg.nrrd"):
        image = SimpleITK.ReadImage(str(path))
        return [image.GetMetaData(f"Segment{i}_Name") for i in range(3)]
    if path.name.endswith(".rtstruct.dcm"):
        return [str(roi.ROIName) for roi in pydicom.dcmread(path).StructureSetROISequence]
    if path.name.endswith(".seg.dcm"):
        return [str(item.SegmentLabel) for item in pydicom.dcmread(path).SegmentSequence]
    return []


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("empty", [False, True])
def test_every_format_writes_a_dicom_scan(name: str, empty: bool, tmp_path: Path) -> None:
    array = np.zeros((6, 5, 4), np.uint8) if empty else None
    result = some_result(tmp_path / PATIENT, names=NAMES, array=array)
    written = write_all(tmp_path / "out", "case-0a", [name], result)
    assert written[-1].path == tmp_path / "out" / f"case-0a{FORMATS[name].suffix}"
    assert max(one.deviation_mm for one in written) < 1e-2
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == sorted(one.path.name for one in written)
    assert names_in(written[-1].path) in ([], [*NAMES.values()], [n.replace("/", "_") for n in NAMES.values()])


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_writes_a_tilted_scan(name: str, tmp_path: Path) -> None:
    (*_, written) = write_all(tmp_path / "out", "case-0a", [name], some_result(tmp_path / "scan", tilted()))
    assert written.path.stat().st_size > 0


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_can_be_written_anew(name: str, tmp_path: Path) -> None:
    result = some_result(tmp_path / "scan")
    first = write_all(tmp_path / "out", "a", [name], result)
    assert write_all(tmp_path / "out", "a", [name], result) == first


@pytest.mark.parametrize("name", PLAIN)
@pytest.mark.parametrize("empty", [False, True])
def test_formats_of_files_need_no_dicom(name: str, empty: bool, tmp_path: Path) -> None:
    result = file_result(np.zeros((6, 5, 4), np.uint8) if empty else None)
    (written,) = write_all(tmp_path, "Jörg", [name], result)
    image = SimpleITK.ReadImage(str(written.path))
    assert np.array_equal(SimpleITK.GetArrayFromImage(image).T, result.labels.array)
    assert np.allclose(image.GetSpacing(), (0.7, 0.8, 2.5))


@pytest.mark.parametrize("name", sorted(FORMATS.keys() - set(PLAIN)))
def test_formats_of_dicom_refuse_a_scan_that_is_none_before_anything_is_written(name: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"scan7: \[NO_SOURCE\].*give nifti, nrrd"):
        write_all(tmp_path, "scan7", ["nifti", name], file_result())
    assert list(tmp_path.iterdir()) == []


def test_all_formats_at_once_each_once(tmp_path: Path) -> None:
    written = write_all(tmp_path / "out", "a", [*FORMATS, *FORMATS], some_result(tmp_path / "scan"))
    assert [one.path.name for one in written] == [f"a{form.suffix}" for form in FORMATS.values()]


@pytest.mark.parametrize("asked", [["sr"], ["sr", "seg"], ["seg", "sr"], ["sr", "nifti"]])
def test_a_report_has_its_segmentation_beside_it(asked: list[str], tmp_path: Path) -> None:
    written = write_all(tmp_path / "out", "a", asked, some_result(tmp_path / "scan"))
    files = [one.path.name for one in written]
    assert files.index("a.seg.dcm") < files.index("a.sr.dcm")
    seg = pydicom.dcmread(tmp_path / "out" / "a.seg.dcm", stop_before_pixels=True)
    referred = {
        str(item.ReferencedSOPInstanceUID)
        for study in pydicom.dcmread(tmp_path / "out" / "a.sr.dcm").CurrentRequestedProcedureEvidenceSequence
        for series in study.ReferencedSeriesSequence
        for item in series.ReferencedSOPSequence
    }
    assert str(seg.SOPInstanceUID) in referred


@pytest.mark.skipif(sys.platform == "win32", reason="has no limit on the size of files")
@pytest.mark.parametrize("name", ["nifti", "nrrd", "rtstruct"])
def test_a_full_disk_is_told_in_one_line_and_leaves_nothing(name: str, tmp_path: Path) -> None:
    import resource

    result = some_result(tmp_path / "scan", Built(np.zeros((4, 30, 30), np.int16)))
    (tmp_path / "out").mkdir()
    before = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[0][1]))
    try:
        with pytest.raises(ResourceError) as caught:
            write_all(tmp_path / "out", "a", [name], result)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before[0])
        signal.signal(signal.SIGXFSZ, before[1])
    assert len(str(caught.value).splitlines()) == 1
    assert ".part-" not in str(caught.value)
    assert list((tmp_path / "out").iterdir()) == []


def test_unknown_formats_are_refused_with_the_known_ones(tmp_path: Path) -> None:
    for formats in (["nifti", "docx"], []):
        with pytest.raises(InputError, match=f"{', '.join(FORMATS)}"):
            check_formats(formats)
    with pytest.raises(InputError, match="'docx'"):
        write_all(tmp_path, "a", ["nifti", "docx"], file_result())
    assert list(tmp_path.iterdir()) == []


def test_formats_are_given_back_each_once() -> None:
    assert check_formats(["seg", "nifti", "seg"]) == ("seg", "nifti")


def test_suffixes_are_of_one_format_each() -> None:
    suffixes = [form.suffix for form in FORMATS.values()]
    assert len(set(suffixes)) == len(suffixes)
    assert not any(a != b and a.endswith(b) for a in suffixes for b in suffixes)
