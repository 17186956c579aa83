"""Body-weight SUV of a PET volume: the factor from stored activity concentration (Bq/ml) to g/ml.

Source: the vendor-neutral "happy path" of the Quantitative Imaging Biomarkers Alliance (FDG-PET/CT profile): activity
x body weight / injected dose, the dose decayed to the time that the image is corrected to. Whatever leaves that path
is refused with the name of the tag that does.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pydicom
from pydicom.dataset import Dataset

from medseg.errors import InputError
from medseg.imaging.dicom.headers import numbers, quiet, text
from medseg.imaging.dicom.volumes import SubVolume

_TAGS = (
    *("Units", "SUVType", "DecayCorrection", "CorrectedImage", "PatientWeight", "TimezoneOffsetFromUTC"),
    *("SeriesDate", "SeriesTime", "AcquisitionDate", "AcquisitionTime", "RadiopharmaceuticalInformationSequence"),
)
HEAVIEST_KG = 700.0
SMALLEST_DOSE_BQ = 1e5  # less is no dose but one given in MBq
LONGEST_UPTAKE = 10.0  # half-lives; more leaves nothing to be seen, so one of the times is wrong
LONGEST_GUESSED = timedelta(hours=12)  # across midnight, where only the time of day is given


class SuvError(ValueError):
    """A value that the SUV needs is missing, or cannot be right; the text names its tag."""


@dataclass(frozen=True, slots=True)
class Suv:
    """What stored values are multiplied by to give g/ml, and how that was found, in one line."""

    factor: float
    said: str


def body_weight_suv(volume: SubVolume, name: str) -> Suv:
    """The factor of a PET volume; 1 where it is stored as body-weight SUV already.

    Raises:
        InputError: SUV, with the tag that is missing, wrong, or differs between images.
    """
    try:
        with quiet():
            headers = [_header(path) for path in volume.paths]
            return suv_of(headers)
    except SuvError as error:
        fix = "read it in its stored units (without --suv), or export the series with this value"
        raise InputError(f"[SUV] {error}", name, fix) from None


def _header(path: Path) -> Dataset:
    try:
        return pydicom.dcmread(path, force=True, stop_before_pixels=True, specific_tags=list(_TAGS))
    except Exception as error:  # a parser on arbitrary bytes can fail in any way
        raise SuvError(f"a header cannot be read ({type(error).__name__})") from None


def suv_of(headers: list[Dataset]) -> Suv:
    """The factor from the headers of all images of a volume.

    Raises:
        SuvError: a value is missing, wrong, or differs between images.
    """
    units = _same(headers, "Units")
    if units == "GML" and _same(headers, "SUVType") == "BW":
        return Suv(1.0, "it is stored as body-weight SUV")
    if units != "BQML":
        raise SuvError("Units is not BQML" if units else "Units is missing")
    corrected = text(headers[0], "CorrectedImage").split("\\")
    for needed in ("ATTN", "DECY"):
        if corrected != [""] and needed not in corrected:
            raise SuvError(f"CorrectedImage lacks {needed}")
    weight_kg = _positive(headers[0], "PatientWeight")
    if weight_kg > HEAVIEST_KG:
        raise SuvError("PatientWeight is no weight in kg")
    dose_bq, said = _dose(headers)
    return Suv(1000.0 * weight_kg / dose_bq, said)


def _dose(headers: list[Dataset]) -> tuple[float, str]:
    """The injected dose in Bq as it is left at the time that the images are corrected to, and that time in words."""
    try:
        given = headers[0].get("RadiopharmaceuticalInformationSequence")
    except Exception as error:  # pydicom parses a sequence when it is asked for, and can fail in any way
        raise SuvError(f"RadiopharmaceuticalInformationSequence cannot be read ({type(error).__name__})") from None
    if not given or len(given) > 1:
        raise SuvError(f"RadiopharmaceuticalInformationSequence {'holds several' if given else 'is missing'}")
    dose_bq = _positive(given[0], "RadionuclideTotalDose")
    if dose_bq < SMALLEST_DOSE_BQ:
        raise SuvError("RadionuclideTotalDose is no dose in Bq")
    correction = _same(headers, "DecayCorrection")
    if correction == "ADMIN":
        return dose_bq, "decay-corrected to the injection"
    if correction != "START":
        raise SuvError("DecayCorrection is neither START nor ADMIN" if correction else "DecayCorrection is missing")
    half_life_s = _positive(given[0], "RadionuclideHalfLife")
    uptake_s = _uptake(headers, given[0]).total_seconds()
    if not 0 <= uptake_s <= LONGEST_UPTAKE * half_life_s:
        raise SuvError("RadiopharmaceuticalStartDateTime or StartTime does not fit the time of the scan")
    said = f"decay-corrected to the scan, {uptake_s / 60:.0f} min after the injection"
    return dose_bq * 2.0 ** (-uptake_s / half_life_s), said


def _same(headers: list[Dataset], keyword: str) -> str:
    said = {text(header, keyword) for header in headers}
    if len(said) > 1:
        raise SuvError(f"{keyword} differs between its images")
    return said.pop()


def _positive(header: Dataset, keyword: str) -> float:
    found = numbers(header, keyword)
    if not found:
        raise SuvError(f"{keyword} is missing")
    if found[0] <= 0:
        raise SuvError(f"{keyword} is not positive")
    return found[0]


def _uptake(headers: list[Dataset], given: Dataset) -> timedelta:
    """From the injection to the time that the images are corrected to."""
    zone = _zone(text(headers[0], "TimezoneOffsetFromUTC"))
    scan = _scan_start(headers)
    if moment := text(given, "RadiopharmaceuticalStartDateTime"):
        injected, its_zone = _date_time(moment)
        if its_zone is not None and zone is None:
            raise SuvError("TimezoneOffsetFromUTC is missing, though RadiopharmaceuticalStartDateTime has a time zone")
        if its_zone is not None and zone is not None:
            return scan.replace(tzinfo=zone) - injected.replace(tzinfo=its_zone)
        return scan - injected
    clock = text(given, "RadiopharmaceuticalStartTime")
    if not clock:
        raise SuvError("RadiopharmaceuticalStartTime is missing")
    uptake = scan - _moment(scan.strftime("%Y%m%d"), clock, "RadiopharmaceuticalStartTime")
    if uptake >= timedelta(0):
        return uptake
    uptake += timedelta(days=1)  # only the time of day is given, and midnight passed
    if uptake > LONGEST_GUESSED:
        raise SuvError("RadiopharmaceuticalStartTime lies after the scan")
    return uptake


def _scan_start(headers: list[Dataset]) -> datetime:
    """The time that decay is corrected to: the start of the series, unless post-processing gave it a later time."""
    acquired = min(_stated(header, "Acquisition") for header in headers)
    series = min(_stated(header, "Series") for header in headers)
    return min(series, acquired)


def _stated(header: Dataset, what: str) -> datetime:
    for keyword in (f"{what}Date", f"{what}Time"):
        if not text(header, keyword):
            raise SuvError(f"{keyword} is missing")
    return _moment(text(header, f"{what}Date"), text(header, f"{what}Time"), f"{what}Time")


def _moment(date: str, clock: str, tag: str) -> datetime:
    """A DICOM date (DA) and time of day (TM), of which minutes and seconds may be missing."""
    digits, _, fraction = clock.replace(":", "").partition(".")
    try:
        moment = datetime.strptime(f"{date}{digits:0<6}", "%Y%m%d%H%M%S")  # noqa: DTZ007
        return moment + timedelta(seconds=float(f"0.{fraction or 0}"))
    except ValueError:
        raise SuvError(f"{tag} is no time") from None


def _date_time(said: str) -> tuple[datetime, timezone | None]:
    """A DICOM date and time (DT), with its offset from UTC if it has one."""
    at = max(said.find("+"), said.find("-"))
    local, offset = (said[:at], said[at:]) if at > 0 else (said, "")
    if len(local) < 12:
        raise SuvError("RadiopharmaceuticalStartDateTime holds no time of day")
    return _moment(local[:8], local[8:], "RadiopharmaceuticalStartDateTime"), _zone(offset)


def _zone(offset: str) -> timezone | None:
    if not offset:
        return None
    try:
        minutes = int(offset[1:3]) * 60 + int(offset[3:5])
    except ValueError:
        raise SuvError("TimezoneOffsetFromUTC is no offset") from None
    return timezone(timedelta(minutes=-minutes if offset[0] == "-" else minutes))
