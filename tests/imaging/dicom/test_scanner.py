from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping
from copy import deepcopy
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.dataset import Dataset, FileDataset
from pydicom.uid import DeflatedExplicitVRLittleEndian, RLELossless
from scipy.spatial.transform import Rotation

from medseg.imaging.dicom import headers
from medseg.imaging.dicom.scanner import scan_dicom
from medseg.imaging.dicom.volumes import Scanned
from tests.imaging.build import (
    FRAME_OF_REFERENCE,
    PATIENT,
    ROOT_UID,
    Built,
    change,
    enhanced,
    save_all,
    some_series,
    tilted,
)
from tests.imaging.dicom.scanning import only, scan, verdicts

# --- one volume ---


def test_a_series_is_one_volume(tmp_path: Path) -> None:
    built = some_series(
        5, tags={"SeriesNumber": 3, "ConvolutionKernel": "B30f", "PatientID": "77", "StudyInstanceUID": "1.2"}
    )
    volume = only(scan(built.datasets(), tmp_path))
    assert str(volume.verdict) == "OK"
    assert (volume.modality, volume.number, volume.of, volume.patient_id) == ("CT", 1, 1, "77")
    assert (volume.study_uid, volume.series_uid) == ("1.2", f"{ROOT_UID}.1")
    assert volume.frame_of_reference == FRAME_OF_REFERENCE
    assert [frame.uid for frame in volume.frames] == [f"{ROOT_UID}.1.{z + 1}" for z in range(5)]
    assert {frame.index for frame in volume.frames} == {0}
    assert volume.grid is not None
    assert volume.grid.shape == (6, 5, 5)
    assert volume.tags["SeriesDescription"] == f"Abdomen {PATIENT}"
    assert volume.tags["Slices"] == "5"
    assert volume.tags["Spacing"] == "2.5"
    assert volume.shown["ConvolutionKernel"] == "B30f"
    assert volume.shown["SeriesNumber"] == "3"
    assert volume.shown["Orientation"] == "AXIAL"
    assert volume.differs == ""
    assert volume.checked == "unchecked"


@settings(max_examples=40, deadline=None)
@given(
    angle=st.tuples(*[st.floats(-180, 180)] * 3),
    spacing=st.tuples(*[st.floats(0.3, 6.0)] * 3),
    first=st.tuples(*[st.floats(-400, 400)] * 3),
    degrees=st.one_of(st.just(0.0), st.floats(2, 30), st.floats(-30, -2)),
    n=st.integers(3, 7),
    seed=st.integers(0, 999),
)
def test_places_are_exact_for_any_series(
    tmp_path_factory: pytest.TempPathFactory,
    angle: tuple[float, float, float],
    spacing: tuple[float, float, float],
    first: tuple[float, float, float],
    degrees: float,
    n: int,
    seed: int,
) -> None:
    turn = Rotation.from_euler("xyz", angle, degrees=True).as_matrix()
    built = tilted(
        n,
        degrees,
        seed=seed,
        row=turn[:, 0],
        column=turn[:, 1],
        first_mm=np.array(first),
        between_rows_mm=spacing[0],
        between_columns_mm=spacing[1],
        step_mm=spacing[2],
    )
    volume = only(scan(built.datasets(), tmp_path_factory.mktemp("series")))
    planes, grid = volume.planes, volume.grid
    assert planes is not None
    if grid is None:  # so steep, for so few rows, that most of a straight grid were empty
        assert str(volume.verdict) == "REFUSED(TILT)"
        assert 5 + (n - 1) * spacing[2] * abs(np.tan(np.radians(degrees))) / spacing[0] > 4 * 5 - 1
        return
    assert str(volume.verdict) == ("FIXED(TILT)" if degrees else "OK")
    for x, y, z in [(0, 0, 0), (5, 0, 0), (0, 4, 0), (5, 4, n - 1), (2, 3, n // 2)]:
        step = x * planes.spacing_mm[0] * planes.row + y * planes.spacing_mm[1] * planes.column
        assert np.linalg.norm(planes.positions_mm[z] + step - built.world_ras(x, y, z)) < 0.01
        if not degrees:
            assert np.linalg.norm((grid.affine @ [x, y, z, 1])[:3] - built.world_ras(x, y, z)) < 0.01
    if degrees:  # the grid is straight and holds every corner of every slice
        axes = grid.affine[:3, :3] / np.linalg.norm(grid.affine[:3, :3], axis=0)
        assert np.allclose(axes.T @ axes, np.eye(3), atol=1e-6)
        corners = [built.world_ras(x, y, z) for x in (0, 5) for y in (0, 4) for z in range(n)]
        index = np.linalg.solve(grid.affine, np.c_[corners, np.ones(len(corners))].T)[:3].T
        assert (index > -0.03).all()
        assert (index < np.array(grid.shape) - 1 + 0.03).all()


def test_a_tilt_is_fixed_and_told(tmp_path: Path) -> None:
    volume = only(scan(tilted(6, -18.5).datasets(), tmp_path))
    assert str(volume.verdict) == "FIXED(TILT)"
    assert "18.5 degrees" in volume.verdict.said


def test_a_gap_is_refused_unless_it_is_allowed(tmp_path: Path) -> None:
    datasets = some_series(8).datasets()
    del datasets[3]
    refused = only(scan(datasets, tmp_path / "a"))
    assert str(refused.verdict) == "REFUSED(GAP)"
    assert "between 45.00 and 50.00 mm (usual step 2.50 mm)" in refused.verdict.said
    allowed = only(scan(datasets, tmp_path / "b", allow_gaps=True))
    assert str(allowed.verdict) == "FIXED(GAP)"
    assert allowed.grid is not None
    assert allowed.grid.shape == (6, 5, 8)
    assert len(allowed.frames) == 7


def test_a_tilt_with_a_gap_is_refused_for_the_gap(tmp_path: Path) -> None:
    datasets = tilted(8, 16.5).datasets()
    del datasets[3]
    assert verdicts(scan(datasets, tmp_path / "a")) == ["REFUSED(GAP)"]
    assert verdicts(scan(datasets, tmp_path / "b", allow_gaps=True)) == ["FIXED(GAP, TILT)"]


def test_without_a_frame_of_reference_one_is_derived(tmp_path: Path) -> None:
    series = some_series(frame_of_reference="").datasets()
    first = only(scan(series, tmp_path / "a"))
    assert str(first.verdict) == "FIXED(NO_FRAME_OF_REFERENCE)"
    assert first.frame_of_reference == only(scan(series, tmp_path / "b")).frame_of_reference
    other = only(scan(some_series(series="2", frame_of_reference="").datasets(), tmp_path / "c"))
    assert first.frame_of_reference != other.frame_of_reference


@pytest.mark.parametrize("said", [["1.2", "1.3"], "Müller", "1." + 63 * "2", ["", ""]])
@pytest.mark.parametrize("multi_frame", [False, True])
def test_uids_that_are_none_count_as_missing(tmp_path: Path, said: str | list[str], multi_frame: bool) -> None:
    built = some_series(4)
    datasets = [enhanced(built, [{"z": z} for z in range(4)])] if multi_frame else built.datasets()
    with headers.quiet():
        for ds in datasets:
            change(ds, FrameOfReferenceUID=said, StudyInstanceUID=said)
        volume = only(scan(datasets, tmp_path))
    assert str(volume.verdict) == "FIXED(NO_FRAME_OF_REFERENCE)"
    assert volume.study_uid == ""
    assert headers.single_uid(volume.frame_of_reference)
    assert not {"FrameOfReferenceUID", "StudyInstanceUID"} & set(volume.tags)


def test_of_several_uids_the_first_names_a_series_and_its_images(tmp_path: Path) -> None:
    datasets = some_series(4).datasets()
    for ds in datasets:
        change(ds, SeriesInstanceUID=["1.2.3", "1.2.4"], SOPInstanceUID=[ds.SOPInstanceUID, "1.2"])
    volume = only(scan(datasets, tmp_path))
    assert str(volume.verdict) == "OK"
    assert (volume.series_uid, volume.tags["SeriesInstanceUID"]) == ("1.2.3", "1.2.3")
    assert [frame.uid for frame in volume.frames] == [f"{ROOT_UID}.1.{k}" for k in range(1, 5)]


def test_a_series_of_no_uid_is_left_and_one_of_another_name_gets_one(tmp_path: Path) -> None:
    with headers.quiet():
        nameless = [change(ds, SeriesInstanceUID=["", ""]) for ds in some_series(4).datasets()]
        named = [change(ds, SeriesInstanceUID=f"{PATIENT} 7") for ds in some_series(5, first=20).datasets()]
        found = scan([*nameless, *named], tmp_path)
    assert {left.reason for left in found.left} == {"is a DICOM image that names no series"}
    assert headers.single_uid(only(found).series_uid)
    assert verdicts(found) == ["OK"]


@pytest.mark.parametrize("said", [None, "Müller", ["", ""]])
@pytest.mark.parametrize("meta", [True, False])
def test_images_without_an_identity_are_given_one_each(tmp_path: Path, said: str | None, meta: bool) -> None:
    datasets = some_series(4).datasets()
    with headers.quiet():
        for ds in datasets:
            change(ds, SOPInstanceUID=said)
            if not meta:
                ds.file_meta.MediaStorageSOPInstanceUID = "none"
        paths = [tmp_path / f"{z}" for z in range(4)]
        for ds, path in zip(datasets, paths, strict=True):
            ds.save_as(path)
    volume = only(scan_dicom(paths))
    assert str(volume.verdict) == "OK"
    uids = [frame.uid for frame in volume.frames]
    assert len(set(uids)) == 4
    assert all(map(headers.single_uid, uids))
    assert uids == [frame.uid for frame in only(scan_dicom(paths)).frames]
    if meta:
        assert uids == [f"{ROOT_UID}.1.{k}" for k in range(1, 5)]


# --- copies and conflicts ---


def test_copies_are_kept_apart_and_told(tmp_path: Path) -> None:
    datasets = some_series(4).datasets()
    volume = only(scan([*datasets, *datasets[:2]], tmp_path))
    assert str(volume.verdict) == "FIXED(REPEATS)"
    assert volume.verdict.said == "2 copies of its images are used once"
    assert len(volume.frames) == 4
    assert sorted(copy.uid for copy in volume.repeats) == [f"{ROOT_UID}.1.1", f"{ROOT_UID}.1.2"]
    assert not {copy.path for copy in volume.repeats} & set(volume.paths)


CONFLICTS: dict[str, tuple[str, Callable[[list[FileDataset]], object]]] = {
    "one identity, two places": ("DUPLICATE_POSITION", lambda all_: all_.append(moved(all_[0]))),
    "a slice sent again, changed": ("DUPLICATE_POSITION", lambda all_: all_.append(renewed(all_[1], 77))),
    "the first slice sent again": ("DUPLICATE_POSITION", lambda all_: all_.append(renewed(all_[0], 77))),
    "in another acquisition": (
        "DUPLICATE_POSITION",
        lambda all_: (
            [change(ds, AcquisitionNumber=1) for ds in all_]
            and all_.extend(renewed(all_[z], 77 + z, AcquisitionNumber=2) for z in (1, 2, 3))
        ),
    ),
    "all again, alike": (
        "DUPLICATE_POSITION",
        lambda all_: all_.extend(renewed(ds, 77 + z) for z, ds in enumerate(list(all_))),
    ),
    "one slice only": ("TOO_FEW", lambda all_: all_.__delitem__(slice(1, None))),
    "one position only": ("TOO_FEW", lambda all_: (all_.__delitem__(slice(1, None)), all_.append(renewed(all_[0], 9)))),
    "shifted": ("SHIFTED", lambda all_: change(all_[3], ImagePositionPatient=[-20, -25, 47.5])),
    "no position": ("NO_GEOMETRY", lambda all_: change(all_[1], ImagePositionPatient=None)),
    "empty position": ("NO_GEOMETRY", lambda all_: change(all_[1], ImagePositionPatient=[])),
    "a position that is no number": ("NO_GEOMETRY", lambda all_: spoil(all_[1], "ImagePositionPatient", b"nan\\1\\2 ")),
    "a position beyond all patients": ("NO_GEOMETRY", lambda all_: change(all_[1], ImagePositionPatient=[0, 0, 1e30])),
    "no pixel spacing": ("NO_GEOMETRY", lambda all_: change(all_[1], PixelSpacing=None)),
    "spacing of zero": ("NO_GEOMETRY", lambda all_: [change(ds, PixelSpacing=[0, 1]) for ds in all_]),
    "spacing of nothing": ("NO_GEOMETRY", lambda all_: [change(ds, PixelSpacing=[1e-5, 1e-5]) for ds in all_]),
    "no directions": ("NO_GEOMETRY", lambda all_: [change(ds, ImageOrientationPatient=[0] * 6) for ds in all_]),
    "skew directions": (
        "NO_GEOMETRY",
        lambda all_: [change(ds, ImageOrientationPatient=[1, 0, 0, 0.7, 0.7, 0]) for ds in all_],
    ),
    "no size": ("NO_GEOMETRY", lambda all_: change(all_[1], Rows=None)),
    "colour": ("COLOUR", lambda all_: [change(ds, SamplesPerPixel=3, PixelData=ds.PixelData * 3) for ds in all_]),
    "palette": ("COLOUR", lambda all_: [change(ds, PhotometricInterpretation="PALETTE COLOR") for ds in all_]),
    "frames": ("MULTI_FRAME", lambda all_: [change(ds, NumberOfFrames=2, PixelData=ds.PixelData * 2) for ds in all_]),
    "short pixels": ("TRUNCATED", lambda all_: change(all_[3], PixelData=all_[3].PixelData[:20])),
    "no pixels": ("TRUNCATED", lambda all_: change(all_[3], PixelData=None)),
    "frames without end": ("TOO_LARGE", lambda all_: [change(ds, NumberOfFrames=2**31 - 1) for ds in all_]),
}


def renewed(ds: FileDataset, number: int, **values: Any) -> FileDataset:
    """The same image under another identity."""
    again = deepcopy(ds)
    again.SOPInstanceUID = again.file_meta.MediaStorageSOPInstanceUID = f"{ROOT_UID}.5.{number}"
    return change(again, **values)


def moved(ds: FileDataset) -> FileDataset:
    again = renewed(ds, 1, ImagePositionPatient=[0, 0, 99])
    again.SOPInstanceUID = ds.SOPInstanceUID
    return again


def spoil(ds: FileDataset, keyword: str, stored: bytes) -> None:
    tag = ds[keyword].tag
    ds[tag] = pydicom.dataelem.RawDataElement(tag, "DS", len(stored), stored, 0, False, True)


@pytest.mark.parametrize("name", CONFLICTS)
def test_what_cannot_be_read_right_is_refused_with_its_code(tmp_path: Path, name: str) -> None:
    expected, ruin = CONFLICTS[name]
    datasets = some_series(6).datasets()
    ruin(datasets)
    volume = only(scan(datasets, tmp_path))
    assert str(volume.verdict) == f"REFUSED({expected})"
    assert volume.verdict.said


def test_a_volume_that_would_fill_the_memory_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = some_series(6).datasets()
    monkeypatch.setattr("medseg.imaging.dicom.scanner.LARGEST_BYTES", 4 * 6 * 5 * 6)
    assert verdicts(scan(datasets, tmp_path / "a")) == ["OK"]
    monkeypatch.setattr("medseg.imaging.dicom.scanner.LARGEST_BYTES", 4 * 6 * 5 * 6 - 1)
    assert verdicts(scan(datasets, tmp_path / "b")) == ["REFUSED(TOO_LARGE)"]


def test_a_gap_as_wide_as_a_city_is_not_filled(tmp_path: Path) -> None:
    stored = np.zeros((4, 2048, 2048), np.int16)
    built = Built(stored, step_mm=0.02, positions_mm={3: np.array([-20.0, -30, 9e4])})
    volume = only(scan(built.datasets(), tmp_path, allow_gaps=True))
    assert str(volume.verdict) == "REFUSED(GAP)"
    assert "too large to be filled" in volume.verdict.said
    assert volume.grid is None


def test_a_tilt_that_needs_too_many_voxels_is_refused(tmp_path: Path) -> None:
    volume = only(scan(tilted(40, 30.0).datasets(), tmp_path))
    assert str(volume.verdict) == "REFUSED(TILT)"
    assert "too far" in volume.verdict.said


# --- what is no volume ---

KINDS: dict[str, tuple[str, Mapping[str, Any]]] = {
    "localiser": ("LOCALIZER", {"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]}),
    "survey": ("LOCALIZER", {"ImageType": ["ORIGINAL", "PRIMARY", "SURVIEW", "NONE"]}),
    "screen": ("SCREEN", {"ImageType": ["DERIVED", "SECONDARY", "SCREEN SAVE"]}),
    "dose sheet": ("SCREEN", {"ImageType": ["ORIGINAL", "SECONDARY", "DOSE_INFO"]}),
    "report": ("SCREEN", {"ImageType": ["DERIVED", "SECONDARY", "OTHER", "CSA REPORT"]}),
    "capture": ("SCREEN", {"ImageType": ["DERIVED", "SECONDARY"], "ImagePositionPatient": None}),
    "capture by its class": ("SCREEN", {"SOPClassUID": "1.2.840.10008.5.1.4.1.1.7", "ImagePositionPatient": None}),
    "projection": ("PROJECTION", {"ImageType": ["DERIVED", "SECONDARY", "PROJECTION IMAGE"]}),
    "maximum": ("PROJECTION", {"ImageType": ["DERIVED", "SECONDARY", "AXIAL", "CT_SOM5 MIP"]}),
    "standard maximum": ("PROJECTION", {"ImageType": ["DERIVED", "PRIMARY", "VOLUME", "MAX_IP"]}),
    "rendering": ("PROJECTION", {"VolumeBasedCalculationTechnique": "VOLUME_RENDER"}),
    "mosaic": ("MOSAIC", {"ImageType": ["ORIGINAL", "PRIMARY", "M", "ND", "MOSAIC"]}),
}


@pytest.mark.parametrize("name", KINDS)
def test_what_is_meant_for_the_eye_is_no_volume(tmp_path: Path, name: str) -> None:
    code, tags = KINDS[name]
    assert verdicts(scan(some_series(5, tags=tags).datasets(), tmp_path)) == [f"REFUSED({code})"]


@pytest.mark.parametrize(
    "image_type",
    [
        ["DERIVED", "SECONDARY"],
        ["DERIVED", "SECONDARY", "AXIAL"],
        ["ORIGINAL", "PRIMARY", "AXIAL", "CT_SOM5 SPI DUAL"],
        ["ORIGINAL", "PRIMARY", "M_SE", "M", "SE"],
        ["SCREEN", "LOCALIZER", "OTHER"],
    ],
)
def test_ordinary_kinds_of_images_are_volumes(tmp_path: Path, image_type: list[str]) -> None:
    assert verdicts(scan(some_series(5, tags={"ImageType": image_type}).datasets(), tmp_path)) == ["OK"]


def test_a_reformatted_volume_is_one_and_says_so(tmp_path: Path) -> None:
    tags = {"ImageType": ["DERIVED", "SECONDARY", "MPR", "CSA MPR"]}
    volume = only(scan(some_series(5, tags=tags).datasets(), tmp_path))
    assert str(volume.verdict) == "OK"
    assert "MPR" in volume.verdict.said


def test_a_localiser_within_the_series_is_set_apart(tmp_path: Path) -> None:
    scout = some_series(2, first=20, tags={"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]}).datasets()
    sheet = some_series(1, first=30, tags={"ImageType": ["DERIVED", "SECONDARY", "DOSE_INFO"]}).datasets()
    volumes = [*some_series(5).datasets(), *scout, *sheet]
    assert verdicts(scan(volumes, tmp_path)) == ["OK", "REFUSED(LOCALIZER)", "REFUSED(SCREEN)"]


def test_a_capture_without_a_place_does_not_spoil_the_volume(tmp_path: Path) -> None:
    odd = {"ImageType": ["DERIVED", "SECONDARY", "OTHER"], "ImagePositionPatient": None}
    images = some_series(5, tags={"ImageType": ["ORIGINAL", "PRIMARY", "AXIAL"]}).datasets()
    assert verdicts(scan([*images, *some_series(1, first=9, tags=odd).datasets()], tmp_path)) == [
        "OK",
        "REFUSED(SCREEN)",
    ]


def test_few_slices_in_three_directions_are_a_localiser(tmp_path: Path) -> None:
    x, y, z = np.eye(3)
    directions = [(x, y), (y, -z), (x, -z)]
    few = [some_series(3, row=r, column=c, first=1 + 10 * k).datasets() for k, (r, c) in enumerate(directions)]
    assert verdicts(scan(list(chain(*few)), tmp_path / "few")) == ["REFUSED(LOCALIZER)"] * 3
    many = [some_series(16, row=r, column=c, first=1 + 20 * k).datasets() for k, (r, c) in enumerate(directions)]
    assert verdicts(scan(list(chain(*many)), tmp_path / "many")) == ["CHOOSE(MULTI_VOLUME)"] * 3


# --- other files ---


def reasons(found: Scanned) -> list[str]:
    return sorted(left.reason for left in found.left)


def test_what_is_no_image_is_left_with_the_reason(tmp_path: Path) -> None:
    datasets = some_series(5).datasets()
    classes = ["88.33", "7", "1.1.1", "481.2"]
    for ds, kind in zip(datasets, classes, strict=False):
        change(ds, SOPClassUID=f"1.2.840.10008.5.1.4.1.1.{kind}", Modality="OT")
    change(datasets[4], SeriesInstanceUID=None)
    found = scan([*datasets, change(some_series().dataset(0), SOPClassUID="1.2.3.4")], tmp_path)
    assert found.volumes == ()
    assert reasons(found) == [
        "is a DICOM image that names no series",
        "is a DICOM object without a volume (Comprehensive SR Storage)",
        "is a DICOM object without a volume (Digital X-Ray Image Storage - For Processing)",
        "is a DICOM object without a volume (RT Dose Storage)",
        "is a DICOM object without a volume (Secondary Capture Image Storage)",
        "is a DICOM object without a volume (unknown kind)",
    ]
    assert {left.where for left in found.left} == {f"file {k} of 6" for k in range(1, 7)}
    assert not any(left.broken for left in found.left)


def test_files_of_other_kinds_and_damaged_ones(tmp_path: Path) -> None:
    folder = tmp_path / PATIENT
    save_all(some_series(4).datasets(), folder)
    (folder / "README.dcm").write_text("text")
    (folder / "empty").touch()
    (folder / "junk").write_bytes(b"\x08\x00" + b"\xff" * 200)
    (folder / "mark").write_bytes(b"\0" * 128 + b"DICM" + b"\x02\x00\x00\x00UL\x04\x00" + b"\xff" * 300)
    (folder / "folder").mkdir()
    (folder / "gone").symlink_to(folder / "nowhere")
    found = scan_dicom(folder.iterdir())
    assert verdicts(found) == ["OK"]
    assert [(left.reason, left.broken) for left in sorted(found.left, key=lambda one: one.reason)] == [
        ("cannot be read (is a directory)", True),
        ("cannot be read (no such file or directory)", True),
        ("is a damaged DICOM file", True),
        *[("is no DICOM file", False)] * 3,
    ]


def test_an_index_is_not_followed(tmp_path: Path) -> None:
    root = Path(pydicom.__file__).parent / "data" / "test_files" / "dicomdirtests"
    found = scan_dicom(root.glob("DICOMDIR*"))
    assert found.volumes == ()
    assert set(reasons(found)) == {"is an index of files (DICOMDIR), which is not followed"}
    series = scan_dicom((root / "98892001").rglob("*")).volumes
    assert [str(volume.verdict) for volume in series] == ["REFUSED(LOCALIZER)", "OK"]


@pytest.mark.parametrize("share", [0.05, 0.3, 0.6, 0.9, 0.99])
def test_a_cut_file_is_never_used(tmp_path: Path, share: float) -> None:
    paths = save_all(some_series(5).datasets(), tmp_path)
    stored = paths[2].read_bytes()
    paths[2].write_bytes(stored[: int(share * len(stored))])
    found = scan_dicom(paths)
    broken = [left for left in found.left if left.broken]
    assert broken or any(not volume.verdict.usable for volume in found.volumes)
    assert not any(paths[2] in volume.paths for volume in found.volumes if volume.verdict.usable)


def test_files_without_the_mark_and_with_other_syntaxes_are_read(tmp_path: Path) -> None:
    paths = []
    for z, ds in enumerate(some_series(4).datasets()):
        path = tmp_path / f"{z}"
        if z == 0:
            del ds.file_meta, ds.preamble
            ds.save_as(path, implicit_vr=True, little_endian=True)
            assert path.read_bytes()[:2] == b"\x08\x00"
        elif z == 1:
            ds.preamble = None
            ds.save_as(path, enforce_file_format=False, implicit_vr=False, little_endian=True)
        elif z == 2:
            ds.compress(RLELossless, generate_instance_uid=False)
            ds.save_as(path, enforce_file_format=True)
        else:
            ds.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
            ds.save_as(path, enforce_file_format=True)
        paths.append(path)
    found = scan_dicom(paths)
    assert found.left == ()
    assert verdicts(found) == ["OK"]


def test_a_deflated_bomb_is_never_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ds = some_series().dataset(0)
    ds.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    ds.PixelData = bytes(3 << 20)
    (path,) = save_all([ds], tmp_path)
    assert path.stat().st_size < 10_000
    monkeypatch.setattr(headers, "INFLATED_AT_MOST", 1 << 20)
    monkeypatch.setattr(headers, "read_partial", lambda *_, **__: pytest.fail("it was unpacked"))
    (left,) = scan_dicom([path]).left
    assert left.broken
    assert "unpacks to more" in left.reason


def test_a_deflated_file_that_is_cut_is_damaged(tmp_path: Path) -> None:
    ds = some_series().dataset(0)
    ds.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    (path,) = save_all([ds], tmp_path)
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(zlib.error):
        pydicom.dcmread(path)
    assert reasons(scan_dicom([path])) == ["is a damaged DICOM file"]


@pytest.mark.parametrize("charset", ["ISO_IR 100", "ISO 2022 IR 87", "NO SUCH SET", "ISO_IR 192\\ISO 2022 IR 87"])
def test_texts_never_stop_a_scan(tmp_path: Path, charset: str, capfd: pytest.CaptureFixture[str]) -> None:
    paths = save_all(some_series(4).datasets(), tmp_path / PATIENT)
    for path in paths:
        ds = pydicom.dcmread(path)
        raw = path.read_bytes().replace(b"ISO_IR 192", charset.encode()[:10].ljust(10))
        path.write_bytes(raw.replace("Müller".encode(), b"\xff\xfeller\x1b").replace(b"12345678", b"1234\\678"))
        assert ds.SpecificCharacterSet
    found = scan_dicom(paths)
    assert verdicts(found) == ["OK"]
    assert capfd.readouterr() == ("", "")


def test_labels_are_found_with_what_they_belong_to(tmp_path: Path) -> None:
    seg, rtstruct = some_series(2).datasets()
    change(seg, SOPClassUID="1.2.840.10008.5.1.4.1.1.66.4", StudyInstanceUID="1.2", PatientID="77")
    seg.ReferencedSeriesSequence = [change(Dataset(), SeriesInstanceUID="1.2.7")]
    change(rtstruct, SOPClassUID="1.2.840.10008.5.1.4.1.1.481.3", FrameOfReferenceUID=None)
    study = Dataset()
    study.RTReferencedSeriesSequence = [change(Dataset(), SeriesInstanceUID=f"1.2.{k}") for k in (8, 8, 9)]
    frame = change(Dataset(), FrameOfReferenceUID="1.2.3")
    frame.RTReferencedStudySequence = [study]
    rtstruct.ReferencedFrameOfReferenceSequence = [frame]
    rtstruct.ROIContourSequence = [Dataset()]
    found = scan([seg, rtstruct], tmp_path)
    by_kind = {label.kind: label for label in found.labels}
    assert by_kind["seg"].series_uids == ("1.2.7",)
    assert (by_kind["seg"].study_uid, by_kind["seg"].patient_id) == ("1.2", "77")
    assert by_kind["seg"].frame_of_reference == FRAME_OF_REFERENCE
    assert by_kind["rtstruct"].series_uids == ("1.2.8", "1.2.9")
    assert by_kind["rtstruct"].frame_of_reference == "1.2.3"


def test_every_header_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = save_all(some_series(4).datasets(), tmp_path)
    read: list[object] = []
    real = headers.read_partial

    def counted(file: Any, **how: Any) -> Any:
        read.append(file.name)
        return real(file, **how)

    monkeypatch.setattr(headers, "read_partial", counted)
    scan_dicom(paths)
    assert sorted(map(str, read)) == sorted(map(str, paths))


def test_nothing_makes_nothing() -> None:
    assert scan_dicom([]) == Scanned((), (), ())
