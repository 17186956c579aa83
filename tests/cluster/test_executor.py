"""The watchdog over cases that do not end, without a cluster."""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import Future
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("distributed", reason="the extra `cluster` is not installed")

from medseg.cluster.executor import DaskExecutor, Stalled, case_of
from medseg.cluster.job import Outcome
from medseg.cluster.sheets import Sheets
from medseg.errors import ResourceError
from medseg.parallel import Failed, over_cases
from medseg.planning.fingerprint import FingerprintJob

pytestmark = pytest.mark.cluster


class Silent:
    """A client whose jobs end when they are told to."""

    def __init__(self, workers: int = 1) -> None:
        self.status, self.known = "running", {f"tls://w{k}": {"memory_limit": 4e9} for k in range(workers)}
        self.jobs: dict[str, Future[Outcome]] = {}
        self.dumped: list[str] = []

    def get_executor(self, **_: Any) -> Any:
        return SimpleNamespace(submit=self.submit, shutdown=lambda **_: None)

    def submit(self, *_: Any, key: str, **__: Any) -> Future[Outcome]:
        self.jobs[key] = Future()
        return self.jobs[key]

    def scheduler_info(self, **_: Any) -> dict[str, Any]:
        return {"workers": self.known}

    def processing(self) -> dict[str, list[str]]:
        return {"tls://w0": list(self.jobs)[:1]}

    def dump_cluster_state(self, path: str, **_: Any) -> None:
        self.dumped.append(path)


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def executor(client: Silent, folder: Path, clock: Clock) -> DaskExecutor:
    return DaskExecutor(client, Sheets(folder), clock=clock)  # type: ignore[arg-type]


def passes(watched: DaskExecutor, clock: Clock, seconds: float) -> None:
    for _ in range(int(seconds / 10)):
        clock.now += 10
        watched.watch()


def test_cases_that_do_not_end_are_named_with_their_worker(tmp_path: Path) -> None:
    client, clock = Silent(), Clock()
    watched = executor(client, tmp_path / "out", clock)
    for name in ("case3", "case4"):
        watched.submit(str.upper, name)
    passes(watched, clock, 890)
    with pytest.raises(Stalled, match=r"no case has ended for 15 min: case3 on tls://w0, case4 on no worker") as said:
        passes(watched, clock, 30)
    assert "the state of the cluster is in cluster_state.msgpack.gz" in str(said.value)
    assert client.dumped == [str(tmp_path / "out" / "cluster_state")]
    assert said.value.exit_code == 1


def test_waiting_for_workers_is_no_stall(tmp_path: Path) -> None:
    client, clock = Silent(0), Clock()
    watched = executor(client, tmp_path, clock)
    watched.submit(str.upper, "a")
    passes(watched, clock, 10_000)
    assert watched.status() == "no worker yet"
    client.known = {"tls://w0": {}}
    passes(watched, clock, 890)
    assert watched.status() == "1 worker"


def test_long_cases_have_ten_times_their_time(tmp_path: Path) -> None:
    client, clock = Silent(), Clock()
    watched = executor(client, tmp_path, clock)
    first = watched.submit(str.upper, "a")
    passes(watched, clock, 600)
    next(iter(client.jobs.values())).set_result(Outcome(value="A", peak_bytes=2_000_000_000))
    assert first.result() == "A"
    assert watched.status() == "1 worker, 2.0 GB at most"
    watched.submit(str.upper, "b")
    passes(watched, clock, 5990)
    with pytest.raises(Stalled):
        passes(watched, clock, 30)


def test_a_lost_scheduler_is_told(tmp_path: Path) -> None:
    client, clock = Silent(), Clock()
    watched = executor(client, tmp_path, clock)
    client.status, clock.now = "closed", 5.0
    with pytest.raises(ResourceError, match="the connection to the Dask scheduler is lost"):
        watched.watch()


def test_a_worker_that_does_no_job_ends_the_command_after_three(tmp_path: Path) -> None:
    client = Silent()

    def unfit(*_: Any, key: str, **__: Any) -> Future[Outcome]:
        future: Future[Outcome] = Future()
        future.set_result(Outcome(unfit="the worker on node7 does not see the folder"))
        client.jobs[key] = future
        return future

    client.submit = unfit  # type: ignore[method-assign]
    watched = executor(client, tmp_path, Clock())
    with pytest.raises(ResourceError, match="node7 does not see the folder; give all machines the same"):
        list(over_cases(str.upper, ["a"], watched, watched.room))
    assert len(client.jobs) == 3


def test_faults_are_cases_that_failed(tmp_path: Path) -> None:
    from medseg.parallel import Unforeseen

    client = Silent()

    def fault(*_: Any, key: str, **__: Any) -> Future[Outcome]:
        future: Future[Outcome] = Future()
        future.set_result(Outcome(error=Unforeseen("Traceback\nOSError: [Errno 116] Stale file handle")))
        client.jobs[key] = future
        return future

    client.submit = fault  # type: ignore[method-assign]
    watched = executor(client, tmp_path, Clock())
    (found,) = over_cases(str.upper, ["a"], watched, watched.room)
    assert isinstance(found, Failed)
    assert found.reason == "[UNEXPECTED] OSError: [Errno 116] Stale file handle, 3 times: please report it"


HELD = """
import os, sys
from pathlib import Path
from medseg.cluster.job import keep_blocks
if sys.argv[1] == "keep":
    assert keep_blocks()
import numpy as np
block = np.ones(24 << 20, np.uint8)
held = lambda: int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
before = held()
del block
print(before - held())
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's")
def test_a_worker_keeps_what_it_frees() -> None:
    """Dask's own setting gives every block back, and the next one has to touch new pages."""
    given_back = {}
    for how in ("keep", "as Dask has it"):
        dasks = {**os.environ, "MALLOC_TRIM_THRESHOLD_": "65536", "PYTHONPATH": str(Path(__file__).parents[2])}
        done = subprocess.run([sys.executable, "-c", HELD, how], capture_output=True, text=True, check=True, env=dasks)
        given_back[how] = int(done.stdout)
    assert given_back["keep"] < 4 << 20
    assert given_back["as Dask has it"] > 16 << 20


def test_jobs_are_known_by_their_case() -> None:
    case = SimpleNamespace(name="case7")
    assert case_of("case7") == "case7"
    assert case_of(case) == "case7"
    assert case_of(FingerprintJob(case, None, Path())) == "case7"  # type: ignore[arg-type]
    assert case_of(SimpleNamespace(scan=case)) == "case7"
    assert case_of(SimpleNamespace(case="case7")) == "case7"
    assert case_of(7) == ""
