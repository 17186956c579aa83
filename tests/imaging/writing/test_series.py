"""A volume as a DICOM series: values, places, and headers without anything invented."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from pydicom import dcmread

from medseg.errors import GeometryError, InputError
from medseg.imaging.grid import Grid
from medseg.imaging.planes import arrange
from medseg.imaging.volume import Volume
from medseg.imaging.writing import series
from medseg.imaging.writing.series import storing, write_series
from tests.imaging.build import some_image
from tests.imaging.writing.results_build import plane_of

Modality = Literal["CT", "MR"]


def oblique(hand: int = 1) -> NDArray[np.float64]:
    """An affine that is turned about two axes, with spacings and an origin of many digits."""
    a, b = 0.3, 0.2
    first = np.array([[np.cos(a), -np.sin(a), 0], [np.sin(a), np.cos(a), 0], [0, 0, 1]])
    second = np.array([[1, 0, 0], [0, np.cos(b), -np.sin(b)], [0, np.sin(b), np.cos(b)]])
    affine = np.eye(4)
    affine[:3, :3] = first @ second @ np.diag([0.7123456789012, 0.81, 2.5 * hand])
    affine[:3, 3] = [-123.456789012345, 77.7, -1234.5678901234567]
    return affine


def some_volume(array: NDArray[Any] | None = None, hand: int = 1) -> Volume:
    array = some_image() if array is None else array
    return Volume(array, Grid(array.shape, oblique(hand)))


def read(folder: Path) -> Volume:
    """The series by pydicom and the project's own geometry, whatever the files are called."""
    found = [dcmread(path) for path in sorted(folder.iterdir())[::-1]]
    arranged = arrange([plane_of(ds) for ds in found])
    assert arranged.grid is not None
    values = [found[i].pixel_array.T * float(found[i].get("RescaleSlope", 1)) for i in arranged.order]
    shifts = [float(found[i].get("RescaleIntercept", 0)) for i in arranged.order]
    return Volume(np.stack([v + s for v, s in zip(values, shifts, strict=True)], axis=2), arranged.grid)


@pytest.mark.parametrize("hand", [1, -1])
@pytest.mark.parametrize("modality", ["CT", "MR"])
def test_values_stand_where_they_stood(tmp_path: Path, modality: Modality, hand: int) -> None:
    volume = some_volume(hand=hand)
    written = write_series(tmp_path / "out", volume, modality, "case-1")
    found = read(tmp_path / "out")
    to_index = np.linalg.inv(found.grid.affine) @ volume.grid.affine
    for x, y, z in np.ndindex(volume.grid.shape):
        index = to_index @ (x, y, z, 1)
        assert np.abs(index - np.rint(index)).max() < 1e-6
        assert found.array[tuple(np.rint(index[:3]).astype(int))] == volume.array[x, y, z]
    assert written.deviation_mm < 1e-9
    assert (written.loss, written.notes) == (0.0, ())
    assert list(written.paths) == sorted((tmp_path / "out").iterdir())


@pytest.mark.parametrize("modality", ["CT", "MR"])
@pytest.mark.parametrize("values", ["whole", "broken"])
def test_no_error_by_dciodvfy(
    tmp_path: Path, modality: Modality, values: str, faults: Callable[[Path], list[str]]
) -> None:
    volume = some_volume(None if values == "whole" else some_image() / np.float32(7))
    for path in write_series(tmp_path / "out", volume, modality, "case-1").paths:
        assert faults(path) == []


def test_the_header_invents_nothing(tmp_path: Path) -> None:
    for modality in ("CT", "MR"):
        (first, *_) = write_series(tmp_path / modality, some_volume(), modality, "case-ü").paths
        ds = dcmread(first)
        assert (ds.PatientID, ds.SpecificCharacterSet) == ("case-ü", "ISO_IR 192")
        for keyword in ("PatientName", "PatientBirthDate", "PatientSex", "StudyDate", "StudyTime", "PatientPosition"):
            assert keyword in ds
            assert not ds[keyword].value
        assert list(ds.ImageType[:2]) == ["DERIVED", "SECONDARY"]
        assert "RESEARCH USE ONLY" in ds.SeriesDescription
        assert all(len(text) <= 16 for text in map(str, [*ds.ImagePositionPatient, *ds.ImageOrientationPatient]))


def test_images_follow_each_other_along_their_normal(tmp_path: Path) -> None:
    for hand in (1, -1):
        paths = write_series(tmp_path / str(hand), some_volume(hand=hand), "CT", "case-1").paths
        found = [dcmread(path) for path in paths]
        planes = [plane_of(ds) for ds in found]
        assert arrange(planes).order == (0, 1, 2, 3)
        assert [ds.InstanceNumber for ds in found] == [1, 2, 3, 4]
        assert len({ds.SOPInstanceUID for ds in found}) == 4
        assert len({(ds.StudyInstanceUID, ds.SeriesInstanceUID, ds.FrameOfReferenceUID) for ds in found}) == 1


def test_the_same_call_gives_the_same_series_and_another_another(tmp_path: Path) -> None:
    def uid(folder: str, volume: Volume, patient: str = "case-1", seed: str = "") -> str:
        return str(dcmread(write_series(tmp_path / folder, volume, "CT", patient, seed).paths[0]).SeriesInstanceUID)

    same = uid("a", some_volume())
    assert uid("b", some_volume()) == same
    changed = some_image()
    changed[0, 0, 0] += 1
    others = {uid("c", some_volume(changed)), uid("d", some_volume(), "case-2"), uid("e", some_volume(), seed="2")}
    assert len(others | {same}) == 4


@pytest.mark.parametrize(
    ("array", "slope"),
    [
        (np.array([-32768, 0, 32767], np.int16), 1.0),
        (np.array([0, 40000, 65535], np.uint16), 1.0),
        (np.array([100000, 100001, 150000], np.float32), 1.0),
        (np.array([0.25, 0.25, 0.25], np.float32), 1.0),
    ],
)
def test_what_fits_into_16_bits_is_stored_exactly(tmp_path: Path, array: NDArray[Any], slope: float) -> None:
    volume = some_volume(np.resize(array, (3, 2, 2)))
    assert storing(volume).slope == slope
    assert write_series(tmp_path / "out", volume, "CT", "case-1").loss == 0.0
    assert np.array_equal(read(tmp_path / "out").array, volume.array)


@given(st.integers(-30, 30), st.floats(-1, 1), st.integers(0, 2**32 - 1))
@settings(max_examples=60, deadline=None)
def test_other_values_lose_half_a_step_at_most(power: int, around: float, seed: int) -> None:
    array = (np.random.default_rng(seed).normal(around, 1, (4, 3, 2)) * 10.0**power).astype(np.float32)
    volume = Volume(array, Grid((4, 3, 2), np.eye(4)))
    stored = storing(volume)
    numbers = np.rint((array.astype(np.float64) - stored.intercept) / stored.slope)
    assert -32768 <= numbers.min() < numbers.max() <= 32767
    assert stored.slope < 1.0001 * np.ptp(array) / 65534
    loss = np.abs(numbers * stored.slope + stored.intercept - array).max()
    assert loss <= stored.slope * 0.5 * (1 + 1e-9)


def test_the_loss_is_told(tmp_path: Path) -> None:
    written = write_series(tmp_path / "out", some_volume(some_image() / np.float32(7)), "MR", "case-1")
    assert 0 < written.loss <= 0.5 * (np.ptp(some_image()) / 7) / 65534 * 1.001
    assert "lost" in written.notes[0]


def test_refusals(tmp_path: Path) -> None:
    sheared = np.eye(4)
    sheared[0, 2] = 0.01
    with pytest.raises(GeometryError, match="SHEARED"):
        write_series(tmp_path / "a", Volume(some_image(), Grid((6, 5, 4), sheared)), "CT", "case-1")
    broken = some_image().astype(np.float32)
    broken[0, 0, 0] = np.inf
    with pytest.raises(InputError, match="INTENSITIES"):
        write_series(tmp_path / "a", some_volume(broken), "CT", "case-1")
    assert not (tmp_path / "a").exists()


def test_a_series_that_reads_back_differently_never_appears(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place, values = series._say_place, series._say_values
    elsewhere = Grid((6, 5, 4), np.eye(4))
    for name, wrong in (
        ("_say_place", lambda ds, _, k: place(ds, elsewhere, k)),
        ("_say_values", lambda ds, volume, _, stored: values(ds, volume, 0, stored)),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(series, name, wrong)
            with pytest.raises(GeometryError, match="READ_BACK"):
                write_series(tmp_path / "a", some_volume(), "CT", "case-1")
        assert list(tmp_path.iterdir()) == []


def test_a_killed_run_stands_in_nobodys_way(tmp_path: Path) -> None:
    beside = (tmp_path / ".part-series-old", tmp_path / ".part-series-new")
    for folder in beside:
        (folder / "series").mkdir(parents=True)
    os.utime(beside[0], (0, 0))
    (tmp_path / "out").mkdir()
    written = write_series(tmp_path / "out", some_volume(), "CT", "case-1")
    assert sorted(path.name for path in tmp_path.iterdir()) == [".part-series-new", "out"]
    assert sorted((tmp_path / "out").iterdir()) == sorted(written.paths)
    with pytest.raises(InputError, match="is not empty"):
        write_series(tmp_path / "out", some_volume(), "CT", "case-1")
