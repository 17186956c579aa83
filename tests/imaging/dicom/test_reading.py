from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import SimpleITK

from medseg.errors import InputError
from medseg.imaging.dicom.reading import read_dicom
from medseg.imaging.dicom.scanner import scan_dicom
from medseg.imaging.dicom.volumes import SubVolume, Verdict
from medseg.imaging.slicing import image_onto
from medseg.imaging.source import ReadOptions
from tests.imaging.build import Built, save_all, some_series
from tests.imaging.build import tilted as tilted_series
from tests.imaging.dicom.pixels_build import subvolume

PLAIN, WITH_GAPS = ReadOptions(), ReadOptions(allow_gaps=True)


def scanned(folder: Path, built: Built, without: int | None = None, allow_gaps: bool = False) -> SubVolume:
    datasets = [ds for z, ds in enumerate(built.datasets()) if z != without]
    (volume,) = scan_dicom(save_all(datasets, folder), allow_gaps).volumes
    return volume


def test_a_plain_series_is_read_as_it_is(tmp_path: Path) -> None:
    built = some_series(slopes=(1, 0.5))
    reading = read_dicom(scanned(tmp_path, built), "case-1", PLAIN)
    assert reading.notes == ()
    assert reading.own is reading.volume.grid
    assert reading.volume.array.dtype == np.float32
    assert not reading.volume.array.flags.writeable
    for z in range(4):
        assert np.array_equal(reading.volume.array[:, :, z], built.values(z))
    for x, y, z in [(0, 0, 0), (5, 4, 3)]:
        assert np.allclose((reading.own.affine @ [x, y, z, 1])[:3], built.world_ras(x, y, z), atol=1e-9)


def test_a_tilted_series_stands_where_it_was(tmp_path: Path) -> None:
    """A plane in the patient, seen by tilted slices, is the same plane on the straight grid."""
    built = tilted_series(8, 15.0)
    for z in range(8):
        for y in range(5):
            place = built.world_ras(0, y, z)
            built.stored[z, y] = round(100 * place[1]) + np.arange(6)
    volume = scanned(tmp_path, built)
    assert volume.verdict.state == "FIXED"
    reading = read_dicom(volume, "case-1", PLAIN)
    assert reading.notes == (volume.verdict.said,)
    assert "tilt of 15.0 degrees" in reading.notes[0]
    array, affine = reading.volume.array, reading.own.affine
    assert reading.own.shape == array.shape == (6, array.shape[1], 8)
    inside = 0
    lowest = min(built.values(z).min() for z in range(8))
    for x, y, z in np.ndindex(array.shape):
        if array[x, y, z] > lowest:
            inside += 1
            assert array[x, y, z] == pytest.approx(100 * (affine @ [x, y, z, 1])[1] + x, abs=1.0)
    assert inside >= 8 * 6 * 3


def test_where_no_slice_is_the_smallest_value_stands(tmp_path: Path) -> None:
    built = tilted_series(8, 30.0, slopes=(0.5,), intercepts=(-1000.0,))
    reading = read_dicom(scanned(tmp_path, built), "case-1", PLAIN)
    smallest = min(built.values(z).min() for z in range(8))
    assert reading.volume.array.min() == smallest
    assert (reading.volume.array == smallest).sum() > 100


def test_a_gap_is_filled_only_where_it_is_allowed(tmp_path: Path) -> None:
    built = Built(np.repeat(np.arange(0, 800, 100, np.int16), 30).reshape(8, 5, 6))
    refused = scanned(tmp_path / "a", built, without=3)
    with pytest.raises(InputError, match=r"^case-1: \[GAP\] .* mm"):
        read_dicom(refused, "case-1", PLAIN)
    volume = scanned(tmp_path / "b", built, without=3, allow_gaps=True)
    assert volume.verdict.state == "FIXED"
    with pytest.raises(InputError, match=r"\[GAP\]"):
        read_dicom(volume, "case-1", PLAIN)
    reading = read_dicom(volume, "case-1", WITH_GAPS)
    assert np.allclose(reading.volume.array[2, 2], np.arange(0, 800, 100))
    assert reading.own.shape == (6, 5, 8)
    assert reading.notes == (volume.verdict.said, "the slices between 45.00 to 50.00 mm are interpolated")


def test_a_refused_volume_is_refused_with_its_code(tmp_path: Path) -> None:
    (volume,) = scan_dicom(save_all(some_series(1).datasets(), tmp_path)).volumes
    with pytest.raises(InputError, match=rf"^case-1: \[{volume.verdict.codes[0]}\]"):
        read_dicom(volume, "case-1", PLAIN)
    usable = subvolume(save_all(some_series().datasets(), tmp_path / "b"), Verdict("REFUSED", ("MOSAIC",), "is one"))
    with pytest.raises(InputError, match=r"^case-1: \[MOSAIC\] is one"):
        read_dicom(usable, "case-1", PLAIN)


def test_one_of_several_volumes_is_read_without_a_word(tmp_path: Path) -> None:
    volume = subvolume(save_all(some_series().datasets(), tmp_path), Verdict("CHOOSE", ("MULTI_VOLUME",), "one of 2"))
    assert read_dicom(volume, "case-1", PLAIN).notes == ()


def test_images_of_two_contrasts_are_noted(tmp_path: Path) -> None:
    built = some_series(8, tags_of=lambda z: {"EchoTime": (4.6, 9.2)[z % 2]})
    reading = read_dicom(scanned(tmp_path / "a", built), "case-1", PLAIN)
    assert reading.notes == ("its images have 2 values of EchoTime",)
    built = tilted_series(8, 15.0, tags_of=built.tags_of)
    (note,) = read_dicom(scanned(tmp_path / "b", built), "case-1", PLAIN).notes
    assert note.endswith("(gantry tilt of 15.0 degrees); its images have 2 values of EchoTime")


def test_memory_is_needed_for_the_slices_and_the_straight_grid(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    volume = scanned(tmp_path, tilted_series(8, 15.0))
    assert volume.grid is not None
    needed = 4 * (6 * 5 * 8 + int(np.prod(volume.grid.shape)))
    monkeypatch.setattr("medseg.imaging.dicom.pixels.available_memory_bytes", lambda: needed)
    read_dicom(volume, "case-1", PLAIN)
    monkeypatch.setattr("medseg.imaging.dicom.pixels.available_memory_bytes", lambda: needed - 1)
    with pytest.raises(InputError, match=r"\[TOO_LARGE\]"):
        read_dicom(volume, "case-1", PLAIN)


def test_only_pet_is_touched_by_suv(tmp_path: Path) -> None:
    built = some_series()
    reading = read_dicom(scanned(tmp_path, built), "case-1", ReadOptions(suv=True))
    assert np.array_equal(reading.volume.array[:, :, 0], built.values(0))
    assert reading.notes == ()


def test_notes_of_pixels_come_after_those_of_places(tmp_path: Path) -> None:
    built = tilted_series(6, 10.0)
    datasets = built.datasets()
    for ds in datasets:
        ds.LossyImageCompression = "01"
    (volume,) = scan_dicom(save_all(datasets, tmp_path)).volumes
    notes = read_dicom(volume, "case-1", PLAIN).notes
    assert len(notes) == 2
    assert "tilt" in notes[0]
    assert notes[1] == "6 of 6 images were compressed with loss"


class TestRealData:
    @pytest.mark.parametrize("name", ["flair", "t1_post", "hippocampus_crop"])
    def test_mr_is_where_simpleitk_finds_it(self, real_data: Path, name: str) -> None:
        folder = real_data / "dicom_mr" / name
        (volume,) = scan_dicom(folder.iterdir()).volumes
        reading = read_dicom(volume, "case-1", PLAIN)
        reader = SimpleITK.ImageSeriesReader()
        reader.SetFileNames(SimpleITK.ImageSeriesReader.GetGDCMSeriesFileNames(str(folder)))
        image = reader.Execute()
        index = [int(n) // 3 for n in image.GetSize()]
        world = np.array(image.TransformIndexToPhysicalPoint(index)) * [-1, -1, 1]
        here = np.linalg.inv(reading.own.affine) @ [*world, 1]
        assert np.allclose(here[:3], np.rint(here[:3]), atol=0.01)
        x, y, z = np.rint(here[:3]).astype(int)
        assert reading.volume.array[x, y, z] == image[index]
        assert reading.volume.array.sum(dtype=np.float64) == SimpleITK.GetArrayFromImage(image).sum(dtype=np.float64)

    def test_a_breast_series_holds_three_phases(self, real_data: Path) -> None:
        volumes = scan_dicom((real_data / "dicom_seg" / "image").iterdir()).volumes
        assert len(volumes) == 3
        arrays = [read_dicom(volume, "case-1", PLAIN).volume.array for volume in volumes]
        assert {array.shape for array in arrays} == {(256, 256, 60)}
        assert not np.array_equal(arrays[0], arrays[1])

    def test_straightened_slices_are_those_of_the_planes(self, real_data: Path) -> None:
        (volume,) = scan_dicom((real_data / "dicom_mr" / "hippocampus_crop").iterdir()).volumes
        reading = read_dicom(volume, "case-1", PLAIN)
        assert volume.planes is not None
        assert volume.grid is not None
        again = image_onto(reading.volume.array, volume.planes, volume.grid, 0.0)
        assert np.array_equal(again, reading.volume.array)
