"""Three stages of work on one thing after another, that overlap: while one is computed, the next is loaded by a thread
and the one before is written by another. Torch, numpy and codecs let other threads run, so no process is needed.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from medseg.errors import ResourceError

AT_A_TIME = 3  # one that is loaded, one that is computed, one that is written

S = TypeVar("S")
A = TypeVar("A")
B = TypeVar("B")
R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class Job(Generic[S]):
    """One thing to work on, and the memory that it takes at most from loading to the end of writing."""

    what: S
    bytes: float


@dataclass(frozen=True, slots=True)
class Stages(Generic[S, A, B, R]):
    """What is done with one thing. `load` gives None where nothing is to be done, and the other stages are left out.

    explain: an error in a line. The error itself is let go at once, as it would hold what it happened to.
    """

    load: Callable[[S], A | None]
    compute: Callable[[A], B]
    write: Callable[[B], R]
    explain: Callable[[Exception], str]


@dataclass(frozen=True, slots=True)
class Ended(Generic[S, R]):
    """The end of one thing: what writing it returned, or None, and why where a stage failed."""

    what: S
    result: R | None = None
    reason: str = ""


_Loading = deque[tuple[Job[S], Future[A | None]]]
_Writing = deque[tuple[Job[S], Future[R]]]


def overlapped(jobs: Iterable[Job[S]], stages: Stages[S, A, B, R], room_bytes: float) -> Generator[Ended[S, R]]:
    """Yield each thing as it ends; they are begun in the order given, and computed in the thread that asks for them.

    At most three are in memory, and as many as `room_bytes` holds; one always, so that without room all is done in
    turn. An error ends its own thing alone.

    Raises:
        ResourceError: of any stage, since the others would meet it too. Then, and where the generator is closed or
            interrupted, what is being written is finished first and what is loaded is dropped.
    """
    waiting = deque(jobs)
    loading: _Loading[S, A] = deque()
    writing: _Writing[S, R] = deque()
    with _threads() as (reader, writer):
        while waiting or loading or writing:
            while waiting and _fits(waiting[0], [job for job, _ in (*loading, *writing)], room_bytes):
                job = waiting.popleft()
                loading.append((job, reader.submit(stages.load, job.what)))
            _wait(loading, writing)
            if writing and writing[0][1].done():
                yield _ended(*writing.popleft(), stages)
            elif ended := _computed(*loading.popleft(), stages, writing, writer):
                yield ended


def _fits(job: Job[S], held: list[Job[S]], room_bytes: float) -> bool:
    return not held or (len(held) < AT_A_TIME and sum(one.bytes for one in (job, *held)) <= room_bytes)


def _wait(loading: _Loading[S, A], writing: _Writing[S, R]) -> None:
    """Until the first of either is done."""
    first: list[Future[Any]] = [queue[0][1] for queue in (loading, writing) if queue]
    wait(first, return_when=FIRST_COMPLETED)


def _computed(
    job: Job[S],
    future: Future[A | None],
    stages: Stages[S, A, B, R],
    writing: _Writing[S, R],
    writer: ThreadPoolExecutor,
) -> Ended[S, R] | None:
    """Compute what is loaded and hand it to the writer; the end, where it ends here."""
    try:
        loaded = future.result()
        if loaded is None:
            return Ended(job.what)
        writing.append((job, writer.submit(stages.write, stages.compute(loaded))))
    except ResourceError:
        raise
    except Exception as error:  # whatever is wrong with one, the others go on
        return Ended(job.what, reason=stages.explain(error))
    return None


def _ended(job: Job[S], future: Future[R], stages: Stages[S, A, B, R]) -> Ended[S, R]:
    try:
        return Ended(job.what, future.result())
    except ResourceError:
        raise
    except Exception as error:  # as above
        return Ended(job.what, reason=stages.explain(error))


@contextmanager
def _threads() -> Iterator[tuple[ThreadPoolExecutor, ThreadPoolExecutor]]:
    """A thread that loads and one that writes; in the end what they have in hand is finished, the rest is dropped."""
    reader = ThreadPoolExecutor(1, thread_name_prefix="medseg-read")
    writer = ThreadPoolExecutor(1, thread_name_prefix="medseg-write")
    try:
        yield reader, writer
    finally:
        for pool in (reader, writer):
            pool.shutdown(wait=False, cancel_futures=True)
        for pool in (writer, reader):
            pool.shutdown(wait=True)
