from __future__ import annotations

import warnings
from pathlib import Path

import pydicom
import pytest
from pydicom.dataset import Dataset

from medseg.imaging.case import Left
from medseg.imaging.dicom.headers import (
    TEXTS,
    Header,
    as_numbers,
    class_name,
    is_dicom,
    named_uid,
    numbers,
    quiet,
    read_header,
    single_uid,
    text,
    vendor_b_value,
    whole,
)
from tests.imaging.build import change, save_all, some_series


def read(path: Path) -> Header:
    with quiet():
        found = read_header(path, "file 1 of 1")
    assert isinstance(found, Header)
    return found


def test_content_tells_dicom_from_other_files(tmp_path: Path) -> None:
    (path,) = save_all(some_series(1).datasets(), tmp_path)
    assert is_dicom(path)
    (tmp_path / "text.dcm").write_text("no DICOM" * 30)
    assert not is_dicom(tmp_path / "text.dcm")
    assert not is_dicom(tmp_path / "absent")
    assert not is_dicom(tmp_path)
    (tmp_path / "bare").write_bytes(path.read_bytes()[132:])
    assert is_dicom(tmp_path / "bare")


def test_values(tmp_path: Path) -> None:
    ds = change(some_series(1).dataset(0), ImageType=["ORIGINAL", "PRIMARY", "M"], EchoTime="4.60")
    header = read(save_all([ds], tmp_path)[0])
    assert text(header.dataset, "ImageType") == "ORIGINAL\\PRIMARY\\M"
    assert text(header.dataset, "EchoTime") == "4.60"
    assert text(header.dataset, "SliceThickness") == ""
    assert text(header.dataset, "SeriesDescription") == "Abdomen Müller^Jörg"
    assert numbers(header.dataset, "PixelSpacing") == (0.8, 0.7)
    assert whole(header.dataset, "Rows") == 5
    assert whole(header.dataset, "NumberOfFrames", 1) == 1
    assert header.claimed_bytes == 5 * 6 * 2
    assert not header.cut


@pytest.mark.parametrize("syntax", ["implicit", "bigendian", "expb", "RLE", "jpeg_ls_lossless", "padded"])
def test_values_are_the_same_in_every_syntax(syntax: str) -> None:
    root = Path(pydicom.__file__).parent / "data" / "test_files"
    plain, other = read(root / "MR_small.dcm"), read(root / f"MR_small_{syntax}.dcm")
    values = [text(plain.dataset, keyword) for keyword in TEXTS]
    assert [text(other.dataset, keyword) for keyword in TEXTS] == values
    assert values[TEXTS.index("ImageType")] == "DERIVED\\SECONDARY\\OTHER"
    assert numbers(other.dataset, "ImagePositionPatient") == numbers(plain.dataset, "ImagePositionPatient") != ()
    assert whole(other.dataset, "Rows") == 64
    assert not other.cut
    assert read(root / "MR_truncated.dcm").cut


def test_only_what_is_asked_for_is_kept(tmp_path: Path) -> None:
    header = read(save_all([some_series(1).dataset(0)], tmp_path)[0])
    assert "PixelData" not in header.dataset
    assert "PatientName" not in header.dataset


@pytest.mark.parametrize("said", ["", "a", "1\\b", "nan", "1\\inf", "1\\", "1e999"])
def test_what_is_no_number_gives_none(said: str) -> None:
    assert as_numbers(said) == ()


def test_numbers_of_a_text() -> None:
    assert as_numbers(" 1.5\\-2e1 ") == (1.5, -20.0)


def test_broken_values_are_empty_and_silent(tmp_path: Path) -> None:
    (path,) = save_all([change(some_series(1).dataset(0), SliceThickness="2.5", SeriesNumber=7)], tmp_path)
    path.write_bytes(path.read_bytes().replace(b"2.5 ", b"\xff.\x00 ").replace(b"IS\x02\x007 ", b"IS\x02\x00?7"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        header = read(path)
        assert numbers(header.dataset, "SliceThickness") == ()
        assert whole(header.dataset, "SeriesNumber", 3) == 3


def test_a_vendors_b_value_counts_only_beside_its_name() -> None:
    ds = Dataset()
    assert vendor_b_value(ds) == ""
    block = ds.private_block(0x0019, "SOMEBODY ELSE", create=True)
    block.add_new(0x0C, "IS", 1000)
    assert vendor_b_value(ds) == ""


def test_names_of_classes() -> None:
    assert class_name("1.2.840.10008.5.1.4.1.1.2") == "CT Image Storage"
    assert class_name("1.2.3") == class_name("") == "unknown kind"


def _fail_quietly() -> None:
    with quiet():
        assert pydicom.config.settings.reading_validation_mode == pydicom.config.IGNORE
        raise KeyError("value")


def test_quiet_puts_the_settings_back() -> None:
    before = pydicom.config.settings.reading_validation_mode
    with pytest.raises(KeyError):
        _fail_quietly()
    assert pydicom.config.settings.reading_validation_mode == before


def test_nothing_that_pydicom_brings_raises() -> None:
    root = Path(pydicom.__file__).parent / "data"
    paths = [path for path in root.rglob("*") if path.is_file()]
    assert len(paths) > 150
    with quiet():
        found = [read_header(path, "a file") for path in paths]
    left = [one for one in found if isinstance(one, Left)]
    assert {one.where for one in left} == {"a file"}
    assert 100 < len(found) - len(left) < len(found)


@pytest.mark.parametrize(
    ("said", "single", "named"),
    [
        ("1.2.3", "1.2.3", "1.2.3"),
        ("1.2.034", "1.2.034", "1.2.034"),  # against the standard, but common and harmless
        ("1.2\\1.3", "", "1.2"),
        ("1.2\\", "", "1.2"),
        ("", "", ""),
        ("\\", "", ""),
    ],
)
def test_a_uid_is_one(said: str, single: str, named: str) -> None:
    assert single_uid(said) == single
    assert named_uid(said) == named


@pytest.mark.parametrize("said", ["Müller", "1.2.x", "1..2", ".1", "1.2 3", "1." + 63 * "2", "\\1.2", "\u0661.2"])
def test_a_name_that_is_no_uid_becomes_one(said: str) -> None:
    assert single_uid(said) == ""
    made = named_uid(said)
    assert made == named_uid(said) != named_uid(said + "1")
    assert single_uid(made) == made
