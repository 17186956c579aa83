"""Slurm jobs that are workers of a Dask cluster, whose scheduler runs in this process: dask-jobqueue submits them,
replaces those that are lost, and cancels them in the end.

Everything between them is encrypted with certificates that are made for this one run and lie, for their owner alone, in
the private folder of the run. Every socket is on one address, the chosen interface's or that of the route between
scheduler and worker; where Dask insists on a port for its pages, it is one of the machine itself that serves none.
"""

from __future__ import annotations

import math
import os
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dask
from dask.utils import parse_bytes
from dask_jobqueue.slurm import SLURMCluster, SLURMJob
from distributed import Client, Security

from medseg.cluster.network import own_address
from medseg.cluster.options import SbatchOptions, sbatch_options
from medseg.cluster.sheets import Sheets
from medseg.cluster.slurm import check_sbatch, standings
from medseg.cluster.where import DRIVER, GB, Elsewhere, Need, quiet
from medseg.errors import InputError, ResourceError, explained

JOBS = 4  # where nobody says how many
LOOK_EVERY_S = 15.0  # at the queue, while no worker is there
LOST_AFTER = 2  # looks that find none of our jobs
DEATH_TIMEOUT_S = 60  # after which a worker without its scheduler ends
ROOM_S = 1800.0  # added to the time that work is expected to take three times over
STEP_BYTES = 2e9  # of memory that a job asks for: the next stretch of work shall find its workers large enough
SUBMITTED_MOST = 10  # times the jobs wanted: if so many were lost, something else is wrong
WORKERS_OWN = {  # Dask's settings of a worker, by its environment: it serves nothing, and keeps nothing on disk
    "DASK_DISTRIBUTED__WORKER__HTTP__ROUTES": "[]",
    "DASK_DISTRIBUTED__WORKER__MEMORY__TARGET": "False",
    "DASK_DISTRIBUTED__WORKER__MEMORY__SPILL": "False",
    "DASK_DISTRIBUTED__WORKER__MEMORY__PAUSE": "False",
}


LIBRARIES = ("OMP", "MKL", "OPENBLAS")  # that read how many threads they may use


@dataclass(slots=True)
class Shared:
    """What all jobs of a cluster share: the private folder, sockets' interface, and how many were submitted."""

    folder: Path
    interface: str
    submitted: int = 0


class WorkerJob(SLURMJob):
    """A job that is one worker; unlike its base it writes paths with spaces as the shell wants them."""

    def __init__(self, scheduler: Any = None, name: Any = None, shared: Any = None, **others: Any) -> None:
        others["security"] = None  # its files are named below
        super().__init__(scheduler, name, **others)  # type: ignore[no-untyped-call]
        self.shared: Shared = shared
        arguments = ["--dashboard-address", "127.0.0.1:0"]
        for option, file in (("ca-file", "ca.pem"), ("cert", "cert.pem"), ("key", "key.pem")):
            arguments += [f"--tls-{option}", shlex.quote(str(shared.folder / file))]
        if shared.interface:
            arguments += ["--interface", shlex.quote(shared.interface)]
        else:
            find = f"from medseg.cluster.network import reaching; print(reaching({str(scheduler)!r}))"
            arguments += ["--host", f'"$({shlex.quote(sys.executable)} -c {shlex.quote(find)})"']
        self._command_template += " " + " ".join(arguments)

    async def start(self) -> None:
        """Submit it."""
        self.shared.submitted += 1
        await super().start()  # type: ignore[no-untyped-call]


@dataclass(slots=True)
class SlurmJobs:
    """Worker jobs, submitted when work comes that they have the memory for."""

    jobs: int | None
    options: SbatchOptions
    interface: str
    sheets: Sheets
    _cluster: Any = None
    _client: Client | None = None
    _shared: Shared | None = None
    _memory: float = 0.0
    _looked: float = 0.0
    _lost: int = 0
    _wanted: int = 0

    @property
    def threads(self) -> int | None:
        """The cores of a job."""
        return self._cpus()

    def _cpus(self) -> int:
        return int(self.options.value("cpus-per-task") or 1)

    def client(self, need: Need) -> tuple[Client, list[str]]:
        """Submit jobs with so much memory, unless there are some; they come when Slurm lets them.

        Raises:
            InputError: sbatch refuses them.
            ResourceError: they ask for less memory than a case may need.
        """
        if self._client is None or (need.memory_bytes > self._memory and self._given_memory() is None):
            self.close()
            self._memory = self._given_memory() or STEP_BYTES * math.ceil(need.memory_bytes / STEP_BYTES)
            self._enough(need.memory_bytes)
            self._wanted = min(self.jobs or JOBS, need.n_cases)
            self._client = self._started(3 * need.expected_s / self._wanted + ROOM_S)
            return self._client, [self._told(need.gpu)]
        self._enough(need.memory_bytes)
        return self._client, []

    def _told(self, gpu: bool) -> str:
        cpus = self._cpus()
        told = f"Slurm: {self._wanted} worker job{'' if self._wanted == 1 else 's'}, "
        told += f"each {cpus} core{'' if cpus == 1 else 's'} and {self._memory / GB:.1f} GB"
        if gpu and not self.options.has("gres", "gpus", "gpus-per-node", "gpus-per-task"):
            told += "; none of them has a GPU: ask for one with --slurm '--gres=gpu:1'"
        return told

    def _given_memory(self) -> float | None:
        """What the user's own options give a job."""
        if (whole := self.options.value("mem")) is not None:
            return _slurm_bytes(whole)
        if (each := self.options.value("mem-per-cpu")) is not None:
            return _slurm_bytes(each) * self._cpus()
        return None

    def _enough(self, memory_bytes: float) -> None:
        if self._memory < memory_bytes:
            what = (
                f"a worker job of {self._memory / GB:.1f} GB is too small: a case may need {memory_bytes / GB:.1f} GB"
            )
            raise ResourceError(what, fix="give --slurm a larger --mem, or none")

    def _started(self, walltime_s: float) -> Client:
        folder = self.sheets.make()
        security = credentials(folder)
        self._shared = Shared(folder, self.interface)
        asked = self._asked(walltime_s)
        check_submission(WorkerJob("tls://127.0.0.1:1", "test", config_name="slurm", **asked), folder)
        address = own_address(self.interface)
        scheduler = {"host": address, "dashboard_address": "127.0.0.1:0", "dashboard": False}
        job: Any = WorkerJob
        self._cluster = SLURMCluster(
            job_cls=job, security=security, protocol="tls://", scheduler_options=scheduler, **asked
        )
        self._cluster.adapt(minimum_jobs=self._wanted, maximum_jobs=self._wanted)
        return Client(self._cluster, security=security, set_as_default=False)

    def _asked(self, walltime_s: float) -> dict[str, Any]:
        """The arguments of a worker job; what the user's own options say stands instead of ours."""
        given = self.options
        ours = {"--mem=": ("mem", "mem-per-cpu"), "-t ": ("time",), "--cpus-per-task": ("cpus-per-task",)}
        threads = [f"DASK_DISTRIBUTED__NANNY__PRE_SPAWN_ENVIRON__{name}_NUM_THREADS" for name in LIBRARIES]
        environment = {**WORKERS_OWN, **dict.fromkeys(threads, str(self._cpus()))}
        hours, rest = divmod(int(walltime_s), 3600)
        return {
            "shared": self._shared,
            "cores": 1,
            "processes": 1,
            "job_cpu": self._cpus(),
            "memory": f"{int(self._memory)}B",
            "walltime": f"{hours}:{rest // 60:02d}:00",
            "death_timeout": DEATH_TIMEOUT_S,
            "job_name": "medseg",
            "python": shlex.quote(sys.executable),
            "local_directory": None,
            "log_directory": None,
            "worker_extra_args": [],
            "job_script_prologue": [f"export {name}='{value}'" for name, value in environment.items()],
            "job_directives_skip": [line for line, names in ours.items() if given.has(*names)],
            "job_extra_directives": [
                f"--output={shlex.quote(str(self.sheets.folder / '%j.log'))}",
                *given.without("output", "error", "job-name").directives,
            ],
        }

    def check(self) -> None:
        """Look whether jobs are there at all, while no worker is.

        Raises:
            ResourceError: they are gone, or lost again and again.
        """
        if self._shared is not None and self._shared.submitted > SUBMITTED_MOST * max(self._wanted, 2):
            self._give_up(f"{self._shared.submitted} worker jobs were lost")
        now = time.monotonic()
        if self._cluster is None or self._cluster.scheduler.workers or now - self._looked < LOOK_EVERY_S:
            return
        self._looked = now
        ids = [str(job.job_id) for job in self._cluster.workers.values() if getattr(job, "job_id", None)]
        self._lost = self._lost + 1 if ids and not queued(ids) else 0
        if self._lost >= LOST_AFTER:
            self._give_up("the worker jobs ended before they could work")

    def _give_up(self, what: str) -> None:
        logs = sorted(self.sheets.folder.glob("*.log"), key=lambda path: path.stat().st_mtime)
        said = [line for path in logs for line in path.read_text(errors="replace").splitlines() if line.strip()]
        raise ResourceError(f"{what}{f' ({said[-1].strip()[:160]})' if said else ''}", fix="see squeue and sinfo")

    def close(self) -> None:
        """Cancel the jobs, and forget the certificates."""
        if self._client is not None:
            self._client.close()
        if self._cluster is not None:
            self._cluster.close()
        self._client = self._cluster = None


@contextmanager
def on_slurm(folder: Path, jobs: int | None = None, options: str = "", interface: str = "") -> Iterator[Elsewhere]:
    """Worker jobs of Slurm; results go to `folder`. options: sbatch's own. interface: where all sockets are.

    Raises:
        InputError: this machine has no sbatch, or the options cannot be used.
    """
    given = sbatch_options(options)
    if given.has("array", "nodes", "ntasks", "wrap"):
        raise InputError("--slurm: a worker is one task of one job", fix="leave out --array, --nodes, --ntasks, --wrap")
    if not str(given.value("cpus-per-task") or 1).isdigit():
        raise InputError(f"--slurm: --cpus-per-task={given.value('cpus-per-task')} is no number")
    check_sbatch()
    own_address(interface)
    quiet()
    sheets = Sheets(folder)
    slurm = SlurmJobs(jobs, given, interface, sheets)
    with dask.config.set(DRIVER):
        try:
            yield Elsewhere(slurm, sheets)
        finally:
            slurm.close()
            sheets.remove()


def credentials(folder: Path) -> Security:
    """Make a certificate that is authority and identity of all in this run; its files in `folder` have mode 0600."""
    made: Any = Security.temporary()
    texts = {"ca.pem": made.tls_ca_file, "cert.pem": made.tls_worker_cert, "key.pem": made.tls_worker_key}
    for name, text in texts.items():
        path = folder / name
        with explained(path), open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:  # noqa: PTH123
            file.write(text)
    ca, cert, key = (str(folder / name) for name in texts)
    roles = ("client", "scheduler", "worker")
    files = {f"tls_{role}_{kind}": path for role in roles for kind, path in (("cert", cert), ("key", key))}
    return Security(tls_ca_file=ca, require_encryption=True, **files)


def check_submission(job: WorkerJob, folder: Path) -> None:
    """Have sbatch look at a job without submitting it.

    Raises:
        InputError: it would refuse it; in its own words.
    """
    with tempfile.NamedTemporaryFile("w", suffix=".sh", dir=folder) as file:
        file.write(job.job_script())  # type: ignore[no-untyped-call]
        file.flush()
        looked = subprocess.run(["sbatch", "--test-only", file.name], capture_output=True, text=True, check=False)  # noqa: S603, S607
    if looked.returncode != 0:
        said = [line for line in looked.stderr.splitlines() if line.strip()] or ["no reason was given"]
        raise InputError(
            f"sbatch refuses the worker jobs ({said[-1].removeprefix('sbatch: ').strip()})", fix="see --slurm"
        )


def queued(ids: list[str]) -> bool:
    """Whether one of these jobs is in the queue, waiting or running; also if Slurm does not say so at the moment."""
    try:
        return any(not one.is_over for one in standings(ids).values())
    except ResourceError:
        return True


def _slurm_bytes(text: str) -> float:
    """`4G`, or megabytes where no unit stands."""
    try:
        return float(parse_bytes(f"{text}iB" if text[-1:].upper() in "KMGT" else f"{text}MiB"))
    except ValueError:
        raise InputError(f"--slurm: {text} is no amount of memory", fix="write it as 8G") from None
