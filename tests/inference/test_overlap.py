"""Loading, computing and writing overlap, within the memory that is allowed, and errors end their own thing alone."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from medseg.errors import ResourceError
from medseg.inference.overlap import AT_A_TIME, Ended, Job, Stages, overlapped

WAIT_S = 30.0


def same(what: Any) -> Any:
    return what


PLAIN: Stages[str, str, str, str] = Stages(same, same, same, str)


def jobs(names: str, size: float = 1.0) -> list[Job[str]]:
    return [Job(name, size) for name in names]


class Watched:
    """Stages that tell how many things are in memory: loaded, and not yet written."""

    def __init__(self) -> None:
        self.now, self.most, self.guard = 0, 0, threading.Lock()

    def load(self, what: str) -> str:
        with self.guard:
            self.now += 1
            self.most = max(self.most, self.now)
        return what

    def write(self, what: str) -> str:
        with self.guard:
            self.now -= 1
        return what

    @property
    def stages(self) -> Stages[str, str, str, str]:
        return Stages(self.load, same, self.write, str)


def test_the_next_is_loaded_and_the_one_before_is_written_while_one_is_computed() -> None:
    """Each stage waits for what only the others' overlap can bring; without it the wait would time out."""
    loaded_c, computing_b, written_a = threading.Event(), threading.Event(), threading.Event()

    def load(what: str) -> str:
        if what == "c":
            assert computing_b.wait(WAIT_S)
            loaded_c.set()
        return what

    def compute(what: str) -> str:
        if what == "b":
            computing_b.set()
            assert loaded_c.wait(WAIT_S)
            assert written_a.wait(WAIT_S)
        return what

    def write(what: str) -> str:
        if what == "a":
            assert computing_b.wait(WAIT_S)
            written_a.set()
        return what

    ends = list(overlapped(jobs("abcd"), Stages(load, compute, write, str), 100.0))
    assert ends == [Ended(name, name) for name in "abcd"]


def test_computing_is_done_by_the_thread_that_asks() -> None:
    asked, seen = threading.get_ident(), dict[str, int]()

    def noted(stage: str) -> Callable[[str], str]:
        def work(what: str) -> str:
            seen[stage] = threading.get_ident()
            return what

        return work

    list(overlapped(jobs("ab"), Stages(noted("load"), noted("compute"), noted("write"), str), 100.0))
    assert seen["compute"] == asked
    assert len(set(seen.values())) == 3


@pytest.mark.parametrize(("room", "most"), [(100.0, AT_A_TIME), (3.0, 3), (2.5, 2), (1.0, 1), (0.0, 1)])
def test_no_more_are_in_memory_than_there_is_room_for(room: float, most: int) -> None:
    watched = Watched()
    ends = list(overlapped(jobs("abcdefgh"), watched.stages, room))
    assert sorted(end.what for end in ends) == list("abcdefgh")
    assert watched.most <= most
    assert most == 1 or watched.most > 1


def test_a_thing_of_unknown_size_is_alone() -> None:
    watched = Watched()
    ends = list(overlapped(jobs("abc", float("inf")), watched.stages, 1e12))
    assert len(ends) == 3
    assert watched.most == 1


@pytest.mark.parametrize("stage", ["load", "compute", "write"])
def test_an_error_ends_its_own_thing_alone(stage: str) -> None:
    def broken(what: str) -> str:
        if what == "b":
            raise ValueError(f"{stage} of b")
        return what

    ends = list(overlapped(jobs("abcd"), replace(PLAIN, **{stage: broken}), 100.0))
    assert {end.what: end.reason for end in ends} == {"a": "", "b": f"{stage} of b", "c": "", "d": ""}
    assert {end.what: end.result for end in ends} == {"a": "a", "b": None, "c": "c", "d": "d"}


@pytest.mark.parametrize("stage", ["load", "compute", "write"])
def test_what_the_others_would_meet_too_stops_all(stage: str) -> None:
    reached = []

    def full(what: str) -> str:
        reached.append(what)
        if what == "b":
            raise ResourceError("no space left on device")
        return what

    before = threading.active_count()
    with pytest.raises(ResourceError):
        list(overlapped(jobs("abcdefgh"), replace(PLAIN, **{stage: full}), 100.0))
    assert "h" not in reached
    assert threading.active_count() == before


def test_nothing_to_do_leaves_out_the_other_stages() -> None:
    done = []
    stages: Stages[str, str, str, None] = Stages(lambda what: what if what == "b" else None, same, done.append, str)
    ends = list(overlapped(jobs("abc"), stages, 100.0))
    assert done == ["b"]
    assert sorted(end.what for end in ends) == ["a", "b", "c"]


@pytest.mark.parametrize("how", ["interrupted", "closed"])
def test_when_it_is_ended_early_what_is_being_written_is_finished_and_no_more_is_begun(how: str) -> None:
    writing, may_end, written, computed = threading.Event(), threading.Event(), list[str](), list[str]()

    def compute(what: str) -> str:
        if what == "b":
            assert writing.wait(WAIT_S)
            may_end.set()
            if how == "interrupted":
                raise KeyboardInterrupt
        computed.append(what)
        return what

    def write(what: str) -> str:
        writing.set()
        assert may_end.wait(WAIT_S)
        written.append(what)
        return what

    before = threading.active_count()
    ends = overlapped(jobs("abcdefgh"), Stages(same, compute, write, str), 100.0)
    if how == "interrupted":
        with pytest.raises(KeyboardInterrupt):
            list(ends)
        assert written == ["a"]
    else:
        next(ends)
        ends.close()
    assert written[0] == "a"
    assert "h" not in computed
    assert threading.active_count() == before


def test_what_failed_is_not_kept_in_memory() -> None:
    """The error's traceback would hold all that its stage held."""
    import weakref

    class Large:
        pass

    seen: list[weakref.ref[Large]] = []

    def load(what: str) -> Large:
        large = Large()
        seen.append(weakref.ref(large))
        return large

    def compute(large: Large) -> str:
        raise ValueError("too large")

    ends = overlapped(jobs("a"), Stages(load, compute, same, str), 1.0)
    end = next(ends)
    assert end.reason == "too large"
    assert seen[0]() is None
    ends.close()
