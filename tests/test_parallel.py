from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import Executor
from functools import partial
from pathlib import Path

import pytest

from medseg.errors import InputError, ResourceError
from medseg.parallel import TRIES, Done, Failed, InPlace, LocalExecutor, local_executor, over_cases
from medseg.resources import available_cores, available_memory_bytes

pytestmark = pytest.mark.skipif(os.name != "posix", reason="kills processes as POSIX does")


def two() -> LocalExecutor:
    return LocalExecutor([{"MEDSEG_TEST": "a"}, {"MEDSEG_TEST": "b"}])


def square(case: int) -> int:
    return case * case


def trouble(folder: Path, case: str) -> str:
    """Do what the case's name says; every try leaves a file."""
    (folder / f"{case}-{time.monotonic_ns()}").touch()
    if case == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if case == "killed once" and len(list(folder.glob("killed once-*"))) == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    if case == "bad":
        raise InputError("is cut short", "bad")
    if case == "huge":
        raise MemoryError
    if case == "full":
        raise ResourceError("no space left on device", "cache")
    if case == "bug":
        raise ZeroDivisionError
    return case


def environment(_: int) -> str:
    return os.environ["MEDSEG_TEST"]


def linger(folder: Path, case: int) -> int:
    (folder / f"{os.getpid()}").touch()
    time.sleep(0.0 if case == 0 else 60.0)
    return case


def runs(pid: int) -> bool:
    """True while a process is there and no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def all_end(folder: Path, within_s: float) -> bool:
    end = time.monotonic() + within_s
    while time.monotonic() < end:
        if not any(runs(int(p.name)) for p in folder.iterdir()):
            return True
        time.sleep(0.05)
    return False


@pytest.mark.parametrize("make", [InPlace, two])
def test_all_cases_are_done_in_any_order(make: Callable[[], Executor]) -> None:
    for cases in ([3, 1, 2, 5, 4], [5, 4, 3, 2, 1]):
        results = list(over_cases(square, cases, make(), in_flight=3))
        assert sorted((r.case, r.record) for r in results if isinstance(r, Done)) == [(i, i * i) for i in range(1, 6)]


@pytest.mark.parametrize("make", [InPlace, two])
def test_a_raising_case_is_tried_once_and_named(make: Callable[[], Executor], tmp_path: Path) -> None:
    results = list(over_cases(partial(trouble, tmp_path), ["a", "bad", "huge", "b"], make(), in_flight=2))
    failed = {r.case: r.reason for r in results if isinstance(r, Failed)}
    assert failed == {"bad": "bad: is cut short", "huge": "MemoryError"}
    assert sorted(r.case for r in results if isinstance(r, Done)) == ["a", "b"]
    assert len(list(tmp_path.glob("bad-*"))) == 1


@pytest.mark.parametrize("make", [InPlace, two])
def test_a_full_disk_ends_the_whole_work(make: Callable[[], Executor], tmp_path: Path) -> None:
    with pytest.raises(ResourceError, match="no space left"):
        list(over_cases(partial(trouble, tmp_path), ["a", "full", "b", "c"], make(), in_flight=1))
    assert not list(tmp_path.glob("c-*"))


def test_a_case_that_kills_its_worker_is_given_up_and_the_others_are_done(tmp_path: Path) -> None:
    cases = ["a", "killed", "b", "killed once", "c"]
    results = list(over_cases(partial(trouble, tmp_path), cases, two(), in_flight=4))
    failed = {r.case: r.reason for r in results if isinstance(r, Failed)}
    assert failed == {"killed": f"its process was killed {TRIES} times, probably for lack of memory"}
    assert sorted(r.case for r in results if isinstance(r, Done)) == ["a", "b", "c", "killed once"]
    assert len(list(tmp_path.glob("killed-*"))) == TRIES
    assert len(list(tmp_path.glob("killed once-*"))) == 2


@pytest.mark.parametrize("make", [InPlace, two])
def test_a_fault_of_medseg_itself_is_not_hidden(make: Callable[[], Executor], tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError):
        list(over_cases(partial(trouble, tmp_path), ["a", "bug", "b"], make(), in_flight=1))


def test_each_worker_has_its_environment() -> None:
    seen = {r.record for r in over_cases(environment, range(8), two(), in_flight=8) if isinstance(r, Done)}
    assert seen <= {"a", "b"}
    assert seen


def test_closing_early_kills_the_workers(tmp_path: Path) -> None:
    results = over_cases(partial(linger, tmp_path), range(6), two(), in_flight=6)
    assert next(results) == Done(0, 0)
    before = time.monotonic()
    results.close()
    assert time.monotonic() - before < 10
    assert all_end(tmp_path, within_s=2)


DRIVER = """
import sys
from functools import partial
from pathlib import Path
from medseg.parallel import LocalExecutor, over_cases
from test_parallel import linger
if __name__ == "__main__":
    list(over_cases(partial(linger, Path(sys.argv[1])), range(1, 5), LocalExecutor([{}, {}]), 4))
"""


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_no_worker_outlives_its_driver(tmp_path: Path, how: signal.Signals) -> None:
    script, started = tmp_path / "driver.py", tmp_path / "started"
    script.write_text(DRIVER)
    started.mkdir()
    environ = {**os.environ, "PYTHONPATH": str(Path(__file__).parent)}
    # a shell that starts the tests in the background has them, and their children, ignore Ctrl-C
    hears = partial(signal.signal, signal.SIGINT, signal.default_int_handler)
    command = [sys.executable, script, started]
    with subprocess.Popen(command, env=environ, stderr=subprocess.DEVNULL, preexec_fn=hears) as driver:
        end = time.monotonic() + 60
        while len(list(started.iterdir())) < 2 and time.monotonic() < end:
            time.sleep(0.05)
        assert len(list(started.iterdir())) == 2
        driver.send_signal(how)
        driver.wait(timeout=10)
    assert all_end(started, within_s=10)


def test_little_work_is_done_in_place() -> None:
    assert isinstance(local_executor(3, expected_s=1.0)[0], InPlace)
    assert isinstance(local_executor(1, expected_s=1000.0)[0], InPlace)
    assert isinstance(local_executor(100, 1000.0, case_bytes=1e18)[0], InPlace)


@pytest.mark.parametrize(
    ("free", "case", "workers"),
    [(100e9, 1e9, 4), (100e9, 0.0, 4), (4e9, 1.4e9, 2), (4e9, 0.9e9, 3), (4e9, 2e9, 1), (4e9, 50e9, 1)],
)
def test_workers_are_bounded_by_memory(monkeypatch: pytest.MonkeyPatch, free: float, case: float, workers: int) -> None:
    """Eight tenths of what is free hold all workers and their largest cases."""
    monkeypatch.setattr("medseg.parallel.available_cores", lambda: 4)
    monkeypatch.setattr("medseg.parallel.available_memory_bytes", lambda: free)
    executor, in_flight = local_executor(100, 1000.0, case)
    assert in_flight == (2 * workers if workers > 1 else 1)
    assert isinstance(executor, LocalExecutor if workers > 1 else InPlace)
    executor.shutdown()


def test_workers_are_bounded_by_cores_and_cases(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("medseg.parallel.available_cores", lambda: 4)
    executor, in_flight = local_executor(3, expected_s=100.0)
    assert isinstance(executor, LocalExecutor)
    assert in_flight == 6
    executor.shutdown()
    assert available_cores() >= 1
    assert available_memory_bytes() > 0
