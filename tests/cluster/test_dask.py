"""Cases on the workers of a Dask cluster: real processes, encrypted, and killed."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("distributed", reason="the extra `cluster` is not installed")

from distributed import Client

from medseg.cluster.where import Elsewhere, on_dask, security_from
from medseg.errors import InputError, MedsegError, ResourceError
from medseg.parallel import Done, Failed, over_cases
from medseg.pipeline import steps
from medseg.pipeline.where import On
from tests.cluster.running import Running, running
from tests.tiny import untrained_run, write_dataset

pytestmark = [pytest.mark.cluster, pytest.mark.skipif(os.name != "posix", reason="kills processes as POSIX does")]


def place(cluster: Running, folder: Path) -> Any:
    return on_dask(cluster.address, folder, cluster.tls)


def results(where: Elsewhere, work: Callable[[Any], Any], cases: list[Any], case_bytes: float = 0.0) -> list[Any]:
    workers = where.workers(len(cases), 1.0, case_bytes)
    return list(over_cases(work, cases, workers.executor, workers.in_flight))


def deed(folder: Path, case: str) -> str:
    """Do what the case is called; every try leaves a file with the number of its process."""
    (folder / f"{case}-{os.getpid()}-{time.monotonic_ns()}").touch()
    match case.split("_")[0]:
        case "bad":
            raise InputError("is cut short", "DOE^JANE/bad")
        case "fault":
            raise ZeroDivisionError("in DOE^JANE")
        case "huge":
            held = []
            while True:
                held.append(bytearray(os.urandom(1 << 20)) * 64)
                time.sleep(0.05)
        case "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        case "once" if tries(folder, case) == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        case "slow":
            time.sleep(0.5)
    return case.upper()


def tries(folder: Path, case: str) -> int:
    return len(list(folder.glob(f"{case}-*")))


def test_records_come_back_and_errors_are_told(dask_tls: Running, tmp_path: Path) -> None:
    with place(dask_tls, tmp_path / "out") as where:
        found = results(where, partial(deed, tmp_path), ["a", "bad_1", "b", "fault_1", "c"])
        folder = where.sheets.folder
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        assert all(stat.S_IMODE(path.stat().st_mode) == 0o600 for path in folder.iterdir())
    assert {one.record for one in found if isinstance(one, Done)} == {"A", "B", "C"}
    failed = {one.case: one.reason for one in found if isinstance(one, Failed)}
    assert failed["bad_1"] == "DOE^JANE/bad: is cut short"
    assert failed["fault_1"] == "[UNEXPECTED] ZeroDivisionError: in DOE^JANE, 3 times: please report it"
    assert (tries(tmp_path, "bad_1"), tries(tmp_path, "fault_1"), tries(tmp_path, "a")) == (1, 3, 1)
    assert not folder.exists()


def test_two_stretches_share_one_cluster(dask_tls: Running, tmp_path: Path) -> None:
    with place(dask_tls, tmp_path / "out") as where:
        for k in range(2):
            found = results(where, partial(deed, tmp_path), [f"x{k}", f"y{k}"])
            assert len(found) == 2
        assert results(where, partial(deed, tmp_path), []) == []


@pytest.mark.slow
def test_a_case_that_kills_its_worker_is_given_up_and_blames_no_other(tmp_path: Path) -> None:
    with running(tmp_path / "dask") as cluster, place(cluster, tmp_path / "out") as where:
        cases = ["killed_1", *(f"a{k}" for k in range(6)), "killed_2"]
        found = results(where, partial(deed, tmp_path), cases)
        done = {one.case for one in found if isinstance(one, Done)}
        failed = {one.case: one.reason for one in found if isinstance(one, Failed)}
    assert done == {f"a{k}" for k in range(6)}
    assert failed == dict.fromkeys(
        ("killed_1", "killed_2"), "its process was killed 3 times, probably for lack of memory"
    )
    assert tries(tmp_path, "killed_1") == tries(tmp_path, "killed_2") == 3


@pytest.mark.slow
def test_a_case_that_needs_too_much_memory_is_given_up(tmp_path: Path) -> None:
    with running(tmp_path / "dask") as cluster, place(cluster, tmp_path / "out") as where:
        cases = ["huge_1", *(f"a{k}" for k in range(8)), "huge_2"]
        found = results(where, partial(deed, tmp_path), cases)
    assert {one.case for one in found if isinstance(one, Done)} == {f"a{k}" for k in range(8)}
    assert {one.case for one in found if isinstance(one, Failed)} == {"huge_1", "huge_2"}
    assert tries(tmp_path, "huge_1") == tries(tmp_path, "huge_2") == 3


@pytest.mark.slow
def test_a_scheduler_of_dasks_own_making_tries_by_itself(tmp_path: Path) -> None:
    with running(tmp_path / "dask", allowed_failures=3) as cluster, place(cluster, tmp_path / "out") as where:
        found = results(where, partial(deed, tmp_path), ["killed_1", *(f"a{k}" for k in range(6))])
    assert {one.case for one in found if isinstance(one, Done)} == {f"a{k}" for k in range(6)}
    assert [one.reason for one in found if isinstance(one, Failed)] == [
        "its process was killed 4 times, probably for lack of memory"
    ]


@pytest.mark.slow
@pytest.mark.parametrize("who", ["worker", "nanny"])
def test_a_worker_is_killed_in_the_middle(tmp_path: Path, who: str) -> None:
    with running(tmp_path / "dask") as cluster, place(cluster, tmp_path / "out") as where:
        cases = [f"slow_{k}" for k in range(12)]
        nanny = cluster.nannies[0]

        def kill() -> None:
            time.sleep(2.0)
            worker = cluster.worker_of(nanny)
            if who == "nanny":
                os.kill(nanny.pid, signal.SIGKILL)
            os.kill(worker, signal.SIGKILL)

        killer = threading.Thread(target=kill)
        killer.start()
        found = results(where, partial(deed, tmp_path), cases)
        killer.join()
    assert {one.case for one in found if isinstance(one, Done)} == set(cases)
    assert sum(tries(tmp_path, case) for case in cases) <= len(cases) + 1


def listening(pids: list[int]) -> list[str]:
    """Addresses on which these processes wait for others."""
    told = subprocess.run(["ss", "-ltnpH"], capture_output=True, text=True, check=True).stdout.splitlines()
    return [line.split()[3] for line in told if any(f"pid={pid}," in line for pid in pids)]


def test_nobody_else_is_let_in_and_nothing_of_a_patient_is_told(dask_tls: Running, tmp_path: Path) -> None:
    name = "DOE^JANE"
    out = tmp_path / name
    with place(dask_tls, out) as where:
        found = results(where, partial(deed, tmp_path), [f"slow_{name}_{k}" for k in range(4)] + ["bad_1", "fault_1"])
        assert len(found) == 6
        dump = tmp_path / "state"
        where.cluster.connected.dump_cluster_state(str(dump), write_from_scheduler=False, format="yaml")  # type: ignore[attr-defined]
    told = (tmp_path / "state.yaml").read_text()
    logs = "".join(path.read_text(errors="replace") for path in dask_tls.folder.glob("*.log"))
    sheets = str(out)  # the folder itself must be named, and is the user's own choice
    for text in (told, logs):
        assert name not in text.replace(sheets, "")
    addresses = listening(dask_tls.pids())
    assert len(addresses) >= 5
    assert all(address.startswith("127.0.0.1:") for address in addresses), addresses
    host = dask_tls.address.removeprefix("tls://")
    with pytest.raises(OSError, match=r".*"), Client(f"tcp://{host}", timeout=2, set_as_default=False):
        pass
    other = tmp_path / "other"
    other.mkdir()
    from medseg.cluster.jobs import credentials

    credentials(other)
    with (
        pytest.raises(ResourceError, match=r"no scheduler at tls://.* lets us in"),
        place_with(dask_tls, tmp_path, other),
    ):
        pass


def place_with(cluster: Running, folder: Path, tls: Path) -> Any:
    return on_dask(cluster.address, folder, tls)


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("tcp://10.1.2.3:8786", "is not encrypted"),
        ("tcp://node7:8786", "is not encrypted"),
        ("http://127.0.0.1:8786", "is no address"),
        ("tls://127.0.0.1", "is no address"),
        ("127.0.0.1:8786", "is no address"),
    ],
)
def test_addresses_that_are_refused(tmp_path: Path, address: str, said: str) -> None:
    with pytest.raises(InputError, match=said), on_dask(address, tmp_path):
        pass


def test_a_key_that_others_may_read_is_refused(dask_tls: Running, tmp_path: Path) -> None:
    for name in ("ca.pem", "cert.pem", "key.pem"):
        (tmp_path / name).write_bytes((dask_tls.tls / name).read_bytes())
    (tmp_path / "key.pem").chmod(0o644)
    with pytest.raises(InputError, match="others may read this key"):
        security_from(tmp_path)
    (tmp_path / "key.pem").unlink()
    with pytest.raises(InputError, match=r"there is no key\.pem"):
        security_from(tmp_path)


def test_workers_that_are_not_fit_are_refused_before_any_case(tmp_path: Path) -> None:
    sitecustomize = tmp_path / "older"
    sitecustomize.mkdir()
    (sitecustomize / "sitecustomize.py").write_text(
        "import importlib.metadata as m\n"
        "real = m.version\n"
        "m.version = lambda name: '0.0.9' if name == 'medseg' else real(name)\n"
    )
    with running(tmp_path / "dask", workers=1) as cluster:
        root = str(Path(__file__).parents[2])
        cluster.add_worker(PYTHONPATH=f"{sitecustomize}{os.pathsep}{root}")
        wait_for(cluster, 2)
        with place(cluster, tmp_path / "out") as where:
            with pytest.raises(ResourceError, match=r"the worker on .* has medseg 0\.0\.9 where this is") as said:
                results(where, partial(deed, tmp_path), ["a"])
            assert len(str(said.value).splitlines()) == 1
            assert tries(tmp_path, "a") == 0


def test_workers_that_are_too_small_are_left_out(tmp_path: Path) -> None:
    with running(tmp_path / "dask", workers=1) as cluster:
        cluster.add_worker(memory="3GB")
        wait_for(cluster, 2)
        with place(cluster, tmp_path / "out") as where:
            workers = where.workers(4, 1.0, 1e9)
            assert any("1 of 2 workers have too little memory" in text for text in workers.told)
            done = list(over_cases(os_pid, range(4), workers.executor, workers.in_flight))
            assert len({one.record for one in done if isinstance(one, Done)}) == 1
            with pytest.raises(ResourceError, match="no worker has as much"):
                where.workers(4, 1.0, 1e10)
            # the only worker that is large enough is started again, under another address
            found = results(where, partial(deed, tmp_path), ["once_1", "a"], 1e9)
            assert {one.case for one in found if isinstance(one, Done)} == {"once_1", "a"}
            assert tries(tmp_path, "once_1") == 2


def os_pid(_: int) -> int:
    return os.getpid()


def wait_for(cluster: Running, n: int) -> None:
    with Client(cluster.address, security=security_from(cluster.tls), set_as_default=False) as client:
        client.wait_for_workers(n, timeout=60)


def on(cluster: Running) -> On:
    return On(f"dask:{cluster.address}", tls=cluster.tls)


def files(folder: Path, pattern: str) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.glob(pattern))}


def test_the_same_bytes_wherever_cases_are_worked_on(dask_tls: Running, tmp_path: Path) -> None:
    data, model = write_dataset(tmp_path / "data", 12), untrained_run(tmp_path)
    runs, outs = {}, {}
    places = {"here": On(), "two": On(jobs=2), "dask": on(dask_tls)}
    for name, where in places.items():
        runs[name], outs[name] = tmp_path / f"run-{name}", tmp_path / f"out-{name}"
        *_, planned = steps.plan(data, runs[name], budget="2steps", device="cpu", on=where)
        assert planned.prepared == 12  # type: ignore[union-attr]
        *_, inferred = steps.infer(model, data / "images", outs[name], "cpu", report=False, on=where)
        assert inferred.failed == {}  # type: ignore[union-attr]
        assert len(inferred.predictions.cases) == 12  # type: ignore[union-attr]
    for number in (0, 1):
        list(steps.infer(model, data / "images", tmp_path / "out-parts", "cpu", part=f"{number}/2", report=False))
    outs["parts"] = tmp_path / "out-parts"
    for run in runs.values():
        cases = files(run, "cache/3d/*.safetensors")
        assert len(cases) == 12
        assert cases == files(runs["here"], "cache/3d/*.safetensors")
    for out in outs.values():
        labels = files(out, "*.nii.gz")
        assert len(labels) == 12
        assert labels == files(outs["here"], "*.nii.gz")
        assert (out / "statistics.csv").read_bytes() == (outs["here"] / "statistics.csv").read_bytes()
        assert not list(out.rglob(".part-*"))


def test_a_scan_that_cannot_be_read_is_told_from_another_machine(dask_tls: Running, tmp_path: Path) -> None:
    data, model = write_dataset(tmp_path / "data", 4), untrained_run(tmp_path)
    scan = data / "images" / "case2.nii.gz"
    scan.write_bytes(scan.read_bytes()[:200])
    *_, inferred = steps.infer(model, data / "images", tmp_path / "out", "cpu", report=False, on=on(dask_tls))
    assert set(inferred.failed) == {"case2"}  # type: ignore[union-attr]
    again = list(steps.infer(model, data / "images", tmp_path / "out", "cpu", report=False, on=on(dask_tls)))[-1]
    assert again.skipped == 3  # type: ignore[union-attr]


@pytest.mark.slow
def test_a_lost_scheduler_ends_the_command_and_not_the_work(tmp_path: Path) -> None:
    with running(tmp_path / "dask") as cluster, place(cluster, tmp_path / "out") as where:
        threading.Timer(1.5, lambda: os.kill(cluster.scheduler.pid, signal.SIGKILL)).start()
        with pytest.raises(MedsegError, match=r"scheduler|gave a case back"):
            results(where, partial(deed, tmp_path), [f"slow_{k}" for k in range(60)])
