"""Events as lines of text, from a process that trains to the one that started it."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

from medseg import errors
from medseg.errors import MedsegError
from medseg.events import Advanced, Event, Note, Stage

MARK = "medseg: "  # what else libraries write on the same stream is not ours
_EVENTS: dict[str, type[Stage | Advanced | Note]] = {"Stage": Stage, "Advanced": Advanced, "Note": Note}
_ERRORS: dict[str, type[MedsegError]] = {
    kind.__name__: kind
    for kind in (MedsegError, errors.InputError, errors.GeometryError, errors.RunError, errors.ResourceError)
}


def told(said: Event | MedsegError) -> str:
    """One line for an event, or for the error that ends the work."""
    values: dict[str, Any]
    if isinstance(said, MedsegError):
        values = {"what": said.what, "where": said.where, "fix": said.fix}
    else:
        values = asdict(said)
    return f"{MARK}{json.dumps({'kind': type(said).__name__, **values})}\n"


def heard(line: str) -> Event | MedsegError | None:
    """What a line tells; None where it is something else's."""
    if not line.startswith(MARK):
        return None
    values = json.loads(line.removeprefix(MARK))
    kind = values.pop("kind")
    return _ERRORS[kind](**values) if kind in _ERRORS else _EVENTS[kind](**values)
