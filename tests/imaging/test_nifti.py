from __future__ import annotations

import gzip
import struct
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medseg.errors import GeometryError, InputError
from medseg.imaging.grid import Grid, Stored
from medseg.imaging.nifti import read_grid, read_labels, read_volume, stem, write_labels, write_volume
from medseg.imaging.volume import LabelMap, Volume
from tests.imaging.build import some_image, some_label, write_nifti
from tests.imaging.test_grid import affines


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
    assert again.grid.stored == grid.stored
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


@pytest.mark.parametrize("values", [0.5, -1.0, 70000.0, np.nan])
def test_what_is_no_label_map_is_refused(tmp_path: Path, values: float) -> None:
    path = write_nifti(tmp_path / "x.nii.gz", (some_label() * np.float64(values)))
    with pytest.raises(InputError, match="no label map"):
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


def test_not_finite_voxels_and_colours_are_refused(tmp_path: Path) -> None:
    array = some_image().astype(np.float32)
    array[0, 0, 0] = np.inf
    with pytest.raises(InputError, match=r"1 voxel\(s\) are not finite"):
        read_volume(write_nifti(tmp_path / "x.nii", array))
    with pytest.raises(InputError, match="colours or complex"):
        read_volume(write_nifti(tmp_path / "y.nii", array.astype(np.complex64)))


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
