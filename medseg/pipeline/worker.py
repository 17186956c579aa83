"""A process that trains one fold, or is one of several ranks that do: started by training/launch.py, never by hand.

Its events go to standard output as lines (see training/wire.py). It ends with the process that started it, which holds
the other end of its standard input.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

import torch

from medseg.compute import choose_device, keep_freed_memory
from medseg.errors import INTERRUPTED, MedsegError
from medseg.events import Event
from medseg.report.training import draw_curves
from medseg.resources import available_cores
from medseg.training.crossvalidation import cases_of
from medseg.training.fold import FoldTrained, train_fold
from medseg.training.job import FoldJob, How
from medseg.training.launch import GRACE_S, WorkerJob
from medseg.training.learning.distributed import Ranks, started
from medseg.training.run import plan_for
from medseg.training.wire import told


def main(text: str) -> int:
    """Train as the JSON of a `WorkerJob` says; an exit code."""
    asked = WorkerJob.model_validate_json(text)
    end = threading.Event()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a Ctrl-C is answered by who started us
    signal.signal(signal.SIGTERM, lambda *_: end.set())
    threading.Thread(target=_end_with_parent, args=(end,), daemon=True).start()
    try:
        device = choose_device(asked.device)
        torch.set_num_threads(max(available_cores() // asked.processes, 1))
        keep_freed_memory()
        with started(device) as ranks:
            for event in _events(asked, ranks, end):
                if ranks.writes:
                    _say(event)
    except MedsegError as error:
        _say(error)
        _leave(error.exit_code)
    except KeyboardInterrupt:
        _leave(INTERRUPTED)
    except BaseException:
        traceback.print_exc()
        _leave(1)
    return 0


def _leave(code: int) -> NoReturn:
    """End at once: whatever Python does at its end might wait for ranks that wait for this one."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _events(asked: WorkerJob, ranks: Ranks, end: threading.Event) -> Iterator[Event]:
    run, now = Path(asked.run), time.monotonic()
    how = How(asked.deterministic, Path(asked.init) if asked.init else None, asked.tensorboard, draw_curves)
    job = FoldJob(
        run,
        asked.fold,
        plan_for(run, asked.configuration),
        cases_of(asked.fold, run),
        None if asked.ends_at is None else now + asked.ends_at - time.time(),
        asked.steps,
        ranks.device,
        time.monotonic,
        now,
        how,
        end.is_set,
        asked.processes,
    )
    for event in train_fold(job, ranks):
        if not isinstance(event, FoldTrained):
            yield event


def _say(what: Event | MedsegError) -> None:
    sys.stdout.write(told(what))
    sys.stdout.flush()


def _end_with_parent(end: threading.Event) -> None:
    """Wait until the other end of standard input is closed: then there is time for a checkpoint, and no more."""
    while os.read(0, 1):  # not sys.stdin, whose lock a waiting thread would hold when Python ends
        pass
    end.set()
    time.sleep(GRACE_S)
    os._exit(INTERRUPTED)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
