"""Where work is done is checked before any begins, and what only clusters need weighs on nobody else."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import requires
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from medseg.errors import InputError
from medseg.parallel import HERE, Done, Here, LocalExecutor, over_cases
from medseg.pipeline import where as module
from medseg.pipeline.where import On, working
from medseg.resources import available_memory_bytes
from tests.tiny import write_dataset


@pytest.mark.parametrize(
    ("on", "said"),
    [
        (On("cloud"), "--on cloud is no place; give local, slurm or dask:tls://host:port"),
        (On("slurm:2"), "--on slurm:2 is no place"),
        (On("local", slurm="-p gpu"), "--slurm says nothing to --on local; it is for --on slurm"),
        (On("slurm", insecure=True), "--insecure says nothing to --on slurm; it is for --on dask"),
        (On("dask:tls://a:1", jobs=2), "--jobs says nothing to --on dask:tls://a:1; it is for --on local and slurm"),
        (On("local", tls=Path()), "--tls says nothing to --on local"),
        (On("dask:tls://a:1", interface="lo"), "--interface says nothing to --on dask:tls://a:1"),
        (On(jobs=0), "--jobs 0 cannot be used"),
    ],
)
def test_what_cannot_be_done_is_said_in_one_line(on: On, said: str, tmp_path: Path) -> None:
    with pytest.raises(InputError) as error, working(on, tmp_path):
        pass
    assert str(error.value).startswith(said)
    assert list(tmp_path.iterdir()) == []


def test_without_the_extra_its_name_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "find_spec", lambda name: None if name == "distributed" else True)
    with pytest.raises(InputError, match=r"needs distributed, which is not installed; pip install 'medseg\[cluster\]'"):
        On("slurm").check()
    On().check()


def needed(name: str, extra: str = "", seen: set[str] | None = None) -> set[str]:
    """All packages that installing this one brings."""
    seen = set() if seen is None else seen
    for text in requires(name) or []:
        found = Requirement(text)
        if found.name.lower() in seen or (found.marker and not found.marker.evaluate({"extra": extra})):
            continue
        seen.add(found.name.lower())
        try:
            needed(found.name, seen=seen)
        except ModuleNotFoundError:  # of another system
            continue
    return seen


def test_what_clusters_need_is_not_brought_by_medseg() -> None:
    bring = needed("medseg")
    assert {"torch", "numpy", "typer"} <= bring
    assert not bring & {"dask", "distributed", "dask-jobqueue", "ray", "lightning", "pytorch-lightning", "accelerate"}
    assert {"distributed", "dask-jobqueue", "cryptography"} <= needed("medseg", "cluster")


LOCAL_WORK = """
import sys
from medseg.cli.app import run_command
assert run_command(["--help"]) == 0
assert run_command(["plan", sys.argv[1], "-o", sys.argv[2], "--budget", "2steps", "--device", "cpu"]) == 0
loaded = {name.partition(".")[0] for name in sys.modules} & {"dask", "distributed", "dask_jobqueue", "tornado"}
assert not loaded, loaded
"""


def test_work_on_this_machine_loads_nothing_of_clusters(tmp_path: Path) -> None:
    data = write_dataset(tmp_path / "data", 3)
    command = [sys.executable, "-c", LOCAL_WORK, str(data), str(tmp_path / "run")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_no_jobs_are_named_for_this_machine(tmp_path: Path) -> None:
    with working(On(), tmp_path) as where:
        assert where is HERE
    with working(On(jobs=3), tmp_path) as where:
        assert where == Here(3)


def seen(_: int) -> tuple[str | None, str | None]:
    import os

    return os.environ.get("CUDA_VISIBLE_DEVICES"), os.environ.get("OMP_NUM_THREADS")


def test_processes_share_gpus_and_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("medseg.parallel.available_cores", lambda: 4)
    workers = Here(2, ("0", "5")).workers(6, 1.0, 1e6, gpu=True)
    assert isinstance(workers.executor, LocalExecutor)
    assert workers.threads == 2
    found = {
        one.record for one in over_cases(seen, range(8), workers.executor, workers.in_flight) if isinstance(one, Done)
    }
    assert found == {("0", "2"), ("5", "2")}


def test_processes_that_memory_does_not_hold_are_not_started() -> None:
    workers = Here(4).workers(4, 1.0, 0.5 * available_memory_bytes())
    assert workers.told == ("memory holds 1 of these cases at a time, not 4",)
    assert workers.threads is not None
    workers.executor.shutdown()
