"""Work on the workers of a Dask cluster, behind the standard `Executor`: sheets out, outcomes back.

One case is handed to a worker at a time, so that the death of a worker blames exactly the case that it worked on (Dask
blames all that a worker was given). A future of Dask is dropped as soon as it is done, for a result that is still held
dies with its worker and its case would be done again.
"""

from __future__ import annotations

import secrets
import statistics
import threading
import time
from collections.abc import Callable
from concurrent.futures import CancelledError, Executor, Future
from contextlib import suppress
from typing import Any, TypeVar

from distributed import Client, KilledWorker

from medseg.cluster.job import Outcome, do_job, versions
from medseg.cluster.sheets import Sheets
from medseg.errors import SOME_FAILED, MedsegError, ResourceError
from medseg.parallel import WorkerKilled

PATIENCE_S = 900.0  # without any case that ends, while workers are there
TIMES_MEDIAN = 10.0
LOOK_EVERY_S = 1.0
TOLD = 3  # cases that are named

T = TypeVar("T")


class Stalled(MedsegError):
    """No case ends any more; what is done is kept."""

    exit_code = SOME_FAILED


class DaskExecutor(Executor):
    """An `Executor` over the workers of `client`, for one stretch of work.

    check: is called now and then, and raises where the cluster itself gave out. resources: of Dask's kind, that every
    case needs. memory_bytes: that a worker must have to be used. clock: seconds.
    """

    def __init__(
        self,
        client: Client,
        sheets: Sheets,
        check: Callable[[], None] = lambda: None,
        resources: dict[str, float] | None = None,
        memory_bytes: float = 0.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._client, self._sheets, self._check, self._clock = client, sheets, check, clock
        self._memory_bytes = memory_bytes
        self._inner = client.get_executor(pure=False, retries=0, **({"resources": resources} if resources else {}))
        self._token, self._count, self._versions = secrets.token_hex(4), 0, versions()
        self._lock = threading.Lock()
        self._cases: dict[str, str] = {}  # what Dask calls a job -> the case
        self._futures: dict[str, Future[Outcome]] = {}
        self._bound: dict[str, set[str]] = {}  # the workers that may do a job, where not all may
        self._large: set[str] = set()
        self._one_died = False  # since the workers were counted
        self._small = False  # whether some worker is too small
        self._took: list[float] = []
        self._stood = 0.0  # how long workers were there since something ended
        self._looked = clock() - LOOK_EVERY_S
        self.workers = 0
        self.peak_bytes = 0

    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> Future[T]:
        """Write the work down and hand it to the cluster.

        Raises:
            ResourceError: the shared disk is full.
        """
        if kwargs:
            raise TypeError("a job has no named arguments")
        sheet = self._sheets.write(fn, args)
        self._count += 1
        key = f"medseg-{self._token}-{self._count}"
        outer: Future[T] = Future()
        with self._lock:
            self._cases[key] = case_of(args[0]) if args else ""
        bound = {"workers": sorted(self._large)} if self._small else {}
        inner = self._inner.submit(do_job, sheet.path, sheet.digest, self._versions, key=key, **bound)
        with self._lock:
            self._futures[key] = inner
            if bound:
                self._bound[key] = set(self._large)
        begun = self._clock()
        inner.add_done_callback(lambda done: self._ended(key, begun, done, outer))
        return outer

    def room(self) -> int:
        """How many cases are to be in hand: one for each worker."""
        self.watch()
        if self._one_died or not self.workers:
            self._one_died = False
            self._look()
        return self.workers

    def status(self) -> str:
        """How it stands, in a few words."""
        if not self.workers:
            return "no worker yet"
        most = f", {self.peak_bytes / 1e9:.1f} GB at most" if self.peak_bytes else ""
        return f"{self.workers} worker{'' if self.workers == 1 else 's'}{most}"

    def _ended(self, key: str, begun: float, inner: Future[Outcome], outer: Future[T]) -> None:
        """Turn Dask's future into ours."""
        with self._lock:
            self._cases.pop(key, None)
            self._futures.pop(key, None)
            left = self._bound.pop(key, None) is not None
            self._stood = 0.0
            self._took.append(self._clock() - begun)
        try:
            outcome = inner.result()
        except KilledWorker as error:
            self._one_died = True
            outer.set_exception(WorkerKilled(int(error.allowed_failures) + 1))
        except CancelledError:
            gone = ResourceError("the cluster gave a case back", fix="run the same command again")
            outer.set_exception(WorkerKilled() if left else gone)  # see `_free`
        except Exception as error:
            outer.set_exception(error)
        else:
            self._settle(outcome, outer)

    def _settle(self, outcome: Outcome, outer: Future[T]) -> None:
        self.peak_bytes = max(self.peak_bytes, outcome.peak_bytes or 0)
        if outcome.unfit:
            fix = "give all machines the same medseg and the same folders"
            outer.set_exception(ResourceError(outcome.unfit, fix=fix))
        elif outcome.error is not None:
            outer.set_exception(outcome.error)
        else:
            outer.set_result(outcome.value)

    def watch(self) -> None:
        """Look whether the scheduler is there and cases still end.

        Raises:
            ResourceError: the connection to the scheduler is lost, or the cluster gave out.
            Stalled: no case has ended for 15 minutes, or ten times as long as one takes, while workers were there.
        """
        now = self._clock()
        if now - self._looked < LOOK_EVERY_S:
            return
        if self._client.status not in ("running", "connecting"):
            what = "the connection to the Dask scheduler is lost"
            raise ResourceError(what, fix="what is done is kept; run the same command again")
        self._check()
        self._look()
        self._free()
        with self._lock:
            if self._cases and self.workers:
                self._stood += now - self._looked
            self._looked = now
            limit = max(PATIENCE_S, TIMES_MEDIAN * statistics.median(self._took or [0.0]))
            hang = sorted(self._cases.items()) if self._stood > limit else []
        if hang:
            raise Stalled(self._stall(hang), fix="what is done is kept; run the same command again")

    def _look(self) -> None:
        """Which workers there are."""
        self._large, small = by_memory(workers_of(self._client), self._memory_bytes)
        self._small, self.workers = bool(small), len(self._large)

    def _free(self) -> None:
        """Take back jobs whose workers are all gone: one that is started again has a new address."""
        with self._lock:
            lost = [self._futures[key] for key, bound in self._bound.items() if bound.isdisjoint(self._large)]
        for future in lost:
            future.cancel()

    def _stall(self, hang: list[tuple[str, str]]) -> str:
        """Which cases hang where, and where the state of the cluster is written."""
        where: dict[str, str] = {}
        with suppress(Exception):  # what hangs may be the scheduler
            for worker, keys in self._client.processing().items():
                where |= dict.fromkeys(keys, worker)
        named = [f"{case} on {where.get(key, 'no worker')}" for key, case in hang]
        told = ", ".join(named[:TOLD]) + (f" and {len(named) - TOLD} more" if len(named) > TOLD else "")
        dump = self._sheets.folder.parent / "cluster_state"
        kept = ""
        with suppress(Exception):
            self._client.dump_cluster_state(str(dump), write_from_scheduler=False)
            kept = f"; the state of the cluster is in {dump.name}.msgpack.gz"
        return f"no case has ended for {self._stood / 60:.0f} min: {told}{kept}"

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """End this stretch of work: what is in hand is given up, unless it is waited for."""
        self._inner.shutdown(wait=wait and not cancel_futures)


def workers_of(client: Client) -> dict[str, Any]:
    """What the scheduler knows of each worker, by its address; none while it cannot be reached."""
    try:
        known: dict[str, Any] = client.scheduler_info(n_workers=-1)
    except OSError:
        return {}
    found: dict[str, Any] = known.get("workers", {})
    return found


def by_memory(known: dict[str, Any], need_bytes: float) -> tuple[set[str], set[str]]:
    """Addresses of workers that have so much memory, and of those that have not; 0 is no limit."""
    large = {address for address, one in known.items() if not 0 < (one.get("memory_limit") or 0) < need_bytes}
    return large, set(known) - large


def case_of(job: Any) -> str:
    """The name of the case that a job is about."""
    for _ in range(4):
        if isinstance(job, str):
            return job
        job = getattr(job, "case", None) or getattr(job, "scan", None) or getattr(job, "name", "")
    return ""
