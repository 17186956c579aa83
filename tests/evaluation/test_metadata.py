"""Tables of cases as hospitals write them, and breakdowns by them."""

from __future__ import annotations

import pytest

from medseg.errors import InputError
from medseg.evaluation.cohort import summarise
from medseg.evaluation.metadata import NOT_GIVEN, left_out, read_metadata
from medseg.evaluation.records import Scores
from tests.evaluation.test_cohort import row

TABLE = "case,site,slice_mm,patient\na,Ulm,1,Maier\nb,Bonn,2.5,Huber\nc.nii.gz,Ulm,1,Maier\nd_0000.nii.gz,,5,\n"


def table(folder, text, encoding="utf-8"):
    path = folder / "cases.csv"
    path.write_bytes(text.encode(encoding))
    return path


def test_a_table(tmp_path):
    found = read_metadata(table(tmp_path, TABLE))
    assert found.columns == ("site", "slice_mm")
    assert found.patients == {"a": 1, "b": 2, "c": 1}
    assert found.values["d"] == {"site": "", "slice_mm": "5"}
    assert found.groups("site", "abcd") == {"Bonn": ["b"], "Ulm": ["a", "c"], NOT_GIVEN: ["d"]}
    assert found.groups("slice_mm", "abcd") == {"1": ["a", "c"], "2.5": ["b"], "5": ["d"]}
    assert "Maier" not in repr(found)


@pytest.mark.parametrize("separator", [",", ";", "\t"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_however_it_is_written(tmp_path, separator, encoding, end):
    text = TABLE.replace(",", separator).replace("\n", end)
    plain = read_metadata(table(tmp_path, TABLE))
    found = read_metadata(table(tmp_path, text, encoding))
    assert (found.columns, found.values, found.patients) == (plain.columns, plain.values, plain.patients)


def test_the_first_column_names_cases_unless_one_is_called_so(tmp_path):
    assert set(read_metadata(table(tmp_path, "id,site\na,Ulm\n")).values) == {"a"}
    assert set(read_metadata(table(tmp_path, 'site,Case\n"Ulm, West",a\n\n')).values) == {"a"}


def test_german_numbers(tmp_path):
    lines = "".join(f"c{k};{k},5\n" for k in range(8))
    found = read_metadata(table(tmp_path, "case;mm\n" + lines))
    groups = found.groups("mm", [f"c{k}" for k in range(8)])
    assert list(groups) == ["up to 1.5", "over 1.5 to 3.5", "over 3.5 to 5.5", "over 5.5"]
    assert [len(own) for own in groups.values()] == [2, 2, 2, 2]


def test_numbers_with_ties_and_one_that_is_none(tmp_path):
    lines = [*(f"c{k},1" for k in range(24)), *(f"d{k},{k + 2}" for k in range(7)), "e,", "f,inf"]
    found = read_metadata(table(tmp_path, "case,mm\n" + "\n".join(lines)))
    cases = [line.split(",")[0] for line in lines[:-1]]
    assert {value: len(own) for value, own in found.groups("mm", cases).items()} == {
        "up to 1": 24,
        "over 1": 7,
        NOT_GIVEN: 1,
    }
    assert found.numbers("mm", [*cases, "f"]) is None


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("case,site\na,Ulm\na.nii.gz,Bonn\n", "lines 2 and 3 are of one case; keep one of them"),
        ("case,site,site\na,1,2\n", "has two columns site; give each its own name"),
        ("case,site\n", "holds no line of a case"),
        ("", "holds no line of a case"),
        ("case,site\na,b,c\n", "line 2 has more cells than there are columns"),
        ("site,case\nUlm\n", "line 2 names no case; fill the column case"),
    ],
)
def test_what_is_no_table(tmp_path, text, said):
    with pytest.raises(InputError, match=said):
        read_metadata(table(tmp_path, text))


def test_what_cannot_be_read(tmp_path):
    with pytest.raises(InputError, match="there is no such file"):
        read_metadata(tmp_path / "none.csv")
    with pytest.raises(InputError, match="is not UTF-8 text; save it as CSV in UTF-8"):
        read_metadata(table(tmp_path, "case,site\na,Köln\n", "latin-1"))


def test_what_cannot_be_broken_down_by(tmp_path):
    found = read_metadata(table(tmp_path, TABLE))
    found.check(["site", "slice_mm"])
    with pytest.raises(InputError, match="there is no column scanner; it has site, slice_mm"):
        found.check(["site", "scanner"])
    with pytest.raises(InputError, match="patients are no group"):
        found.check(["patient"])
    many = read_metadata(table(tmp_path, "case,note,n\n" + "".join(f"c{k},text {k},{k}\n" for k in range(60))))
    many.check(["n"])
    with pytest.raises(InputError, match="column note has 60 different texts"):
        many.check(["note"])


def test_what_is_left_out_is_told(tmp_path):
    found = read_metadata(table(tmp_path, TABLE))
    assert left_out(found, "abcd") == ()
    assert left_out(found, "bxyz") == (
        "3 case(s) of cases.csv are not scored",
        f"3 scored case(s) are not in cases.csv: their group is {NOT_GIVEN}",
    )


def of_sites(tmp_path, **more):
    """Ulm has six cases of Dice .9, Bonn two of .5, and nothing is known of one that is missed."""
    lines = [*(f"u{k},Ulm,p{k // 2}" for k in range(6)), "b0,Bonn,x", "b1,Bonn,y"]
    metadata = read_metadata(table(tmp_path, "case,site,patient\n" + "\n".join(lines)))
    rows = [row(f"u{k}", name, dice=0.9 + 0.001 * k) for k in range(6) for name in ("liver", "spleen")]
    rows += [row(f"b{k}", dice=0.5, distance=9.0) for k in range(2)] + [row("z", status="missed")]
    return summarise(rows, {one.case: 100.0 for one in rows}, metadata=metadata, by=["site"], **more)


def test_strata(tmp_path):
    scores = of_sites(tmp_path)
    assert scores.patients == {"b0": 4, "b1": 5, **{f"u{k}": 1 + k // 2 for k in range(6)}}
    bonn, ulm, rest = scores.strata
    assert [(one.value, one.n, one.n_patients) for one in scores.strata] == [
        ("Bonn", 2, 2),
        ("Ulm", 6, 3),
        (NOT_GIVEN, 1, 1),
    ]
    assert (bonn.warning, ulm.warning) == (
        "2 case(s) are too few to tell anything of this group",
        "6 cases of 3 patient(s) are too few to tell anything of this group",
    )
    assert set(ulm.structures) == {"liver", "spleen"}
    assert set(ulm.means) == {"dice", "nsd", "hd95_mm"}
    assert ulm.structures["liver"]["dice"].mean == pytest.approx(0.9025)
    assert ulm.structures["liver"]["dice"].mean_low is None
    assert rest.structures["liver"]["hd95_mm"].mean_penalised == 100
    assert bonn.means["dice"].mean == 0.5
    assert Scores.model_validate_json(scores.model_dump_json()) == scores
    assert "groups by site" in scores.methods


def test_patients_that_are_said_count_more_than_the_table(tmp_path):
    scores = of_sites(tmp_path, patients={})
    assert scores.patients == {}
    ulm = scores.strata[1]
    assert (ulm.n_patients, ulm.warning) == (6, "")
    assert ulm.structures["liver"]["dice"].mean_low < 0.9025 < ulm.structures["liver"]["dice"].mean_high
    assert ulm.means["dice"].mean_low is not None


def test_no_such_column(tmp_path):
    metadata = read_metadata(table(tmp_path, TABLE))
    with pytest.raises(InputError, match="there is no column scanner"):
        summarise([row("a")], {"a": 1.0}, metadata=metadata, by=["scanner"])
    assert summarise([row("a")], {"a": 1.0}, metadata=metadata).strata == ()
