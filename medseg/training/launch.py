"""Training in other processes: the ranks of one fold by torchrun, or several folds side by side.

They tell their events as lines (see wire.py), and end when this process does, however it ends: each holds the other end
of a pipe that closes with it. What torchrun needs to survive a killed rank was measured: a store of its own for each
start, no restarts by torchrun itself, and a loop around it that starts it again from the checkpoint.
"""

from __future__ import annotations

import os
import queue
import re
import secrets
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import IO

from medseg.errors import MedsegError, ResourceError
from medseg.events import Advanced, Event, Note, Stage
from medseg.files import Record
from medseg.planning.plan import Name
from medseg.training.job import FoldJob, Queue
from medseg.training.wire import heard

# an exception of Python, which torchrun marks with its rank, but not torchrun's own about it; and a signal
_ERROR = re.compile(r"(?:\[rank\d+\]: ?)?((?!torch\.distributed\.elastic)[\w.]*(?:Error|Exception)\b.*)")
_LOST_RANK = re.compile(
    r"gloo|nccl|Dist(Backend|Store|Network)Error|Rendezvous|TCPStore|(closed|reset) by peer|broken pipe", re.IGNORECASE
)
_LOST_NODE = re.compile(r"srun: error: .*(Node failure|Task launch|[Cc]ommunication|[Cc]onnect)")
_SIGNAL = re.compile(r"Signal \d+ \(SIG\w+\)")

Start = tuple[Sequence[str], Mapping[str, str]]  # a command, and what its environment has besides ours
Said = queue.Queue[tuple[int, str | None]]

WORKER = ("-m", "medseg.pipeline.worker")
RELAUNCHES = 3
GRACE_S = 10.0  # for a checkpoint, when training is to end early
LEAVING_S = 3.0  # until processes that are done have ended
LAST_LINES = 300  # of what a process said, kept for an error
STORE_OF_ITS_OWN = {"TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1", "OMP_NUM_THREADS": "1"}  # for torchrun; see above


class WorkerJob(Record):
    """What a process that trains (a rank of) one fold is told: when it must be done, or the number of steps.

    ends_at: in seconds since 1970, by the clock that all processes share; on several nodes by the clock of the first
    rank's, which alone fits the steps to the time. processes: that share a machine's cores.
    """

    run: str
    fold: str
    configuration: Name
    ends_at: float | None
    steps: int | None
    device: str
    processes: int
    deterministic: bool = False
    init: str | None = None
    tensorboard: bool = False


def worker_job(job: FoldJob, processes: int) -> WorkerJob:
    """The same for another process that starts now."""
    return WorkerJob(
        run=str(job.run),
        fold=job.fold,
        configuration=job.plan.chosen,
        ends_at=None if job.ends is None else time.time() + job.ends - job.clock() - LEAVING_S,
        steps=job.steps,
        device=job.device.type,
        processes=processes,
        deterministic=job.how.deterministic,
        init=None if job.how.init is None else str(job.how.init),
        tensorboard=job.how.tensorboard,
    )


class Worker:
    """A running process: what it tells goes to `told` with its number, and None at its end."""

    def __init__(
        self,
        number: int,
        start: Start,
        told: Said,
    ) -> None:
        command, environment = start
        self.last: deque[str] = deque(maxlen=LAST_LINES)
        self._process = subprocess.Popen(  # noqa: S603 - this very program
            list(command),
            stdin=subprocess.PIPE,  # never written to: it closes when we end
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            encoding="utf-8",
            errors="replace",
            env={**os.environ, **environment},
            start_new_session=True,  # a Ctrl-C is ours to answer
        )
        self._errors = threading.Thread(target=self._listen, args=(self._process.stderr,), daemon=True)
        self._errors.start()
        threading.Thread(target=self._relay, args=(self._process.stdout, number, told), daemon=True).start()

    def _listen(self, stream: IO[str]) -> None:
        with stream:
            for line in stream:
                self.last.append(line.rstrip())

    def _relay(self, stream: IO[str], number: int, told: Said) -> None:
        with stream:
            for line in stream:
                told.put((number, line))
        self._errors.join()
        self._process.wait()
        told.put((number, None))

    @property
    def code(self) -> int | None:
        """Its exit code, once it has ended."""
        return self._process.poll()

    def end(self) -> None:
        """Ask it to end, and soon kill it; all that it started ends with it. What it hears is the end of its standard
        input: it reaches every process of it, also through srun, which answers a signal by killing all at once.
        """
        with suppress(OSError):
            if self._process.stdin:
                self._process.stdin.close()
        if self._process.poll() is None:
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(GRACE_S)
        with suppress(ProcessLookupError):
            self._process.kill()
        self._process.wait()


def torchrun(ranks: int, job: WorkerJob) -> Start:
    """How a fold is trained on `ranks` devices of this machine."""
    command = (
        *(sys.executable, "-m", "torch.distributed.run", "--nnodes", "1", "--nproc-per-node", str(ranks)),
        *("--rdzv-backend", "c10d", "--rdzv-endpoint", "127.0.0.1:0", "--rdzv-id", secrets.token_hex(8)),
        *("--local-addr", "127.0.0.1", "--max-restarts", "0", *WORKER, job.model_dump_json()),
    )
    return command, STORE_OF_ITS_OWN


def on_one(device: int, job: WorkerJob) -> Start:
    """How a fold is trained on the device of this number alone."""
    environment = {}
    if job.device == "cuda":
        seen = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
        environment["CUDA_VISIBLE_DEVICES"] = seen[device] if seen else str(device)
    return (sys.executable, *WORKER, job.model_dump_json()), environment


def on_ranks(
    job: FoldJob, ranks: int, start: Callable[[int, WorkerJob], Start] = torchrun, here: int | None = None
) -> Iterator[Event]:
    """Train one fold on several devices; where a process is killed, go on from its checkpoint, at most 3 times.

    here: how many of them share a machine; all, unless told. Of a process on another machine nothing may be told at its
    death but that the connection to it is lost, or by srun that its node is.

    Raises:
        MedsegError: what a process told as its error, or it ended by a fault of the program.
        ResourceError: it was killed too often.
    """
    for launch in range(RELAUNCHES + 1):
        said: Said = queue.Queue()
        worker = Worker(0, start(ranks, worker_job(job, here or ranks)), said)
        try:
            yield from _events(said)
        finally:
            worker.end()
        if job.is_trained:
            return
        if not _was_killed(worker.code or 0, worker.last, elsewhere=here is not None):
            what = f"a process of the training ended with {worker.code}: {_reason(worker.last)}"
            raise MedsegError(what, job.run, "train on one device to see where")
        if launch < RELAUNCHES:
            why = _reason(worker.last)
            told = (
                f"a process of the training died ({why}): it starts again, {launch + 1} of at most {RELAUNCHES} times"
            )
            yield Note(told, warning=True)
    raise ResourceError(
        f"processes of the training died {RELAUNCHES + 1} times, at last with: {_reason(worker.last)}",
        job.run,
        "look at the memory of the machine" + (" and at the network" if here else "") + ", then run the same command "
        "again to go on",
    )


def _next(said: Said) -> tuple[int, str | None]:
    """What is told next. Windows hears a Ctrl-C only between waits."""
    while True:
        with suppress(queue.Empty):
            return said.get(timeout=0.5)


def _events(said: Said) -> Iterator[Event]:
    """What one worker tells until its end, or the error that it tells, raised."""
    error: MedsegError | None = None
    while (line := _next(said)[1]) is not None:
        event = heard(line)
        if isinstance(event, MedsegError):
            error = error or event
        elif event is not None:
            yield event
    if error is not None:
        raise error


def _was_killed(code: int, last: Sequence[str], elsewhere: bool = False) -> bool:
    """Whether a process, or a rank of it as torchrun tells, died of a signal; not of the one that asks it to end.

    elsewhere: whether that may have been on a machine that could tell nothing of it.
    """
    return code < 0 or bool(_deadly(last)) or (elsewhere and code != 0 and _is_alone(last))


def _is_alone(last: Sequence[str]) -> bool:
    """Whether a lost connection, or node, is the only error that was told."""
    errors = [found[1] for line in last if (found := _ERROR.match(line.strip()))]
    lost = [error for error in errors if _LOST_RANK.search(error)]
    return len(lost) == len(errors) and bool(lost or any(map(_LOST_NODE.search, last)))


def _reason(last: Sequence[str]) -> str:
    """Why a process ended: the signal that torchrun names as the root cause; else an exception, but for one that tells
    of a lost connection to another rank, which is what a rank says first where another is killed; else its last words.
    """
    said = [line.strip() for line in last if line.strip()]
    root = next((n for n, line in enumerate(said) if line.startswith("Root Cause")), len(said))
    errors = [found[1] for line in said if (found := _ERROR.match(line))]
    own = [error for error in errors if not _LOST_RANK.search(error)]
    return (_signals(said[root:]) or own or _deadly(said) or errors or said or ["nothing was said"])[-1]


def _signals(lines: Sequence[str]) -> list[str]:
    return [found[0] for line in lines if (found := _SIGNAL.search(line))]


def _deadly(lines: Sequence[str]) -> list[str]:
    return [signal for signal in _signals(lines) if "SIGTERM" not in signal]


def side_by_side(
    queues: Sequence[Queue], failed: dict[str, str], start: Callable[[int, WorkerJob], Start] = on_one
) -> Iterator[Event]:
    """Train the folds of each queue one after another, the queues beside each other, one on each device.

    A fold that fails is put into `failed` with its reason; the others go on.
    """
    said: Said = queue.Queue()
    begun = [0] * len(queues)
    running: dict[int, tuple[str, Worker]] = {}
    done = {job.fold: 0.0 for one in queues for job in one.jobs}
    errors: dict[str, str] = {}

    def begin_next(device: int) -> None:
        if begun[device] < len(queues[device].jobs):
            job = queues[device].begun(begun[device])
            begun[device] += 1
            running[device] = job.fold, Worker(device, start(device, worker_job(job, len(queues))), said)

    if not queues:
        return
    yield Stage(f"train folds {', '.join(sorted(done))}", 100 * len(done), f"side by side, {len(queues)} at a time")
    try:
        for device in range(len(queues)):
            begin_next(device)
        while running:
            device, line = _next(said)
            fold, worker = running[device]
            if line is not None:
                yield from _forwarded(line, fold, done, errors)
                continue
            del running[device]
            worker.end()
            if worker.code != 0:
                failed[fold] = errors.get(fold) or f"its process ended with {worker.code}: {_reason(worker.last)}"
                yield Note(f"fold {fold} failed: {failed[fold]}", warning=True)
            done[fold] = 100.0
            yield Advanced(sum(done.values()), f"fold {fold} {'failed' if fold in failed else 'is trained'}")
            begin_next(device)
    finally:
        enders = [threading.Thread(target=worker.end) for _, worker in running.values()]
        for ender in enders:
            ender.start()
        for ender in enders:
            ender.join()


def _forwarded(line: str, fold: str, done: dict[str, float], errors: dict[str, str]) -> Iterator[Event]:
    """An event of one fold as one of all: a stage becomes a note, and progress is that of all folds together."""
    match heard(line):
        case MedsegError() as error:
            errors[fold] = str(error)
        case Stage(name, _, expect):
            yield Note(f"{name}: {expect}")
        case Note(text, warning):
            yield Note(text if f"fold {fold}" in text else f"fold {fold}: {text}", warning)
        case Advanced(share, what) if what.startswith("step "):
            done[fold] = max(done[fold], share)
            yield Advanced(sum(done.values()), f"fold {fold}: {what}")
        case _:
            pass
