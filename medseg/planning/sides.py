"""Words in the names of structures that tell left from right."""

from __future__ import annotations

import re

LEFT, RIGHT = {"left", "l", "lh"}, {"right", "r", "rh"}


def words(name: str) -> set[str]:
    """The words of a name, in small letters: `KidneyLeft` and `kidney_left` have the same; `L1`, a vertebra, is one."""
    return set(re.findall(r"[a-z0-9]+", re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name).lower()))
