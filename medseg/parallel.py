"""Mapping work over cases: the standard `Executor` is the only seam between a loop over cases and where it runs."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Generic, NamedTuple, Protocol, TypeVar, runtime_checkable

from medseg.errors import MedsegError, ResourceError
from medseg.resources import available_cores, available_memory_bytes

TRIES = 3
WATCH_EVERY_S = 1.0
WAIT_S = 0.1
MEMORY_SHARE = 0.8  # of what is free: the rest is for others, and for what was not foreseen
WORKER_BYTES = 120e6  # of a process that only waits: interpreter and libraries
SERIAL_BELOW_S = 8.0  # starting a pool costs about a second a worker; less work than this is done in place

C = TypeVar("C")
T = TypeVar("T")


class WorkerKilled(Exception):
    """The process that worked on this case died, `tries` times by now; most often the memory was used up."""

    def __init__(self, tries: int = 1) -> None:
        self.tries = tries
        super().__init__(tries)


class Unforeseen(Exception):
    """A fault of the program in a process on another machine, with its traceback there."""


@runtime_checkable
class Watched(Protocol):
    """An executor of other machines, that is looked at now and then: there more can go wrong than a case."""

    def watch(self) -> None:
        """Raise if no more can be expected of it."""


@dataclass(frozen=True, slots=True)
class Done(Generic[C, T]):
    """One case is finished, with the small record that its work returned."""

    case: C
    record: T


@dataclass(frozen=True, slots=True)
class Failed(Generic[C]):
    """One case is given up, with the reason in one line."""

    case: C
    reason: str


def over_cases(
    work: Callable[[C], T], cases: Iterable[C], executor: Executor, in_flight: int | Callable[[], int]
) -> Iterator[Done[C, T] | Failed[C]]:
    """Yield each case as it finishes or is given up; the order is the order of finishing.

    A case whose process dies is tried three times; one that raises a MedsegError is not tried again, since the same
    input gives the same answer. On other machines whatever may be a machine's own fault is tried again as well. At most
    `in_flight` cases are handed out at a time, so that progress is seen. Closing the generator early (Ctrl-C) ends the
    executor without waiting for cases in flight.
    """
    held = _InHand(work, iter(cases), executor, in_flight)
    elsewhere = executor if isinstance(executor, Watched) else None
    try:
        held.hand_out()
        while held.futures or held.left:
            if held.futures:
                ready, _ = wait(held.futures, WATCH_EVERY_S if elsewhere else None, FIRST_COMPLETED)
                yield from filter(None, map(held.taken, ready))
            else:
                time.sleep(WAIT_S)  # for a worker
            if elsewhere:
                elsewhere.watch()
            held.hand_out()
    except BaseException:
        executor.shutdown(wait=False, cancel_futures=True)
        raise
    executor.shutdown()


class _InHand(Generic[C, T]):
    """The cases that are handed out, each with the number of its try."""

    def __init__(
        self, work: Callable[[C], T], cases: Iterator[C], executor: Executor, in_flight: int | Callable[[], int]
    ) -> None:
        self.futures: dict[Future[T], tuple[C, int]] = {}
        self._work, self._waiting, self._executor, self._in_flight = work, cases, executor, in_flight
        self._elsewhere = isinstance(executor, Watched)
        self._again: deque[tuple[C, int]] = deque()
        self.left = True  # whether cases may be left to hand out

    def hand_out(self) -> None:
        """Hand out as many as there is room for; first those that are tried again. These wait for room as the others
        do: handed to a worker that is busy, they would be blamed for its death as well.
        """
        room = self._in_flight() if callable(self._in_flight) else self._in_flight
        while len(self.futures) < room:
            case, number = self._again.popleft() if self._again else (next(self._waiting, _END), 1)
            if case is _END:
                self.left = False
                return
            self.futures[self._executor.submit(self._work, case)] = (case, number)

    def taken(self, future: Future[T]) -> Done[C, T] | Failed[C] | None:
        """What became of a case; None if it is tried again."""
        case, tried = self.futures.pop(future)  # dropped at once: a held result would die with its worker
        error = future.exception()
        if error is None:
            return Done(case, future.result())
        tried += error.tries - 1 if isinstance(error, WorkerKilled) else 0
        if tried < TRIES and _may_go_better(error, self._elsewhere):
            self._again.append((case, tried + 1))
            self.left = True
            return None
        if _of_the_case(error):
            return Failed(case, _reason(error, tried))
        raise error


_END: Any = object()


def _may_go_better(error: BaseException, elsewhere: bool) -> bool:
    """Whether another try may end otherwise: on other machines a disk, a mount or the library may fail on one alone."""
    return isinstance(error, (WorkerKilled, ResourceError, Unforeseen) if elsewhere else WorkerKilled)


def _of_the_case(error: BaseException) -> bool:
    """True if other cases can go on: neither a full disk, which they would meet too, nor a fault of medseg itself."""
    if isinstance(error, ResourceError):
        return False
    return isinstance(error, (MedsegError, WorkerKilled, MemoryError, Unforeseen))


def _reason(error: BaseException, tried: int) -> str:
    if isinstance(error, WorkerKilled):
        return f"its process was killed {tried} times, probably for lack of memory"
    if isinstance(error, Unforeseen):
        return f"[UNEXPECTED] {str(error).strip().splitlines()[-1]}, {tried} times: please report it"
    return str(error) or type(error).__name__


class InPlace(Executor):
    """Works in this very process: for a handful of small cases a pool costs more than it brings."""

    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> Future[T]:
        """Do the work now; the future is finished when this returns."""
        future: Future[T] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except Exception as error:
            future.set_exception(error)
        return future


class LocalExecutor(ThreadPoolExecutor):
    """Threads that each own a one-process pool, so that a dying process blames exactly one case.

    `environments` gives each worker's environment variables, one entry a worker. Processes are spawned, never
    forked, and end by themselves when this process does, however it ends.
    """

    def __init__(self, environments: Iterable[Mapping[str, str]]) -> None:
        self._free = list(environments)
        self._slot = threading.local()
        self._pools: list[ProcessPoolExecutor] = []
        self._guard = threading.Lock()
        self._closing = False
        super().__init__(len(self._free))

    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> Future[T]:
        """Hand the work to the next free worker."""
        return super().submit(self._run, fn, args, kwargs)

    def _run(self, fn: Callable[..., T], args: tuple[Any, ...], kwargs: dict[str, Any]) -> T:
        if self._closing:
            raise WorkerKilled
        try:
            return self._pool().submit(fn, *args, **kwargs).result()
        except BrokenProcessPool:
            self._slot.pool = None
            raise WorkerKilled from None

    def _pool(self) -> ProcessPoolExecutor:
        pool: ProcessPoolExecutor | None = getattr(self._slot, "pool", None)
        if pool is None:
            with self._guard:
                if not hasattr(self._slot, "environment"):
                    self._slot.environment = dict(self._free.pop())
                spawn = multiprocessing.get_context("spawn")
                pool = ProcessPoolExecutor(1, spawn, initializer=_begin_worker, initargs=(self._slot.environment,))
                self._pools.append(pool)
            self._slot.pool = pool
        return pool

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """End the workers; without `wait` cases in flight are killed (their outputs appear whole or not at all)."""
        if not wait:
            self._closing = True  # a thread whose worker is killed must not take up the next case
            super().shutdown(wait=False, cancel_futures=True)
            while any(thread.is_alive() for thread in self._threads):  # a worker may be starting up at this moment
                self._kill()
                time.sleep(0.02)
        super().shutdown(wait=True, cancel_futures=cancel_futures)
        for pool in self._pools:
            pool.shutdown(wait=wait, cancel_futures=cancel_futures)

    def _kill(self) -> None:
        with self._guard:
            pools = list(self._pools)
        for pool in pools:
            # the standard library has no public way to do this before 3.14
            for process in list((pool._processes or {}).values()):  # noqa: SLF001
                with suppress(AttributeError, ValueError):  # it is not started yet, or was closed meanwhile
                    process.kill()


def _begin_worker(environment: dict[str, str]) -> None:
    os.environ.update(environment)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes; the parent alone answers, and kills
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_end_with, args=(parent,), daemon=True).start()


def _end_with(parent: Any) -> None:
    parent.join()
    os._exit(1)


class Workers(NamedTuple):
    """Where cases are worked on: how many are to be handed out at once, what there is to say of it before, and a few
    words on how it stands at any moment.
    """

    executor: Executor
    in_flight: int | Callable[[], int]
    told: tuple[str, ...] = ()
    status: Callable[[], str] = str
    threads: int | None = None  # that each may use; None for what its process was started with


def among(case: str, status: str) -> str:
    """A case that ended, and how the workers stand, where there is something to say of them."""
    return f"{case} ({status})" if status else case


class Where(Protocol):
    """Chooses workers for a stretch of work; `here`: they are processes of this machine."""

    @property
    def here(self) -> bool:
        """Whether this machine does the work."""

    def workers(self, n_cases: int, expected_s: float, case_bytes: float = 0.0, gpu: bool = False) -> Workers:
        """Workers for so many cases, of so many seconds of one core in all; the largest takes `case_bytes`.

        gpu: the work uses a GPU, where there is one.
        """


@dataclass(frozen=True, slots=True)
class Here:
    """This machine. jobs: exactly so many processes; else as many as cores and memory allow, and none for little work.
    gpus: the names of those that the processes share in turn, for work that uses one.
    """

    jobs: int | None = None
    gpus: tuple[str, ...] = ()

    @property
    def here(self) -> bool:
        """Yes."""
        return True

    def workers(self, n_cases: int, expected_s: float, case_bytes: float = 0.0, gpu: bool = False) -> Workers:
        """This very process for little work, processes of their own for more."""
        if self.jobs is None or n_cases == 0:
            return Workers(*local_executor(n_cases, expected_s, case_bytes))
        n = min(self.jobs, n_cases)
        fit = int(MEMORY_SHARE * available_memory_bytes() / (case_bytes + WORKER_BYTES))
        told = (f"memory holds {fit} of these cases at a time, not {n}",) if fit < n else ()
        n = max(min(n, fit), 1)
        threads = max(available_cores() // n, 1)
        environments = [_threads(threads) for _ in range(n)]
        for k, environment in enumerate(environments):
            if gpu and self.gpus:
                environment["CUDA_VISIBLE_DEVICES"] = self.gpus[k % len(self.gpus)]
        return Workers(LocalExecutor(environments), 2 * n, told, threads=threads)


HERE = Here()


def local_executor(n_cases: int, expected_s: float, case_bytes: float = 0.0) -> tuple[Executor, int]:
    """Choose where work on `n_cases` cases of `expected_s` seconds in all runs here; also how many to hand out at once.

    Workers are bounded by cores and by memory: `case_bytes` is the peak need of the largest case, beside the worker.
    """
    workers = min(available_cores(), n_cases)
    if case_bytes > 0:
        workers = min(workers, int(MEMORY_SHARE * available_memory_bytes() / (case_bytes + WORKER_BYTES)))
    if workers <= 1 or expected_s < SERIAL_BELOW_S:
        return InPlace(), 1
    return LocalExecutor([_threads(1)] * workers), 2 * workers


def _threads(n: int) -> dict[str, str]:
    return {name: str(n) for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")}
