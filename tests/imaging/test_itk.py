from __future__ import annotations

import gzip
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK
from hypothesis import given, settings
from hypothesis import strategies as st

from medseg.errors import GeometryError, InputError
from medseg.imaging.grid import LPS_TO_RAS, Grid
from medseg.imaging.itk import (
    is_itk,
    itk_stem,
    n_volumes,
    read_itk,
    read_itk_grid,
    read_itk_labels,
    read_itk_segments,
    read_itk_stored,
    read_itk_volume,
    segment_names_in,
    write_itk_volume,
)
from medseg.imaging.regrid import is_sheared, map_onto
from medseg.imaging.volume import LabelMap, Volume
from tests.imaging.build import PATIENT, some_image, some_label
from tests.imaging.test_grid import affines

SUFFIXES = (".nrrd", ".nhdr", ".mha", ".mhd")


def itk_image(array: np.ndarray, affine: np.ndarray | None = None) -> Any:
    lps = LPS_TO_RAS @ (np.diag([1.0, 2, 3, 1]) if affine is None else affine)
    image = SimpleITK.GetImageFromArray(np.asarray(array).T)
    spacing = np.linalg.norm(lps[:3, :3], axis=0)
    image.SetSpacing(spacing.tolist())
    image.SetDirection((lps[:3, :3] / spacing).ravel().tolist())
    image.SetOrigin(lps[:3, 3].tolist())
    return image


def write(path: Path, image: Any, compress: bool = True, **meta: str) -> Path:
    for key, value in meta.items():
        image.SetMetaData(key, value)
    path.parent.mkdir(parents=True, exist_ok=True)
    SimpleITK.WriteImage(image, str(path), compress)
    return path


def nrrd(path: Path, array: np.ndarray, fields: str, encoding: str = "raw") -> Path:
    """A file of a hand-written header; `array` is stored with its first axis fastest."""
    data = np.asarray(array).tobytes("F")
    sizes = " ".join(map(str, array.shape))
    kind = {"u": "uint", "i": "int", "f": "float"}[array.dtype.kind]
    kind = kind if kind == "float" else f"{kind}{8 * array.dtype.itemsize}"
    header = f"NRRD0005\n# made by hand\ntype: {kind}\ndimension: {array.ndim}\nsizes: {sizes}\nendian: little\n"
    header += f"encoding: {encoding}\n{fields}\n\n"
    path.write_bytes(header.encode() + (gzip.compress(data) if encoding == "gzip" else data))
    return path


STRAIGHT = "space: right-anterior-superior\nspace directions: (1,0,0) (0,2,0) (0,0,3)\nspace origin: (4,5,6)"


@pytest.mark.parametrize("compress", [True, False])
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_values_and_place_against_simpleitk(tmp_path: Path, suffix: str, compress: bool) -> None:
    image = itk_image(some_image(), np.array([[0, -1.0, 0, 7], [2, 0, 0, 8], [0, 0, 3, 9], [0, 0, 0, 1]]))
    path = write(tmp_path / f"x{suffix}", image, compress)
    reading = read_itk(path)
    assert reading.notes == ()
    assert reading.own is reading.volume.grid
    assert reading.volume.array.dtype == np.float32
    assert np.array_equal(reading.volume.array, some_image())
    place = np.array(image.TransformContinuousIndexToPhysicalPoint([1, 2, 3])) * [-1, -1, 1]
    assert np.allclose((reading.volume.grid.affine @ [1, 2, 3, 1])[:3], place)
    assert read_itk_grid(path).agrees(reading.volume.grid)
    assert n_volumes(path) == 1


@settings(max_examples=20, deadline=None)
@given(affine=affines, suffix=st.sampled_from([".nrrd", ".mha"]), shear=st.floats(-0.5, 0.5))
def test_round_trip(tmp_path_factory: pytest.TempPathFactory, affine: np.ndarray, suffix: str, shear: float) -> None:
    path = tmp_path_factory.mktemp("itk") / f"x{suffix}"
    affine = affine @ np.array([[1, 0, 0, 0], [0, 1, shear, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
    grid = Grid((6, 5, 4), affine)
    write_itk_volume(path, Volume(some_image(3).astype(np.float32), grid))
    assert read_itk_grid(path).deviation_mm(grid) < 1e-4
    reading = read_itk(path)
    assert reading.own.deviation_mm(grid) < 1e-4
    if not is_sheared(grid):
        assert np.array_equal(reading.volume.array, some_image(3).astype(np.float32))


def test_what_is_written_holds_no_text(tmp_path: Path) -> None:
    for suffix in (".nrrd", ".mha"):
        write_itk_volume(tmp_path / f"{PATIENT}{suffix}", Volume(some_image(), Grid((6, 5, 4), np.eye(4))))
        content = (tmp_path / f"{PATIENT}{suffix}").read_bytes()
        assert PATIENT.encode() not in content
        assert str(tmp_path).encode() not in content
    with pytest.raises(InputError, match=r"\[FORMAT\]"):
        write_itk_volume(tmp_path / "x.mhd", Volume(some_image(), Grid((6, 5, 4), np.eye(4))))


def test_a_sheared_scan_is_straightened_and_its_labels_come_back(tmp_path: Path) -> None:
    fields = "space: LPS\nspace directions: (2,0,0) (0,2,0) (0.5,0,2)\nspace origin: (0,0,0)"
    ramp = np.add.outer(np.arange(20.0), np.zeros((18, 16))).astype(np.float32)
    reading = read_itk(nrrd(tmp_path / "x.nrrd", ramp, fields))
    assert "not at right angles" in reading.notes[0]
    assert is_sheared(reading.own)
    assert np.allclose(reading.own.affine[:3, :3], [[-2, 0, -0.5], [0, -2, 0], [0, 0, 2]])
    world = reading.volume.grid.affine @ [7, 9, 8, 1]
    assert reading.volume.array[7, 9, 8] == pytest.approx((np.linalg.inv(reading.own.affine) @ world)[0], abs=1e-4)
    labels = read_itk_labels(nrrd(tmp_path / "l.nrrd", some_label(shape=(20, 18, 16)), fields))
    assert np.array_equal(map_onto(map_onto(labels, reading.volume.grid), reading.own).array, labels.array)


@pytest.mark.parametrize(("space", "signs"), [("RAS", (1, 1)), ("left-posterior-superior", (-1, -1)), ("las", (-1, 1))])
def test_the_named_space_counts(tmp_path: Path, space: str, signs: tuple[int, int]) -> None:
    path = nrrd(tmp_path / "x.nrrd", some_image(), STRAIGHT.replace("right-anterior-superior", space))
    assert np.allclose(np.diag(read_itk_grid(path).affine)[:3], [signs[0], 2 * signs[1], 3])


@pytest.mark.parametrize(
    "fields", ["", "spacings: 1 2 3", STRAIGHT.replace("right-anterior-superior", "scanner-xyz"), "space dimension: 3"]
)
def test_a_file_that_does_not_say_which_way_is_left(tmp_path: Path, fields: str) -> None:
    if "dimension" in fields:
        fields += "\n" + STRAIGHT.split("\n", 1)[1]
    path = nrrd(tmp_path / "x.nrrd", some_image(), fields)
    with pytest.raises(GeometryError, match=r"\[NO_AFFINE\] does not say which way is left"):
        read_itk_volume(path)
    assert "left and right are a guess" in read_itk(path, need_place=False).notes[0]
    assert read_itk_grid(path).shape == (6, 5, 4)


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("compress", [True, False])
def test_a_cut_or_damaged_file_is_refused(tmp_path: Path, suffix: str, compress: bool) -> None:
    path = write(tmp_path / f"x{suffix}", itk_image(some_image(shape=(20, 20, 20))), compress)
    data = next((p for p in tmp_path.iterdir() if p != path), path)
    whole = data.read_bytes()
    for cut in (0.6, 0.97, 0.9999):
        data.write_bytes(whole[: int(cut * len(whole))])
        with pytest.raises(InputError, match=r"\[TRUNCATED\]"):
            read_itk(path)
        with pytest.raises(InputError, match=r"\[TRUNCATED\]"):
            read_itk_labels(path)
    if compress:
        for at in (len(whole) - 3, len(whole) // 2):
            data.write_bytes(whole[:at] + bytes([whole[at] ^ 0x55]) + whole[at + 1 :])
            with pytest.raises(InputError, match=r"\[(DAMAGED|TRUNCATED)\]"):
                read_itk(path)


def test_a_stream_that_holds_too_little_is_cut(tmp_path: Path) -> None:
    path = write(tmp_path / "x.mha", itk_image(some_image(shape=(20, 20, 20))), True)
    content = path.read_bytes()
    at = content.index(b"LOCAL\n") + 6
    path.write_bytes(content[:at] + zlib.compress(zlib.decompress(content[at:])[:-2]))
    with pytest.raises(InputError, match=r"\[TRUNCATED\]"):
        read_itk(path)


def test_nothing_is_printed_by_a_refusal(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    for suffix in SUFFIXES:
        path = write(tmp_path / f"x{suffix}", itk_image(some_image(shape=(20, 20, 20))), False)
        path.write_bytes(path.read_bytes()[: 150 if suffix.endswith("hd") or "h" in suffix[:3] else -500])
        with pytest.raises(InputError) as caught:
            read_itk(path)
        assert "\n" not in str(caught.value)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    "content", [b"", b"text", b"NRRD0005\n", b"NRRD0005\ntype: int16\nsizes: 0 -3 x\n\n", b"NDims = 3\n"]
)
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_what_is_no_such_file_is_refused_in_one_line(tmp_path: Path, suffix: str, content: bytes) -> None:
    (tmp_path / f"x{suffix}").write_bytes(content)
    for read in (read_itk, read_itk_labels, read_itk_grid, segment_names_in, n_volumes):
        with pytest.raises(InputError) as caught:
            read(tmp_path / f"x{suffix}")  # type: ignore[operator]
        assert "\n" not in str(caught.value)
        assert "[" in caught.value.what
    with pytest.raises(InputError, match=r"\[NOT_FOUND\]"):
        read_itk(tmp_path / f"none{suffix}")


@pytest.mark.parametrize(
    "name", ["../x.raw", "/elsewhere/x.raw", "sub/x.raw", "..\\x.raw", "LIST", "x%03d.raw 1 4 1", ".", "gone.raw"]
)
def test_voxels_in_other_places_are_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "sub").mkdir()
    for place in (tmp_path / "x.raw", tmp_path / "sub" / "x.raw"):
        place.write_bytes(bytes(240))
    header = "NDims = 3\nDimSize = 6 5 4\nElementType = MET_SHORT\nElementSpacing = 1 1 1\n"
    (tmp_path / "sub" / "x.mhd").write_text(f"{header}ElementDataFile = {name}\n")
    (tmp_path / "sub" / "x.nhdr").write_text(
        f"NRRD0005\ntype: int16\ndimension: 3\nsizes: 6 5 4\nendian: little\nencoding: raw\ndata file: {name}\n"
    )
    for suffix in (".mhd", ".nhdr"):
        with pytest.raises(InputError, match=r"\[SEVERAL_FILES\]"):
            read_itk(tmp_path / "sub" / f"x{suffix}")


def test_several_volumes_give_one(tmp_path: Path) -> None:
    stack = [some_image(seed) for seed in range(3)]
    vector = SimpleITK.Compose([itk_image(array) for array in stack])
    lists = {
        "first.nrrd": nrrd(
            tmp_path / "first.nrrd", np.stack(stack), f"kinds: list domain domain domain\n{LISTED_FIRST}"
        ),
        "last.nrrd": nrrd(
            tmp_path / "last.nrrd", np.stack(stack, -1), f"kinds: domain domain domain list\n{LISTED_LAST}"
        ),
        "vector.mha": write(tmp_path / "vector.mha", vector),
        "4d.mha": write(tmp_path / "4d.mha", SimpleITK.JoinSeries([itk_image(array) for array in stack])),
    }
    for path in lists.values():
        assert n_volumes(path) == 3
        assert read_itk_grid(path).shape == (6, 5, 4)
        with pytest.raises(
            InputError, match=r"\[MULTI_VOLUME\] holds 3 volumes, not one 3D scan; say which one: 0 to 2"
        ):
            read_itk(path)
        with pytest.raises(InputError, match=r"\[MULTI_VOLUME\]"):
            read_itk_labels(path)
        with pytest.raises(InputError, match="no volume 3"):
            read_itk(path, 3)
        for k, array in enumerate(stack):
            assert np.array_equal(read_itk(path, k).volume.array, array), path.name


LISTED_FIRST = STRAIGHT.replace("directions: ", "directions: none ")
LISTED_LAST = STRAIGHT.replace("(0,0,3)", "(0,0,3) none")


def test_what_is_no_scan_is_refused(tmp_path: Path) -> None:
    for suffix in (".mha", ".nrrd"):
        with pytest.raises(InputError, match=r"\[MULTI_VOLUME\] holds 2 volumes"):
            read_itk(write(tmp_path / f"c{suffix}", SimpleITK.Image([6, 5, 4], SimpleITK.sitkComplexFloat32)))
    with pytest.raises(InputError, match=r"\[DIMENSIONS\]"):
        read_itk(write(tmp_path / "flat.mha", SimpleITK.Image([6, 5], SimpleITK.sitkInt16)))
    with pytest.raises(InputError, match=r"\[SPACING\] its voxels are 1000 mm apart"):
        read_itk(write(tmp_path / "metre.mha", itk_image(some_image(), np.diag([1000.0, 1000, 1000, 1]))))
    array = some_image(shape=(20, 20, 20)).astype(np.float32)
    array[0, 0, 0] = np.nan
    assert read_itk(write(tmp_path / "n.mha", itk_image(array))).notes[0].startswith("1 voxel(s) were not finite")
    array[:] = np.nan
    with pytest.raises(InputError, match=r"\[NOT_FINITE\]"):
        read_itk(write(tmp_path / "nan.nrrd", itk_image(array)))
    with pytest.raises(InputError, match=r"\[NOT_LABELS\].*holds -?\d"):
        read_itk_labels(write(tmp_path / "i.mha", itk_image(some_image())))


@pytest.mark.parametrize("kind", [np.uint8, np.int16, np.int64, np.float64])
def test_labels(tmp_path: Path, kind: type) -> None:
    path = write(tmp_path / "x.mha", itk_image(some_label(3).astype(kind)))
    labels = read_itk_labels(path)
    assert labels.array.dtype == np.uint8
    assert np.array_equal(labels.array, some_label(3))
    assert dict(labels.names) == {3: "3"}
    assert dict(read_itk_labels(path, {3: "liver"}).names) == {3: "liver"}
    assert segment_names_in(path) == {}


def test_voxels_as_they_are_stored(tmp_path: Path) -> None:
    fields = "space: LPS\nspace directions: (2,0,0) (0,2,0) (0.5,0,2)\nspace origin: (0,0,0)"
    array, grid = read_itk_stored(nrrd(tmp_path / "x.nrrd", some_image(), fields))
    assert array.dtype == np.int16
    assert np.array_equal(array, some_image())
    assert is_sheared(grid)
    stack = SimpleITK.JoinSeries([itk_image(some_image(seed)) for seed in range(3)])
    assert np.array_equal(read_itk_stored(write(tmp_path / "4d.mha", stack), 2)[0], some_image(2))


def seg_nrrd(path: Path, array: np.ndarray, *segments: dict[str, str], kinds: str = "") -> Path:
    fields = kinds or STRAIGHT
    for n, segment in enumerate(segments):
        for key, value in segment.items():
            fields += f"\nSegment{n}_{key}:={value}"
    return nrrd(path, array, fields, "gzip")


def test_the_names_of_a_segmentation(tmp_path: Path) -> None:
    array = some_label(5)
    array[4, 4, 3] = 9
    path = seg_nrrd(
        tmp_path / "x.seg.nrrd",
        array,
        {"ID": "S1", "Name": "left kidney", "LabelValue": "5", "Layer": "0", "Extent": "0 5 0 4 0 3"},
        {"ID": "S2", "Name": "", "LabelValue": "6", "Layer": "0"},
    )
    labels, notes = read_itk_segments(path)
    assert dict(labels.names) == {5: "left kidney", 6: "6", 9: "9"}
    assert notes == ()
    assert np.array_equal(labels.array, array)
    assert segment_names_in(path) == {5: "left kidney", 6: "6"}
    assert dict(read_itk_labels(path, {5: "a"}).names) == {5: "a"}


@pytest.mark.parametrize("value", ["0", "-1", "x", "70000", "9" * 5000, ""])
def test_a_segment_without_a_value_of_a_label_map_is_none(tmp_path: Path, value: str) -> None:
    path = seg_nrrd(tmp_path / "x.seg.nrrd", some_label(), {"Name": "liver", "LabelValue": value, "Layer": "0"})
    assert segment_names_in(path) == {}
    assert dict(read_itk_labels(path).names) == {1: "1"}


def layered(first: np.ndarray, second: np.ndarray) -> tuple[np.ndarray, str]:
    return np.stack([first, second]), f"kinds: list domain domain domain\n{LISTED_FIRST}"


def test_layers_lie_on_top_of_each_other(tmp_path: Path) -> None:
    first, second = np.zeros((6, 5, 4), np.uint8), np.zeros((6, 5, 4), np.uint8)
    first[0:3], first[5] = 1, 2
    second[2:4] = 3
    path = seg_nrrd(
        tmp_path / "x.seg.nrrd",
        layered(first, second)[0],
        {"Name": "liver", "LabelValue": "1", "Layer": "0"},
        {"Name": "spleen", "LabelValue": "2", "Layer": "0"},
        {"Name": "tumour", "LabelValue": "3", "Layer": "1"},
        kinds=layered(first, second)[1],
    )
    labels, notes = read_itk_segments(path)
    assert labels.array[:, 0, 0].tolist() == [1, 1, 3, 3, 0, 2]
    assert dict(labels.names) == {1: "liver", 2: "spleen", 3: "tumour"}
    assert notes == ("20 voxel(s) belong to several segments: the later one counts",)
    assert labels.grid.agrees(Grid((6, 5, 4), np.array([[1.0, 0, 0, 4], [0, 2, 0, 5], [0, 0, 3, 6], [0, 0, 0, 1]])))


@pytest.mark.parametrize("name", [r"a\b", r"a\new\\x", "two\nlines"])
def test_names_with_backslashes_come_back(tmp_path: Path, name: str) -> None:
    escaped = name.replace("\\", "\\\\").replace("\n", "\\n")
    path = seg_nrrd(tmp_path / "x.seg.nrrd", some_label(), {"Name": escaped, "LabelValue": "1", "Layer": "0"})
    assert segment_names_in(path) == {1: name.replace("\n", " ")}


def test_only_segments_that_are_asked_for_are_drawn(tmp_path: Path) -> None:
    first, second = np.zeros((6, 5, 4), np.uint8), np.zeros((6, 5, 4), np.uint8)
    first[0:3], second[2:4] = 1, 1
    array, kinds = layered(first, second)
    said = [{"Name": "Left_Kidney", "LabelValue": "1", "Layer": "0"}, {"Name": "body", "LabelValue": "1", "Layer": "1"}]
    labels, notes = read_itk_segments(
        seg_nrrd(tmp_path / "x.seg.nrrd", array, *said, kinds=kinds), wanted=["left kidney"]
    )
    assert (labels.array[:, 0, 0].tolist(), dict(labels.names), notes) == ([1, 1, 1, 0, 0, 0], {1: "Left_Kidney"}, ())


@pytest.mark.parametrize("old", [False, True])
def test_a_value_for_several_segments_is_numbered_anew(tmp_path: Path, old: bool) -> None:
    first, second = np.zeros((6, 5, 4), np.uint8), np.zeros((6, 5, 4), np.uint8)
    first[0:2], second[3:6] = 1, 1
    said = [{"Name": "liver", "LabelValue": "1", "Layer": "0"}, {"Name": "spleen", "LabelValue": "1", "Layer": "1"}]
    if old:  # one segment a layer, without the two keys
        said = [{"Name": one["Name"]} for one in said]
    array, kinds = layered(first, second)
    path = seg_nrrd(tmp_path / "x.seg.nrrd", array, *said, kinds=kinds)
    labels, notes = read_itk_segments(path)
    assert labels.array[:, 0, 0].tolist() == [1, 1, 0, 2, 2, 2]
    assert dict(labels.names) == segment_names_in(path) == {1: "liver", 2: "spleen"}
    assert notes == ()


def test_names() -> None:
    assert [is_itk(Path(n)) for n in ("a.NRRD", "a.seg.nrrd", "a.mha", "a.nii", "a.dcm", "a.png")] == [True] * 3 + [
        False
    ] * 3
    assert [itk_stem(Path(n)) for n in ("a.b.nrrd", "a.seg.nrrd", "a.mha", "a.txt")] == ["a.b", "a", "a", "a.txt"]


def test_labels_are_what_other_writers_wrote(tmp_path: Path) -> None:
    pynrrd = pytest.importorskip("nrrd")
    header = {
        "space": "left-posterior-superior",
        "space directions": np.diag([0.7, 0.8, 2.5]),
        "space origin": [1, 2, 3],
        "encoding": "gzip",
        "Segment0_Name": "liver",
        "Segment0_LabelValue": "1",
        "Segment0_Layer": "0",
    }
    pynrrd.write(str(tmp_path / "x.seg.nrrd"), some_label(), header)
    labels = read_itk_labels(tmp_path / "x.seg.nrrd")
    assert isinstance(labels, LabelMap)
    assert dict(labels.names) == {1: "liver"}
    assert np.allclose(
        labels.grid.affine,
        np.diag([-0.7, -0.8, 2.5, 1]) + np.array([[0, 0, 0, -1], [0, 0, 0, -2], [0, 0, 0, 3], [0] * 4]),
    )
