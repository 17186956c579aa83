from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.dataset import FileDataset
from pydicom.uid import JPEGLSLossless, RLELossless
from scipy.spatial.transform import Rotation

from medseg.errors import InputError
from medseg.imaging.dicom.series import Series, find_series, read_series
from medseg.imaging.volume import Volume
from tests.imaging.build import PATIENT, save_all, some_series


def read(paths: list[Path]) -> Volume:
    series, _ = find_series(paths)
    assert len(series) == 1
    return read_series(series[0], "case-1")


def refusal(datasets: list[FileDataset], folder: Path) -> str:
    with pytest.raises(InputError) as caught:
        read(save_all(datasets, folder / PATIENT))
    line = str(caught.value)
    assert line.startswith("case-1: [")
    assert "\n" not in line
    assert not any(part in line for part in PATIENT.split("^"))
    assert str(folder) not in line
    return line[line.index("[") + 1 : line.index("]")]


@settings(max_examples=40, deadline=None)
@given(
    angle=st.tuples(*[st.floats(-180, 180)] * 3),
    spacing=st.tuples(*[st.floats(0.3, 6.0)] * 3),
    first=st.tuples(*[st.floats(-400, 400)] * 3),
    slopes=st.lists(st.floats(0.001, 10), min_size=1, max_size=4),
    intercepts=st.lists(st.floats(-2000, 2000), min_size=1, max_size=3),
    n=st.integers(2, 7),
    seed=st.integers(0, 999),
)
def test_places_and_values_are_exact_for_any_series(
    tmp_path_factory: pytest.TempPathFactory,
    angle: tuple[float, float, float],
    spacing: tuple[float, float, float],
    first: tuple[float, float, float],
    slopes: list[float],
    intercepts: list[float],
    n: int,
    seed: int,
) -> None:
    turn = Rotation.from_euler("xyz", angle, degrees=True).as_matrix()
    built = some_series(
        n,
        seed,
        row=turn[:, 0],
        column=turn[:, 1],
        first_mm=np.array(first),
        between_rows_mm=spacing[0],
        between_columns_mm=spacing[1],
        step_mm=spacing[2],
        slopes=slopes,
        intercepts=intercepts,
    )
    order = random.Random(seed).sample(range(n), n)  # noqa: S311
    volume = read(save_all(built.datasets(), tmp_path_factory.mktemp("series"), order))
    assert volume.array.dtype == np.float32
    assert volume.array.shape == (6, 5, n)
    assert volume.grid.stored.format == "dicom"
    for z in range(n):
        assert np.array_equal(volume.array[:, :, z], built.values(z))
    for x, y, z in [(0, 0, 0), (5, 0, 0), (0, 4, 0), (5, 4, n - 1), (2, 3, n // 2)]:
        world = (volume.grid.affine @ [x, y, z, 1])[:3]
        assert np.linalg.norm(world - built.world_ras(x, y, z)) < 0.01


def test_monochrome1_is_not_inverted(tmp_path: Path) -> None:
    built = some_series()
    datasets = built.datasets()
    for ds in datasets:
        ds.PhotometricInterpretation = "MONOCHROME1"
    assert np.array_equal(read(save_all(datasets, tmp_path)).array[:, :, 1], built.values(1))


def test_without_slope_the_stored_values_count(tmp_path: Path) -> None:
    built = some_series()
    datasets = built.datasets()
    for ds in datasets:
        del ds.RescaleSlope, ds.RescaleIntercept
    assert np.array_equal(read(save_all(datasets, tmp_path)).array[:, :, 2], built.stored[2].T)


def test_run_length_coded_images_are_read(tmp_path: Path) -> None:
    built = some_series()
    datasets = built.datasets()
    for ds in datasets:
        ds.compress(RLELossless, generate_instance_uid=False)
    assert np.array_equal(read(save_all(datasets, tmp_path)).array[:, :, 2], built.values(2))


def test_files_without_the_dicom_mark_are_read(tmp_path: Path) -> None:
    built = some_series()
    paths = []
    for z, ds in enumerate(built.datasets()):
        path = tmp_path / f"{z}"
        ds.preamble = None
        ds.save_as(path, enforce_file_format=False, implicit_vr=False, little_endian=True)
        paths.append(path)
    assert np.array_equal(read(paths).array[:, :, 3], built.values(3))


def test_repeats_of_an_image_are_used_once_and_told(tmp_path: Path) -> None:
    built = some_series()
    paths = save_all(built.datasets(), tmp_path / "a") + save_all(built.datasets()[:2], tmp_path / "b")
    (series,), left = find_series(paths)
    assert (series.n, len(series.paths)) == (4, 6)
    assert [remark.reason for remark in left] == ["repeats an image of its series; used once"] * 2
    assert np.array_equal(read_series(series).array[:, :, 0], built.values(0))


def test_repeats_that_differ_are_refused(tmp_path: Path) -> None:
    datasets = some_series().datasets()
    changed = some_series(seed=1).dataset(1)
    assert refusal([*datasets, changed], tmp_path) == "DUPLICATE_POSITION"


def change(ds: FileDataset, **values: object) -> None:
    for key, value in values.items():
        if value is None:
            delattr(ds, key)
        else:
            setattr(ds, key, value)


BROKEN: dict[str, tuple[str, Callable[[list[FileDataset]], object]]] = {
    "one slice": ("TOO_FEW", lambda all_: all_.__delitem__(slice(1, None))),
    "slice missing": ("GAP", lambda all_: all_.pop(2)),
    "two directions": ("MIXED_ORIENTATION", lambda all_: change(all_[0], ImageOrientationPatient=[0, 1, 0, 0, 0, 1])),
    "no position": ("NO_GEOMETRY", lambda all_: change(all_[1], ImagePositionPatient=None)),
    "empty position": ("NO_GEOMETRY", lambda all_: change(all_[1], ImagePositionPatient=[])),
    "no spacing": ("NO_GEOMETRY", lambda all_: change(all_[1], PixelSpacing=None)),
    "spacing of zero": ("NO_GEOMETRY", lambda all_: [change(ds, PixelSpacing=[0, 1]) for ds in all_]),
    "no size": ("NO_GEOMETRY", lambda all_: change(all_[1], Rows=None)),
    "short pixels": ("TRUNCATED", lambda all_: change(all_[3], PixelData=all_[3].PixelData[:20])),
    "no pixels": ("TRUNCATED", lambda all_: change(all_[3], PixelData=None)),
    "frames": ("MULTI_FRAME", lambda all_: change(all_[3], NumberOfFrames=2)),
    "colour": ("COLOUR", lambda all_: change(all_[3], SamplesPerPixel=3, PhotometricInterpretation="RGB")),
    "another size": ("MIXED_SIZE", lambda all_: change(all_[3], Rows=3)),
    "another spacing": ("MIXED_SIZE", lambda all_: change(all_[3], PixelSpacing=[2, 2])),
    "slope beyond all numbers": ("NOT_FINITE", lambda all_: [change(ds, RescaleSlope="1e300") for ds in all_]),
}


@pytest.mark.parametrize("name", BROKEN)
def test_what_cannot_be_read_right_is_refused_with_its_code(tmp_path: Path, name: str) -> None:
    expected, spoil = BROKEN[name]
    datasets = some_series(5).datasets()
    spoil(datasets)
    assert refusal(datasets, tmp_path) == expected


def test_two_phases_and_a_tilt_are_refused(tmp_path: Path) -> None:
    phases = some_series().datasets() + some_series().datasets()
    for i, ds in enumerate(phases):
        ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = f"1.2.3.{i + 1}"
    assert refusal(phases, tmp_path / "phases") == "MULTI_VOLUME"
    tilted = some_series(positions_mm={z: np.array([0, z * 0.5, z * 2.5]) for z in range(4)})
    assert refusal(tilted.datasets(), tmp_path / "tilt") == "TILT"


def test_a_missing_codec_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Nothing:
        is_available = False

    monkeypatch.setattr("medseg.imaging.dicom.get_decoder", lambda _: Nothing)
    datasets = some_series().datasets()
    for ds in datasets:
        ds.compress(RLELossless, generate_instance_uid=False)
        ds.file_meta.TransferSyntaxUID = JPEGLSLossless
    assert refusal(datasets, tmp_path) == "CODEC_MISSING"


@pytest.mark.parametrize("share", [0.3, 0.6, 0.9, 0.99])
def test_a_cut_file_is_set_aside_or_refused(tmp_path: Path, share: float) -> None:
    paths = save_all(some_series(5).datasets(), tmp_path)
    whole = paths[2].read_bytes()
    paths[2].write_bytes(whole[: int(share * len(whole))])
    series, left = find_series(paths)
    with pytest.raises(InputError, match=r"\[(TRUNCATED|GAP|NO_GEOMETRY)\]"):
        read_series(series[0], "case-1")
    assert len(left) + series[0].n == 5


def test_what_is_no_image_is_left_with_the_reason(tmp_path: Path) -> None:
    datasets = some_series(5).datasets()
    change(datasets[0], SOPClassUID="1.2.840.10008.5.1.4.1.1.66.4")
    change(datasets[1], SOPClassUID="1.2.840.10008.5.1.4.1.1.481.3")
    change(datasets[2], SOPClassUID="1.2.3.4")
    change(datasets[3], ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])
    change(datasets[4], SeriesInstanceUID=None)
    paths = save_all(datasets, tmp_path)
    (tmp_path / "README").write_text("text")
    (tmp_path / "junk").write_bytes(b"\x08\x00" + b"\xff" * 200)
    series, left = find_series([*paths, tmp_path / "README", tmp_path / "junk"])
    assert series == ()
    reasons = [remark.reason for remark in left]
    assert "Segmentation Storage" in reasons[0]
    assert "RT Structure Set" in reasons[1]
    assert "unknown kind" in reasons[2]
    assert "localiser" in reasons[3]
    assert "no series" in reasons[4]
    assert "no DICOM" in reasons[5]
    assert len(reasons) == 7
    assert [remark.where for remark in left][:2] == ["file 1 of 7", "file 2 of 7"]


def test_series_are_told_apart(tmp_path: Path) -> None:
    paths = save_all(some_series(series="1").datasets(), tmp_path / "a")
    paths += save_all(some_series(3, series="2").datasets(), tmp_path / "b")
    series, left = find_series(paths)
    assert [(s.modality, s.n) for s in series] == [("CT", 4), ("CT", 3)]
    assert left == ()


def test_pydicom_says_nothing(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    paths = save_all(some_series().datasets(), tmp_path)
    content = paths[0].read_bytes()
    paths[0].write_bytes(content.replace(b"12345678", b"1234\\678").replace(b"CTImage", b"CTI^age"))
    read(paths)
    assert capfd.readouterr() == ("", "")


def test_an_empty_series_is_refused() -> None:
    with pytest.raises(InputError, match="TOO_FEW"):
        read_series(Series("1", "CT", (), 0))
