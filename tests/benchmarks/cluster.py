"""What it costs to work beyond one machine, against the same work on one: per case, to start, and when something dies.

    python -m tests.benchmarks.cluster overhead OUT.json      empty cases: in this process, a local pool, Dask, Slurm
    python -m tests.benchmarks.cluster work DATA RUN OUT.json      plan, infer and evaluate of a data set, each place
    python -m tests.benchmarks.cluster losses OUT.json      a worker, a nanny, a worker job and the driver are killed

Dask is two workers of one thread on this host, with TLS. Slurm is one of two nodes on this host, where it can be
started (root, slurmctld, slurmd, munge). DATA is a labelled data set, RUN a trained run of it. Wall seconds and, of
this process and its children that have ended, CPU seconds; the load before each is noted.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

from medseg.events import Event
from medseg.files import write_json
from medseg.parallel import Done, Here, InPlace, Where, Workers, over_cases
from medseg.pipeline import steps
from medseg.pipeline.where import LOCAL, On
from tests.cluster.running import ROOT, Running, running
from tests.one_host_slurm import Slurm, one_host_slurm, why_not

EMPTY = 1000
SLOW_CASES = 40


class Alone:
    """This very process."""

    here = True

    def workers(self, *_: Any, **__: Any) -> Workers:
        return Workers(InPlace(), 1)


def nothing(case: int) -> int:
    return case


def half_a_second(folder: str, case: int) -> int:
    (Path(folder) / f"{case}-{os.getpid()}-{time.monotonic_ns()}").touch()
    time.sleep(0.5)
    return case


def say(*words: object) -> None:
    sys.stdout.write(" ".join(map(str, words)) + "\n")
    sys.stdout.flush()


@contextmanager
def slurm_here() -> Iterator[Slurm | None]:
    if missing := why_not():
        say(f"no Slurm: {missing}")
        yield None
        return
    with one_host_slurm() as slurm:
        os.environ.update(slurm.environment)
        os.environ["PYTHONPATH"] = str(ROOT)
        yield slurm


def places(folder: Path, cluster: Running, slurm: Slurm | None) -> dict[str, Any]:
    """Each place as a context."""
    from medseg.cluster.jobs import on_slurm
    from medseg.cluster.where import on_dask

    found: dict[str, Any] = {
        "in place": lambda: nullcontext(Alone()),
        "two processes": lambda: nullcontext(Here(2)),
        "Dask, TLS": lambda: on_dask(cluster.address, folder, cluster.tls),
    }
    if slurm is not None:
        found["Slurm, two jobs"] = lambda: on_slurm(folder, 2, "", "lo")
    return found


def overhead(out: Path) -> None:
    """Start-up, and milliseconds for each of many empty cases."""
    rows = {}
    with tempfile.TemporaryDirectory() as folder, running(Path(folder) / "dask") as cluster, slurm_here() as slurm:
        for name, place in places(Path(folder) / "out", cluster, slurm).items():
            load = os.getloadavg()[0]
            began = time.monotonic()
            with place() as where:
                first = worked(where, nothing, 1)
                started = time.monotonic() - began
                assert first == 1
                each = []
                for _ in range(3):
                    began = time.monotonic()
                    assert worked(where, nothing, EMPTY) == EMPTY
                    each.append((time.monotonic() - began) / EMPTY)
                began = time.monotonic()
            rows[name] = {
                "first_result_s": round(started, 2),
                "ms_a_case": round(1000 * min(each), 2),
                "ms_a_case_median": round(1000 * statistics.median(each), 2),
                "end_s": round(time.monotonic() - began, 2),
                "load": round(load, 1),
            }
            say(name, rows[name])
    write_json(out, {"empty_cases": EMPTY, "places": rows})


def worked(where: Where, work: Callable[[Any], Any], n: int) -> int:
    workers = where.workers(n, 1.0, 1e6)
    return sum(isinstance(one, Done) for one in over_cases(work, range(n), workers.executor, workers.in_flight))


def work(data: Path, run: Path, out: Path) -> None:
    """A whole data set through the verbs, each in every place: seconds, and whether the bytes are the same."""
    rows: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as scratch, slurm_here() as slurm:
        folders = [Path(scratch) / str(k) for k in range(4)]
        with running(Path(scratch) / "dask") as cluster:
            asked = {"here": LOCAL, "two processes": On(jobs=2)}
            asked["Dask, TLS"] = On(f"dask:{cluster.address}", tls=cluster.tls)
            if slurm is not None:
                asked["Slurm, two jobs"] = On("slurm", jobs=2, interface="lo")
            for (name, on), mine in zip(asked.items(), folders, strict=False):
                rows[name] = through(data, run, mine, on)
                rows[name]["same_bytes"] = all(files(folders[0], each) == files(mine, each) for each in MADE)
                say(name, json.dumps(rows[name]))
    write_json(out, {"data": data.name, "cases": len(list((data / "labelsTr").glob("[!.]*.nii.gz"))), "places": rows})


MADE = ("run/cache/*/*.safetensors", "out/*.nii.gz", "scores/scores.csv", "out/statistics.csv")


def through(data: Path, run: Path, mine: Path, on: On) -> dict[str, Any]:
    found, sides = mine / "out", (mine / "out", data / "labelsTr", mine / "scores")
    return {
        "plan": timed(steps.plan(data, mine / "run", budget="200steps", device="cpu", on=on)),
        "infer": timed(steps.infer(run, data / "imagesTr", found, "cpu", report=False, on=on)),
        "evaluate": timed(steps.evaluate(*sides, report=False, on=on)),
    }


def timed(events: Iterator[Any]) -> dict[str, float]:
    load, used, began = os.getloadavg()[0], cpu_s(), time.monotonic()
    (summary,) = [event for event in events if not isinstance(event, Event)]
    assert not summary.failed, summary.failed
    return {
        "wall_s": round(time.monotonic() - began, 1),
        "cpu_s_here": round(cpu_s() - used, 1),
        "load": round(load, 1),
    }


def cpu_s() -> float:
    """Of this process and its children that have ended; workers of clusters are none of them."""
    return sum(sum(resource.getrusage(who)[:2]) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))


def files(root: Path, pattern: str) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.glob(pattern))}


def losses(out: Path) -> None:
    """What a death costs, in cases of half a second on two workers: seconds more, and cases that were begun again."""
    rows: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        for who in ("nobody", "worker", "nanny"):
            with running(folder / f"dask-{who}") as cluster:
                rows[f"Dask, {who}"] = lost(
                    folder, f"dask-{who}", lambda out: places(out, cluster, None)["Dask, TLS"](), killer(cluster, who)
                )
                say(who, rows[f"Dask, {who}"])
        with slurm_here() as slurm:
            if slurm is not None:
                for who in ("nobody", "worker job"):
                    kill = (lambda: None) if who == "nobody" else partial(cancel, slurm)
                    from medseg.cluster.jobs import on_slurm

                    rows[f"Slurm, {who}"] = lost(folder, f"slurm-{who}", lambda out: on_slurm(out, 2, "", "lo"), kill)
                    slurm.wait_empty()
                    say(who, rows[f"Slurm, {who}"])
                rows["Slurm, driver"] = {"queue_empty_after_s": driver_lost(folder, slurm)}
                say("driver", rows["Slurm, driver"])
    write_json(out, {"cases": SLOW_CASES, "places": rows})


def killer(cluster: Running, who: str) -> Callable[[], None]:
    def kill() -> None:
        nanny = cluster.nannies[0]
        worker = cluster.worker_of(nanny)
        if who == "nanny":
            os.kill(nanny.pid, signal.SIGKILL)
        os.kill(worker, signal.SIGKILL)

    return (lambda: None) if who == "nobody" else kill


def cancel(slurm: Slurm) -> None:
    slurm.run("scancel", slurm.queue()[0][0])


def lost(folder: Path, name: str, place: Callable[[Path], Any], kill: Callable[[], None]) -> dict[str, float]:
    tries = folder / f"{name}-tries"
    tries.mkdir()
    began = time.monotonic()

    def soon() -> None:
        while len(list(tries.iterdir())) < 8:
            time.sleep(0.05)
        kill()

    thread = threading.Thread(target=soon)
    thread.start()
    with place(folder / name) as where:
        assert worked(where, partial(half_a_second, str(tries)), SLOW_CASES) == SLOW_CASES
    thread.join()
    return {"wall_s": round(time.monotonic() - began, 1), "tries": len(list(tries.iterdir()))}


DRIVER = """
import sys
from functools import partial
from pathlib import Path
from medseg.cluster.jobs import on_slurm
from tests.benchmarks.cluster import half_a_second, worked
with on_slurm(Path(sys.argv[1]), 2, "", "lo") as where:
    worked(where, partial(half_a_second, sys.argv[2]), 500)
"""


def driver_lost(folder: Path, slurm: Slurm) -> float:
    import subprocess

    tries = folder / "driver-tries"
    tries.mkdir()
    driver = subprocess.Popen([sys.executable, "-c", DRIVER, str(folder / "driver"), str(tries)], cwd=ROOT)
    slurm.wait_until(lambda: len(list(tries.iterdir())) >= 4, 90, "four cases are begun")
    driver.kill()
    driver.wait()
    began = time.monotonic()
    slurm.wait_empty(120)
    return round(time.monotonic() - began, 1)


def main(words: list[str]) -> None:
    match words:
        case ["overhead", out]:
            overhead(Path(out))
        case ["work", data, run, out]:
            work(Path(data), Path(run), Path(out))
        case ["losses", out]:
            losses(Path(out))
        case _:
            sys.exit(__doc__)


if __name__ == "__main__":
    from tests.benchmarks import cluster  # workers know its functions by this name

    cluster.main(sys.argv[1:])
