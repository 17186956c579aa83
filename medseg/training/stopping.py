"""An end that is asked for from outside: training saves a checkpoint after the step it is in, then ends."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from types import FrameType


@contextmanager
def terminable() -> Iterator[Callable[[], bool]]:
    """Within it SIGTERM, as `kill` and a computer that shuts down send it, ends nothing: it is told when asked for.

    So is a first Ctrl-C; a second one ends at once. Only the main thread may listen to signals; elsewhere nothing
    changes.
    """
    asked = threading.Event()

    def once(*_: object) -> None:
        asked.set()
        signal.signal(signal.SIGINT, signal.default_int_handler)

    ignored = signal.getsignal(signal.SIGINT) == signal.SIG_IGN  # as a shell has it for what runs in the background
    with _on(signal.SIGTERM, lambda *_: asked.set()), nullcontext() if ignored else _on(signal.SIGINT, once):
        yield asked.is_set


@contextmanager
def interruptible() -> Iterator[None]:
    """Within it SIGTERM is as a Ctrl-C: for who only waits for other processes, and has them end."""
    with _on(signal.SIGTERM, signal.default_int_handler):
        yield


@contextmanager
def _on(sent: signal.Signals, answer: Callable[[int, FrameType | None], object]) -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(sent, answer)
    try:
        yield
    finally:
        signal.signal(sent, before)
