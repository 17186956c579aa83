"""A Dask cluster of real processes on this host, with mutual TLS, whose workers can be killed."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

ROOT = Path(__file__).parents[2]
UP_S = 60.0


@dataclass
class Running:
    """Scheduler and workers, each with its nanny; `tls` holds what a client must show."""

    address: str
    tls: Path
    folder: Path
    scheduler: subprocess.Popen[bytes]
    nannies: list[subprocess.Popen[bytes]]

    def add_worker(self, memory: str = "1GB", **environment: str) -> subprocess.Popen[bytes]:
        """Start one more."""
        name = f"w{len(self.nannies)}"
        command = ["worker", self.address, "--host", "127.0.0.1", "--nthreads", "1", "--memory-limit", memory]
        command += ["--dashboard-address", "127.0.0.1:0", "--local-directory", str(self.folder / name)]
        nanny = dask(self.folder, *command, *tls_options(self.tls), log=name, **environment)
        self.nannies.append(nanny)
        return nanny

    def worker_of(self, nanny: subprocess.Popen[bytes]) -> int:
        """The process that works for this nanny."""
        until = time.monotonic() + UP_S
        while time.monotonic() < until:
            children = [p for p in psutil.Process(nanny.pid).children() if "spawn_main" in " ".join(p.cmdline())]
            if children:
                return children[0].pid
            time.sleep(0.05)
        raise TimeoutError("the nanny has no worker")

    def pids(self) -> list[int]:
        """All processes of the cluster."""
        found = []
        for process in (self.scheduler, *self.nannies):
            with suppress(psutil.NoSuchProcess):
                found += [process.pid, *(p.pid for p in psutil.Process(process.pid).children(recursive=True))]
        return found


def dask(folder: Path, *arguments: str, log: str, **environment: str) -> subprocess.Popen[bytes]:
    with (folder / f"{log}.log").open("wb") as file:
        return subprocess.Popen(
            [sys.executable, "-m", "dask", *arguments],
            stdout=file,
            stderr=subprocess.STDOUT,
            env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "ignore", **environment},
            cwd=folder,
        )


def tls_options(tls: Path) -> list[str]:
    return [f"--tls-ca-file={tls / 'ca.pem'}", f"--tls-cert={tls / 'cert.pem'}", f"--tls-key={tls / 'key.pem'}"]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def running(folder: Path, workers: int = 2, allowed_failures: int = 0) -> Iterator[Running]:
    """Start it and wait until all workers are there. allowed_failures: Dask's own; 3 unless it is configured."""
    from distributed import Client

    from medseg.cluster.jobs import credentials
    from medseg.cluster.where import security_from

    tls = folder / "tls"
    tls.mkdir(parents=True)
    credentials(tls)
    address = f"tls://127.0.0.1:{free_port()}"
    where = ["--protocol", "tls", "--host", "127.0.0.1", "--port", address.rpartition(":")[2]]
    options = [*where, "--dashboard-address", "127.0.0.1:0", *tls_options(tls)]
    allowed = {"DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES": str(allowed_failures)}
    scheduler = dask(folder, "scheduler", *options, log="scheduler", **allowed)
    found = Running(address, tls, folder, scheduler, [])
    try:
        for _ in range(workers):
            found.add_worker()
        with Client(address, security=security_from(tls), timeout=UP_S, set_as_default=False) as client:
            client.wait_for_workers(workers, timeout=UP_S)
        yield found
    finally:
        for pid in found.pids():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        for process in (scheduler, *found.nannies):
            process.wait()
