"""Who works on which part of an output folder."""

from __future__ import annotations

import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest

from medseg.errors import InputError
from medseg.inference.asked import Part
from medseg.inference.claims import claimed

ALL = Part()
HOLDER = """
import sys
from pathlib import Path
from medseg.inference.asked import Part
from medseg.inference.claims import claimed
with claimed(Path(sys.argv[1]), Part()):
    print("held", flush=True)
    sys.stdin.read()
"""


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
