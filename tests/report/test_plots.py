from __future__ import annotations

import math
import re
from xml.dom.minidom import parseString

import numpy as np
import pytest

from medseg.report.plots import Dot, Level, Spot, Spread, curves, scatter, signed_histograms, strips
from medseg.report.svg import Scale, label, log_ticks, ticks
from tests.report.test_page import HOSTILE


def points(figure) -> list[str]:
    parseString(str(figure.svg))  # noqa: S318  well-formed, and our own
    assert "style=" not in figure.svg
    return re.findall(r"<title>(.*?)</title>", figure.svg, flags=re.DOTALL)


@pytest.mark.parametrize(
    ("low", "high", "wanted"),
    [
        (0, 1, [0, 0.2, 0.4, 0.6, 0.8, 1]),
        (-3, 3, [-2, 0, 2]),
        (0, 0, [0]),
        (0.3, 0.31, [0.3, 0.302, 0.304, 0.306, 0.308, 0.31]),
    ],
)
def test_ticks_are_round(low, high, wanted):
    assert ticks(low, high) == pytest.approx(wanted)


def test_log_ticks_and_scales():
    assert log_ticks(0.5, 200) == [1, 10, 100]
    assert log_ticks(1.5, 8) == [2, 5]
    scale = Scale(1, 100, 0, 100, log=True)
    assert scale(10) == pytest.approx(50)
    assert scale(0) == 0
    assert label(-0.5) == "\u22120.5"


def test_every_case_is_a_point_and_infinite_ones_stand_at_the_end():
    dots = [Dot(value, f"case {value}", "case-1") for value in (0.1, 0.5, math.inf)]
    titles = points(strips("HD95", "", {"liver": dots, HOSTILE: dots[:1]}, "mm"))
    assert len(titles) == 4
    assert "case inf: infinite mm" in titles


def test_many_structures_are_boxes_with_their_outliers():
    values = [0.8, 0.81, 0.82, 0.83, 0.84, 0.1]
    groups = {f"s{n}": [Dot(v, f"{v}", "case-1") for v in values] for n in range(100)}
    assert len(points(strips("Dice", "", groups, "", (0.0, 1.0)))) == 100


def test_nothing_and_one_case_can_be_drawn():
    points(strips("Dice", "", {"a": [Dot(0.5, "x", "case-1")]}))
    points(strips("Dice", "", {"a": [Dot(math.inf, "x", "case-1")]}))
    points(scatter("", "", {}, "x", "y", True))
    points(scatter("", "", {"a": [Spot(0.001, 0.0, "x", "case-1")]}, "x", "y", True, (Level(0.0, "0"),)))
    points(curves("", "", {"a": [(1.0, 0.5)]}, "x", "y"))
    points(signed_histograms("", "", np.arange(-2.25, 2.5, 0.5), {}))


def test_signed_distances_are_shared_out():
    edges = np.arange(-2.25, 2.5, 0.5)
    counts = np.array([3.0, 0, 1, 0, 0, 0, 1, 0, 5])
    spread = Spread(10.0, counts, 1.0)
    assert spread.parts(edges) == pytest.approx((3 / 20, 12 / 20, 5 / 20))
    figure = signed_histograms("", "", edges, {"liver": spread})
    assert figure.rows == (("liver", "15.0 %", "60.0 %", "25.0 %"),)
    points(figure)
