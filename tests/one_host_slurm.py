"""A Slurm of two nodes, n1 and n2 of one core each, on this one host, and how to lose one of them.

It needs root, and Debian's slurmctld, slurmd, slurm-client and munge; no systemd. Its daemons listen on every
interface, so it is for a test machine that nobody else reaches. Ports, sockets and files are its own: several may run.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "squeue", "sinfo", "scancel")
NODES = ("n1", "n2")
START_S = 20.0
STOP_S = 10.0
CONFIGURATION = """\
ClusterName=t
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
SlurmctldPort={ports[0]}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.sock,cred_expire=5
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool.%n
SlurmctldPidFile={folder}/ctld.pid
SlurmdPidFile={folder}/slurmd.%n.pid
SlurmctldLogFile={folder}/ctld.log
SlurmdLogFile={folder}/slurmd.%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
MpiDefault=none
MailProg=/bin/true
ReturnToService=2
SlurmdTimeout=5
KillWait=5
SlurmdParameters=config_overrides
SchedulerParameters=bf_interval=1,batch_sched_delay=0
NodeName=n1 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[1]} CPUs=1 RealMemory=4000
NodeName=n2 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[2]} CPUs=1 RealMemory=4000
PartitionName=main Nodes=n1,n2 Default=YES MaxTime=60 State=UP
"""


def why_not() -> str:
    """Why there can be no such Slurm here; empty where there can."""
    if not sys.platform.startswith("linux"):
        return "Slurm runs on Linux"
    if os.geteuid() != 0:
        return "slurmctld and slurmd need root here"
    missing = [name for name in PROGRAMS if shutil.which(name, path=_path()) is None]
    return f"not installed: {', '.join(missing)}" if missing else ""


@contextmanager
def one_host_slurm() -> Iterator[Slurm]:
    """Within it a Slurm runs; at its end nothing of it is left."""
    folder = Path(tempfile.mkdtemp(prefix="slurm-"))  # a short path: that of a socket has 107 characters
    slurm = Slurm(folder)
    try:
        slurm.start()
        yield slurm
    finally:
        slurm.stop()
        shutil.rmtree(folder, ignore_errors=True)


class Slurm:
    """The running daemons; `environment` makes commands find them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.environment = {"SLURM_CONF": str(folder / "slurm.conf")}

    def start(self) -> None:
        """Start munged, slurmctld and both nodes, and wait until these are idle."""
        self.folder.chmod(0o755)
        (self.folder / "state").mkdir()
        key = self.folder / "munge.key"
        key.touch(0o600)
        key.write_bytes(os.urandom(1024))
        host = socket.gethostname().split(".")[0]
        text = CONFIGURATION.format(host=host, folder=self.folder, ports=_free_ports(3))
        Path(self.environment["SLURM_CONF"]).write_text(text)
        own = {"socket": "sock", "key-file": "key", "seed-file": "seed", "log-file": "log", "pid-file": "pid"}
        self.run("munged", "--force", *(f"--{option}={self.folder}/munge.{end}" for option, end in own.items()))
        self.run("slurmctld")
        for node in NODES:
            self.run("slurmd", "-N", node)
        self.wait_until(lambda: self.idle() == set(NODES), START_S, "both nodes are idle")

    def run(self, *command: str) -> str:
        """What a command of this Slurm prints; it must succeed."""
        environment = {**os.environ, **self.environment, "PATH": _path()}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, f"{' '.join(command)}: {done.stderr or done.stdout}"
        return done.stdout

    def idle(self) -> set[str]:
        """Nodes that are there and have nothing to do."""
        with suppress(AssertionError):  # slurmctld does not answer yet
            rows = [line.split() for line in self.run("sinfo", "-h", "-N", "-o", "%N %T").splitlines()]
            return {name for name, state in rows if state == "idle"}
        return set()

    def queue(self) -> list[tuple[str, str, str]]:
        """Every job that waits or runs: its id, state and node, where it has one."""
        rows = [line.split("|") for line in self.run("squeue", "-h", "-r", "-o", "%i|%T|%N").splitlines()]
        return [(job, state, nodes) for job, state, nodes in rows]

    def wait_empty(self, timeout_s: float = 120.0) -> None:
        """Wait until no job waits or runs."""
        self.wait_until(lambda: not self.queue(), timeout_s, "the queue is empty")

    def wait_until(self, there: Callable[[], bool], timeout_s: float, what: str) -> None:
        """Wait for something, and fail where it does not come."""
        until = time.monotonic() + timeout_s
        while not there():
            assert time.monotonic() < until, f"not within {timeout_s:.0f} s: {what}\n{self.logs()}"
            time.sleep(0.2)

    def logs(self, lines: int = 15) -> str:
        """The last lines of each daemon, for a failure's message."""
        return "\n".join(
            "\n".join((f"== {path.name}", *path.read_text(errors="replace").splitlines()[-lines:]))
            for path in sorted(self.folder.glob("*.log"))
        )

    def kill_node(self, node: str) -> None:
        """Lose a node as if its power failed: its slurmd, what supervises its jobs, and these with all they started.

        Slurm sees it down after 25 to 35 s. (slurmd alone loses nothing when it is killed.)
        """
        _kill([_pid(self.folder / f"slurmd.{node}.pid")])
        jobs = self.processes_of(node)
        supervisors = {parent for job in jobs if _name(parent := _parent(job)) == "slurmstepd"}
        _kill(supervisors)
        _kill({process for job in jobs for process in _tree(job)})

    def revive_node(self, node: str) -> None:
        """Start it again, and wait until it is seen."""
        self.run("slurmd", "-N", node)
        states = ("idle", "mixed", "allocated", "completing")
        seen = lambda: self.run("sinfo", "-h", "-n", node, "-o", "%T").strip() in states  # noqa: E731
        self.wait_until(seen, START_S, f"{node} is back")

    def clear(self) -> None:
        """Cancel every job, have both nodes idle again: for the next test."""
        for job in {job.split("_")[0] for job, _, _ in self.queue()}:
            self.run("scancel", job)
        for node in NODES:
            if not _is_running(_pid(self.folder / f"slurmd.{node}.pid")):
                self.revive_node(node)
        self.wait_empty()
        self.wait_until(lambda: self.idle() == set(NODES), 60, "both nodes are idle")

    def stop(self) -> None:
        """End the jobs and every daemon."""
        with suppress(AssertionError, subprocess.TimeoutExpired):
            for job in {job.split("_")[0] for job, _, _ in self.queue()}:
                self.run("scancel", "--signal=KILL", "--full", job)
        files = [self.folder / name for name in (*(f"slurmd.{n}.pid" for n in NODES), "ctld.pid", "munge.pid")]
        daemons = [pid for file in files if (pid := _pid(file)) and _is_running(pid)]
        for pid in daemons:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)
        until = time.monotonic() + STOP_S
        while any(map(_is_running, daemons)) and time.monotonic() < until:
            time.sleep(0.1)
        _kill(pid for pid in daemons if _is_running(pid))
        for node in NODES:
            jobs = self.processes_of(node)
            _kill({parent for job in jobs if _name(parent := _parent(job)) == "slurmstepd"})
            _kill({process for job in jobs for process in _tree(job)})

    def processes_of(self, node: str) -> list[int]:
        """The processes that this Slurm started on a node, by what Slurm puts into their environment."""
        own = {f"SLURM_CONF={self.environment['SLURM_CONF']}".encode(), f"SLURMD_NODENAME={node}".encode()}
        return [pid for pid in processes() if own <= set(_read(pid, "environ").split(b"\0"))]


def _path() -> str:
    """Daemons are in sbin, which is not on everyone's path."""
    return os.pathsep.join((os.environ.get("PATH", ""), "/usr/sbin", "/sbin"))


def _free_ports(n: int) -> list[int]:
    """Below those that the system gives out by itself, so that none is taken in between."""
    found: set[int] = set()
    while len(found) < n:
        port = random.SystemRandom().randrange(12000, 32000)
        with socket.socket() as tried, suppress(OSError):
            tried.bind(("", port))
            found.add(port)
    return sorted(found)


def processes(words: str = "") -> list[int]:
    """All that run whose command has these words."""
    found = [int(path.name) for path in Path("/proc").iterdir() if path.name.isdecimal()]
    return [pid for pid in found if words in _read(pid, "cmdline").decode(errors="replace").replace("\0", " ")]


def _read(pid: int, name: str) -> bytes:
    with suppress(OSError):
        return Path(f"/proc/{pid}/{name}").read_bytes()
    return b""


def _stat(pid: int) -> list[str]:
    """State, parent, ... of a process; empty where it has ended."""
    return _read(pid, "stat").decode(errors="replace").rpartition(")")[2].split()


def _name(pid: int) -> str:
    return _read(pid, "comm").decode(errors="replace").strip()


def _parent(pid: int) -> int:
    stat = _stat(pid)
    return int(stat[1]) if stat else 0


def _is_running(pid: int) -> bool:
    stat = _stat(pid)
    return bool(stat) and stat[0] != "Z"


def _tree(root: int) -> list[int]:
    """A process and all that come from it."""
    parents = {pid: _parent(pid) for pid in processes()}
    found = [root]
    for pid in found:
        found += [child for child, parent in parents.items() if parent == pid]
    return found


def _kill(pids: Iterator[int] | set[int] | list[int]) -> None:
    for pid in pids:
        if pid > 1:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def _pid(file: Path) -> int:
    with suppress(OSError, ValueError):
        return int(file.read_text())
    return 0
