"""One fold on several nodes of a Slurm job: torchrun on each, started by srun from within the job.

What was measured of srun: it hands the end of its standard input on to every process within a tenth of a second, so
that these end as they do on one machine; but a SIGTERM it answers by killing them all at once, without a checkpoint.

torchrun's store, gloo and NCCL ask nobody who they are: the network between the nodes must be one of trusted users.
"""

from __future__ import annotations

import re
import secrets
import shutil
import socket
import subprocess
import sys
import time
from dataclasses import dataclass

from medseg.errors import InputError, ResourceError
from medseg.training.launch import STORE_OF_ITS_OWN, WORKER, Start, WorkerJob

ANSWER_S = 60.0  # a node that is there answers within it
GONE_S = 900.0  # Slurm sees within it that a node is gone (SlurmdTimeout, mostly 5 min), and ends this job
PAUSE_S = 5.0
_LINK = re.compile(r"[\w.:@-]{1,15}")


@dataclass(frozen=True)
class Nodes:
    """The nodes of the Slurm job whose id is `job`; `each` processes on a node; interface: the network that they talk
    over, else the one that their names lead to.
    """

    number: int
    each: int
    job: str
    interface: str | None = None

    def start(self, ranks: int, worker: WorkerJob) -> Start:
        """How srun starts all ranks, once every node answers."""
        self._wait()
        host = address_of(self.interface) if self.interface else socket.gethostname()
        run = ("-m", "medseg.pipeline.node", self.interface) if self.interface else ("-m", "torch.distributed.run")
        command = (
            *(*self._srun, "--kill-on-bad-exit=1", sys.executable, *run),
            *("--nnodes", str(self.number), "--nproc-per-node", str(ranks // self.number), "--max-restarts", "0"),
            *("--rdzv-backend", "c10d", "--rdzv-endpoint", f"{host}:{_free_port()}"),
            *("--rdzv-id", secrets.token_hex(8), *WORKER, worker.model_dump_json()),
        )
        talk = {"GLOO_SOCKET_IFNAME": self.interface, "NCCL_SOCKET_IFNAME": self.interface} if self.interface else {}
        return command, {**STORE_OF_ITS_OWN, **talk}

    @property
    def _srun(self) -> tuple[str, ...]:
        """One process on each node."""
        n = str(self.number)
        return ("srun", f"--jobid={self.job}", f"--nodes={n}", f"--ntasks={n}", "--ntasks-per-node=1")

    def _wait(self) -> None:
        """Until every node answers. Where one is lost this ends with the job: Slurm puts it back into the queue.

        Raises:
            ResourceError: a node does not answer, and Slurm does not mind.
        """
        until = time.monotonic() + GONE_S
        while True:
            told = self._answer()
            if told is None:
                return
            if time.monotonic() > until:
                what = f"a node of job {self.job} does not answer: {told or 'srun says nothing'}"
                raise ResourceError(what, fix="look with sinfo, then run the same command again")
            time.sleep(PAUSE_S)

    def _answer(self) -> str | None:
        """None if every node answers; else the words of srun."""
        try:
            done = subprocess.run(  # noqa: S603 - Slurm's own program
                (*self._srun, "true"), stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=ANSWER_S
            )
        except subprocess.TimeoutExpired:
            return ""
        if done.returncode and "nvalid job id" in done.stderr:
            raise InputError(f"Slurm knows no job {self.job}", fix="give the id of the job that this runs in")
        return " ".join(done.stderr.split()) if done.returncode else None


def nodes_of(number: int, each: int, job: str | None, interface: str | None = None) -> Nodes | None:
    """The nodes that a training may use; None where it is to run on this machine alone.

    Raises:
        InputError: there is no job of Slurm around it, or the interface is none.
    """
    if number < 1:
        raise InputError(f"--nodes {number} trains nothing", fix="give at least 1")
    if interface is not None:
        address_of(interface)
    if number == 1:
        return None
    if job is None:
        fix = 'add --on slurm; or, in a job of your own, --job "$SLURM_JOB_ID"'
        raise InputError(f"--nodes {number}: this is no job of Slurm", fix=fix)
    if shutil.which("srun") is None:
        raise InputError(f"--nodes {number}: there is no srun here", fix="run it in a job of Slurm")
    if not job.isdecimal():
        raise InputError(f"--job {job} is no job of Slurm", fix='give --job "$SLURM_JOB_ID"')
    return Nodes(number, each, job, interface)


def address_of(interface: str) -> str:
    """The IPv4 address that a network interface of this machine has.

    Raises:
        InputError: it has none, or is none.
    """
    fix = "see their names with ip address"
    if sys.platform != "linux" or not _LINK.fullmatch(interface):
        raise InputError(f"--interface {interface} is no network interface", fix=fix)
    import fcntl

    siocgifaddr = 0x8915  # of Linux: "get the address of the interface"
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        try:
            answer = fcntl.ioctl(asking, siocgifaddr, interface.encode().ljust(256, b"\0"))
        except OSError:
            raise InputError(f"--interface {interface} has no address on {socket.gethostname()}", fix=fix) from None
    return socket.inet_ntoa(answer[20:24])


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("", 0))
        port: int = free.getsockname()[1]
    return port
