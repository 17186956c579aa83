from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pydicom
import pytest
import SimpleITK
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.data import get_testdata_file
from pydicom.dataset import Dataset, FileDataset
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ImplicitVRLittleEndian,
)

from medseg.errors import InputError
from medseg.imaging.dicom.headers import quiet
from medseg.imaging.dicom.pixels import CT_PADDING_HU, read_frames
from medseg.imaging.dicom.volumes import Frame, SubVolume
from tests.imaging.build import PATIENT, Built, save_all, some_series
from tests.imaging.dicom.pixels_build import (
    CODECS,
    Image,
    compressed,
    enhanced,
    smooth,
    stack_of,
    stored_as,
    subvolume,
)


def read(datasets: list[FileDataset], folder: Path) -> tuple[Image, tuple[str, ...]]:
    return read_frames(subvolume(save_all(datasets, folder)), "case-1")


def refusal(paths: list[Path], **what: Any) -> str:
    volume = subvolume(paths, **what)
    with pytest.raises(InputError) as caught:
        read_frames(volume, "case-1")
    line = str(caught.value)
    assert line.startswith("case-1: [")
    assert "\n" not in line
    assert not any(part in line for part in PATIENT.split("^"))
    assert str(paths[0].parent) not in line
    return line


def values_of(built: Built) -> Image:
    return np.stack([built.values(z) for z in range(len(built.stored))], axis=-1)


def save(ds: FileDataset, path: Path) -> None:
    """Write in the byte order that the header names, which `save_as` refuses for a dataset that was made in memory."""
    syntax = ds.file_meta.TransferSyntaxUID
    orders = {"implicit_vr": syntax.is_implicit_VR, "little_endian": syntax.is_little_endian}
    del ds.file_meta.TransferSyntaxUID
    ds._read_implicit, ds._read_little = orders.values()
    ds.file_meta.TransferSyntaxUID = syntax
    pydicom.dcmwrite(path, ds, enforce_file_format=True, **orders)


def set_all(datasets: list[FileDataset], **what: object) -> list[FileDataset]:
    for ds in datasets:
        for keyword, value in what.items():
            setattr(ds, keyword, value)
    return datasets


@settings(max_examples=40, deadline=None)
@given(
    slopes=st.lists(st.floats(1e-6, 1e4) | st.integers(1, 40).map(float), min_size=1, max_size=4),
    intercepts=st.lists(st.floats(-1e5, 1e5) | st.integers(-2000, 2000).map(float), min_size=1, max_size=3),
    n=st.integers(2, 5),
    seed=st.integers(0, 99),
)
def test_values_are_rounded_once(
    tmp_path_factory: pytest.TempPathFactory, slopes: list[float], intercepts: list[float], n: int, seed: int
) -> None:
    built = some_series(n, seed, slopes=slopes, intercepts=intercepts)
    array, _ = read(built.datasets(), tmp_path_factory.mktemp("series"))
    assert array.dtype == np.float32
    assert array.flags.f_contiguous
    assert np.array_equal(array, values_of(built))


def test_slopes_of_a_pet_are_kept_slice_by_slice(tmp_path: Path) -> None:
    built = Built(np.full((4, 5, 6), 100, np.int16), slopes=(1, 0.5, 0.25, 0.125))
    array, notes = read(built.datasets()[::-1], tmp_path)
    assert [array[0, 0, z] for z in range(4)] == [100, 50, 25, 12.5]
    assert notes == ()


def test_monochrome1_is_not_inverted(tmp_path: Path) -> None:
    built = some_series()
    array, _ = read(set_all(built.datasets(), PhotometricInterpretation="MONOCHROME1"), tmp_path)
    assert np.array_equal(array, values_of(built))


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian])
@pytest.mark.parametrize(("bits", "signed"), [(8, False), (8, True), (12, True), (16, False), (16, True)])
def test_every_way_without_a_codec(tmp_path: Path, syntax: Any, bits: int, signed: bool) -> None:
    built = some_series()
    images = [smooth(bits, signed, seed=z, shape=(5, 7)) for z in range(4)]
    paths = []
    for z, (ds, image) in enumerate(zip(built.datasets(), images, strict=True)):
        big = syntax == ExplicitVRBigEndian
        stored_as(ds, [image], bits, syntax)
        if big and image.itemsize == 2:
            ds.PixelData = image.astype(image.dtype.newbyteorder(">")).tobytes()
        paths.append(tmp_path / f"{z}")
        save(ds, paths[-1])
    array, _ = read_frames(subvolume(paths), "case-1")
    assert np.array_equal(array, np.stack([image.T for image in images], axis=-1))


@pytest.mark.parametrize("implicit", [False, True])
def test_files_without_mark_and_meta_header(tmp_path: Path, implicit: bool) -> None:
    built = some_series(3)
    for z, ds in enumerate(built.datasets()):
        ds.preamble, ds.file_meta = None, pydicom.dataset.FileMetaDataset()
        ds.save_as(tmp_path / f"{z}", enforce_file_format=False, implicit_vr=implicit, little_endian=True)
    array, _ = read_frames(stack_of([tmp_path / f"{z}" for z in range(3)], 6, 5), "case-1")
    assert np.array_equal(array, values_of(built))


def test_bytes_that_were_swapped_as_words(tmp_path: Path) -> None:
    image = smooth(8, shape=(4, 6))
    datasets = some_series(2).datasets()
    for ds in datasets:
        stored_as(ds, [image], 8, ExplicitVRBigEndian)
        ds.PixelData = image.reshape(-1).view(np.uint16).byteswap().tobytes()
        ds["PixelData"].VR = "OW"
    paths = [tmp_path / f"{z}" for z in range(2)]
    for ds, path in zip(datasets, paths, strict=True):
        save(ds, path)
    assert np.array_equal(read_frames(subvolume(paths), "case-1")[0][:, :, 1], image.T)


@pytest.mark.parametrize("kind", [np.uint32, np.int32])
def test_32_bits(tmp_path: Path, kind: type[np.generic]) -> None:
    image = np.array([[1, 70_000, 16_777_217], [4_000_000_000, 5, 6]]).astype(kind)
    array, _ = read([stored_as(ds, [image], 32) for ds in some_series(2).datasets()], tmp_path)
    assert np.array_equal(array[:, :, 0], image.T.astype(np.float32))


def test_pixels_that_are_floating_point_numbers(tmp_path: Path) -> None:
    image = np.random.default_rng(0).normal(0, 1, (5, 6)).astype(np.float32)
    datasets = some_series(2).datasets()
    for ds in datasets:
        del ds.PixelData
        ds.FloatPixelData, ds.BitsAllocated = image.tobytes(), 32
    assert np.array_equal(read(datasets, tmp_path / "a")[0][:, :, 0], image.T)
    image[2, 3] = np.inf
    datasets[1].FloatPixelData = image.tobytes()
    assert "[NOT_FINITE] image 2 of 2" in refusal(save_all(datasets, tmp_path / "b"))


@pytest.mark.parametrize("signed", [False, True])
def test_bits_above_those_stored_are_masked_and_the_sign_is_kept(tmp_path: Path, signed: bool) -> None:
    image = smooth(12, signed)
    overlay = np.random.default_rng(0).integers(0, 16, image.shape, np.uint16) << 12
    datasets = [stored_as(ds, [image], 12) for ds in some_series(2).datasets()]
    for ds in datasets:
        ds.PixelData = ((image.view(np.uint16) & 0x0FFF) | overlay).tobytes()
    array, _ = read(datasets, tmp_path)
    assert np.array_equal(array[:, :, 1], image.T)


@pytest.mark.parametrize(
    ("name", "signed"), [(name, signed) for name, codec in CODECS.items() for signed in {False, not codec.error}]
)
def test_every_codec(tmp_path: Path, name: str, signed: bool) -> None:
    codec = CODECS[name]
    bits = min(12, codec.most_bits)
    images = [smooth(bits, signed, seed=z) for z in range(4)]
    datasets = [
        compressed(ds, [image], bits, codec) for ds, image in zip(some_series().datasets(), images, strict=True)
    ]
    array, notes = read(datasets, tmp_path)
    assert np.abs(array - np.stack([i.T for i in images], axis=-1)).max() <= codec.error * 2**bits
    assert notes == (("4 of 4 images were compressed with loss",) if codec.error else ())


def test_a_picture_in_several_fragments(tmp_path: Path) -> None:
    images = [smooth(12, seed=z) for z in range(2)]
    datasets = [
        compressed(ds, [image], 12, CODECS["JPEG-LS"])
        for ds, image in zip(some_series(2).datasets(), images, strict=True)
    ]
    for ds, image in zip(datasets, images, strict=True):
        ds.PixelData = pydicom.encaps.encapsulate([CODECS["JPEG-LS"].encode(image, 12)], fragments_per_frame=3)
    assert np.array_equal(read(datasets, tmp_path)[0][:, :, 1], images[1].T)


def test_pixels_said_to_be_lossy(tmp_path: Path) -> None:
    datasets = [*set_all(some_series().datasets()[:3], LossyImageCompression="01"), some_series().dataset(3)]
    assert read(datasets, tmp_path)[1] == ("3 of 4 images were compressed with loss",)
    images = [smooth(12)] * 2
    lossless = [
        compressed(ds, [image], 12, CODECS["JPEG 2000 lossless"])
        for ds, image in zip(some_series(2).datasets(), images, strict=True)
    ]
    for ds in set_all(lossless, LossyImageCompression="00"):
        ds.file_meta.TransferSyntaxUID = CODECS["JPEG 2000"].syntax
    assert read(lossless, tmp_path / "lossless")[1] == ()


class TestPadding:
    def series(self, padding: int, n: int = 3, **what: Any) -> list[FileDataset]:
        stored = np.random.default_rng(0).integers(30, 900, (n, 5, 6)).astype(np.int16)
        stored[:, 0, :2] = padding
        return set_all(Built(stored, **what).datasets(), PixelPaddingValue=padding)

    def test_of_a_ct_becomes_the_least_hounsfield_unit(self, tmp_path: Path) -> None:
        datasets = self.series(-2000, intercepts=(-24.0,))
        for ds in datasets:
            ds["PixelPaddingValue"].VR = "SS"
        array, notes = read(datasets, tmp_path)
        assert (array[:2, 0, :] == CT_PADDING_HU).all()
        assert array[2:, :, :].min() >= 6
        assert notes == ("6 voxels of padding were set to -1024 HU",)

    def test_of_others_becomes_their_smallest_value(self, tmp_path: Path) -> None:
        datasets = set_all(self.series(-2000, slopes=(0.5, 2)), Modality="MR")
        for ds in datasets:
            ds["PixelPaddingValue"].VR = "SS"
        array, notes = read(datasets, tmp_path)
        assert array[0, 0, 0] == array[1, 0, 2] == array[2:, :, :].min()
        assert notes == ("6 voxels of padding were set to the smallest value of the others",)

    def test_written_without_its_sign(self, tmp_path: Path) -> None:
        datasets = self.series(-2000)
        for ds in datasets:
            del ds.PixelPaddingValue
            ds.add_new("PixelPaddingValue", "US", 65536 - 2000)
        assert (read(datasets, tmp_path)[0][:2, 0, :] == CT_PADDING_HU).all()

    def test_of_a_range(self, tmp_path: Path) -> None:
        datasets = self.series(-2000)
        for ds in datasets:
            stored = np.frombuffer(ds.PixelData, np.int16).copy()
            stored[1] = -1990
            ds.PixelData = stored.tobytes()
            ds["PixelPaddingValue"].VR = "SS"
            ds.add_new("PixelPaddingRangeLimit", "SS", -1980)
        array, notes = read(datasets, tmp_path)
        assert (array[:2, 0, :] == CT_PADDING_HU).all()
        assert notes[0].startswith("6 voxels")

    def test_among_tissue_is_not_believed(self, tmp_path: Path) -> None:
        datasets = self.series(40)
        for ds in datasets:
            ds["PixelPaddingValue"].VR = "SS"
        array, notes = read(datasets, tmp_path)
        assert (array[:2, 0, :] == 40).all()
        assert notes == ("the padding value of 3 of 3 images lies among tissue and was not believed",)

    def test_that_nothing_has(self, tmp_path: Path) -> None:
        built = some_series()
        datasets = set_all(built.datasets(), PixelPaddingValue=-3000)
        for ds in datasets:
            ds["PixelPaddingValue"].VR = "SS"
        array, notes = read(datasets, tmp_path)
        assert np.array_equal(array, values_of(built))
        assert notes == ()

    def test_everywhere(self, tmp_path: Path) -> None:
        datasets = Built(np.zeros((2, 5, 6), np.int16)).datasets()
        for ds in set_all(datasets, Modality="MR"):
            ds.add_new("PixelPaddingValue", "SS", 0)
        assert (read(datasets, tmp_path)[0] == 0).all()


def test_units_of_a_ct_that_are_not_sure_are_told(tmp_path: Path) -> None:
    built = some_series()
    without = built.datasets()
    for ds in without[:2]:
        del ds.RescaleSlope, ds.RescaleIntercept
    for ds in without[2:]:
        ds.RescaleType = "US"
    array, notes = read(without, tmp_path / "ct")
    assert np.array_equal(array, np.moveaxis(built.stored, 0, -1).swapaxes(0, 1).astype(np.float32))
    assert [note[: note.index(" ", 8)] for note in notes] == ["[UNITS] 2", "[UNITS] 2"]
    assert read(set_all(some_series().datasets(), RescaleType="HU"), tmp_path / "hu")[1] == ()
    assert read(set_all(without, Modality="MR"), tmp_path / "mr")[1] == ()


def test_a_real_world_value_map_is_told_and_not_applied(tmp_path: Path) -> None:
    built = some_series()
    datasets = built.datasets()
    for ds in datasets:
        map_ = Dataset()
        map_.RealWorldValueSlope, map_.RealWorldValueIntercept = 3.0, 100.0
        ds.RealWorldValueMappingSequence = [map_]
    array, notes = read(datasets, tmp_path)
    assert np.array_equal(array, values_of(built))
    assert notes == ("the real-world value maps of 4 of 4 images were not applied",)


def test_a_table_of_values_in_words(tmp_path: Path) -> None:
    image = np.array([[0, 1, 2], [3, 9, 1]], np.uint16)
    datasets = [stored_as(ds, [image], 16) for ds in some_series(2).datasets()]
    for ds in datasets:
        table = Dataset()
        table.LUTDescriptor, table.ModalityLUTType = [4, 0, 16], "HU"
        table["LUTDescriptor"].VR = "US"
        table.add_new("LUTData", "OW", np.array([10, 20, 40, 80], np.uint16).tobytes())
        ds.ModalityLUTSequence = [table]
        del ds.RescaleSlope, ds.RescaleIntercept
    array, notes = read(datasets, tmp_path)
    assert np.array_equal(array[:, :, 0].T, [[10, 20, 40], [80, 80, 20]])
    assert notes == ()


def test_a_table_of_values_takes_the_place_of_the_line(tmp_path: Path) -> None:
    image = np.array([[0, 1, 2], [3, 9, 1]], np.uint16)
    datasets = [stored_as(ds, [image], 16) for ds in some_series(2).datasets()]
    for ds in datasets:
        table = Dataset()
        table.LUTDescriptor, table.ModalityLUTType, table.LUTData = [4, 0, 16], "US", [10, 20, 40, 80]
        table["LUTDescriptor"].VR = table["LUTData"].VR = "US"
        ds.ModalityLUTSequence = [table]
        del ds.RescaleSlope, ds.RescaleIntercept
    array, notes = read(datasets, tmp_path / "a")
    assert np.array_equal(array[:, :, 0].T, [[10, 20, 40], [80, 80, 20]])
    assert notes == ("[UNITS] 2 of 2 images say that their values are no Hounsfield units",)
    datasets[1].ModalityLUTSequence[0].LUTDescriptor = [4, 0, 13]
    assert "[DAMAGED] image 2 of 2" in refusal(save_all(datasets, tmp_path / "b"))


class TestFrames:
    @pytest.mark.parametrize("codec", [None, *(name for name, codec in CODECS.items() if not codec.error)])
    @pytest.mark.parametrize("shared", [False, True])
    def test_of_an_enhanced_image_have_their_own_slopes(self, tmp_path: Path, codec: str | None, shared: bool) -> None:
        built = some_series(5, slopes=(1, 0.5, 0.25, 0.125))
        ds = enhanced(built, built.slopes, CODECS[codec] if codec else None, shared)
        ds.save_as(tmp_path / "one", enforce_file_format=True)
        volume = subvolume([tmp_path / "one"])
        assert [frame.index for frame in volume.frames] == [4, 3, 2, 1, 0]
        array, notes = read_frames(volume, "case-1")
        for z in range(5):
            slope = 1.0 if shared else built.slopes[z % 4]
            assert np.array_equal(array[:, :, z], built.stored[z].T * np.float32(slope) - 1024)
        assert notes == ()

    def test_some_of_a_file(self, tmp_path: Path) -> None:
        built = some_series(5)
        for name in (None, "JPEG-LS"):
            path = tmp_path / f"{name}"
            enhanced(built, (1,), CODECS[name] if name else None).save_as(path, enforce_file_format=True)
            volume = stack_of([path], 6, 5, frames=5)
            some = stack_of([path], 6, 5, frames=2)
            whole, part = read_frames(volume, "a")[0], read_frames(some, "b")[0]
            assert np.array_equal(part, whole[:, :, :2])

    @pytest.mark.parametrize("name", [None, "JPEG-LS", "RLE"])
    def test_that_are_missing(self, tmp_path: Path, name: str | None) -> None:
        built = some_series(3)
        enhanced(built, (1,), CODECS[name] if name else None).save_as(tmp_path / "one", enforce_file_format=True)
        volume = stack_of([tmp_path / "one"], 6, 5, frames=4)
        with pytest.raises(InputError, match=r"\[TRUNCATED\] image \d of 4"):
            read_frames(volume, "case-1")

    def test_with_an_extended_offset_table(self, tmp_path: Path) -> None:
        built = some_series(3)
        ds = enhanced(built, (1,), CODECS["JPEG-LS"])
        frames = [CODECS["JPEG-LS"].encode(built.stored[z].view(np.uint16), 16) for z in (2, 1, 0)]
        data, offsets, lengths = pydicom.encaps.encapsulate_extended(frames)
        ds.PixelData, ds.ExtendedOffsetTable, ds.ExtendedOffsetTableLengths = data, offsets, lengths
        ds.save_as(tmp_path / "one", enforce_file_format=True)
        array, _ = read_frames(subvolume([tmp_path / "one"]), "case-1")
        assert np.array_equal(array[:, :, 0], built.stored[0].T.astype(np.float32) - 1024)

    def test_with_more_fragments_than_frames(self, tmp_path: Path) -> None:
        """Without a table of offsets nothing says to which frame a fragment belongs but the ends of codestreams."""
        built = some_series(3)
        ds = enhanced(built, (1,), CODECS["JPEG-LS"])
        frames = [CODECS["JPEG-LS"].encode(built.stored[z].view(np.uint16), 16) for z in (2, 1, 0)]
        ds.PixelData = pydicom.encaps.encapsulate(frames, fragments_per_frame=2, has_bot=False)
        ds.save_as(tmp_path / "one", enforce_file_format=True)
        array, _ = read_frames(subvolume([tmp_path / "one"]), "case-1")
        assert np.array_equal(array[:, :, 2], built.stored[2].T.astype(np.float32) - 1024)


class TestRepeats:
    def test_that_are_equal(self, tmp_path: Path) -> None:
        built = some_series(slopes=(0.5, 2))
        paths, again = save_all(built.datasets(), tmp_path / "a"), save_all(built.datasets()[1:3], tmp_path / "b")
        array, notes = read_frames(subvolume(paths, repeats=again), "case-1")
        assert np.array_equal(array, values_of(built))
        assert notes == ()

    def test_that_hold_padding(self, tmp_path: Path) -> None:
        datasets = TestPadding().series(-2000)
        for ds in datasets:
            ds["PixelPaddingValue"].VR = "SS"
        paths, again = save_all(datasets, tmp_path / "a"), save_all(datasets[1:2], tmp_path / "b")
        assert read_frames(subvolume(paths, repeats=again), "case-1")[1] == (
            "6 voxels of padding were set to -1024 HU",
        )

    @pytest.mark.parametrize("changed", ["pixel", "slope"])
    def test_that_differ(self, tmp_path: Path, changed: str) -> None:
        paths = save_all(some_series().datasets(), tmp_path / "a")
        other = some_series().dataset(2)
        if changed == "pixel":
            other.PixelData = b"\1\0" + other.PixelData[2:]
        else:
            other.RescaleSlope = "1.000001"
        line = refusal(paths, repeats=save_all([other], tmp_path / "b"))
        assert "[DUPLICATE_POSITION] image 3 of 4 is there twice" in line

    def test_of_frames(self, tmp_path: Path) -> None:
        built = some_series(3)
        paths = [tmp_path / "a", tmp_path / "b"]
        for path in paths:
            enhanced(built, (1,)).save_as(path, enforce_file_format=True)
        volume = subvolume(paths[:1])
        copies = tuple(Frame(paths[1], frame.index, frame.uid) for frame in volume.frames)
        again = type(volume)(**{**{f: getattr(volume, f) for f in volume.__dataclass_fields__}, "repeats": copies})
        read_frames(again, "case-1")
        built.stored[1, 0, 0] += 1
        enhanced(built, (1,)).save_as(paths[1], enforce_file_format=True)
        with pytest.raises(InputError, match=r"\[DUPLICATE_POSITION\] image 2 of 3"):
            read_frames(again, "case-1")


def spoil(**what: object) -> Callable[[FileDataset], None]:
    def change(ds: FileDataset) -> None:
        for keyword, value in what.items():
            if value is None:
                delattr(ds, keyword)
            else:
                setattr(ds, keyword, value)

    return change


BROKEN: dict[str, tuple[str, Callable[[FileDataset], None]]] = {
    "no pixels": ("TRUNCATED", spoil(PixelData=None)),
    "short pixels": ("TRUNCATED", lambda ds: setattr(ds, "PixelData", ds.PixelData[:20])),
    "hostile frames": ("TRUNCATED", spoil(NumberOfFrames=2**30)),
    "colour": ("COLOUR", spoil(SamplesPerPixel=3, PhotometricInterpretation="RGB", PlanarConfiguration=0)),
    "palette": ("COLOUR", spoil(PhotometricInterpretation="PALETTE COLOR")),
    "12 bits packed": ("DAMAGED", spoil(BitsAllocated=12, BitsStored=12, HighBit=11)),
    "no bits": ("DAMAGED", spoil(BitsAllocated=None)),
    "more bits stored than allocated": ("DAMAGED", spoil(BitsStored=17, HighBit=16)),
    "bits in another place": ("DAMAGED", spoil(BitsStored=12, HighBit=15)),
    "slope of 0": ("DAMAGED", spoil(RescaleSlope="0")),
    "slope that is no number": ("NOT_FINITE", lambda ds: ds.__setitem__("RescaleSlope", raw("RescaleSlope", "x"))),
    "slope beyond all numbers": ("NOT_FINITE", spoil(RescaleSlope="1e300")),
    "slope of infinity": ("NOT_FINITE", lambda ds: ds.__setitem__("RescaleSlope", raw("RescaleSlope", "inf"))),
}


def raw(keyword: str, said: str) -> Any:
    with pydicom.config.disable_value_validation():
        return pydicom.DataElement(keyword, "LO", said)


@pytest.mark.parametrize("name", BROKEN)
def test_what_cannot_be_read_right_is_refused_with_its_code(tmp_path: Path, name: str) -> None:
    code, change = BROKEN[name]
    datasets = some_series(4).datasets()
    change(datasets[2])
    paths = save_all(datasets, tmp_path / PATIENT)
    volume = stack_of(paths, 6, 5, "CT")
    with pytest.raises(InputError) as caught:
        read_frames(volume, "case-1")
    line = str(caught.value)
    assert line.startswith(f"case-1: [{code}] image 3 of 4 ")
    assert "\n" not in line
    assert not any(part in line for part in (*PATIENT.split("^"), str(tmp_path), "IM0002"))


@pytest.mark.parametrize("name", [None, "frames", *CODECS])
def test_whatever_is_wrong_with_a_file_is_a_refusal_or_gives_its_size(tmp_path: Path, name: str | None) -> None:
    built = some_series(3)
    if name == "frames":
        ds, shape = enhanced(built, (1, 0.5)), (6, 5, 3)
    elif name:
        bits = min(12, CODECS[name].most_bits)
        ds, shape = compressed(built.dataset(0), [smooth(bits)], bits, CODECS[name]), (23, 19, 1)
    else:
        ds, shape = stored_as(built.dataset(0), [smooth(12)], 12), (23, 19, 1)
    (path,) = save_all([ds], tmp_path)
    content, random = path.read_bytes(), np.random.default_rng(2)
    start = content.index(b"\x28\0\x02\0")
    codes = set()
    for _ in range(120):
        spoilt = bytearray(content)
        for at in random.integers(start, len(content), 3):
            spoilt[at] = random.integers(256)
        path.write_bytes(spoilt)
        try:
            array, _ = read_frames(stack_of([path], *shape[:2], "CT", shape[2]), "case-1")
        except InputError as error:
            codes.add(str(error)[9:12])
        else:
            assert array.shape == shape
            assert np.isfinite(array).all()
    assert codes & {"TRU", "DAM"}


@pytest.mark.parametrize("name", [None, *CODECS])
@pytest.mark.parametrize("share", [0.05, 0.4, 0.9, 0.999])
def test_a_cut_file_is_refused(tmp_path: Path, name: str | None, share: float) -> None:
    bits = min(12, CODECS[name].most_bits) if name else 12
    images = [smooth(bits, shape=(40, 41), seed=z) for z in range(2)]
    pairs = list(zip(some_series(2).datasets(), images, strict=True))
    datasets = [compressed(ds, [i], bits, CODECS[name]) if name else stored_as(ds, [i], bits) for ds, i in pairs]
    paths = save_all(datasets, tmp_path)
    whole = paths[1].read_bytes()
    start = whole.index(b"\xe0\x7f\x10\x00")
    volume = subvolume(paths)
    paths[1].write_bytes(whole[: start + int(share * (len(whole) - 8 - start))])
    with pytest.raises(InputError, match=r"case-1: \[TRUNCATED\] image 2 of 2"):
        read_frames(volume, "case-1")


@pytest.mark.parametrize("name", [name for name in CODECS if name != "RLE"])
def test_a_cut_codestream_in_a_whole_file_is_refused(tmp_path: Path, name: str) -> None:
    bits = min(12, CODECS[name].most_bits)
    image = smooth(bits, shape=(40, 41))
    datasets = [compressed(ds, [image], bits, CODECS[name]) for ds in some_series(2).datasets()]
    encoded = CODECS[name].encode(image, bits)
    datasets[1].PixelData = pydicom.encaps.encapsulate([encoded[: len(encoded) // 2 * 2 - 20]])
    assert "[TRUNCATED] image 2 of 2" in refusal(save_all(datasets, tmp_path))


def test_an_empty_codestream_is_refused(tmp_path: Path) -> None:
    datasets = [compressed(ds, [smooth(12)], 12, CODECS["JPEG-LS"]) for ds in some_series(2).datasets()]
    datasets[1].PixelData = b"\xfe\xff\x00\xe0\0\0\0\0" * 2
    assert "[DAMAGED] image 2 of 2" in refusal(save_all(datasets, tmp_path))


def test_damage_within_a_codestream_is_told_apart(tmp_path: Path) -> None:
    image = smooth(12, shape=(40, 41))
    datasets = [compressed(ds, [image], 12, CODECS["JPEG 2000 lossless"]) for ds in some_series(2).datasets()]
    encoded = bytearray(CODECS["JPEG 2000 lossless"].encode(image, 12))
    encoded[60:90] = b"\xff" * 30
    datasets[1].PixelData = pydicom.encaps.encapsulate([bytes(encoded)])
    assert "[DAMAGED] image 2 of 2" in refusal(save_all(datasets, tmp_path))


def test_compressed_pixels_under_a_header_that_denies_it(tmp_path: Path) -> None:
    paths = save_all([compressed(ds, [smooth(12)], 12, CODECS["RLE"]) for ds in some_series(2).datasets()], tmp_path)
    volume = subvolume(paths)
    content = paths[0].read_bytes()
    paths[0].write_bytes(content.replace(b"1.2.840.10008.1.2.5\0", b"1.2.840.10008.1.2.1\0"))
    with pytest.raises(InputError, match=r"\[DAMAGED\] image 1 of 2 is compressed"):
        read_frames(volume, "case-1")


def test_a_picture_of_another_size_than_the_others(tmp_path: Path) -> None:
    paths = save_all(some_series(3).datasets(), tmp_path)
    stored_as(ds := some_series(3).dataset(1), [smooth(12, shape=(6, 5))], 12).save_as(paths[1])
    assert ds.Rows == 6
    with pytest.raises(InputError, match=r"\[TRUNCATED\] image 2 of 3"):
        read_frames(stack_of(paths, 6, 5), "case-1")


def peak_of(work: Callable[[], object]) -> int:
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("name", [None, "RLE", "JPEG-LS", "JPEG 2000 lossless"])
def test_hostile_sizes_are_refused_before_memory_is_taken(tmp_path: Path, name: str | None) -> None:
    image = smooth(12)
    pairs = [(ds, image) for ds in some_series(2).datasets()]
    datasets = [compressed(ds, [i], 12, CODECS[name]) if name else stored_as(ds, [i], 12) for ds, i in pairs]
    set_all(datasets, Rows=65535, Columns=60000)
    paths = save_all(datasets, tmp_path)

    def refused_as(code: str, volume: SubVolume) -> None:
        with pytest.raises(InputError, match=rf"\[{code}\]"):
            read_frames(volume, "case-1")

    assert peak_of(lambda: refused_as("TRUNCATED", stack_of(paths, 23, 19))) < 2e6  # the headers alone lie
    assert peak_of(lambda: refused_as("TOO_LARGE", stack_of(paths, 60000, 65535, frames=5000))) < 20e6


@pytest.mark.parametrize("name", ["JPEG-LS", "JPEG 2000 lossless", "JPEG lossless, first"])
def test_a_codestream_that_lies_about_its_size_is_refused_before_memory_is_taken(tmp_path: Path, name: str) -> None:
    image = smooth(12)
    codec = CODECS[name]
    encoded = codec.encode(image, 12)
    if name == "JPEG 2000 lossless":
        lying = encoded.replace((23).to_bytes(4), (60000).to_bytes(4)).replace((19).to_bytes(4), (60000).to_bytes(4))
    else:
        lying = encoded.replace((19).to_bytes(2) + (23).to_bytes(2), (60000).to_bytes(2) * 2)
    datasets = [compressed(ds, [image], 12, codec) for ds in some_series(2).datasets()]
    datasets[1].PixelData = pydicom.encaps.encapsulate([lying])
    paths = save_all(datasets, tmp_path)
    read_frames(stack_of(paths[:1], 23, 19), "warm")

    def refused() -> None:
        with pytest.raises(InputError, match=r"\[TRUNCATED\] image 2 of 2"):
            read_frames(stack_of(paths, 23, 19), "case-1")

    assert peak_of(refused) < 2e6


def test_a_file_that_went_away(tmp_path: Path) -> None:
    paths = save_all(some_series(2).datasets(), tmp_path)
    volume = subvolume(paths)
    paths[1].unlink()
    with pytest.raises(InputError, match=r"case-1: \[DAMAGED\] image 2 of 2 cannot be opened"):
        read_frames(volume, "case-1")


def test_a_missing_codec_is_named_with_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = [compressed(ds, [smooth(12)], 12, CODECS["JPEG-LS"]) for ds in some_series(2).datasets()]
    paths = save_all(datasets, tmp_path)
    monkeypatch.setattr("medseg.imaging.dicom.stored.decoder_plugin", lambda _: None)
    line = refusal(paths)
    assert "[CODEC_MISSING] image 1 of 2" in line
    assert "JPEG-LS Lossless" in line
    assert 'pip install "imagecodecs' in line


def test_volumes_without_a_geometry_are_refused(tmp_path: Path) -> None:
    volume = subvolume(save_all(some_series(2).datasets(), tmp_path))
    bare = type(volume)(**{**{f: getattr(volume, f) for f in volume.__dataclass_fields__}, "planes": None})
    with pytest.raises(InputError, match="NO_GEOMETRY"):
        read_frames(bare, "case-1")


def test_an_image_at_two_places_is_refused(tmp_path: Path) -> None:
    paths = save_all(some_series(2).datasets(), tmp_path)
    with pytest.raises(InputError, match="DUPLICATE_POSITION"):
        read_frames(stack_of([*paths, paths[0]], 6, 5), "case-1")


def test_a_way_of_storing_that_is_not_known(tmp_path: Path) -> None:
    paths = save_all(some_series(2).datasets(), tmp_path)
    content = paths[1].read_bytes()
    for syntax, said in (("1.2.840.113619.5.2", "in a way that is not known"), ("1.2.840.10008.1.2.4.100", "MPEG2")):
        paths[1].write_bytes(with_syntax(content, syntax))
        with pytest.raises(InputError, match=rf"\[CODEC_MISSING\] image 2 of 2 .*{said}.*export the series without"):
            read_frames(stack_of(paths, 6, 5), "case-1")


def with_syntax(content: bytes, syntax: str) -> bytes:
    """Another transfer syntax in a file's meta header, which says its own length."""
    short, long = b"UI\x14\x001.2.840.10008.1.2.1\0", syntax.encode() + b"\0" * (len(syntax) % 2)
    at = content.index(b"UL\x04\0") + 4
    length = int.from_bytes(content[at : at + 4], "little") + len(long) - 20
    changed = content[:at] + length.to_bytes(4, "little") + content[at + 4 :]
    return changed.replace(short, b"UI" + len(long).to_bytes(2, "little") + long)


@pytest.mark.parametrize("codec", [None, "JPEG-LS"])
def test_little_more_memory_is_taken_than_the_volume_needs(tmp_path: Path, codec: str | None) -> None:
    images = [smooth(12, shape=(256, 256), seed=z) for z in range(24)]
    pairs = list(zip(some_series(24).datasets(), images, strict=True))
    datasets = [compressed(ds, [i], 12, CODECS[codec]) if codec else stored_as(ds, [i], 12) for ds, i in pairs]
    volume = subvolume(save_all(datasets, tmp_path))
    read_frames(volume, "warm")
    assert peak_of(lambda: read_frames(volume, "case-1")) < 1.5 * 4 * 24 * 256**2


def packaged(name: str) -> Path:
    return Path(str(get_testdata_file(name)))


def test_one_image_in_many_forms_has_the_same_values() -> None:
    forms = [
        *("MR_small.dcm", "MR_small_RLE.dcm", "MR_small_bigendian.dcm", "MR_small_expb.dcm", "MR_small_implicit.dcm"),
        *("MR_small_jp2klossless.dcm", "MR_small_jpeg_ls_lossless.dcm", "MR_small_padded.dcm"),
    ]
    array, _ = read_frames(stack_of([packaged(name) for name in forms], 64, 64), "case-1")
    expected = pydicom.dcmread(packaged("MR_small.dcm")).pixel_array.T
    assert all(np.array_equal(array[:, :, k], expected) for k in range(len(forms)))


def test_truncated_images_of_pydicom_are_refused() -> None:
    with pytest.raises(InputError, match=r"\[TRUNCATED\] image 1 of 1"):
        read_frames(stack_of([packaged("MR_truncated.dcm")], 64, 64), "case-1")


@pytest.mark.parametrize("name", ["rtdose.dcm", "rtdose_rle.dcm", "rtdose_expb.dcm"])
def test_frames_of_32_bits(name: str) -> None:
    ds = pydicom.dcmread(packaged("rtdose.dcm"))
    array, _ = read_frames(stack_of([packaged(name)], ds.Columns, ds.Rows, frames=15), "case-1")
    assert np.array_equal(array, np.moveaxis(ds.pixel_array, 0, -1).swapaxes(0, 1).astype(np.float32))


@pytest.mark.parametrize(
    "name",
    [
        *("CT_small.dcm", "J2K_pixelrep_mismatch.dcm"),
        *("JPEG2000.dcm", "JPEGLSNearLossless_16.dcm", "JPEGLSNearLossless_08.dcm", "rtdose_1frame.dcm"),
    ],
)
def test_files_of_pydicom_have_the_values_that_it_reads(name: str) -> None:
    with quiet():
        ds = pydicom.dcmread(packaged(name), force=True)
        line = ds.pixel_array * float(ds.get("RescaleSlope") or 1) + float(ds.get("RescaleIntercept") or 0)
    array, _ = read_frames(stack_of([packaged(name)], ds.Columns, ds.Rows), "case-1")
    assert np.array_equal(array[:, :, 0].T, line.astype(np.float32))


class TestRealData:
    def test_nine_transfer_syntaxes_are_the_same_image(self, real_data: Path) -> None:
        paths = sorted((real_data / "dicom_transfer_syntaxes").iterdir())
        array, notes = read_frames(stack_of(paths, 384, 384), "case-1")
        assert len(paths) == 9
        assert notes == ()
        assert np.ptp(array[:, :, 0]) > 100
        for k in range(1, 9):
            assert np.array_equal(array[:, :, k], array[:, :, 0])

    @pytest.mark.parametrize("modality", ["CT", "PET"])
    def test_ct_and_pet_are_as_in_their_nifti_files(self, real_data: Path, modality: str) -> None:
        folder = real_data / "dicom_ct_pet" / modality
        volume = subvolume(sorted((folder / "dicom" / "image").iterdir()))
        array, _ = read_frames(volume, "case-1")
        image = nib.load(folder / "nifti" / "image" / "image.nii.gz")
        assert volume.grid is not None
        there = nib.as_closest_canonical(image)
        here = nib.as_closest_canonical(nib.Nifti1Image(array, volume.grid.affine))
        assert np.abs(there.affine - here.affine).max() < 1e-3
        difference = np.abs(there.get_fdata() - here.get_fdata()).max()
        assert difference <= 1e-4 * np.abs(array).max()

    @pytest.mark.parametrize("name", ["flair", "t1_post", "hippocampus_crop"])
    def test_mr_is_as_simpleitk_reads_it(self, real_data: Path, name: str) -> None:
        volume = subvolume(sorted((real_data / "dicom_mr" / name).iterdir()))
        array, _ = read_frames(volume, "case-1")
        reader = SimpleITK.ImageSeriesReader()
        reader.SetFileNames([str(path) for path in volume.paths])
        assert np.array_equal(array, SimpleITK.GetArrayFromImage(reader.Execute()).T)
