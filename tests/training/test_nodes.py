"""One fold on several nodes: how srun is called, with small stand-ins; and, marked slurm, on a Slurm of two nodes."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from medseg.errors import InputError, ResourceError
from medseg.files import sha256
from medseg.inference.model import read_card
from medseg.pipeline import node
from medseg.training import nodes
from medseg.training.launch import WorkerJob
from medseg.training.nodes import Nodes, address_of, nodes_of
from tests.one_host_slurm import Slurm, processes
from tests.tiny import planned_run
from tests.training.slow_steps import slow_steps, step_of

JOB = WorkerJob(run="r", fold="0", configuration="3d", ends_at=None, steps=3, device="cpu", processes=1)
linux = pytest.mark.skipif(sys.platform != "linux", reason="Slurm, and the way to ask for an address, are of Linux")


def srun(folder: Path, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "srun").write_text(f"#!/bin/sh\n{text}\n")
    (folder / "srun").chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}/usr/bin{os.pathsep}/bin")


@linux
def test_how_srun_starts_all_ranks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    srun(tmp_path, f'echo "$@" > {tmp_path}/asked', monkeypatch)
    found = nodes_of(3, 2, "7")
    assert found == Nodes(3, 2, "7")
    command, environment = found.start(6, JOB)
    assert (tmp_path / "asked").read_text() == "--jobid=7 --nodes=3 --ntasks=3 --ntasks-per-node=1 true\n"
    assert command[:6] == (
        "srun",
        "--jobid=7",
        "--nodes=3",
        "--ntasks=3",
        "--ntasks-per-node=1",
        "--kill-on-bad-exit=1",
    )
    said = " ".join(command)
    for words in ("--nnodes 3 --nproc-per-node 2 --max-restarts 0", f"--rdzv-endpoint {socket.gethostname()}:"):
        assert words in said
    assert command[6:9] == (sys.executable, "-m", "torch.distributed.run")
    assert WorkerJob.model_validate_json(command[-1]) == JOB
    assert environment == {"TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1", "OMP_NUM_THREADS": "1"}


@linux
def test_all_sockets_on_one_interface(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    srun(tmp_path, "exit 0", monkeypatch)
    command, environment = Nodes(2, 1, "7", "lo").start(2, JOB)
    assert "-m medseg.pipeline.node lo --nnodes 2" in " ".join(command)
    assert "--rdzv-endpoint 127.0.0.1:" in " ".join(command)
    assert (environment["GLOO_SOCKET_IFNAME"], environment["NCCL_SOCKET_IFNAME"]) == ("lo", "lo")
    ran: list[Any] = []
    monkeypatch.setattr(os, "execv", lambda *given: ran.append(given))
    node.main("lo", ["--nnodes", "2"])
    torchrun = (sys.executable, "-m", "torch.distributed.run", "--local-addr", "127.0.0.1", "--nnodes", "2")
    assert ran == [(sys.executable, torchrun)]


@linux
def test_a_node_that_does_not_answer_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nodes, "PAUSE_S", 0.01)
    text = (
        f'echo x >> {tmp_path}/tries; [ "$(wc -l < {tmp_path}/tries)" = 3 ] || {{ echo srun: no answer >&2; exit 1; }}'
    )
    srun(tmp_path, text, monkeypatch)
    Nodes(2, 1, "7").start(2, JOB)
    assert (tmp_path / "tries").read_text().count("x") == 3
    monkeypatch.setattr(nodes, "GONE_S", 0.05)
    srun(tmp_path, "echo srun: no answer >&2; exit 1", monkeypatch)
    with pytest.raises(ResourceError, match="a node of job 7 does not answer: srun: no answer"):
        Nodes(2, 1, "7").start(2, JOB)
    srun(tmp_path, "echo srun: error: Invalid job id specified >&2; exit 1", monkeypatch)
    with pytest.raises(InputError, match="Slurm knows no job 7"):
        Nodes(2, 1, "7").start(2, JOB)


def test_where_no_nodes_are() -> None:
    assert nodes_of(1, 4, None) is None
    with pytest.raises(InputError, match=r"--job seven is no job of Slurm|there is no srun here"):
        nodes_of(2, 1, "seven")
    with pytest.raises(InputError, match="is no network interface"):
        address_of("not a name")


def train(run: Path, environment: dict[str, str], *options: str) -> subprocess.Popen[str]:
    command = (sys.executable, "-m", "medseg", "train", str(run), "--device", "cpu", "--on", "slurm", "--wait")
    return subprocess.Popen(
        [*command, "--slurm", "-c1", *options],
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def weights(run: Path) -> str:
    return sha256([run / "folds/3d/0/model.safetensors"])


def log(run: Path) -> str:
    return "\n".join(path.read_text() for path in sorted((run / "logs").glob("*.log")))


@pytest.fixture
def idle(slurm: Slurm) -> Slurm:
    slurm.clear()
    return slurm


ON_TWO = ("--fold", "0", "--steps", "40", "--deterministic", "--nodes", "2")


@pytest.fixture(scope="module")
def undisturbed(slurm: Slurm, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The digest of the weights that two nodes end with; they talk over the loopback."""
    slurm.clear()
    root = tmp_path_factory.mktemp("undisturbed")
    run = planned_run(root)
    process = train(run, slow_steps(root / "site", "medseg.pipeline.worker"), *ON_TWO, "--interface", "lo")
    said, _ = process.communicate(timeout=180)
    assert process.returncode == 0, said + log(run)
    assert "died" not in log(run)
    return weights(run)


def disturbed(root: Path, disturb: Callable[[], None]) -> tuple[Path, float]:
    """A run on two nodes that is disturbed once it stands at step 10, and the seconds until it stood further on."""
    run = planned_run(root)
    process = train(run, slow_steps(root / "site", "medseg.pipeline.worker"), *ON_TWO)
    try:
        assert reaches(run, 10, process), log(run)
        began = time.monotonic()
        disturb()
        before = step_of(run)
        assert reaches(run, before + 1, process), log(run)
        took = time.monotonic() - began
        said, _ = process.communicate(timeout=180)
        assert process.returncode == 0, said + log(run)
    finally:
        process.kill()
        process.communicate()
    return run, took


def reaches(run: Path, step: int, process: subprocess.Popen[str]) -> bool:
    until = time.monotonic() + 180
    while step_of(run) < step and process.poll() is None and time.monotonic() < until:
        time.sleep(0.05)
    return step_of(run) >= step


@pytest.mark.slurm
@pytest.mark.slow
@pytest.mark.parametrize("lost", ["n1", "n2"])
def test_a_lost_node_costs_nothing_but_time(
    idle: Slurm, tmp_path: Path, undisturbed: str, lost: str, record_property: Callable[[str, object], None]
) -> None:
    """n1 is the one that the batch script runs on."""

    def lose() -> None:
        idle.kill_node(lost)
        idle.wait_until(lambda: "PENDING" in [state for _, state, _ in idle.queue()], 90, "the job waits again")
        idle.revive_node(lost)

    run, took = disturbed(tmp_path, lose)
    record_property("seconds", took)
    assert "fold 0 goes on from step" in log(run)
    assert weights(run) == undisturbed


@pytest.mark.slurm
@pytest.mark.slow
def test_a_killed_rank_of_another_node_is_started_again(idle: Slurm, tmp_path: Path, undisturbed: str) -> None:
    def kill() -> None:
        (rank,) = (pid for pid in idle.processes_of("n2") if pid in processes("-u -m medseg.pipeline.worker"))
        os.kill(rank, 9)

    run, _ = disturbed(tmp_path, kill)
    assert "it starts again, 1 of at most 3 times" in log(run)
    assert "fold 0 goes on from step" in log(run)
    assert weights(run) == undisturbed


@pytest.mark.slurm
@pytest.mark.slow
@pytest.mark.parametrize(("on", "module"), [("1", "medseg"), ("2", "medseg.pipeline.worker")])
def test_a_time_limit_costs_nothing_but_waiting(idle: Slurm, tmp_path: Path, on: str, module: str) -> None:
    """A minute; Slurm warns when it next looks, up to half of that later than it was told to."""
    run = planned_run(tmp_path)
    options = ("--fold", "0", "--steps", "50", "--nodes", on, "--slurm", "-c1 -t 1 --signal=B:USR1@55")
    process = train(run, slow_steps(tmp_path / "site", module, 1.0, every_s=1e9), *options)
    said, _ = process.communicate(timeout=400)
    assert process.returncode == 0, said + log(run)
    assert "medseg: interrupted" in log(run)
    assert "fold 0 goes on from step" in log(run)
    assert read_card(run / "folds/3d/0").steps == 50


@pytest.mark.slurm
@pytest.mark.slow
def test_folds_side_by_side_and_their_scores(idle: Slurm, tmp_path: Path) -> None:
    run = planned_run(tmp_path / "a b")
    process = train(run, {}, "--folds", "2", "--steps", "2")
    said, _ = process.communicate(timeout=240)
    assert process.returncode == 0, said + log(run)
    for words in ("fold 0: 2 steps in", "fold 1: 2 steps in", "Cross-validation, 2 folds", "fold 1, job"):
        assert words in said
    assert (run / "folds/3d/crossvalidation/scores.json").is_file()
