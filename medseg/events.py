"""What long work tells while it runs: the events that every front door yields, and only `cli` prints."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Stage:
    """A stretch of work begins: its name, its number of parts, and what to expect of it."""

    name: str
    total: int
    expect: str = ""


@dataclass(frozen=True, slots=True)
class Advanced:
    """`done` parts of the current stage are finished; `what` says which, or how well."""

    done: float
    what: str = ""


@dataclass(frozen=True, slots=True)
class Note:
    """Something that the user should know; `warning` where it may change a result."""

    text: str
    warning: bool = False


@dataclass(frozen=True, slots=True)
class StepBegins:
    """A step of a recipe begins: its number of `total`, and its words as one would type them."""

    number: int
    total: int
    words: str


Event = Stage | Advanced | Note | StepBegins
