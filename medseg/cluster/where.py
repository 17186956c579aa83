"""Workers of a Dask cluster, somebody's that runs or one of Slurm jobs that is started here, as places of work."""

from __future__ import annotations

import logging
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import dask
from distributed import Client, Security

from medseg.cluster.executor import DaskExecutor, by_memory, workers_of
from medseg.cluster.job import About, about, unlike
from medseg.cluster.network import is_loopback
from medseg.cluster.sheets import Sheets
from medseg.errors import InputError, ResourceError, explained
from medseg.files import write_text
from medseg.parallel import InPlace, Workers

CONNECT_S = 20.0
BASE_BYTES = 600e6  # of a worker before it has a case: Python, the libraries that a verb brings, what Dask holds
SPARE = 1.2  # times what a case is expected to need at most: a worker is ended at 95 % of its limit
GB = 1e9
FILES = ("ca.pem", "cert.pem", "key.pem")
DRIVER = {
    "distributed.scheduler.allowed-failures": 0,  # tries are counted by `over_cases`, which blames no other case
    "distributed.scheduler.http.routes": [],  # nothing is served by the port that cannot be left out
    "distributed.scheduler.worker-saturation": 1.0,
}


def worker_bytes(case_bytes: float) -> float:
    """Memory that a worker should have for cases that need up to `case_bytes`."""
    return BASE_BYTES + SPARE * case_bytes


@dataclass(frozen=True, slots=True)
class Need:
    """What a stretch of work needs: cases, seconds of one core for all of them, memory of a worker, a GPU."""

    n_cases: int
    expected_s: float
    memory_bytes: float
    gpu: bool


class Cluster(Protocol):
    """Where a client comes from."""

    def client(self, need: Need) -> tuple[Client, list[str]]:
        """A client of workers for this, and what there is to say of them."""

    def check(self) -> None:
        """Raise where the cluster gave out."""

    @property
    def threads(self) -> int | None:
        """Threads that each worker may use."""


@dataclass(frozen=True, slots=True)
class Elsewhere:
    """A place of work on other machines (`parallel.Where`); they see the folder of `sheets` under the same path."""

    cluster: Cluster
    sheets: Sheets

    @property
    def here(self) -> bool:
        """No."""
        return False

    def workers(self, n_cases: int, expected_s: float, case_bytes: float = 0.0, gpu: bool = False) -> Workers:
        """The workers that have memory for the largest case, and GPUs where some have and it is asked for.

        Raises:
            ResourceError: no worker is large enough, or one is not fit for this work.
        """
        if n_cases == 0:
            return Workers(InPlace(), 1)
        self.sheets.make()
        client, told = self.cluster.client(Need(n_cases, expected_s, worker_bytes(case_bytes), gpu))
        known = workers_of(client)
        preflight(client, known, self.sheets)
        large, small = by_memory(known, worker_bytes(case_bytes))
        if known and not large:
            what = f"a case may need {worker_bytes(case_bytes) / GB:.1f} GB, and no worker has as much"
            raise ResourceError(what, fix="start workers with a larger --memory-limit")
        if small:
            told.append(f"{len(small)} of {len(known)} workers have too little memory for these cases and are left out")
        with_gpu = gpu and any("GPU" in one.get("resources", {}) for one in known.values())
        resources = {"GPU": 1.0} if with_gpu else None
        executor = DaskExecutor(client, self.sheets, self.cluster.check, resources, worker_bytes(case_bytes))
        return Workers(executor, executor.room, tuple(told), executor.status, self.cluster.threads)


def preflight(client: Client, known: dict[str, Any], sheets: Sheets) -> None:
    """Make sure that the workers that are there are like this machine, and see the shared folder, before any case runs.

    Raises:
        ResourceError: one does not.
    """
    crowded = sorted(one.get("host", address) for address, one in known.items() if one.get("nthreads", 1) != 1)
    if crowded:
        what = f"the worker on {crowded[0]} would work on several cases in one process"
        raise ResourceError(what, fix="start workers with --nthreads 1, several of them with --nworkers")
    if not known:
        return
    nonce = sheets.folder / f"{secrets.token_hex(8)}.seen"
    write_text(nonce, "", private=True)
    try:
        told: dict[str, About] = client.run(about, str(nonce), on_error="return")
    finally:
        nonce.unlink(missing_ok=True)
    for address, one in sorted(told.items()):
        if isinstance(one, Exception):
            why = f"{type(one).__name__}: {one}"
            what = f"the worker at {address} cannot run medseg ({why.splitlines()[0]})"
            raise ResourceError(what, fix="install the same medseg there")
        if said := unlike(one.versions, one.host):
            raise ResourceError(said, fix="install the same versions on all machines")
        if not one.sees:
            what = f"the worker on {one.host} does not see {sheets.folder.parent}"
            raise ResourceError(what, fix="name a folder on a disk that all machines share")


@dataclass(frozen=True, slots=True)
class Running:
    """A Dask cluster that somebody else started."""

    address: str
    connected: Client

    @property
    def threads(self) -> int | None:
        """What the workers were started with: Dask tells all libraries 1, unless it is configured otherwise."""
        return None

    def client(self, need: Need) -> tuple[Client, list[str]]:  # noqa: ARG002 - it is as large as it is
        """The client, and how many workers there are."""
        n = len(workers_of(self.connected))
        return self.connected, [f"Dask at {self.address}: {n} worker{'' if n == 1 else 's'} now"]

    def check(self) -> None:
        """The client itself knows."""


@contextmanager
def on_dask(address: str, folder: Path, tls: Path | None = None, insecure: bool = False) -> Iterator[Elsewhere]:
    """The cluster whose scheduler is at `address`; results go to `folder`. tls: a folder with this machine's files.

    Raises:
        InputError: the address is no address, or would be spoken to in the clear.
        ResourceError: there is no scheduler, or it does not let us in.
    """
    check_address(address, insecure)
    quiet()
    with dask.config.set(DRIVER):
        security = security_from(tls) if address.startswith("tls://") else None
        try:
            client = Client(address, security=security, timeout=CONNECT_S, set_as_default=False)
        except (OSError, TimeoutError, ValueError) as error:
            what = f"no scheduler at {address} lets us in ({_short(error)})"
            raise ResourceError(what, fix="see that it runs, and that --tls names the right certificate") from None
        sheets = Sheets(folder)
        try:
            yield Elsewhere(Running(address, client), sheets)
        finally:
            client.close()
            sheets.remove()


def check_address(address: str, insecure: bool) -> None:
    """Refuse what is no address, and talking in the clear where others can listen.

    Raises:
        InputError: it is one of them.
    """
    protocol, between, rest = address.partition("://")
    if protocol not in ("tls", "tcp") or not between or not rest.rpartition(":")[2].isdigit():
        raise InputError(f"--on dask:{address} is no address", fix="give dask:tls://host:port")
    if protocol == "tcp" and not insecure and not is_loopback(address):
        what = f"{address} is not encrypted: whoever reaches it can run programs on its workers"
        raise InputError(what, fix="start the scheduler with TLS, or give --insecure on a network that is yours alone")


def security_from(tls: Path | None) -> Security:
    """The certificates in a folder (ca.pem, cert.pem, key.pem), or those that Dask's own configuration names.

    Raises:
        InputError: they are not there, or others may read the key.
    """
    if tls is None:
        security: Any = Security()
        if not (security.tls_ca_file and security.tls_client_cert):
            what = "no certificate to show to the scheduler"
            raise InputError(what, fix=f"give --tls DIR with {', '.join(FILES)}")
        own: Security = security
        return own
    paths = [tls / name for name in FILES]
    if missing := [path.name for path in paths if not path.is_file()]:
        raise InputError(f"there is no {missing[0]}", tls, f"put {', '.join(FILES)} there")
    with explained(tls):
        if paths[2].stat().st_mode & 0o077:
            raise InputError("others may read this key", paths[2], f"chmod 600 {paths[2]}")
    ca, cert, key = map(str, paths)
    return Security(tls_ca_file=ca, tls_client_cert=cert, tls_client_key=key, require_encryption=True)


def quiet() -> None:
    """Dask tells of lost workers and connections by itself, in many lines; what matters of it is told by us."""
    for name in ("distributed", "dask_jobqueue", "tornado", "asyncio"):
        logging.getLogger(name).setLevel(logging.CRITICAL)


def _short(error: Exception) -> str:
    text = str(error).strip().splitlines()
    return text[0][:120] if text else type(error).__name__
