from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medseg.imaging.overlaps import Overlap, lost, overlaps, told
from tests.imaging.labelled_build import box, label, overlapping, series

NAMES = {1: "a", 2: "b", 3: "c"}


@pytest.mark.parametrize("kind", ["seg", "rtstruct"])
def test_shares_are_those_of_the_loser(tmp_path: Path, kind: Any) -> None:
    volume = series(tmp_path / "in")
    arrays = {1: box(at=2), 2: box(at=1), 3: box(at=5)}
    path = overlapping(tmp_path / "a.dcm", volume, arrays, NAMES, kind)
    found = overlaps(path, volume.grid)
    assert [(one.loser, one.winner) for one in found] == [(1, 2), (1, 3)]
    assert [one.share for one in found] == pytest.approx([9 / 16, 1 / 16])
    assert lost(found) == ()
    assert told(found, NAMES) == ("[OVERLAP] a loses 56% of its voxels to b, a loses 6% of its voxels to c",)
    assert overlaps(path, volume.grid, wanted=["B", "C"]) == ()
    apart = label(tmp_path / "b.dcm", volume, box(at=1) + 2 * box(at=5), NAMES, kind)
    assert overlaps(apart, volume.grid) == ()


def test_layers_of_a_file(tmp_path: Path) -> None:
    fields = "".join(
        f"Segment{n}_Name:={name}\nSegment{n}_LabelValue:=1\nSegment{n}_Layer:={n}\n" for n, name in enumerate("ab")
    )
    header = (
        "NRRD0004\ntype: uint8\ndimension: 4\nspace: left-posterior-superior\nsizes: 2 2 1 1\nencoding: raw\n"
        "space directions: none (1,0,0) (0,1,0) (0,0,1)\nkinds: list domain domain domain\nspace origin: (0,0,0)\n"
    )
    path = tmp_path / "a.seg.nrrd"
    path.write_bytes(f"{header}{fields}\n".encode() + bytes([1, 1, 1, 0]))
    (one,) = overlaps(path)
    assert (one.loser, one.winner, one.share) == (1, 2, 0.5)


@given(st.lists(st.tuples(st.integers(1, 9), st.integers(10, 12)), min_size=1, max_size=20, unique=True))
def test_what_is_lost_is_named_once(pairs: list[tuple[int, int]]) -> None:
    n = {loser: sum(one == loser for one, _ in pairs) for loser, _ in pairs}
    found = [Overlap(loser, winner, 1 / n[loser]) for loser, winner in pairs]
    assert sorted(one.loser for one in lost(found)) == sorted(n)


def test_many_pairs_stay_one_line() -> None:
    found = [Overlap(1, k, 0.001) for k in range(2, 11)]
    (line,) = told(found, {k: f"s{k}" for k in range(1, 11)})
    assert line.count("less than 1%") == 5
    assert line.endswith("and 4 more")
