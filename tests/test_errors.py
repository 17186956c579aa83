from __future__ import annotations

import errno
import pickle  # noqa: TID251  it is how values reach worker processes
from pathlib import Path

import pytest

from medseg.errors import (
    CasesFailed,
    GeometryError,
    InputError,
    MedsegError,
    ResourceError,
    RunError,
    by_name,
    explained,
)

ALL = [InputError, GeometryError, RunError, ResourceError]


@pytest.mark.parametrize("kind", ALL)
def test_one_line_that_says_what_where_and_what_to_do(kind: type[MedsegError]) -> None:
    error = kind("is cut short", Path("a/b.nii"), "copy it again")
    assert str(error) == "a/b.nii: is cut short; copy it again"
    assert str(kind("is cut short")) == "is cut short"
    assert error.exit_code == 2


@pytest.mark.parametrize("error", [*(kind("what", "where", "fix") for kind in ALL), CasesFailed({"a": "cut"})])
def test_errors_cross_process_borders_whole(error: MedsegError) -> None:
    again = pickle.loads(pickle.dumps(error))  # noqa: S301
    assert type(again) is type(error)
    assert (str(again), again.what, again.where, again.fix) == (str(error), error.what, error.where, error.fix)


def test_failed_cases_are_named_and_counted() -> None:
    error = CasesFailed({f"case_{i}": "cut" for i in range(7)})
    assert str(error).startswith("7 case(s) failed: case_0, case_1, case_2, case_3, case_4, ...")
    assert error.exit_code == 1
    assert pickle.loads(pickle.dumps(error)).failed == error.failed  # noqa: S301


@pytest.mark.parametrize(
    ("number", "reason", "advice"),
    [
        (errno.ENOSPC, "no space left", "free some space"),
        (errno.EACCES, "permission denied", "read and write"),
        (errno.EROFS, "read-only", "read and write"),
        (errno.ENOTDIR, "not a directory", "not a file"),
        (errno.EIO, "input/output error", "check the path and the disk"),
    ],
)
def test_refusals_of_the_system_are_explained(number: int, reason: str, advice: str) -> None:
    with pytest.raises(ResourceError) as caught, explained("OUT"):
        raise OSError(number, "x", "/somewhere/secret")
    line = str(caught.value)
    assert line.startswith("OUT: ")
    assert reason in line
    assert advice in line
    assert "secret" not in line


def test_an_error_without_a_number_keeps_its_text() -> None:
    with pytest.raises(ResourceError, match="odd"), explained("OUT"):
        raise OSError("odd")


def test_what_is_called_alike_is_counted() -> None:
    found = by_name([("a file", "is cut"), ("scan", "is empty"), ("a file", "is damaged"), ("a file", "is cut")])
    assert found == {"a file": "is cut", "scan": "is empty", "a file (2)": "is damaged", "a file (3)": "is cut"}
