from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from medseg.errors import InputError
from medseg.imaging.dicom.select import Choice, choose, parse_rule
from medseg.imaging.dicom.volumes import Frame, SubVolume, Verdict
from medseg.imaging.grid import Grid


def volume(
    n: int = 100, step: float = 1.0, modality: str = "CT", state: Verdict | None = None, **tags: str
) -> SubVolume:
    """A volume as rules see it; its header texts may hold a name."""
    known = {"Modality": modality, "ImageType": "ORIGINAL\\PRIMARY\\AXIAL", "SeriesDescription": "Müller^Jörg", **tags}
    return SubVolume(
        series_uid="1.2",
        study_uid="1",
        patient_id="77",
        frame_of_reference="1.3",
        modality=modality,
        number=1,
        of=1,
        frames=tuple(Frame(Path("x"), k, str(k)) for k in range(n)),
        planes=None,
        grid=Grid((4, 4, n), np.diag([1.0, 1.0, step, 1.0])),
        verdict=state or Verdict("OK"),
        tags=known,
        shown={},
    )


TAGS: Mapping[str, str] = {
    "ConvolutionKernel": "I31f\\3",
    "SliceThickness": "1.50",
    "EchoTime": "4.6",
    "SeriesDescription": "Abdomen ARTERIAL 1,5 mm",
    "SeriesNumber": "12",
}


@pytest.mark.parametrize(
    ("rule", "fits"),
    [
        ("Modality=CT", True),
        ("modality=ct", True),
        ("Modality=MR", False),
        ("!Modality=MR", True),
        ("ConvolutionKernel=I3*", True),
        ("ConvolutionKernel=I31f", True),
        ("ConvolutionKernel=I31f\\3", True),
        ("ConvolutionKernel=B*", False),
        ("ConvolutionKernel=I[0-9]1?", True),
        ("SliceThickness=0.5..2", True),
        ("SliceThickness=..1.5", True),
        ("SliceThickness=1.5..", True),
        ("SliceThickness=1.6..", False),
        ("SliceThickness=-1e1..1e1", True),
        ("!SliceThickness=0.5..2", False),
        ("SliceThickness=1.5", True),
        ("SliceThickness=1.500", True),
        ("SliceThickness=1.51", False),
        ("SeriesNumber=1", False),
        ("SeriesDescription=0..9", False),
        ("SeriesDescription~arterial|portal", True),
        ("SeriesDescription~^arterial", False),
        ("!SeriesDescription~portal", True),
        ("SeriesDescription~1\\,5", True),
        ("SeriesDescription=*1\\,5 mm", True),
        ("ImageType=ORIGINAL", True),
        ("ImageType=*SECONDARY*", False),
        ("!ImageType=*SECONDARY*", True),
        ("ImageType=ORIGINAL\\PRIMARY*", True),
        ("EchoTime=4.6, Modality = CT ,!ImageType=DERIVED", True),
        ("EchoTime=4.6,Modality=MR", False),
        ("ProtocolName=*", False),
        ("!ProtocolName=*", True),
        ("ProtocolName~.*", False),
    ],
)
def test_rules(rule: str, fits: bool) -> None:
    assert parse_rule(rule).fits(volume(**TAGS)) == fits


@pytest.mark.parametrize(
    ("rule", "said"),
    [
        ("", "no condition"),
        ("CT", "no condition"),
        ("Modality=", "no condition"),
        ("Modality=CT,", "no condition"),
        ("PatientName=x", "known: AcquisitionNumber, .*Volume"),
        ("SliceThickness=2..1", "empty"),
        ("SliceThickness=1.2.3..4", "no range"),
        ("SeriesDescription~(", "no regular expression"),
    ],
)
def test_rules_that_cannot_be_read_are_explained(rule: str, said: str) -> None:
    with pytest.raises(InputError, match=said) as caught:
        parse_rule(rule)
    assert "\n" not in str(caught.value)


def the(choice: Choice) -> SubVolume:
    assert choice.volume is not None
    assert choice.candidates == ()
    assert "Müller" not in choice.why
    return choice.volume


def test_a_single_volume_is_chosen() -> None:
    one = volume()
    assert the(choose([one], None)) is one
    assert choose([one], None).why == "the only one"


@pytest.mark.parametrize(
    ("better", "worse", "why"),
    [
        (volume(modality="PT", n=10, ImageType="DERIVED\\SECONDARY"), volume(), "PT"),
        (volume(n=10, ImageType="ORIGINAL\\PRIMARY"), volume(ImageType="DERIVED\\PRIMARY\\AXIAL"), "ORIGINAL"),
        (volume(n=10), volume(ImageType="ORIGINAL\\SECONDARY"), "ORIGINAL"),
        (volume(n=100, step=5), volume(n=90, step=1), "most slices"),
        (volume(n=100, step=1.0), volume(n=109, step=1.1), "thinnest"),
    ],
)
def test_the_better_of_two_is_chosen(better: SubVolume, worse: SubVolume, why: str) -> None:
    for both in ([better, worse], [worse, better]):
        choice = choose(both, None, better.modality)
        assert the(choice) is better
        assert why in choice.why


def test_equals_are_never_chosen_from() -> None:
    alike = [volume(n=100, step=1.0), volume(n=95, step=1.09), volume(n=40), volume(ImageType="DERIVED\\PRIMARY")]
    choice = choose(alike, None)
    assert choice.volume is None
    assert choice.candidates == tuple(alike[:2])
    assert choice.why == "2 of them are alike"


def test_a_rule_comes_before_the_score() -> None:
    thick, thin = volume(n=20, step=5, SliceThickness="5"), volume(n=100, SliceThickness="1")
    choice = choose([thick, thin], parse_rule("SliceThickness=3.."))
    assert the(choice) is thick
    assert choice.why == "the only one that the rule fits"
    assert the(choose([thick, thin], parse_rule("Modality=CT"))) is thin


def test_what_is_refused_is_never_chosen() -> None:
    refused = volume(state=Verdict("REFUSED", ("GAP",)))
    fine = volume(n=10, state=Verdict("CHOOSE", ("MULTI_VOLUME",)))
    assert the(choose([refused, fine], None)) is fine
    assert choose([refused], None).candidates == ()
    assert choose([refused], parse_rule("Modality=CT")).volume is None


def test_a_rule_that_fits_none() -> None:
    choice = choose([volume(), volume()], parse_rule("Modality=MR"))
    assert (choice.volume, choice.candidates, choice.why) == (None, (), "the rule fits none of them")


def test_another_modality_is_only_taken_by_a_rule() -> None:
    mr = volume(modality="MR")
    refused = choose([mr], None, "CT")
    assert (refused.volume, refused.candidates, refused.why) == (None, (), "none of them is CT")
    assert the(choose([mr], parse_rule("Modality=MR"), "CT")) is mr
    assert the(choose([mr], None, "MRI")) is mr
    assert the(choose([mr], None, "T1")) is mr
    assert choose([], None, "CT").why == "none of them can be used"
