from __future__ import annotations

import re

import numpy as np
import pytest

from medseg.imaging.finding import Finding
from medseg.planning.checks.check import check_cases, failure, told
from tests.planning.check_build import case, cases, seen, sketches, structure, whole

NAMES = {1: "liver"}


def found(looked, names=None):
    return [(f.case, f.code, f.how_bad) for f in check_cases(looked, names or NAMES)]


def test_nothing_is_odd():
    assert found([]) == []
    for n in (1, 2, 5, 30):
        assert found(cases(n)) == []


def test_a_slice_among_volumes_is_unusable_by_name():
    (finding,) = check_cases(cases(4, {1: {"shape": (40, 40, 1)}}), NAMES)
    assert (finding.case, finding.code, finding.how_bad) == ("c01", "slice", "unusable")
    assert "40 x 40 x 1" in finding.what


def test_a_volume_among_slices_is_unusable_by_name():
    flat = {0: {"shape": (1, 40, 40)}, 1: {"shape": (40, 40, 1)}}
    assert found(cases(3, flat)) == [("c02", "slice", "unusable")]


def test_where_it_is_even_volumes_are_kept():
    assert found(cases(2, {1: {"shape": (40, 40, 1)}})) == [("c01", "slice", "unusable")]


def test_a_case_that_is_set_aside_is_not_compared():
    both = {"whole": (whole(digest="same", seed=99),)}
    assert found(cases(4, {1: {**both, "shape": (40, 40, 1)}, 2: both})) == [("c01", "slice", "unusable")]


def test_a_constant_scan_is_unusable_a_constant_channel_suspect():
    flat = whole(low=3, high=3)
    assert found(cases(4, {1: {"whole": (flat,)}})) == [("c01", "constant", "unusable")]
    two = cases(4, whole=(whole(), whole()), modalities=("T1", "T2"), channels=sketches(0, 1) * 2)
    mixed = [c.model_copy(update={"whole": (whole(seed=k), whole(seed=50 + k))}) for k, c in enumerate(two)]
    mixed[1] = mixed[1].model_copy(update={"whole": (mixed[1].whole[0], flat)})
    (finding,) = check_cases(mixed, NAMES)
    assert (finding.case, finding.how_bad) == ("c01", "suspect")
    assert finding.what == "all voxels have the same value in channel T2"


def test_an_empty_label_map_is_suspect_many_are_noted():
    assert found(cases(4, {1: {"structures": ()}})) == [("c01", "empty", "suspect")]
    many = {k: {"structures": ()} for k in range(4)}
    assert {how_bad for _, _, how_bad in found(cases(12, many))} == {"note"}


def test_a_structure_that_one_case_lacks_is_noted():
    names = {1: "liver", 2: "spleen", 3: "aorta"}
    whole_body = tuple(structure(value) for value in names)
    looked = cases(12, {3: {"structures": whole_body[:1]}}, structures=whole_body)
    (finding,) = check_cases(looked, names)
    assert (finding.case, finding.how_bad) == ("c03", "note")
    assert finding.what == "lacks spleen, aorta, which all 11 others have"
    assert found(cases(12, {k: {"structures": whole_body[:1]} for k in (3, 4)}, structures=whole_body), names) == []


@pytest.mark.parametrize(("outside", "how_bad"), [(5, "note"), (50, "suspect")])
def test_labels_where_the_scan_shows_nothing(outside, how_bad):
    (finding,) = check_cases(cases(4, {1: {"outside": outside}}), NAMES)
    assert (finding.case, finding.code, finding.how_bad) == ("c01", "outside", how_bad)
    assert finding.what == f"{outside} of its 1000 labelled voxels lie where the scan shows nothing"


def test_two_empty_label_maps_of_six_are_meant():
    assert {h for _, _, h in found(cases(6, {1: {"structures": ()}, 4: {"structures": ()}}))} == {"note"}


def test_patients_with_several_cases_are_noted():
    looked = cases(6, {1: {"patient": "p"}, 4: {"patient": "p"}})
    (finding,) = check_cases(looked, NAMES)
    assert (finding.case, finding.code, finding.how_bad) == ("c01", "patient", "note")
    assert finding.what == "is of the same patient as c04"


def test_many_patients_with_several_cases_are_noted_once():
    looked = cases(20, {k: {"patient": f"p{k // 2}"} for k in range(20)})
    (finding,) = check_cases(looked, NAMES)
    assert (finding.case, finding.what) == ("", "10 of 10 patients have several cases, up to 2")


def test_the_worst_come_first():
    looked = cases(8, {0: {"patient": "p"}, 1: {"patient": "p"}, 5: {"structures": ()}, 7: {"shape": (40, 40, 1)}})
    assert [how_bad for _, _, how_bad in found(looked)] == ["unusable", "suspect", "note"]


def test_a_case_with_another_spacing_is_not_told_twice():
    assert found(cases(8, {2: {"spacing_mm": (9.0, 9.0, 9.0)}})) == [("c02", "spacing", "suspect")]


def test_cases_of_an_older_look_are_no_obstacle():
    bare = [c.model_copy(update={"whole": (), "modalities": (), "labels": ""}) for c in cases(8)]
    assert found(bare) == []


@pytest.mark.parametrize(
    ("said", "code", "todo"),
    [
        ("[TRUNCATED] is cut short; copy or export it again", "truncated", "copy or export it again"),
        ("a.nii.gz [DAMAGED] is damaged: its checksum is wrong", "truncated", "copy or export it again"),
        ("[DAMAGED] its header is damaged: it states the shape (1, 2)", "truncated", "copy or export it again"),
        ("[OTHER_SHAPE] its labels have the shape (1, 2, 3), its scan (4, 5, 6); mend", "shape", "mend"),
        ("[OTHER_SHAPE] its channel 1 has shape (1, 2, 3), its image (4, 5, 6)", "shape", "from the same scan"),
        ("[OTHER_GRID] its labels lie up to 3 mm away from their places on its scan", "affine", "from the same scan"),
        ("[GAP, NO_OVERLAP] lies elsewhere", "affine", "from the same scan"),
        ("[UNKNOWN_VALUE] its label holds value(s) 9", "value", "name it in the dataset's labels"),
        ("[UNKNOWN_VALUE] its label names spleen; add the name to the labels", "value", "add the name"),
        ("[NOT_FOUND] imagesTr/a.nii.gz is missing", "missing", "put the file there"),
        ("is too large for the memory of this machine", "unreadable", "export it again"),
        ("[GAP] slices are missing between 1 and 9 mm", "unreadable", "export it again"),
        ("[GEOMETRY] another library places its corners 3 mm away", "unreadable", "export it again"),
    ],
)
def test_errors_on_reading_are_findings(said, code, todo):
    finding = failure("c", said)
    assert (finding.case, finding.code, finding.how_bad) == ("c", code, "unusable")
    assert todo in finding.todo
    said = said.split("; ")[0]
    assert finding.what == (said if code == "unreadable" else re.sub(r"\[.*\] ", "", said))


def test_a_finding_in_a_line():
    finding = Finding(case="c", code="hu", what="is odd", how_bad="suspect", todo="mend it")
    assert told(finding) == "c: is odd; mend it"
    assert told(finding.model_copy(update={"case": ""})) == "data set: is odd; mend it"


def test_a_finding_is_written_and_read():
    (finding,) = check_cases([case("a", whole=(seen(np.zeros((4, 4, 4), np.float32)),))], NAMES)
    assert Finding.model_validate_json(finding.model_dump_json()) == finding
