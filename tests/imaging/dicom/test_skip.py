from __future__ import annotations

from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import pydicom
import pytest
from pydicom.data import get_testdata_file
from pydicom.dataset import Dataset, FileDataset
from pydicom.filereader import read_dataset
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)

from medseg.imaging.dicom.headers import quiet
from medseg.imaging.dicom.rescale import TAGS
from medseg.imaging.dicom.skip import skip_to
from medseg.imaging.dicom.stored import _LAYOUT, IMAGE_GROUP, _header
from tests.imaging.build import some_series

PACKAGED = sorted(Path(str(get_testdata_file("CT_small.dcm"))).parent.glob("*.dcm"))
WANTED = [*_LAYOUT, *TAGS]


@pytest.fixture(autouse=True)
def silence() -> Iterator[None]:
    with quiet():
        yield


def written(ds: FileDataset, syntax: str = ExplicitVRLittleEndian) -> bytes:
    buffer = BytesIO()
    ds.file_meta.TransferSyntaxUID = syntax
    ds.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def test_nothing_that_is_asked_for_is_passed_over() -> None:
    assert all(tag.group >= IMAGE_GROUP for tag in WANTED)


@pytest.mark.parametrize("path", PACKAGED, ids=lambda path: path.stem)
def test_the_rest_of_a_header_is_as_in_the_whole(path: Path) -> None:
    whole = pydicom.dcmread(path, force=True)
    with path.open("rb") as file:
        header, syntax, element = _header(file, WANTED)
        file.seek(element.start if element else 0)
        start = file.read(16)
    assert syntax == whole.file_meta.get("TransferSyntaxUID", syntax)
    for tag in WANTED:
        assert (tag in header) == (tag in whole)
        if tag in whole:
            assert header[tag].value == whole[tag].value
    assert (element is None) == ("PixelData" not in whole)
    if element is not None and not (syntax.is_compressed or syntax.is_deflated):
        assert start == whole.PixelData[:16]


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian])
def test_it_stops_at_the_group(syntax: str) -> None:
    ds = some_series().dataset(0)
    ds.add_new(0x00091001, "OB", b"\1" * 100_000)  # longer than any block that is read
    ds.add_new(0x00090010, "LO", "ACME")
    file = BytesIO(written(ds, syntax))
    assert skip_to(file, 0x0028) == syntax
    rest = read_dataset(file, syntax == ImplicitVRLittleEndian, True)
    assert min(rest.keys()) == 0x00280002
    assert rest.Rows == ds.Rows
    assert rest.PixelData == ds.PixelData


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian])
def test_it_stops_before_what_has_no_plain_end(syntax: str) -> None:
    ds = some_series().dataset(0)
    ds.ReferencedImageSequence = [Dataset()]
    ds.ReferencedImageSequence[0].ReferencedSOPInstanceUID = "1.2.3"
    ds["ReferencedImageSequence"].is_undefined_length = True
    file = BytesIO(written(ds, syntax))
    assert skip_to(file, 0x0028) == syntax
    rest = read_dataset(file, syntax == ImplicitVRLittleEndian, True)
    assert min(rest.keys()) == 0x00081140
    assert rest.PixelData == ds.PixelData


@pytest.mark.parametrize("syntax", [DeflatedExplicitVRLittleEndian, "1.2.3.4"])
def test_what_has_to_be_parsed_from_its_beginning(syntax: str) -> None:
    content = written(some_series().dataset(0))
    changed = content.replace(b"1.2.840.10008.1.2.1\0", syntax.encode().ljust(20, b"\0"))
    assert skip_to(BytesIO(changed), 0x0028) is None
    assert skip_to(BytesIO(content[132:]), 0x0028) is None
    assert skip_to(BytesIO(b""), 0x0028) is None


def test_a_header_that_is_stored_in_another_way_than_it_says() -> None:
    explicit, implicit = (
        written(some_series().dataset(0), s) for s in (ExplicitVRLittleEndian, ImplicitVRLittleEndian)
    )
    long, short = b"1.2.840.10008.1.2.1\0", b"1.2.840.10008.1.2\0"
    assert skip_to(BytesIO(explicit.replace(long, short + b"\0\0")), 0x0028) is None
    assert skip_to(BytesIO(implicit.replace(short, b"1.2.840.10008.1.2.1")), 0x0028) is None
    assert skip_to(BytesIO(explicit.replace(long, ExplicitVRBigEndian.encode().ljust(20, b"\0"))), 0x0028) is None


def test_a_cut_file_gives_no_pixels() -> None:
    content = written(some_series().dataset(0))
    for length in range(400, content.index(b"\xe0\x7f\x10\x00"), 3):
        _, _, element = _header(BytesIO(content[:length]), WANTED)
        assert element is None
