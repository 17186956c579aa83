from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from pydicom.dataset import FileDataset
from pydicom.uid import CTImageStorage, MRImageStorage, generate_uid
from scipy.spatial.transform import Rotation

from medseg.imaging.dicom.check import cross_checked
from medseg.imaging.dicom.scanner import scan_dicom
from medseg.imaging.dicom.volumes import SubVolume
from medseg.imaging.grid import Grid
from medseg.imaging.planes import Planes
from tests.imaging.build import PATIENT, Built, change, decimal_string, enhanced, phases, save_all, some_series, tilted

TURN = Rotation.from_euler("xyz", (10, -25, 40), degrees=True).as_matrix()
OBLIQUE = {"row": TURN[:, 0], "column": TURN[:, 1]}


def scanned(datasets: list[FileDataset], folder: Path, allow_gaps: bool = False) -> tuple[SubVolume, ...]:
    return scan_dicom(save_all(datasets, folder / PATIENT), allow_gaps).volumes


def gapped() -> list[FileDataset]:
    datasets = some_series(6, **OBLIQUE).datasets()
    del datasets[2]
    return datasets


SERIES: dict[str, Callable[[], list[FileDataset]]] = {
    "straight": lambda: some_series(5).datasets(),
    "oblique": lambda: some_series(5, **OBLIQUE).datasets(),
    "against the axes": lambda: some_series(5, row=np.array([-1.0, 0, 0]), column=np.array([0.0, 0, 1])).datasets(),
    "tilted": lambda: tilted(5, -18.5, **OBLIQUE).datasets(),
    "gapped": gapped,
    "phases": lambda: phases(2, 5),
    "copies": lambda: [*some_series(5).datasets(), *some_series(5).datasets()[:2]],
    "enhanced CT": lambda: [multi_frame(some_series(5, **OBLIQUE), sop_class=CTImageStorage)],
    "enhanced MR": lambda: [multi_frame(some_series(5, **OBLIQUE), sop_class=MRImageStorage)],
    "enhanced echoes": lambda: [
        enhanced(some_series(5), [{"z": z, "EchoTime": float(k)} for k in (1, 2) for z in (4, 3, 2, 1, 0)])
    ],
}


def multi_frame(built: Built, sop_class: str) -> FileDataset:
    return enhanced(replace(built, sop_class=sop_class), [{"z": z} for z in (2, 0, 1, 4, 3)])


@pytest.mark.parametrize("name", SERIES)
def test_right_geometries_agree(tmp_path: Path, name: str, capfd: pytest.CaptureFixture[str]) -> None:
    volumes = scanned(SERIES[name](), tmp_path, allow_gaps=True)
    assert volumes
    for volume in volumes:
        checked = cross_checked(volume)
        assert checked.checked == "agrees"
        assert checked.verdict == volume.verdict
        assert checked.frames == volume.frames
    assert capfd.readouterr() == ("", "")


def moved(grid: Grid, mm: float) -> Grid:
    affine = grid.affine.copy()
    affine[2, 3] += mm
    return Grid(grid.shape, affine, grid.stored)


def shifted(planes: Planes, k: int, mm: float) -> Planes:
    positions = planes.positions_mm.copy()
    positions[k] += mm
    return replace(planes, positions_mm=positions)


WRONG: dict[str, Callable[[SubVolume], SubVolume]] = {
    "the grid moved": lambda v: replace(v, grid=v.grid and moved(v.grid, 0.08)),
    "the spacing": lambda v: replace(v, grid=v.grid and Grid(v.grid.shape, v.grid.affine @ np.diag([1, 1, 1.01, 1]))),
    "a slice moved": lambda v: replace(v, planes=v.planes and shifted(v.planes, 3, 0.08)),
    "the order": lambda v: replace(v, frames=v.frames[::-1]),
    "two slices exchanged": lambda v: replace(v, frames=(*v.frames[:1], v.frames[2], v.frames[1], *v.frames[3:])),
    "the directions": lambda v: replace(v, planes=v.planes and replace(v.planes, row=v.planes.column)),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_geometries_are_refused(tmp_path: Path, name: str) -> None:
    (volume,) = scanned(SERIES["oblique"](), tmp_path)
    checked = cross_checked(WRONG[name](volume))
    assert str(checked.verdict) == "REFUSED(GEOMETRY_DISAGREES)"
    assert "mm away" in checked.verdict.said
    assert checked.checked == "unchecked"


@pytest.mark.parametrize("name", ["the grid moved", "the spacing", "the order"])
@pytest.mark.parametrize("series", ["enhanced MR", "enhanced echoes"])
def test_wrong_geometries_of_frames_are_refused(tmp_path: Path, name: str, series: str) -> None:
    volume = scanned(SERIES[series](), tmp_path)[0]
    assert str(cross_checked(WRONG[name](volume)).verdict) == "REFUSED(GEOMETRY_DISAGREES)"


@pytest.mark.parametrize("name", ["a slice moved", "the order", "the directions"])
def test_wrong_geometries_of_tilted_slices_are_refused(tmp_path: Path, name: str) -> None:
    (volume,) = scanned(SERIES["tilted"](), tmp_path)
    assert str(cross_checked(WRONG[name](volume)).verdict) == "REFUSED(GEOMETRY_DISAGREES)"


def test_what_other_libraries_cannot_read_stays_unchecked(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    datasets = tilted(5, 20).datasets()
    volume = scanned(datasets, tmp_path)[0]
    for path in volume.paths:
        path.write_bytes(b"gone")
    unread = cross_checked(volume)
    assert (unread.checked, unread.verdict) == ("unchecked", volume.verdict)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("name", ["straight", "oblique"])
def test_a_path_that_is_no_utf8_is_checked_by_its_headers(tmp_path: Path, name: str) -> None:
    save_all(SERIES[name](), tmp_path / "ascii")
    folder = os.fsencode(tmp_path) + b"/M\xfcller"
    (tmp_path / "ascii").rename(os.fsdecode(folder))
    (volume,) = scan_dicom(Path(os.fsdecode(folder)).iterdir()).volumes
    assert cross_checked(volume).checked == "agrees"
    assert str(cross_checked(WRONG["the grid moved"](volume)).verdict) == "REFUSED(GEOMETRY_DISAGREES)"


def large(orientation_of: Callable[[int], NDArray[np.float64]]) -> list[FileDataset]:
    """Slices as wide as in the clinic, on which a small turn moves corners most; their pixels take no place."""
    datasets = some_series(4, between_rows_mm=0.9, between_columns_mm=0.9, **OBLIQUE).datasets()
    for z, ds in enumerate(datasets):
        ds.Rows = ds.Columns = 512
        ds.PixelData = bytes(2 * 512 * 512)
        ds.ImageOrientationPatient = [decimal_string(float(v)) for v in orientation_of(z)]
    return datasets


@pytest.mark.parametrize("digits", [3, 4, 6])
@pytest.mark.parametrize("turn", range(4))
def test_directions_of_few_digits_agree(tmp_path: Path, digits: int, turn: int) -> None:
    matrix = Rotation.random(random_state=turn).as_matrix()
    written = np.round(np.concatenate([matrix[:, 0], matrix[:, 1]]), digits)
    datasets = large(lambda _: written)
    for z, ds in enumerate(datasets):
        ds.ImagePositionPatient = [decimal_string(v) for v in np.round(3 * z * matrix[:, 2], 4)]
    (volume,) = scanned(datasets, tmp_path)
    assert str(volume.verdict) == "OK"
    assert cross_checked(volume).checked == "agrees"


@pytest.mark.parametrize("seed", range(4))
def test_directions_that_differ_a_little_from_slice_to_slice_agree(tmp_path: Path, seed: int) -> None:
    jitter = np.random.default_rng(seed).choice([-4.9e-5, 4.9e-5], (4, 6))
    (volume,) = scanned(large(lambda z: np.concatenate([TURN[:, 0], TURN[:, 1]]) + jitter[z]), tmp_path)
    assert str(volume.verdict) == "OK"
    assert cross_checked(volume).checked == "agrees"
    assert str(cross_checked(WRONG["the directions"](volume)).verdict) == "REFUSED(GEOMETRY_DISAGREES)"


def test_what_is_refused_is_not_checked(tmp_path: Path) -> None:
    (volume,) = scanned(gapped(), tmp_path)
    assert cross_checked(volume) is volume


def test_a_legacy_converted_object_equals_its_single_images(tmp_path: Path) -> None:
    from highdicom.legacy import LegacyConvertedEnhancedCTImage

    common = {"StudyInstanceUID": "1.2.3", "StudyID": "", "StudyDate": "", "StudyTime": "", "AccessionNumber": ""}
    common |= {"ReferringPhysicianName": "", "PatientBirthDate": "", "PatientSex": "", "PositionReferenceIndicator": ""}
    common |= {"Manufacturer": "", "SeriesNumber": 1, "ImageType": ["ORIGINAL", "PRIMARY", "AXIAL"]}
    common |= {"AcquisitionDate": "20200101", "AcquisitionTime": "101500", "AcquisitionNumber": 1, "ContentDate": ""}
    common |= {"ContentTime": "", "InstanceNumber": 1, "SliceThickness": "2.5", "PatientPosition": "HFS"}
    datasets = [
        change(ds, **{**common, "InstanceNumber": k}) for k, ds in enumerate(some_series(5, **OBLIQUE).datasets())
    ]
    legacy = LegacyConvertedEnhancedCTImage(datasets, generate_uid(), 7, generate_uid(), 1)
    path = tmp_path / "legacy"
    legacy.save_as(path)
    (whole,) = scan_dicom([path]).volumes
    (single,) = scanned(datasets, tmp_path)
    assert str(whole.verdict) == "OK"
    assert whole.grid is not None
    assert single.grid is not None
    assert whole.grid.deviation_mm(single.grid) < 1e-6
    assert cross_checked(whole).checked == "agrees"
