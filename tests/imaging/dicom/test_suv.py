from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom.dataset import Dataset, FileDataset
from pydicom.uid import PositronEmissionTomographyImageStorage

from medseg.errors import InputError
from medseg.imaging.dicom.headers import quiet
from medseg.imaging.dicom.reading import read_dicom
from medseg.imaging.dicom.suv import Suv, SuvError, body_weight_suv, suv_of
from medseg.imaging.source import ReadOptions
from tests.imaging.build import PATIENT, change, save_all, some_series
from tests.imaging.dicom.pixels_build import subvolume

HALF_LIFE_S = 6586.2  # fluorine-18


def pet(n: int = 3, **what: Any) -> list[FileDataset]:
    """370 MBq at 12:00, scanned at 13:00, 70 kg; `what` changes values, those of the injection too."""
    injection = Dataset()
    injection.RadiopharmaceuticalStartTime = "120000"
    injection.RadionuclideTotalDose, injection.RadionuclideHalfLife = "370000000", str(HALF_LIFE_S)
    of_the_injection = {key: what.pop(key) for key in list(what) if key.startswith("Radio") and "Sequence" not in key}
    with quiet():
        change(injection, **of_the_injection)
    datasets = some_series(n, sop_class=PositronEmissionTomographyImageStorage).datasets()
    for z, ds in enumerate(datasets):
        ds.Modality, ds.Units, ds.DecayCorrection, ds.PatientWeight = "PT", "BQML", "START", "70"
        ds.CorrectedImage = ["DECY", "ATTN", "SCAT"]
        ds.SeriesDate = ds.AcquisitionDate = "20240229"
        ds.SeriesTime, ds.AcquisitionTime = "130000", f"13{z:02d}00.5"
        ds.RadiopharmaceuticalInformationSequence = [injection]
        change(ds, **what)
    return datasets


def after(minutes: float, dose_bq: float = 370e6, weight_kg: float = 70.0) -> float:
    """By the formula of the QIBA profile."""
    return weight_kg * 1000 / (dose_bq * math.exp(-math.log(2) * minutes * 60 / HALF_LIFE_S))


def test_by_hand() -> None:
    """370 MBq decay in one hour of F-18 to 253.314 MBq; 70000 g / 253.314e6 Bq."""
    found = suv_of(pet())
    assert found.factor == pytest.approx(2.76337e-4, rel=1e-5)
    assert found.said == "decay-corrected to the scan, 60 min after the injection"
    assert suv_of(pet(DecayCorrection="ADMIN")).factor == pytest.approx(70_000 / 370e6, rel=1e-12)


@pytest.mark.parametrize(
    ("what", "minutes"),
    [
        ({"RadiopharmaceuticalStartTime": "115500.000000"}, 65),
        ({"RadiopharmaceuticalStartTime": "1130"}, 90),
        ({"RadiopharmaceuticalStartTime": "12:15:30"}, 44.5),
        ({"RadiopharmaceuticalStartDateTime": "20240229123000.00"}, 30),
        ({"RadiopharmaceuticalStartDateTime": "202402291230"}, 30),
        # midnight, over the end of a leap year's February
        ({"RadiopharmaceuticalStartDateTime": "20240229234500", "SeriesDate": "20240301", "SeriesTime": "003000"}, 45),
        ({"RadiopharmaceuticalStartTime": "234500", "SeriesTime": "003000"}, 45),
        # zones: the scan at 13:00, an hour ahead of UTC, begins at 12:00 UTC
        ({"RadiopharmaceuticalStartDateTime": "20240229113000+0000", "TimezoneOffsetFromUTC": "+0100"}, 30),
        ({"RadiopharmaceuticalStartDateTime": "20240229073000-0500", "TimezoneOffsetFromUTC": "+0000"}, 30),
        # a series that was made later is corrected to the first acquisition
        ({"SeriesTime": "180000"}, 60 + 0.5 / 60),
    ],
)
def test_times(what: dict[str, str], minutes: float) -> None:
    if "SeriesDate" in what or what.get("SeriesTime") == "003000":
        what = {"AcquisitionDate": "20240301", "SeriesDate": "20240301", "AcquisitionTime": "003100", **what}
    assert suv_of(pet(**what)).factor == pytest.approx(after(minutes), rel=1e-9)


def test_an_image_that_is_an_suv_already() -> None:
    assert suv_of(pet(Units="GML", SUVType="BW")) == Suv(1.0, "it is stored as body-weight SUV")


@pytest.mark.parametrize(
    ("what", "said"),
    [
        ({"Units": None}, "Units is missing"),
        ({"Units": "CNTS"}, "Units is not BQML"),
        ({"Units": "GML"}, "Units is not BQML"),
        ({"Units": "GML", "SUVType": "LBM"}, "Units is not BQML"),
        ({"DecayCorrection": "NONE"}, "DecayCorrection is neither START nor ADMIN"),
        ({"DecayCorrection": None}, "DecayCorrection is missing"),
        ({"CorrectedImage": ["DECY"]}, "CorrectedImage lacks ATTN"),
        ({"CorrectedImage": ["ATTN", "SCAT"]}, "CorrectedImage lacks DECY"),
        ({"PatientWeight": None}, "PatientWeight is missing"),
        ({"PatientWeight": ""}, "PatientWeight is missing"),
        ({"PatientWeight": "0"}, "PatientWeight is not positive"),
        ({"PatientWeight": "70000"}, "PatientWeight is no weight in kg"),
        ({"RadiopharmaceuticalInformationSequence": None}, "RadiopharmaceuticalInformationSequence is missing"),
        ({"RadiopharmaceuticalInformationSequence": []}, "RadiopharmaceuticalInformationSequence is missing"),
        ({"RadionuclideTotalDose": None}, "RadionuclideTotalDose is missing"),
        ({"RadionuclideTotalDose": "370"}, "RadionuclideTotalDose is no dose in Bq"),
        ({"RadionuclideHalfLife": None}, "RadionuclideHalfLife is missing"),
        ({"RadiopharmaceuticalStartTime": None}, "RadiopharmaceuticalStartTime is missing"),
        ({"RadiopharmaceuticalStartTime": "131000"}, "RadiopharmaceuticalStartTime lies after the scan"),
        ({"RadiopharmaceuticalStartTime": "noon"}, "RadiopharmaceuticalStartTime is no time"),
        ({"RadiopharmaceuticalStartDateTime": "20240229130100"}, "does not fit the time of the scan"),
        ({"RadiopharmaceuticalStartDateTime": "20240228120000"}, "does not fit the time of the scan"),
        ({"RadiopharmaceuticalStartDateTime": "20240229"}, "holds no time of day"),
        ({"RadiopharmaceuticalStartDateTime": "20240229120000+0100"}, "TimezoneOffsetFromUTC is missing"),
        ({"SeriesTime": None}, "SeriesTime is missing"),
        ({"SeriesDate": ""}, "SeriesDate is missing"),
        ({"AcquisitionTime": None}, "AcquisitionTime is missing"),
    ],
)
def test_what_leaves_the_path_is_refused_with_its_tag(what: dict[str, Any], said: str) -> None:
    with pytest.raises(SuvError, match=said):
        suv_of(pet(**what))


def test_images_that_contradict_each_other() -> None:
    datasets = pet()
    datasets[1].Units = "CNTS"
    with pytest.raises(SuvError, match="Units differs"):
        suv_of(datasets)


def test_two_radiopharmaceuticals_are_refused() -> None:
    datasets = pet()
    datasets[0].RadiopharmaceuticalInformationSequence.append(Dataset())
    with pytest.raises(SuvError, match="holds several"):
        suv_of(datasets)


def test_a_refusal_names_the_case_and_no_one_else(tmp_path: Path) -> None:
    volume = subvolume(save_all(pet(PatientWeight=None), tmp_path / PATIENT))
    with pytest.raises(InputError) as caught:
        read_dicom(volume, "case-1", ReadOptions(suv=True))
    line = str(caught.value)
    assert line.startswith("case-1: [SUV] PatientWeight is missing; ")
    assert not any(part in line for part in (*PATIENT.split("^"), str(tmp_path)))
    assert read_dicom(volume, "case-1", ReadOptions()).notes == ()


def test_values_are_multiplied(tmp_path: Path) -> None:
    volume = subvolume(save_all(pet(), tmp_path))
    stored = read_dicom(volume, "case-1", ReadOptions()).volume.array
    reading = read_dicom(volume, "case-1", ReadOptions(suv=True))
    assert np.allclose(reading.volume.array, stored * after(60), rtol=1e-6)
    assert reading.notes == ("body-weight SUV (decay-corrected to the scan, 60 min after the injection)",)
    assert body_weight_suv(volume, "case-1").factor == pytest.approx(after(60))


def test_a_real_pet_is_an_suv_already(real_data: Path) -> None:
    volume = subvolume(sorted((real_data / "dicom_ct_pet" / "PET" / "dicom" / "image").iterdir()))
    stored, suv = (read_dicom(volume, "case-1", ReadOptions(suv=asked)) for asked in (False, True))
    assert np.array_equal(stored.volume.array, suv.volume.array)
    assert suv.notes == ("body-weight SUV (it is stored as body-weight SUV)",)
