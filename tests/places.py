"""Places of work, whatever the machine: two processes, or this one."""

from __future__ import annotations

from typing import Any

from medseg.parallel import InPlace, LocalExecutor, Workers


class Two:
    """Two processes; with `here` false, as if they were elsewhere."""

    def __init__(self, here: bool = True) -> None:
        self.here = here

    def workers(self, *_: Any) -> Workers:
        return Workers(LocalExecutor([{}, {}]), 4, ("two work",), lambda: "2 at work")


class Alone:
    here = True

    def workers(self, *_: Any) -> Workers:
        return Workers(InPlace(), 1)
