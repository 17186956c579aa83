"""Cases on worker jobs of a real Slurm with two nodes on this host: replaced, cancelled, and the same bytes."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
import threading
import time
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import pytest

pytest.importorskip("dask_jobqueue", reason="the extra `cluster` is not installed")

from medseg.cluster.jobs import SlurmJobs, WorkerJob, on_slurm
from medseg.cluster.options import sbatch_options
from medseg.cluster.sheets import Sheets
from medseg.cluster.where import Need
from medseg.errors import InputError, ResourceError
from medseg.parallel import Done, over_cases
from medseg.parts import Part
from medseg.pipeline import steps
from medseg.pipeline.where import On
from tests.cluster.test_dask import deed, files, listening, tries
from tests.one_host_slurm import Slurm
from tests.tiny import untrained_run, write_dataset

pytestmark = pytest.mark.cluster
ROOT = Path(__file__).parents[2]
real = [pytest.mark.slurm, pytest.mark.slow]


def marked(test: Any) -> Any:
    for mark in real:
        test = mark(test)
    return test


@pytest.fixture
def queue(slurm: Slurm, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    yield slurm
    slurm.clear()


def worked(where: Any, folder: Path, cases: list[str]) -> list[Any]:
    workers = where.workers(len(cases), 10.0, 1e6)
    return list(over_cases(partial(deed, folder), cases, workers.executor, workers.in_flight))


@marked
@pytest.mark.parametrize("interface", ["lo", ""])
def test_worker_jobs_do_the_work_and_leave_nothing(queue: Slurm, tmp_path: Path, interface: str) -> None:
    out = tmp_path / "a folder" / "out"
    with on_slurm(out, 2, "", interface) as where:
        found = worked(where, tmp_path, [f"slow_{k}" for k in range(8)])
        assert len(found) == 8
        assert all(isinstance(one, Done) for one in found)
        folder = where.sheets.folder
        for name in ("ca.pem", "cert.pem", "key.pem"):
            assert stat.S_IMODE((folder / name).stat().st_mode) == 0o600
        ours = [p.pid for p in psutil.process_iter(["cmdline"]) if "dask_worker" in " ".join(p.info["cmdline"] or ())]
        more = [child.pid for pid in ours for child in psutil.Process(pid).children(recursive=True)]
        addresses = listening([os.getpid(), *ours, *more])
        assert len(addresses) >= 7  # scheduler, two nannies, two workers, and pages that serve nothing
        hosts = {address.rpartition(":")[0] for address in addresses}
        assert hosts <= ({"127.0.0.1"} if interface else {"127.0.0.1", own(queue)}), addresses
    assert not folder.exists()
    assert list(out.iterdir()) == []
    queue.wait_empty(30)


def own(_: Slurm) -> str:
    from medseg.cluster.network import own_address

    return own_address("")


@marked
def test_a_cancelled_worker_job_is_replaced(queue: Slurm, tmp_path: Path) -> None:
    cases = [f"slow_{k}" for k in range(120)]

    def cancel() -> None:
        queue.wait_until(lambda: sum(tries(tmp_path, case) for case in cases) >= 10, 60, "ten cases are begun")
        queue.run("scancel", queue.queue()[0][0])

    killer = threading.Thread(target=cancel)
    with on_slurm(tmp_path / "out", 2, "", "lo") as where:
        killer.start()
        found = worked(where, tmp_path, cases)
        shared = where.cluster._shared  # type: ignore[attr-defined]
    killer.join()
    assert {one.case for one in found if isinstance(one, Done)} == set(cases)
    assert sum(tries(tmp_path, case) for case in cases) <= len(cases) + 1
    assert shared.submitted == 3


DRIVER = """
import sys
from functools import partial
from pathlib import Path
from medseg.cluster.jobs import on_slurm
from medseg.parallel import over_cases
from tests.cluster.test_dask import deed
with on_slurm(Path(sys.argv[1]) / "out", 2, "", "lo") as where:
    workers = where.workers(500, 10.0, 1e6)
    cases = [f"slow_{k}" for k in range(500)]
    list(over_cases(partial(deed, Path(sys.argv[1])), cases, workers.executor, workers.in_flight))
"""


@marked
def test_without_its_driver_the_queue_empties(queue: Slurm, tmp_path: Path) -> None:
    driver = subprocess.Popen([sys.executable, "-c", DRIVER, str(tmp_path)], cwd=ROOT)
    queue.wait_until(lambda: len(list(tmp_path.glob("slow_*"))) >= 4, 90, "four cases are begun")
    driver.send_signal(signal.SIGKILL)
    driver.wait()
    queue.wait_empty(90)


@marked
def test_an_interrupted_driver_cancels_its_jobs(queue: Slurm, tmp_path: Path) -> None:
    driver = subprocess.Popen(
        [sys.executable, "-c", DRIVER, str(tmp_path)],
        cwd=ROOT,
        stderr=subprocess.PIPE,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    queue.wait_until(lambda: len(list(tmp_path.glob("slow_*"))) >= 4, 90, "four cases are begun")
    driver.send_signal(signal.SIGINT)
    driver.communicate(timeout=60)
    queue.wait_empty(30)
    assert list((tmp_path / "out").iterdir()) == []


@marked
def test_the_same_bytes_as_here(queue: Slurm, tmp_path: Path) -> None:
    data, model = write_dataset(tmp_path / "data", 12), untrained_run(tmp_path)
    for name, where in {"here": On(), "slurm": On("slurm", jobs=2, interface="lo")}.items():
        *events, planned = steps.plan(data, tmp_path / f"run-{name}", budget="2steps", device="cpu", on=where)
        assert planned.prepared == 12  # type: ignore[union-attr]
        out = tmp_path / f"out-{name}"
        *more, inferred = steps.infer(model, data / "images", out, "cpu", report=False, on=where)
        assert inferred.failed == {}  # type: ignore[union-attr]
    told = [event.text for event in (*events, *more) if hasattr(event, "text")]
    assert sum(text.startswith("Slurm: 2 worker jobs, each 1 core and 2.0 GB") for text in told) == 2
    cases = files(tmp_path / "run-slurm", "cache/3d/*.safetensors")
    assert len(cases) == 12
    assert cases == files(tmp_path / "run-here", "cache/3d/*.safetensors")
    labels = files(tmp_path / "out-slurm", "*.nii.gz")
    assert len(labels) == 12
    assert labels == files(tmp_path / "out-here", "*.nii.gz")


@marked
def test_an_array_of_parts_survives_a_lost_node(queue: Slurm, tmp_path: Path) -> None:
    """Without any engine: Slurm's own array and requeue, and parts that skip what is done."""
    data, model = write_dataset(tmp_path / "data", 16, (40, 40, 40)), untrained_run(tmp_path)
    out = tmp_path / "out"
    command = [sys.executable, "-m", "medseg", "infer", str(model), str(data / "images"), "-o", str(out)]
    line = " ".join([*command, "--device", "cpu", "--no-report", "--part", "$SLURM_ARRAY_TASK_ID/4"])
    script = tmp_path / "job.sh"
    script.write_text(
        f"#!/bin/bash\n#SBATCH --array=0-3 --requeue --output={tmp_path}/%a.log --open-mode=append\n{line}\n"
    )
    queue.run("sbatch", str(script))
    done = lambda: len(list((out / "cases").glob("case*.done.json")))  # noqa: E731
    queue.wait_until(lambda: done() >= 3, 120, "three cases are done")
    queue.kill_node("n2")
    time.sleep(1)
    queue.revive_node("n2")
    queue.wait_empty(300)
    logs = "".join(path.read_text() for path in tmp_path.glob("*.log"))
    assert done() == 16, logs
    *_, inferred = steps.infer(model, data / "images", tmp_path / "whole", "cpu", report=False)
    assert files(out, "*.nii.gz") == files(tmp_path / "whole", "*.nii.gz")
    assert not list(out.rglob(".part-*.nii.gz"))
    assert sum(Part(k, 4).holds(f"case{n}") for k in range(4) for n in range(16)) == 16
    assert inferred.failed == {}  # type: ignore[union-attr]


@marked
def test_what_sbatch_refuses_is_said_in_its_words(queue: Slurm, tmp_path: Path) -> None:
    with (
        pytest.raises(InputError, match=r"sbatch refuses the worker jobs .*partition") as said,
        on_slurm(tmp_path, 1, "--partition=none", "lo") as where,
    ):
        worked(where, tmp_path, ["a"])
    assert len(str(said.value).splitlines()) == 1
    assert not list(tmp_path.glob(".part-*"))


def jobs(folder: Path, options: str = "", n: int | None = None) -> SlurmJobs:
    return SlurmJobs(n, sbatch_options(options), "lo", Sheets(folder))


def script_of(slurm: SlurmJobs) -> str:
    from medseg.cluster.jobs import Shared

    slurm._memory = slurm._given_memory() or 2.5e9
    slurm._shared = Shared(slurm.sheets.folder, slurm.interface)
    return str(WorkerJob("tls://10.0.0.1:4567", "w-0", config_name="slurm", **slurm._asked(5400.0)).job_script())


GOLDEN = """\
#!/usr/bin/env bash

#SBATCH -J medseg
#SBATCH -n 1
#SBATCH --mem=3G
#SBATCH -t 1:30:00
#SBATCH --output='FOLDER/%j.log'
#SBATCH --partition=gpu
#SBATCH --gres=gpu:1
#SBATCH --cpus-per-task=4
export DASK_DISTRIBUTED__WORKER__HTTP__ROUTES='[]'
export DASK_DISTRIBUTED__WORKER__MEMORY__TARGET='False'
export DASK_DISTRIBUTED__WORKER__MEMORY__SPILL='False'
export DASK_DISTRIBUTED__WORKER__MEMORY__PAUSE='False'
export DASK_DISTRIBUTED__NANNY__PRE_SPAWN_ENVIRON__OMP_NUM_THREADS='4'
export DASK_DISTRIBUTED__NANNY__PRE_SPAWN_ENVIRON__MKL_NUM_THREADS='4'
export DASK_DISTRIBUTED__NANNY__PRE_SPAWN_ENVIRON__OPENBLAS_NUM_THREADS='4'
PYTHON -m distributed.cli.dask_worker tls://10.0.0.1:4567 --name w-0 --nthreads 1 --memory-limit 2.33GiB --nanny \
--death-timeout 60 --dashboard-address 127.0.0.1:0 --tls-ca-file 'FOLDER/ca.pem' --tls-cert 'FOLDER/cert.pem' \
--tls-key 'FOLDER/key.pem' --interface lo
"""


def test_the_script_of_a_worker_job(tmp_path: Path) -> None:
    slurm = jobs(tmp_path / "my out", "-p gpu --gres=gpu:1 -c 4")
    script = script_of(slurm).replace(str(slurm.sheets.folder), "FOLDER").replace(sys.executable, "PYTHON")
    assert script == GOLDEN


@pytest.mark.parametrize(
    ("options", "holds", "holds_not"),
    [
        ("--mem=8G", "#SBATCH --mem=8G", "--mem=3G"),
        ("-t 5:00", "#SBATCH --time=5:00", "-t 1:30:00"),
        ("--mem-per-cpu=2G -c 3", "#SBATCH --mem-per-cpu=2G", "--mem="),
    ],
)
def test_what_the_user_gives_stands_instead(tmp_path: Path, options: str, holds: str, holds_not: str) -> None:
    script = script_of(jobs(tmp_path, options))
    assert holds in script
    assert holds_not not in script


def test_jobs_too_small_for_a_case_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ResourceError, match=r"a worker job of 1\.1 GB is too small: a case may need 5\.0 GB"):
        jobs(tmp_path, "--mem=1G").client(Need(3, 1.0, 5e9, gpu=False))


@pytest.mark.parametrize("options", ["--array=0-3", "-N 2", "--wrap='rm -rf x'", "-c many"])
def test_options_that_no_worker_can_have(tmp_path: Path, options: str) -> None:
    with pytest.raises(InputError, match="--slurm"), on_slurm(tmp_path, 1, options, "lo"):
        pass


def test_jobs_that_end_before_they_work_end_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from types import SimpleNamespace

    from medseg.cluster import jobs as module

    slurm = jobs(tmp_path, "", 2)
    (slurm.sheets.make() / "17.log").write_text("loading\nmodule: command not found\n")
    slurm._cluster = SimpleNamespace(
        scheduler=SimpleNamespace(workers={}), workers={"w-0": SimpleNamespace(job_id="17")}, close=lambda: None
    )
    monkeypatch.setattr(module, "LOOK_EVERY_S", 0.0)
    monkeypatch.setattr(module, "queued", lambda _: False)
    slurm.check()
    with pytest.raises(ResourceError, match=r"ended before they could work \(module: command not found\)"):
        slurm.check()


def test_without_slurm_it_says_where_to_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with (
        pytest.raises(InputError, match="there is no sbatch here; run it on a login node"),
        on_slurm(tmp_path),
    ):
        pass
