from __future__ import annotations

import gzip
import struct
import tracemalloc
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from medseg.errors import GeometryError, InputError
from medseg.imaging.grid import Grid, Stored
from medseg.imaging.nifti import (
    n_volumes,
    read_grid,
    read_labels,
    read_nifti,
    read_volume,
    stem,
    write_labels,
    write_volume,
)
from medseg.imaging.nifti_header import _contradiction_mm, read_header
from medseg.imaging.regrid import is_sheared, map_onto
from medseg.imaging.volume import LabelMap, Volume
from tests.imaging.build import some_image, some_label, write_nifti
from tests.imaging.test_grid import affine_of, affines, origins, spacings


@settings(max_examples=30, deadline=None)
@given(affine=affines, codes=st.tuples(st.integers(1, 4), st.integers(1, 4)), seed=st.integers(0, 99))
def test_round_trip(
    tmp_path_factory: pytest.TempPathFactory, affine: np.ndarray, codes: tuple[int, int], seed: int
) -> None:
    path = tmp_path_factory.mktemp("nifti") / "x.nii.gz"
    grid = Grid((6, 5, 4), affine, Stored("nifti", *codes))
    array = some_image(seed).astype(np.float32)
    write_volume(path, Volume(array, grid))
    again = read_volume(path)
    assert np.array_equal(again.array, array)
    assert grid.deviation_mm(again.grid) < 1e-4
    assert again.grid.stored.sform_code == codes[1]
    header = nib.Nifti1Image(array, affine).header
    header.set_qform(affine, 1)
    holds = grid.agrees(Grid(grid.shape, header.get_qform()))  # float32 cannot hold nearly half a turn exactly
    assert again.grid.stored.qform_code == (codes[0] if holds else 0)
    assert read_grid(path).shape == grid.shape


def test_labels_round_trip_and_the_same_bytes_twice(tmp_path: Path) -> None:
    labels = LabelMap(some_label(7), Grid((6, 5, 4), np.eye(4)), {7: "liver"})
    write_labels(tmp_path / "a" / "x.nii.gz", labels)
    write_labels(tmp_path / "b" / "x.nii.gz", labels)
    assert (tmp_path / "a" / "x.nii.gz").read_bytes() == (tmp_path / "b" / "x.nii.gz").read_bytes()
    again = read_labels(tmp_path / "a" / "x.nii.gz")
    assert again.array.dtype == np.uint8
    assert np.array_equal(again.array, labels.array)
    assert dict(again.names) == {7: "7"}
    assert sorted(p.name for p in tmp_path.rglob("*.gz")) == ["x.nii.gz", "x.nii.gz"]


def test_large_label_values_are_kept(tmp_path: Path) -> None:
    path = write_nifti(tmp_path / "x.nii.gz", some_label().astype(np.int32) * 40000)
    assert read_labels(path).array.dtype == np.uint16
    assert dict(read_labels(path, {40000: "spleen"}).names) == {40000: "spleen"}


@pytest.mark.parametrize("value", [0.5, 0.9999, -1.0, 70000.0, np.nan, np.inf])
def test_what_is_no_label_map_is_refused_with_the_value(tmp_path: Path, value: float) -> None:
    array = some_label().astype(np.float64)
    array[2, 2, 2] = value
    path = write_nifti(tmp_path / "x.nii.gz", array)
    with pytest.raises(InputError, match=rf"\[NOT_LABELS\] is no label map: it holds {value:g}"):
        read_labels(path)


def test_slope_and_intercept_are_applied(tmp_path: Path) -> None:
    image = nib.Nifti1Image(some_image(), np.eye(4))
    image.header.set_slope_inter(0.5, 3)
    nib.save(image, tmp_path / "x.nii.gz")
    stored = nib.load(tmp_path / "x.nii.gz")
    assert np.allclose(read_volume(tmp_path / "x.nii.gz").array, stored.get_fdata(), atol=1e-4)


def test_units_of_the_header_are_honoured(tmp_path: Path) -> None:
    image = nib.Nifti1Image(some_image(), np.diag([0.001, 0.001, 0.003, 1]))
    image.header.set_xyzt_units("meter")
    nib.save(image, tmp_path / "x.nii.gz")
    assert read_grid(tmp_path / "x.nii.gz").spacing_mm == pytest.approx((1, 1, 3))


def test_trailing_dimensions_of_one_are_dropped_and_a_2d_file_is_one_slice(tmp_path: Path) -> None:
    assert read_volume(write_nifti(tmp_path / "a.nii", some_image()[..., None, None])).array.shape == (6, 5, 4)
    assert read_volume(write_nifti(tmp_path / "b.nii", some_image()[..., 0])).array.shape == (6, 5, 1)
    with pytest.raises(InputError, match="not one 3D scan"):
        read_volume(write_nifti(tmp_path / "c.nii", np.zeros((4, 4, 4, 2), np.float32)))


@pytest.mark.parametrize("name", ["x.nii", "x.nii.gz"])
@pytest.mark.parametrize("share", [0.0, 0.01, 0.4, 0.97])
def test_a_cut_file_is_refused(tmp_path: Path, name: str, share: float) -> None:
    path = write_nifti(tmp_path / name, some_image(shape=(20, 20, 20)))
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(InputError):
        read_volume(path)


def test_what_is_no_nifti_is_refused_in_one_line(tmp_path: Path) -> None:
    for name, content in {"a.nii": b"text", "b.nii.gz": b"text", "c.nii.gz": gzip.compress(b"text")}.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(InputError) as caught:
            read_volume(tmp_path / name)
        assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match="no such file"):
        read_volume(tmp_path / "none.nii")


def test_colours_and_complex_numbers_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"\[COLOURS\] holds colours or complex"):
        read_volume(write_nifti(tmp_path / "y.nii", some_image().astype(np.complex64)))
    rgb = np.zeros((6, 5, 4), [("R", "u1"), ("G", "u1"), ("B", "u1")])
    with pytest.raises(InputError, match=r"\[COLOURS\]"):
        read_labels(write_nifti(tmp_path / "rgb.nii.gz", rgb))


@pytest.mark.parametrize("values", [(np.inf,), (np.nan,), (np.nan, -np.inf, np.inf)])
def test_a_few_voxels_that_are_not_finite_take_the_smallest_value(tmp_path: Path, values: tuple[float, ...]) -> None:
    array = some_image(shape=(20, 20, 20)).astype(np.float32)
    expected = array.copy()
    for i, value in enumerate(values):
        array[i, 0, 0], expected[i, 0, 0] = value, np.nan
    expected = np.nan_to_num(expected, nan=np.nanmin(expected))
    reading = read_nifti(write_nifti(tmp_path / "x.nii.gz", array))
    assert np.array_equal(reading.volume.array, expected)
    assert reading.notes == (f"{len(values)} voxel(s) were not finite numbers and took the smallest value",)


def test_huge_numbers_are_finite_though_their_sum_is_not(tmp_path: Path) -> None:
    array = np.full((5, 5, 5), 3e38, np.float32)
    reading = read_nifti(write_nifti(tmp_path / "x.nii.gz", array))
    assert np.array_equal(reading.volume.array, array)
    assert reading.notes == ()


def test_a_number_beyond_float32_is_not_finite(tmp_path: Path) -> None:
    array = some_image(shape=(20, 20, 20)).astype(np.float64)
    array[0, 0, 0] = 1e39
    assert len(read_nifti(write_nifti(tmp_path / "x.nii", array)).notes) == 1


@pytest.mark.parametrize(("n", "refused"), [(8, False), (9, True), (8000, True)])
def test_more_than_a_thousandth_not_finite_is_refused(tmp_path: Path, n: int, refused: bool) -> None:
    array = np.zeros(8000, np.float32)
    array[:n] = np.nan
    path = write_nifti(tmp_path / "x.nii", array.reshape(20, 20, 20))
    if not refused:
        assert read_nifti(path).notes
        return
    with pytest.raises(InputError, match=rf"\[NOT_FINITE\] {n} voxel\(s\) are not finite"):
        read_nifti(path)


def with_affines(
    path: Path, sform: np.ndarray, qform: np.ndarray, codes: tuple[int, int] = (1, 1), array: np.ndarray | None = None
) -> Path:
    """`codes` of sform and qform."""
    image = nib.Nifti1Image(some_image() if array is None else array, None)
    image.set_qform(qform, codes[1], strip_shears=True)
    image.set_sform(sform, codes[0])
    nib.save(image, path)
    return path


@pytest.mark.parametrize("codes", [(2, 1), (1, 1), (1, 4)])
def test_contradicting_affines_are_refused_with_the_distance_and_the_fix(
    tmp_path: Path, codes: tuple[int, int]
) -> None:
    sform, qform = np.diag([1.0, 2, 3, 1]), np.diag([1.0, 2, 3, 1])
    qform[:3, 3] = 0, 3, 4
    path = with_affines(tmp_path / "x.nii.gz", sform, qform, codes)
    with pytest.raises(GeometryError, match=r"\[AFFINE_CONFLICT\].*up to 5 mm.*--prefer sform or --prefer qform"):
        read_nifti(path)
    for prefer, expected in (("sform", sform), ("qform", qform)):
        reading = read_nifti(path, prefer=prefer)
        assert np.allclose(reading.volume.grid.affine, expected)
        assert reading.notes == (f"its sform and qform differ by up to 5 mm; the {prefer} was used, as asked",)
        assert np.allclose(read_grid(path, prefer).affine, expected)
    with_affines(tmp_path / "l.nii.gz", sform, qform, codes, some_label())
    with pytest.raises(GeometryError, match="AFFINE_CONFLICT"):
        read_labels(tmp_path / "l.nii.gz")
    assert np.allclose(read_labels(tmp_path / "l.nii.gz", prefer="qform").grid.affine, qform)


def test_a_mirrored_qform_is_a_contradiction(tmp_path: Path) -> None:
    path = with_affines(tmp_path / "x.nii", np.diag([1.0, 1, 1, 1]), np.diag([-1.0, 1, 1, 1]))
    with pytest.raises(GeometryError, match="AFFINE_CONFLICT"):
        read_grid(path)


half_turns = st.sampled_from([(0, 0, 0), (0, 0, 180), (180, 0, 0), (0, 180, 0), (90, 0, 0), (0, 90, 180)])
small_turns = st.tuples(st.tuples(*[st.floats(-1, 1)] * 3), st.floats(-7, -0.5))


@settings(max_examples=150, deadline=None)
@given(half_turns, small_turns, spacings, origins, st.booleans())
def test_rounding_of_the_qform_is_no_contradiction(
    turn: tuple[int, ...],
    small: tuple[tuple[float, ...], float],
    spacing: tuple[float, ...],
    origin: tuple[float, ...],
    flip: bool,
) -> None:
    affine = affine_of(spacing, turn, origin, flip)
    affine[:3, :3] = Rotation.from_rotvec(np.array(small[0]) * 10 ** small[1]).as_matrix() @ affine[:3, :3]
    raw = nib.Nifti1Header()
    raw.set_sform(affine, 1)
    raw.set_qform(raw.get_sform(), 1)
    shape = (512, 512, 200)
    assert _contradiction_mm(raw.get_sform(), raw.get_qform(), shape) is None
    moved = np.array(raw.get_qform())
    moved[1, 3] += max(2e-3, 0.02 * min(spacing))
    assert _contradiction_mm(raw.get_sform(), moved, shape) is not None


def test_a_place_that_is_not_said(tmp_path: Path) -> None:
    path = with_affines(tmp_path / "x.nii", np.eye(4), np.eye(4), (0, 0))
    with pytest.raises(GeometryError, match=r"\[NO_AFFINE\] does not say where it lies"):
        read_volume(path)
    reading = read_nifti(path, need_place=False)
    assert "left and right are a guess" in reading.notes[0]
    assert reading.volume.grid.agrees(read_grid(path))
    assert reading.volume.grid.agrees(read_labels(write_labels_without_place(tmp_path / "y.nii")).grid)


def write_labels_without_place(path: Path) -> Path:
    return with_affines(path, np.eye(4), np.eye(4), (0, 0), some_label())


@pytest.mark.parametrize("codes", [(1, 0), (1, 1)])
def test_a_sheared_scan_is_straightened_and_its_labels_come_back(tmp_path: Path, codes: tuple[int, int]) -> None:
    sheared = np.array([[2.0, 0, 0.5, 3], [0, 2, 0, 4], [0, 0, 2, 5], [0, 0, 0, 1]])
    ramp = np.add.outer(np.arange(20.0), np.zeros((18, 16))).astype(np.float32)
    path = with_affines(tmp_path / "x.nii.gz", sheared, sheared, codes, ramp)
    reading = read_nifti(path)
    assert "not at right angles" in reading.notes[0]
    assert np.allclose(reading.own.affine, sheared)
    assert not is_sheared(reading.volume.grid)
    world = reading.volume.grid.affine @ [7, 9, 8, 1]
    assert reading.volume.array[7, 9, 8] == pytest.approx((np.linalg.inv(sheared) @ world)[0], abs=1e-4)
    labels = read_labels(with_affines(tmp_path / "l.nii.gz", sheared, sheared, codes, some_label(shape=(20, 18, 16))))
    assert labels.grid.agrees(reading.own)
    there = map_onto(labels, reading.volume.grid)
    assert np.array_equal(map_onto(there, reading.own).array, labels.array)
    write_labels(tmp_path / "back.nii.gz", map_onto(there, reading.own))
    assert np.array_equal(read_labels(tmp_path / "back.nii.gz").array, labels.array)


def test_a_4d_file_gives_one_volume(tmp_path: Path) -> None:
    stack = np.stack([some_image(seed) for seed in range(3)], axis=-1)
    for name, array in (("a.nii", stack), ("b.nii.gz", stack), ("vector.nii.gz", stack[:, :, :, None, :])):
        path = write_nifti(tmp_path / name, array)
        assert n_volumes(path) == 3
        with pytest.raises(
            InputError, match=r"\[MULTI_VOLUME\] holds 3 volumes, not one 3D scan; say which one: 0 to 2"
        ):
            read_nifti(path)
        for k in range(3):
            assert np.array_equal(read_nifti(path, component=k).volume.array, stack[..., k].astype(np.float32))
        with pytest.raises(InputError, match="no volume 3"):
            read_nifti(path, component=3)
        assert read_grid(path).shape == (6, 5, 4)
    with pytest.raises(InputError, match=r"\[MULTI_VOLUME\]"):
        read_labels(tmp_path / "a.nii")
    with pytest.raises(InputError, match=r"\[DIMENSIONS\]"):
        read_nifti(write_nifti(tmp_path / "c.nii", np.zeros((4, 4, 4, 2, 2), np.float32)), component=0)
    single = write_nifti(tmp_path / "d.nii", some_image())
    assert n_volumes(single) == 1
    assert np.array_equal(read_nifti(single, component=0).volume.array, some_image())


def test_one_volume_of_many_does_not_need_the_memory_of_all(tmp_path: Path) -> None:
    path = write_nifti(tmp_path / "x.nii.gz", np.zeros((64, 64, 32, 40), np.int16))  # 10 MB, of which 256 kB are asked
    tracemalloc.start()
    read_nifti(path, component=39)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 10 * 2**20


def test_a_bad_checksum_and_bad_data_are_refused(tmp_path: Path) -> None:
    path = write_nifti(tmp_path / "x.nii.gz", some_image(shape=(20, 20, 20)))
    whole = path.read_bytes()
    for at in (len(whole) - 6, len(whole) // 2):  # in the checksum, in the data
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 0x55]) + whole[at + 1 :])
        with pytest.raises(InputError, match=r"\[(DAMAGED|TRUNCATED)\]"):
            read_volume(path)
    for rest, code in ((b"rest", "DAMAGED"), (whole[:30], "TRUNCATED")):
        path.write_bytes(whole + rest)
        with pytest.raises(InputError, match=code):
            read_volume(path)
    path.write_bytes(whole + b"\0" * 512)  # tapes pad with zeros
    assert read_volume(path).array.shape == (20, 20, 20)


@pytest.mark.parametrize("share", [0.7, 0.99])
@pytest.mark.parametrize("name", ["x.nii", "x.nii.gz"])
def test_a_cut_file_is_refused_as_cut(tmp_path: Path, name: str, share: float) -> None:
    path = write_nifti(tmp_path / name, some_image(shape=(20, 20, 20)))
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    with pytest.raises(InputError, match=r"\[TRUNCATED\]"):
        read_volume(path)


def test_a_header_that_claims_more_than_the_file_can_hold_costs_no_memory(tmp_path: Path) -> None:
    path = write_nifti(tmp_path / "x.nii", some_image())
    content = bytearray(path.read_bytes())
    content[40:56] = struct.pack("<8h", 3, 32000, 32000, 32000, 1, 1, 1, 1)
    path.write_bytes(content)
    (tmp_path / "y.nii.gz").write_bytes(gzip.compress(content))
    for file in (path, tmp_path / "y.nii.gz"):
        with pytest.raises(InputError, match=r"\[TRUNCATED\]"):
            read_volume(file)


def test_a_name_that_says_otherwise_than_the_content_is_explained(tmp_path: Path) -> None:
    content = write_nifti(tmp_path / "x.nii", some_image()).read_bytes()
    (tmp_path / "y.nii.gz").write_bytes(content)
    with pytest.raises(InputError, match=r"\[NOT_COMPRESSED\].*rename it to end in \.nii"):
        read_volume(tmp_path / "y.nii.gz")
    (tmp_path / "z.nii").write_bytes(gzip.compress(content))
    with pytest.raises(InputError, match=r"\[NAME\].*rename it to end in \.nii\.gz"):
        read_volume(tmp_path / "z.nii")


@pytest.mark.parametrize(("size", "unit"), [(0.04, "mm"), (21.0, "mm"), (1.0, "meter"), (0.8, "micron")])
def test_voxel_sizes_that_no_scan_has_are_refused_with_the_value(tmp_path: Path, size: float, unit: str) -> None:
    image = nib.Nifti1Image(some_image(), np.diag([size, size, size, 1]))
    image.header.set_xyzt_units(unit)
    nib.save(image, tmp_path / "x.nii")
    in_mm = size * {"mm": 1, "meter": 1000, "micron": 0.001}[unit]
    with pytest.raises(InputError, match=rf"\[SPACING\] its voxels are {in_mm:g} mm apart"):
        read_grid(tmp_path / "x.nii")


@pytest.mark.parametrize("value", [0.0, -1.0, np.nan, np.inf])
def test_a_pixdim_that_is_no_size_is_refused(tmp_path: Path, value: float) -> None:
    path = write_nifti(tmp_path / "x.nii", some_image())
    content = bytearray(path.read_bytes())
    content[84:88] = struct.pack("<f", value)  # pixdim[2]
    path.write_bytes(content)
    with pytest.raises(InputError, match=rf"\[SPACING\] its header states a voxel size of {value:g}"):
        read_grid(path)


@pytest.mark.parametrize("kind", [np.int64, np.float64, np.int8, np.uint32])
def test_labels_of_any_number_type(tmp_path: Path, kind: type) -> None:
    image = nib.Nifti1Image(some_label(7).astype(kind), np.eye(4), dtype=kind)
    nib.save(image, tmp_path / "x.nii.gz")
    labels = read_labels(tmp_path / "x.nii.gz")
    assert labels.array.dtype == np.uint8
    assert np.array_equal(labels.array, some_label(7))


def test_scaled_labels_are_refused(tmp_path: Path) -> None:
    image = nib.Nifti1Image(some_label(), np.eye(4))
    image.header.set_slope_inter(2, 0)
    nib.save(image, tmp_path / "x.nii.gz")
    with pytest.raises(InputError, match=r"\[NOT_LABELS\].*slope 2, intercept 0"):
        read_labels(tmp_path / "x.nii.gz")
    image.header.set_slope_inter(1, 0)
    nib.save(image, tmp_path / "y.nii.gz")
    assert read_labels(tmp_path / "y.nii.gz").present == (1,)


@pytest.mark.parametrize("big_endian", [False, True])
@pytest.mark.parametrize("scaled", [False, True])
@pytest.mark.parametrize("kind", [nib.Nifti1Image, nib.Nifti2Image])
def test_values_against_nibabel(tmp_path: Path, kind: type, scaled: bool, big_endian: bool) -> None:
    header = kind.header_class(endianness=">" if big_endian else "<")
    header.set_data_dtype(np.int16)
    image = kind(some_image(), np.diag([1.0, 2, 3, 1]), header)
    image.header.extensions.append(nib.nifti1.Nifti1Extension("comment", b"some words"))
    if scaled:
        image.header.set_slope_inter(0.37, -3)
    nib.save(image, tmp_path / "x.nii.gz")
    stored = nib.load(tmp_path / "x.nii.gz")
    assert stored.header.endianness == (">" if big_endian else "<")
    found = read_volume(tmp_path / "x.nii.gz")
    assert np.array_equal(found.array, stored.get_fdata().astype(np.float32))
    assert np.allclose(found.grid.affine, stored.affine)


def test_what_is_written_says_its_place_twice_and_nothing_else(tmp_path: Path) -> None:
    affine = affine_of((0.7, 0.8, 2.5), (10, -20, 30), (-90, -80, 70), True)
    grid = Grid((6, 5, 4), affine, Stored("nifti", 1, 2))
    for name in ("x.nii.gz", "x.nii"):
        write_labels(tmp_path / name, LabelMap(some_label(), grid, {1: "liver"}))
        header = nib.load(tmp_path / name).header
        assert np.allclose(header.get_sform(), affine, atol=1e-4)
        assert np.allclose(header.get_qform(), affine, atol=1e-4)
        assert (header["qform_code"], header["sform_code"]) == (1, 2)
        assert header.get_xyzt_units()[0] == "mm"
        for text in ("descrip", "aux_file", "intent_name", "db_name", "data_type"):
            assert not bytes(header[text]).strip(b"\0")
        assert not header.extensions
    assert gzip.decompress((tmp_path / "x.nii.gz").read_bytes()) == (tmp_path / "x.nii").read_bytes()
    assert (tmp_path / "x.nii.gz").read_bytes()[3:8] == bytes(5)  # no name, no time


def test_no_real_file_is_refused(real_data: Path) -> None:
    files = sorted([*(real_data / "hippocampus").rglob("*.nii.gz"), *(real_data / "ct").glob("*.nii.gz")])
    files += sorted((real_data / "dicom_ct_pet").rglob("*.nii.gz"))
    assert len(files) > 400
    for path in files:
        assert read_header(path).note == ""
    for path in [*files[::50], *files[-9:]]:
        reading, stored = read_nifti(path), nib.load(path)
        assert reading.notes == ()
        assert np.array_equal(reading.volume.array, stored.get_fdata(dtype=np.float32))
        assert np.allclose(reading.volume.grid.affine, stored.affine)


def test_an_affine_that_cannot_be_used_names_the_file(tmp_path: Path) -> None:
    path = write_nifti(tmp_path / "x.nii", some_image())
    content = bytearray(path.read_bytes())
    content[280:328] = struct.pack("<12f", *[0.0] * 12)  # srow_x, srow_y, srow_z
    path.write_bytes(content)
    with pytest.raises(GeometryError, match=r"x\.nii"):
        read_volume(path)


@settings(max_examples=60, deadline=None)
@given(at=st.integers(0, 347), value=st.integers(0, 255))
def test_a_damaged_header_gives_a_volume_or_an_input_error(
    tmp_path_factory: pytest.TempPathFactory, at: int, value: int
) -> None:
    path = write_nifti(tmp_path_factory.mktemp("damaged") / "x.nii", some_image())
    content = bytearray(path.read_bytes())
    content[at] = value
    path.write_bytes(content)
    try:
        read_volume(path)
    except InputError as error:
        assert "\n" not in str(error)  # noqa: PT017


def test_stem() -> None:
    assert [stem(Path(n)) for n in ("a.b.nii.gz", "a.nii", "A.NII.GZ", "a.dcm")] == ["a.b", "a", "A", "a.dcm"]


def test_an_empty_file_is_cut_short(tmp_path):
    for name in ("a.nii", "a.nii.gz"):
        (tmp_path / name).touch()
        with pytest.raises(InputError, match=r"\[TRUNCATED\] is an empty file"):
            read_volume(tmp_path / name)
