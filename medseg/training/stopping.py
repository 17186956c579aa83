"""An end that is asked for from outside: training saves a checkpoint after the step it is in, then ends."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def terminable() -> Iterator[Callable[[], bool]]:
    """Within it SIGTERM, as `kill` and a computer that shuts down send it, ends nothing: it is told when asked for.

    Only the main thread may listen to signals; elsewhere nothing changes.
    """
    asked = threading.Event()
    with _on_sigterm(lambda *_: asked.set()):
        yield asked.is_set


@contextmanager
def interruptible() -> Iterator[None]:
    """Within it SIGTERM is as a Ctrl-C: for who only waits for other processes, and has them end."""
    with _on_sigterm(signal.default_int_handler):
        yield


@contextmanager
def _on_sigterm(answer: Callable[[int, FrameType | None], object]) -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, answer)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
