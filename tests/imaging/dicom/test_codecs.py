from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.data import get_testdata_file
from pydicom.encaps import encapsulate
from pydicom.pixels.decoders.base import get_decoder
from pydicom.uid import UID, JPEG2000Lossless, JPEGLosslessSV1, JPEGLSLossless, RLELossless

from medseg.imaging.dicom import codecs
from medseg.imaging.dicom.codecs import PLUGIN, SYNTAXES, available_codecs, decoder_plugin, picture, register_codecs
from tests.imaging.build import some_series
from tests.imaging.dicom.pixels_build import CODECS, Image, as_bits, compressed, smooth

LOSSLESS = [name for name, codec in CODECS.items() if not codec.error]


def decoded(encoded: bytes, syntax: UID, shape: tuple[int, int], allocated: int, bits: int, signed: bool) -> Image:
    register_codecs()
    array, _ = get_decoder(syntax).as_array(
        encapsulate([encoded]),
        decoding_plugin=decoder_plugin(syntax) or "",
        rows=shape[0],
        columns=shape[1],
        number_of_frames=1,
        samples_per_pixel=1,
        photometric_interpretation="MONOCHROME2",
        bits_allocated=allocated,
        bits_stored=bits,
        pixel_representation=int(signed),
    )
    return array


# without a sign of their own, lossy codecs blur the jump from the largest value of two's complement to the smallest
PICTURES = [
    (name, bits, signed)
    for name, codec in CODECS.items()
    for bits in (8, 12, 16)
    for signed in (False, True)
    if codec.least_bits <= bits <= codec.most_bits and not (signed and codec.error)
]


@pytest.mark.parametrize(("name", "bits", "signed"), PICTURES)
def test_every_codec_gives_its_picture_back(name: str, bits: int, signed: bool) -> None:
    codec = CODECS[name]
    image = smooth(bits, signed)
    encoded = codec.encode(as_bits(image, bits), bits)
    found = decoded(encoded, codec.syntax, image.shape, 8 * image.itemsize, bits, signed)
    assert found.dtype == image.dtype
    assert np.abs(found.astype(int) - image).max() <= codec.error * 2**bits


@pytest.mark.parametrize("bits", range(2, 17))
@pytest.mark.parametrize("name", ["JPEG lossless, first", "JPEG 2000 lossless"])
def test_every_precision_is_exact(name: str, bits: int) -> None:
    codec = CODECS[name]
    image = smooth(bits)
    found = decoded(codec.encode(image, bits), codec.syntax, image.shape, 8 * image.itemsize, bits, signed=False)
    assert np.array_equal(found, image)


@pytest.mark.parametrize("name", ["JPEG-LS", "JPEG 2000 lossless", "JPEG lossless, first", "HTJ2K lossless"])
@pytest.mark.parametrize("signed", [False, True])
def test_bits_above_those_stored_never_come_through(name: str, signed: bool) -> None:
    image = smooth(12, signed)
    overlay = np.random.default_rng(0).integers(0, 16, image.shape, np.uint16) << 12
    encoded = CODECS[name].encode(as_bits(image, 12) | overlay, 16)
    found = decoded(encoded, CODECS[name].syntax, image.shape, 16, 12, signed)
    assert np.array_equal(found, image)


@pytest.mark.parametrize("signed", [False, True])
def test_what_a_lossy_codec_overshoots_is_clipped(signed: bool) -> None:
    image = smooth(12, signed)
    image[:10], image[10:] = image.min(), image.max()
    codec = CODECS["JPEG 2000"]
    encoded = codec.encode(image if signed else as_bits(image, 12), 16)  # 16 bits leave room to overshoot
    found = decoded(encoded, codec.syntax, image.shape, 16, 12, signed)
    assert np.abs(found.astype(int) - image).max() <= codec.error * 2**12


def test_a_picture_of_8_bits_in_a_container_of_16() -> None:
    image = smooth(8)
    for name in ("JPEG baseline", "JPEG-LS", "JPEG 2000 lossless"):
        codec = CODECS[name]
        found = decoded(codec.encode(image, 8), codec.syntax, image.shape, 16, 8, signed=False)
        assert found.dtype == np.uint16
        assert np.abs(found.astype(int) - image).max() <= codec.error * 256


def test_a_signed_codestream_under_either_header() -> None:
    import imagecodecs

    image = smooth(16, signed=True)
    encoded = bytes(imagecodecs.jpeg2k_encode(image, codecformat="j2k", reversible=True))
    assert np.array_equal(decoded(encoded, JPEG2000Lossless, image.shape, 16, 16, signed=True), image)
    unsigned = decoded(encoded, JPEG2000Lossless, image.shape, 16, 16, signed=False)
    assert np.array_equal(unsigned, image.view(np.uint16))


@pytest.mark.parametrize("name", [name for name in CODECS if name != "RLE"])
def test_the_head_of_a_codestream_is_understood(name: str) -> None:
    bits = min(12, CODECS[name].most_bits)
    image = smooth(bits, shape=(17, 40))
    said = picture(CODECS[name].encode(image, bits), CODECS[name].syntax)
    assert (said.rows, said.columns, said.samples) == (17, 40, 1)
    assert bits <= said.bits <= 16


@pytest.mark.parametrize("name", CODECS)
@pytest.mark.parametrize("share", [0.0, 0.02, 0.3, 0.7, 0.95, 0.999])
def test_a_cut_codestream_is_never_filled_up(name: str, share: float) -> None:
    bits = min(12, CODECS[name].most_bits)
    image = smooth(bits, shape=(64, 64))
    encoded = CODECS[name].encode(image, bits)
    with pytest.raises((RuntimeError, ValueError)) as caught:
        decoded(encoded[: int(share * len(encoded))], CODECS[name].syntax, image.shape, 8 * image.itemsize, bits, False)
    if share > 0.5:
        assert codecs.TRUNCATED in str(caught.value)


@pytest.mark.parametrize("name", [name for name in CODECS if name != "RLE"])
def test_another_size_than_the_header_says_is_refused(name: str) -> None:
    bits = min(12, CODECS[name].most_bits)
    image = smooth(bits, shape=(20, 30))
    encoded = CODECS[name].encode(image, bits)
    for shape in [(30, 20), (20, 29), (4096, 4096)]:
        with pytest.raises((RuntimeError, ValueError)):
            decoded(encoded, CODECS[name].syntax, shape, 8 * image.itemsize, bits, False)


@pytest.mark.parametrize("name", CODECS)
def test_damage_is_refused_or_leaves_a_picture_of_the_same_size(name: str) -> None:
    bits = min(12, CODECS[name].most_bits)
    image = smooth(bits, shape=(16, 16))
    encoded = CODECS[name].encode(image, bits)
    random = np.random.default_rng(1)
    refused = 0
    for _ in range(150):
        spoilt = bytearray(encoded)
        for at in random.integers(0, len(spoilt), 3):
            spoilt[at] = random.integers(256)
        try:
            found = decoded(bytes(spoilt), CODECS[name].syntax, image.shape, 8 * image.itemsize, bits, False)
        except (RuntimeError, ValueError):
            refused += 1
            continue
        assert found.shape == image.shape
        assert int(found.max()) < 2**bits
    assert refused


@pytest.mark.parametrize("src", [b"", b"\xff\xd8", b"\xff\xd8\xff\xc0\x00", b"\xff\x4f\xff\x51\x00", b"\0" * 100])
@pytest.mark.parametrize("syntax", [JPEGLosslessSV1, JPEGLSLossless, JPEG2000Lossless])
def test_what_is_no_codestream_is_refused(src: bytes, syntax: UID) -> None:
    with pytest.raises(ValueError, match="codestream"):
        picture(src, syntax)


@pytest.fixture
def unregistered() -> Iterator[None]:
    register_codecs()
    for syntax in SYNTAXES:
        get_decoder(syntax).remove_plugin(PLUGIN)
    yield
    register_codecs()


def test_registering_twice_or_at_once_registers_once(unregistered: None) -> None:
    before = {syntax: set(get_decoder(syntax).available_plugins) for syntax in SYNTAXES}
    with ThreadPoolExecutor(8) as pool:
        for future in [pool.submit(register_codecs) for _ in range(32)]:
            future.result()
    for syntax in SYNTAXES:
        assert set(get_decoder(syntax).available_plugins) == before[syntax] | {PLUGIN}
        assert decoder_plugin(syntax) == PLUGIN


def test_without_imagecodecs_the_decoders_of_pydicom_are_used(
    unregistered: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "imagecodecs", None)
    assert decoder_plugin(JPEG2000Lossless) == decoder_plugin(RLELossless) == "pylibjpeg"
    assert decoder_plugin(JPEGLosslessSV1) is None
    assert decoder_plugin(UID("1.2.840.10008.1.2.4.100")) is None  # MPEG-2
    assert available_codecs()["JPEG lossless"] is False
    assert available_codecs()["RLE"] is True


def test_all_codecs_are_there() -> None:
    found = available_codecs()
    assert all(found.values())
    assert {"RLE", "JPEG baseline", "JPEG extended", "JPEG lossless", "HTJ2K lossless"} <= set(found)


def test_pydicom_itself_can_read_them_then() -> None:
    image = smooth(12)
    register_codecs()
    ds = compressed(some_series().dataset(0), [image], 12, CODECS["JPEG lossless, first"])
    assert np.array_equal(ds.pixel_array, image)


def test_importing_medseg_neither_imports_nor_registers_codecs() -> None:
    code = (
        "import sys, medseg.imaging.dicom.reading, medseg.imaging.dicom.codecs as c\n"
        "from pydicom.pixels.decoders.base import get_decoder\n"
        "assert 'imagecodecs' not in sys.modules\n"
        "assert not any('medseg' in get_decoder(s).available_plugins for s in c.SYNTAXES)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[3])


@pytest.mark.parametrize(
    "name",
    [
        *("693_J2KI.dcm", "J2K_pixelrep_mismatch.dcm", "JPEG2000.dcm", "JPEGLSNearLossless_08.dcm"),
        *("JPEGLSNearLossless_16.dcm", "MR_small_jp2klossless.dcm", "MR_small_jpeg_ls_lossless.dcm"),
    ],
)
def test_files_that_another_decoder_reads_too(name: str) -> None:
    register_codecs()
    ds = pydicom.dcmread(str(get_testdata_file(name)))
    decoder = get_decoder(ds.file_meta.TransferSyntaxUID)
    other = "pylibjpeg" if "pylibjpeg" in decoder.available_plugins else "pyjpegls"
    ours, theirs = (decoder.as_array(ds, decoding_plugin=plugin)[0] for plugin in (PLUGIN, other))
    assert np.array_equal(ours, theirs)


@pytest.mark.parametrize("name", ["JPEG-lossy.dcm", "JPGExtended.dcm"])
def test_lossy_jpeg_of_12_bits_is_as_simpleitk_reads_it(name: str) -> None:
    import SimpleITK

    register_codecs()
    path = str(get_testdata_file(name))
    ds = pydicom.dcmread(path)
    ours = get_decoder(ds.file_meta.TransferSyntaxUID).as_array(ds, decoding_plugin=PLUGIN)[0]
    theirs = SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(path)).squeeze()
    line = ours * float(ds.get("RescaleSlope", 1)) + float(ds.get("RescaleIntercept", 0))
    assert np.abs(line - theirs).max() <= 1
