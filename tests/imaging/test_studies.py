from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydicom.dataset import FileDataset

from medseg.errors import InputError
from medseg.imaging.dicom.scanner import scan_dicom
from medseg.imaging.studies import Picked, Wanted, modality_of, pick
from tests.imaging.build import PATIENT, save_all, some_series

KEY = b"secret"
STUDY = "1.2.3.4"


def images(series: str, n: int = 4, modality: str = "CT", **tags: Any) -> list[FileDataset]:
    sop = {"CT": "1.2.840.10008.5.1.4.1.1.2", "MR": "1.2.840.10008.5.1.4.1.1.4", "PT": "1.2.840.10008.5.1.4.1.1.128"}
    datasets = some_series(n, series=series, sop_class=sop[modality]).datasets()
    for ds in datasets:
        ds.Modality, ds.StudyInstanceUID, ds.SeriesNumber = modality, STUDY, int(series)
        ds.FrameOfReferenceUID = "1.2.3.5"
        for keyword, value in tags.items():
            setattr(ds, keyword, value)
    return datasets


def picked(folder: Path, wanted: Wanted, *several: list[FileDataset]) -> Picked:
    paths = [path for k, one in enumerate(several) for path in save_all(one, folder / PATIENT / str(k))]
    return pick(scan_dicom(paths).volumes, KEY, wanted)


def test_equals_are_never_chosen_from(tmp_path: Path) -> None:
    both = images("1", ConvolutionKernel="B30f"), images("2", ConvolutionKernel="B70f")
    found = picked(tmp_path, Wanted(("CT",)), *both)
    assert found.cases == ()
    (left,) = found.left
    assert left.broken
    assert left.reason.startswith("[CHOOSE] 2 volumes of its study are alike")
    assert "SeriesNumber=1" in left.reason
    assert "SeriesNumber=2" in left.reason
    assert not [word for word in PATIENT.split("^") if word in left.reason]


def test_a_rule_chooses(tmp_path: Path) -> None:
    both = images("1", ConvolutionKernel="B30f"), images("2", ConvolutionKernel="B70f")
    (case,) = picked(tmp_path, Wanted(("CT",), ("ConvolutionKernel=B7*",)), *both).cases
    assert case.channels[0].dicom is not None
    assert case.channels[0].dicom.shown["SeriesNumber"] == "2"


def test_the_default_score_chooses_and_says_so(tmp_path: Path) -> None:
    found = picked(tmp_path, Wanted(("CT",)), images("1", 4), images("2", 9))
    (case,), (note,) = found.cases, found.notes
    assert case.source == "DICOM CT series 2, 9 images"
    assert note.startswith(f"{case.name}: of 2 volumes ")
    assert [left.broken for left in found.left] == [False]


def test_all_takes_each(tmp_path: Path) -> None:
    assert len(picked(tmp_path, Wanted(("CT",), ("all",)), images("1"), images("2")).cases) == 2
    assert len(picked(tmp_path, Wanted(), images("1"), images("2")).cases) == 2


def test_a_rule_that_fits_nothing_is_a_failed_case(tmp_path: Path) -> None:
    found = picked(tmp_path, Wanted(("CT",), ("SeriesNumber=7",)), images("1"), images("2"))
    assert found.cases == ()
    assert [left.broken for left in found.left] == [True]


def test_channels_are_known_by_their_modality_or_by_rules(tmp_path: Path) -> None:
    series = images("1", 4, "PT"), images("2", 4, "CT")
    (case,) = picked(tmp_path, Wanted(("CT", "PET")), *series).cases
    assert [source.dicom.modality for source in case.channels if source.dicom] == ["CT", "PT"]
    (turned,) = picked(tmp_path / "b", Wanted(("a", "b"), ("Modality=PT", "Modality=CT")), *series).cases
    assert [source.dicom.modality for source in turned.channels if source.dicom] == ["PT", "CT"]
    unknown = picked(tmp_path / "c", Wanted(("a", "b")), *series)
    assert unknown.cases == ()
    assert all(left.broken for left in unknown.left)


def test_as_many_rules_as_channels(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"given 1 time\(s\), but the model has 2 channel"):
        picked(tmp_path, Wanted(("CT", "PET"), ("Modality=CT",)), images("1"))


@pytest.mark.parametrize(
    ("channel", "modality"), [("CT", "CT"), ("T1w", "MR"), ("mri_T2", "MR"), ("PET", "PT"), ("octet", ""), ("0", "")]
)
def test_modality_of_a_channel(channel: str, modality: str) -> None:
    assert modality_of(channel) == modality


def test_one_volume_is_never_two_channels(tmp_path: Path) -> None:
    series = images("1", 12, "MR"), images("2", 4, "MR")
    found = picked(tmp_path, Wanted(("T1", "T2")), *series)
    assert found.cases == ()
    assert "give --series RULE once for each channel" in found.left[0].reason
    same = picked(tmp_path / "b", Wanted(("T1", "T2"), ("Modality=MR", "Modality=MR")), *series)
    (case,) = same.cases
    first, second = (source.dicom for source in case.channels)
    assert first is not second


def test_what_is_refused_says_why_itself(tmp_path: Path) -> None:
    gap = images("1", 6)
    del gap[2]
    found = picked(tmp_path, Wanted(("CT",)), gap, images("2", 5, "PT"))
    assert found.cases == ()
    (left,) = found.left
    assert left.broken
    assert "[GAP]" in left.reason
    ruled = picked(tmp_path / "b", Wanted(("CT",), ("SeriesNumber=1",)), gap, images("2", 5))
    assert "[GAP]" in ruled.left[0].reason


def test_a_refused_volume_that_is_passed_over_is_told(tmp_path: Path) -> None:
    gap = images("1", 9)
    del gap[2]
    found = picked(tmp_path, Wanted(("image",)), gap, images("2", 5, "PT"))
    assert [case.source for case in found.cases] == ["DICOM PT series 2, 5 images"]
    assert "1 that cannot be used passed over" in found.notes[0]


def test_all_is_for_models_of_one_channel(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="but the model has 2 channels"):
        picked(tmp_path, Wanted(("CT", "PET"), ("all",)), images("1"))
