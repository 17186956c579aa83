from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import nrrd
import numpy as np
import pytest
import SimpleITK

from medseg.errors import GeometryError, InputError
from medseg.imaging.grid import Grid
from medseg.imaging.volume import LabelMap
from medseg.imaging.writing import nrrd as writing
from medseg.imaging.writing.codes import Code
from medseg.imaging.writing.nrrd import write_seg_nrrd
from medseg.imaging.writing.result import Result
from tests.imaging.build import PATIENT, Built, some_series
from tests.imaging.writing.results_build import ALGORITHM, gapped, oblique, some_result, tilted

ANATOMY = "Segmentation category and type - 3D Slicer General Anatomy list"
REGIONS = "Anatomic codes - DICOM master list"


def on_grid(affine: np.ndarray, array: np.ndarray, names: dict[int, str]) -> Result:
    x, y, z = array.shape
    grid = Grid((x, y, z), affine)
    return Result(LabelMap(array, grid, names), grid, None, ALGORITHM)


def corner_mm(header: nrrd.NRRDHeader, index: tuple[int, int, int]) -> np.ndarray:
    """Where a voxel lies in RAS+, by the header alone."""
    lps = header["space origin"] + np.array(index) @ header["space directions"]
    return np.asarray(lps * [-1, -1, 1])


@pytest.mark.parametrize("built", [some_series, oblique, tilted, gapped])
def test_voxels_and_places_come_back(built: Callable[[], Built], tmp_path: Path) -> None:
    result = some_result(tmp_path / "scan", built())
    written = write_seg_nrrd(tmp_path / "a.seg.nrrd", result)
    array, header = nrrd.read(str(written.path))
    assert written.deviation_mm < 1e-6
    assert np.array_equal(array, result.labels.array)
    assert header["space"] == "left-posterior-superior"
    assert header["encoding"] == "gzip"
    x, y, z = (n - 1 for n in array.shape)
    assert np.allclose(corner_mm(header, (0, 0, 0)), result.labels.grid.corners_mm[0], atol=1e-6)
    assert np.allclose(corner_mm(header, (x, y, z)), result.labels.grid.corners_mm[-1], atol=1e-6)


def test_each_structure_is_a_segment_with_name_colour_extent_and_code(tmp_path: Path) -> None:
    array = np.zeros((6, 5, 4), np.uint8)
    array[1:3, 2, 1:4], array[5, 0, 0] = 2, 9
    names = {2: "kidney_left", 5: "spleen", 9: "cyst of the right kidney"}
    path = write_seg_nrrd(tmp_path / "a.seg.nrrd", some_result(tmp_path / "scan", names=names, array=array)).path
    _, header = nrrd.read(str(path))
    assert [header[f"Segment{i}_Name"] for i in range(3)] == list(names.values())
    assert [header[f"Segment{i}_LabelValue"] for i in range(3)] == ["2", "5", "9"]
    assert [header[f"Segment{i}_ID"] for i in range(3)] == ["Segment_2", "Segment_5", "Segment_9"]
    assert [header[f"Segment{i}_Extent"] for i in range(3)] == ["1 2 2 2 1 3", "0 -1 0 -1 0 -1", "5 5 0 0 0 0"]
    assert {header[f"Segment{i}_Layer"] for i in range(3)} == {"0"}
    assert header["Segmentation_SourceRepresentation"] == "Binary labelmap"
    assert header["Segment0_Tags"] == (
        f"TerminologyEntry:{ANATOMY}~SCT^91723000^Anatomical Structure~SCT^64033007^Kidney~SCT^7771000^Left"
        f"~{REGIONS}~^^~^^|"
    )
    assert header["Segment2_Tags"] == (
        f"TerminologyEntry:{ANATOMY}~SCT^49755003^Morphologically Abnormal Structure~SCT^367643001^Cyst~^^"
        f"~{REGIONS}~SCT^64033007^Kidney~SCT^24028007^Right|"
    )
    colours = [tuple(map(float, header[f"Segment{i}_Color"].split())) for i in range(3)]
    assert len(set(colours)) == 3
    assert all(len(c) == 3 and 0 <= min(c) <= max(c) <= 1 for c in colours)
    assert "Segment3_Name" not in header


def test_marks_that_separate_terms_cannot_come_from_a_code(tmp_path: Path) -> None:
    own = {"thing": Code(("1", "99A", "one~two"), ("2", "99A", "three^four|five:six"))}
    result = some_result(tmp_path / "scan", names={1: "thing"}, codes=own)
    _, header = nrrd.read(str(write_seg_nrrd(tmp_path / "a.seg.nrrd", result).path))
    assert header["Segment0_Tags"].split("~")[1:3] == ["99A^1^one two", "99A^2^three four five six"]
    assert header["Segment0_Tags"].count("|") == 1


def test_letters_slashes_and_line_breaks_in_names(tmp_path: Path) -> None:
    names = {1: "Größe/Niere \\ ἧπαρ", 2: "two\nlines := here"}
    path = write_seg_nrrd(tmp_path / "Jörg.seg.nrrd", some_result(tmp_path / "scan", names=names)).path
    image = SimpleITK.ReadImage(str(path))
    assert image.GetMetaData("Segment0_Name") == names[1]
    assert image.GetMetaData("Segment1_Name") == "two lines := here"


def test_nothing_of_the_patient_stands_in_the_file(tmp_path: Path) -> None:
    path = write_seg_nrrd(tmp_path / "a.seg.nrrd", some_result(tmp_path / PATIENT)).path
    head = path.read_bytes().split(b"\n\n")[0].decode()
    assert "ller" not in head
    assert "12345678" not in head
    assert "Research use only" in head


def test_an_empty_segmentation_keeps_grid_and_segments(tmp_path: Path) -> None:
    result = some_result(tmp_path / "scan", array=np.zeros((6, 5, 4), np.uint8))
    array, header = nrrd.read(str(write_seg_nrrd(tmp_path / "a.seg.nrrd", result).path))
    assert array.shape == (6, 5, 4)
    assert not array.any()
    assert [header["Segment0_Name"], header["Segment1_Name"]] == [*result.labels.names.values()]


def test_a_sheared_grid_is_straightened_and_no_voxel_is_lost(tmp_path: Path) -> None:
    affine = np.diag([1.0, 1.0, 2.0, 1.0])
    affine[1, 2] = 1.0
    array = np.zeros((5, 6, 4), np.uint16)
    array[1:3, 2:5, 1:3] = 300
    written = write_seg_nrrd(tmp_path / "a.seg.nrrd", on_grid(affine, array, {300: "liver"}))
    got, header = nrrd.read(str(written.path))
    directions = header["space directions"]
    assert np.allclose(directions @ directions.T, np.diag(np.diag(directions @ directions.T)))
    assert np.count_nonzero(got) == np.count_nonzero(array)
    middle = np.argwhere(got).mean(axis=0)
    meant = affine[:3, :3] @ np.argwhere(array).mean(axis=0) + affine[:3, 3]
    assert np.allclose(corner_mm(header, tuple(middle)), meant, atol=0.51)


def test_a_file_that_does_not_come_back_does_not_appear(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    result = some_result(tmp_path / "scan")
    monkeypatch.setattr(writing, "LPS_TO_RAS", np.diag([-1.0, -1.0, 1.0, 1.0]) @ np.diag([1.0, 1.0, 1.01, 1.0]))
    with pytest.raises(GeometryError, match=r"\[READ_BACK\]"):
        write_seg_nrrd(tmp_path / "a.seg.nrrd", result)
    assert [path.name for path in tmp_path.iterdir()] == ["scan"]


def test_labels_without_any_structure_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"\[NO_STRUCTURES\]"):
        write_seg_nrrd(tmp_path / "a.seg.nrrd", on_grid(np.eye(4), np.zeros((3, 3, 3), np.uint8), {}))
