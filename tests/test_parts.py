"""Shares of a folder are stable, and nobody works on another's."""

from __future__ import annotations

import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medseg.errors import InputError
from medseg.parts import Part, claimed, part_from, put_away

ALL = Part()
HOLDER = """
import sys
from pathlib import Path
from medseg.parts import Part, claimed
with claimed(Path(sys.argv[1]), Part()):
    print("held", flush=True)
    sys.stdin.read()
"""


@given(st.sets(st.text(max_size=20), max_size=30), st.integers(1, 6), st.text(max_size=20))
def test_every_scan_is_in_exactly_one_part_whatever_others_there_are(names: set[str], of: int, more: str) -> None:
    parts = [Part(number, of) for number in range(of)]
    shares = [{name for name in names if part.holds(name)} for part in parts]
    assert sum(map(len, shares)) == len(names)
    assert set().union(*shares) == names
    with_one_more = [{name for name in names | {more} if part.holds(name)} for part in parts]
    assert all(before <= after for before, after in zip(shares, with_one_more, strict=True))


def test_parts_are_about_equal() -> None:
    for of in (2, 3, 8):
        shares = [sum(Part(number, of).holds(f"case{k:04d}") for k in range(4000)) for number in range(of)]
        assert max(shares) < 1.15 * 4000 / of


@pytest.mark.parametrize(("text", "part"), [("0/2", Part(0, 2)), (" 1 / 2 ", Part(1, 2)), ("0/1", Part())])
def test_a_part_is_read(text: str, part: Part) -> None:
    assert part_from(text) == part


@pytest.mark.parametrize("text", ["", "2/2", "3/2", "0/0", "-1/2", "1", "a/b", "1/2/3", "0.5/2"])
def test_what_is_no_part_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="is no part"):
        part_from(text)


@pytest.mark.parametrize(
    ("first", "second", "said"),
    [
        (ALL, ALL, "another medseg works on it at this moment"),
        (Part(0, 2), Part(0, 2), "another medseg works on part 0/2 of it at this moment"),
        (Part(0, 2), ALL, "another medseg works on part 0/2 of it, this would be all of it"),
        (ALL, Part(1, 2), "another medseg works on all of it, this would be part 1/2"),
        (Part(0, 2), Part(1, 3), "another medseg works on part 0/2 of it, this would be part 1/3"),
        (Part(1, 12), Part(1, 2), "another medseg works on part 1/12 of it, this would be part 1/2"),
    ],
)
def test_who_is_in_the_way_is_refused(tmp_path: Path, first: Part, second: Part, said: str) -> None:
    with claimed(tmp_path, first), pytest.raises(InputError, match=said) as refused, claimed(tmp_path, second):
        pass
    assert len(str(refused.value).splitlines()) == 1
    with claimed(tmp_path, second):
        pass


def test_parts_of_one_number_go_on_side_by_side(tmp_path: Path) -> None:
    with ExitStack() as stack:
        for number in range(3):
            stack.enter_context(claimed(tmp_path, Part(number, 3)))
    assert not list((tmp_path / "cases").glob(".running*"))


def test_what_killed_ones_leave_behind_goes_away(tmp_path: Path) -> None:
    (tmp_path / "cases").mkdir()
    (tmp_path / "cases" / ".running-0-of-2.lock").touch()
    with claimed(tmp_path, ALL):
        assert [path.name for path in (tmp_path / "cases").glob(".running*")] == [".running-0-of-1.lock"]


def test_who_was_killed_is_in_nobodys_way(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, tmp_path], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"held\n"
        with pytest.raises(InputError), claimed(tmp_path, ALL):
            pass
        process.kill()
        process.wait(timeout=60)
    assert list((tmp_path / "cases").glob(".running*"))
    with claimed(tmp_path, Part(0, 2)), claimed(tmp_path, Part(1, 2)):
        pass
    with claimed(tmp_path, ALL):
        pass


def test_a_folder_of_passing_use_goes_with_the_last_who_works_there(tmp_path: Path) -> None:
    shared = tmp_path / "shared"
    with claimed(shared, Part(0, 2), "."):
        with claimed(shared, Part(1, 2), "."):
            (shared / "record").touch()
        put_away(shared)
        assert (shared / "record").exists()
    (shared / ".running-1-of-2.lock").touch()  # of one that was killed
    put_away(shared)
    assert not shared.exists()
    put_away(shared)
    assert not shared.exists()
