from __future__ import annotations

from medseg.planning.check import odd_cases
from tests.planning.build import looked_at


def test_a_slice_among_volumes_is_bad_by_name():
    cases = [looked_at("a"), looked_at("flat", shape=(40, 40, 1)), looked_at("b")]
    (finding,) = odd_cases(cases)
    assert (finding.case, finding.bad) == ("flat", True)
    assert "40 x 40 x 1" in finding.what


def test_a_volume_among_slices_is_bad_by_name():
    cases = [looked_at("a", shape=(1, 40, 40)), looked_at("b", shape=(40, 40, 1)), looked_at("thick")]
    assert [(f.case, f.bad) for f in odd_cases(cases)] == [("thick", True)]


def test_where_it_is_even_volumes_are_kept():
    assert [f.case for f in odd_cases([looked_at("a"), looked_at("flat", shape=(40, 40, 1))])] == ["flat"]


def test_an_empty_label_map_is_told_but_used():
    (finding,) = odd_cases([looked_at("a"), looked_at("empty", centres={})])
    assert (finding.case, finding.bad) == ("empty", False)


def test_nothing_is_odd():
    assert odd_cases([]) == []
    assert odd_cases([looked_at("a"), looked_at("b")]) == []
